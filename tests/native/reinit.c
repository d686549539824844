/* reinit MODULE: an application that embeds Python itself, after us, and ends it. */
#include "host.h"

int main(int argc, char **argv)
{
    void *handle;
    CK_FUNCTION_LIST *list = load(argv[argc - 1], &handle);
    int (*finalize)(void) = NULL;

    CHECK(list->C_Initialize(NULL) == CKR_OK);
    finalize = (int (*)(void))dlsym(RTLD_DEFAULT, "Py_FinalizeEx");
    int (*ensure)(void) = (int (*)(void))dlsym(RTLD_DEFAULT, "PyGILState_Ensure");
    CHECK(finalize && ensure);
    ensure();
    finalize();
    CHECK(list->C_GetInfo(NULL) == CKR_GENERAL_ERROR);
    CHECK(list->C_Initialize(NULL) == CKR_GENERAL_ERROR);
    return 0;
}
