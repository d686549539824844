/* impostor MODULE: a program with functions of the same names (linked -rdynamic), as another module's global ones. */
#include "host.h"

CK_RV C_GetInfo(CK_INFO *info)
{
    (void)info;
    return CKR_VENDOR_DEFINED;
}

CK_RV C_GetSlotList(CK_BBOOL present, CK_SLOT_ID *slots, CK_ULONG *count)
{
    (void)present, (void)slots, (void)count;
    return CKR_VENDOR_DEFINED;
}

int main(int argc, char **argv)
{
    void *handle;
    CK_FUNCTION_LIST *list = load(argv[argc - 1], &handle);

    CHECK(list->C_GetInfo(NULL) == CKR_CRYPTOKI_NOT_INITIALIZED);
    CHECK(list->C_GetSlotList(CK_TRUE, NULL, NULL) == CKR_CRYPTOKI_NOT_INITIALIZED);
    return 0;
}
