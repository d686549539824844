/* raises MODULE NAME...: what an exception of each name in the Python part comes to. Prints the CK_RVs. */
#include "host.h"

int main(int argc, char **argv)
{
    void *handle;
    CK_FUNCTION_LIST *list = load(argv[1], &handle);

    CHECK(list->C_Initialize(NULL) == CKR_OK);
    for (int i = 2; i < argc; i++)
        printf("%#lx\n", list->C_Verify(0, (unsigned char *)argv[i], strlen(argv[i]), NULL, 0));
    CHECK(strcmp(ask(list, "6 * 7"), "42") == 0);
    return 0;
}
