/*
 * foreign MODULE [deep]: a program that is a Python of another version, as far as the module can see (linked
 * -rdynamic). `deep`: opened with RTLD_DEEPBIND, when the module sees its own libpython and extension modules do not.
 */
#include "host.h"

const char *Py_GetVersion(void)
{
    return "3.9.18 (main, a day long ago)";
}

int main(int argc, char **argv)
{
    void *handle = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL | (argc > 2 ? RTLD_DEEPBIND : 0));
    CK_RV (*get)(CK_FUNCTION_LIST **), (*initialize)(void *), (*info)(CK_INFO *), (*interfaces)(void *, unsigned long *);
    CK_FUNCTION_LIST *list = NULL;
    unsigned long count;

    CHECK(handle);
    get = (CK_RV(*)(CK_FUNCTION_LIST **))dlsym(handle, "C_GetFunctionList");
    initialize = (CK_RV(*)(void *))dlsym(handle, "C_Initialize");
    info = (CK_RV(*)(CK_INFO *))dlsym(handle, "C_GetInfo");
    interfaces = (CK_RV(*)(void *, unsigned long *))dlsym(handle, "C_GetInterfaceList");
    CHECK(get(&list) == CKR_GENERAL_ERROR && list == NULL);
    CHECK(interfaces(NULL, &count) == CKR_GENERAL_ERROR);
    CHECK(initialize(NULL) == CKR_GENERAL_ERROR);
    CHECK(info(NULL) == CKR_GENERAL_ERROR);
    return 0;
}
