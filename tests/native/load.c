/* load MODULE: prints what its C_GetFunctionList answers. */
#include <dlfcn.h>
#include <p11-kit/pkcs11.h>
#include <stdio.h>

int main(int argc, char **argv)
{
    void *module = argc == 2 ? dlopen(argv[1], RTLD_NOW | RTLD_LOCAL) : NULL;
    CK_C_GetFunctionList get = module ? (CK_C_GetFunctionList)dlsym(module, "C_GetFunctionList") : NULL;
    CK_FUNCTION_LIST *list = NULL;

    if (!get)
        return 1;
    printf("%#lx\n", get(&list));
    return 0;
}
