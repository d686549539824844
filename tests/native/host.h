/* What the test programs share: loading a module as applications do, asking its Python part, and failing loudly. */
#ifndef HOST_H
#define HOST_H

#define _GNU_SOURCE
#include <dlfcn.h>
#include <p11-kit/pkcs11.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CHECK(condition)                                                              \
    do {                                                                              \
        if (!(condition)) {                                                           \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);   \
            _exit(99);                                                                \
        }                                                                             \
    } while (0)

static inline CK_FUNCTION_LIST *load(const char *path, void **handle)
{
    CK_RV (*get)(CK_FUNCTION_LIST **);
    CK_FUNCTION_LIST *list = NULL;

    *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!*handle)
        fprintf(stderr, "%s\n", dlerror());
    CHECK(*handle);
    get = (CK_RV(*)(CK_FUNCTION_LIST **))dlsym(*handle, "C_GetFunctionList");
    CHECK(get && get(&list) == CKR_OK);
    return list;
}

/* The text of a Python expression, evaluated inside the module. */
static inline const char *ask(CK_FUNCTION_LIST *list, const char *expression)
{
    static __thread unsigned char text[65536];
    unsigned long size = sizeof text - 1;
    CK_RV rv = list->C_Digest(0, (unsigned char *)expression, strlen(expression), text, &size);

    if (rv != CKR_OK)
        fprintf(stderr, "%s: %#lx\n", expression, rv);
    CHECK(rv == CKR_OK);
    text[size] = '\0';
    return (const char *)text;
}

static inline void tell(CK_FUNCTION_LIST *list, const char *statements)
{
    unsigned long size = 0;

    CHECK(list->C_Encrypt(0, (unsigned char *)statements, strlen(statements), NULL, &size) == CKR_OK);
}

#endif
