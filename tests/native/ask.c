/* ask MODULE EXPRESSION...: prints what each expression is inside the module. */
#include "host.h"

int main(int argc, char **argv)
{
    void *handle;
    CK_FUNCTION_LIST *list = load(argv[1], &handle);

    CHECK(chdir("/") == 0); /* what was given relative to the former directory must not be looked for again */
    CHECK(list->C_GetInfo(NULL) == CKR_CRYPTOKI_NOT_INITIALIZED);
    CHECK(list->C_Initialize(NULL) == CKR_OK);
    for (int i = 2; i < argc; i++)
        puts(ask(list, argv[i]));
    return 0;
}
