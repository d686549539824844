/* unload MODULE: an application that closes the module while a Python thread runs, and opens it again. */
#include "host.h"

int main(int argc, char **argv)
{
    void *handle;
    CK_FUNCTION_LIST *list = load(argv[argc - 1], &handle);

    CHECK(list->C_Initialize(NULL) == CKR_OK);
    tell(list, "import threading\n"
               "def work():\n"
               "    while True: lib.pyha_is_secure()\n"
               "threading.Thread(target=work, daemon=True).start()\n");
    for (int i = 0; i < 20; i++) {
        CHECK(list->C_Finalize(NULL) == CKR_OK);
        CHECK(dlclose(handle) == 0);
        list = load(argv[argc - 1], &handle);
        CHECK(list->C_GetInfo(NULL) == CKR_CRYPTOKI_NOT_INITIALIZED);
        CHECK(list->C_Initialize(NULL) == CKR_OK);
        CHECK(strcmp(ask(list, "6 * 7"), "42") == 0);
    }
    return 0;
}
