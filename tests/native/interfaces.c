/* interfaces MODULE: C_GetInterfaceList and C_GetInterface as the specification has them. */
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#include "pkcs11.h"

#define CHECK(condition)                                                            \
    do {                                                                            \
        if (!(condition)) {                                                         \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
            return 99;                                                              \
        }                                                                           \
    } while (0)

static CK_RV (*get)(CK_UTF8CHAR *, CK_VERSION *, CK_INTERFACE **, CK_FLAGS);

static int offered(CK_UTF8CHAR *name, CK_BYTE major, CK_BYTE minor, CK_FLAGS flags)
{
    CK_VERSION version = {major, minor};
    CK_INTERFACE *interface = NULL;

    if (get(name, major ? &version : NULL, &interface, flags) != CKR_OK)
        return 0;
    version = *(CK_VERSION *)interface->pFunctionList;
    return version.major * 100 + version.minor;
}

int main(int argc, char **argv)
{
    void *handle = dlopen(argv[argc - 1], RTLD_NOW);
    CK_RV (*list)(CK_INTERFACE *, CK_ULONG *);
    CK_RV (*functions)(CK_FUNCTION_LIST **);
    CK_FUNCTION_LIST *old;
    CK_FUNCTION_LIST_3_0 *new;
    CK_INTERFACE found[3];
    CK_ULONG count = 7;
    CK_UTF8CHAR *name = (CK_UTF8CHAR *)"PKCS 11";

    CHECK(handle);
    list = dlsym(handle, "C_GetInterfaceList");
    get = dlsym(handle, "C_GetInterface");
    functions = dlsym(handle, "C_GetFunctionList");
    CHECK(functions(NULL) == CKR_ARGUMENTS_BAD);
    CHECK(functions(&old) == CKR_OK && old->version.major == 2 && old->version.minor == 40);

    CHECK(list(NULL, NULL) == CKR_ARGUMENTS_BAD);
    CHECK(list(NULL, &count) == CKR_OK && count == 2);
    count = 1;
    CHECK(list(found, &count) == CKR_BUFFER_TOO_SMALL && count == 2);
    count = 3;
    CHECK(list(found, &count) == CKR_OK && count == 2);
    for (CK_ULONG i = 0; i < count; i++)
        CHECK(strcmp((char *)found[i].pInterfaceName, "PKCS 11") == 0 && found[i].flags == 0);

    CHECK(get(NULL, NULL, NULL, 0) == CKR_ARGUMENTS_BAD);
    CHECK(offered(NULL, 0, 0, 0) == 300);
    CHECK(offered(name, 0, 0, 0) == 300);
    CHECK(offered(name, 3, 0, 0) == 300);
    CHECK(offered(name, 2, 40, 0) == 240);
    CHECK(offered(NULL, 2, 40, 0) == 240);
    CHECK(offered(name, 3, 1, 0) == 0);
    CHECK(offered((CK_UTF8CHAR *)"Vendor X", 0, 0, 0) == 0);
    /* A forked child is not initialised: that is not what the flag promises. */
    CHECK(offered(name, 0, 0, CKF_INTERFACE_FORK_SAFE) == 0);

    new = found[0].pFunctionList;
    CHECK(new->version.major == 3 && new->C_GetInterface == get && new->C_GetInterfaceList == list);
    CHECK(new->C_Sign == old->C_Sign && new->C_MessageVerifyFinal == dlsym(handle, "C_MessageVerifyFinal"));
    CHECK(new->C_LoginUser(0, 0, NULL, 0, NULL, 0) == CKR_CRYPTOKI_NOT_INITIALIZED);
    return 0;
}
