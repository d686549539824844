/*
 * Another PKCS #11 module that misbehaves on request: a member for tests.
 *
 * FAULTY_MODULE names the module behind. FAULTY_PLAN names a file that is looked at before every call; while it says
 * "index fault value skip" the call at that place of the function list meets the fault, after `skip` that do not. What
 * fires once removes the file.
 * Knows nothing of a call but its words: at most eight are handed on, which is right on LP64.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <p11-kit/pkcs11.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef unsigned long word;
typedef CK_RV (*function)(word, word, word, word, word, word, word, word);

#define COUNT 68

enum fault {
    ANSWER,   /* value, once, and the module is not asked */
    AFTER,    /* the module is asked, and value is the answer, once */
    ALWAYS,   /* value, every time, and the module is not asked */
    CRASH,    /* once */
    HANG,     /* once */
    SESSIONS, /* all sessions of the token are closed before the call, once */
    LOGOUT,   /* the token is logged out before the call, once */
    POISON,   /* dies, every time, of a call whose first bytes are "POISON" */
    SUBSTITUTE, /* C_UnwrapKey gets what an earlier C_UnwrapKey got, if it is as long: another key, once */
};

static function behind[COUNT];
static CK_FUNCTION_LIST list;
static CK_FUNCTION_LIST *real;
_Static_assert(sizeof list == sizeof(void *) * (COUNT + 1), "a list of PKCS #11 2.40 on LP64");

static int planned(int index, int *fault, word *value)
{
    const char *plan = getenv("FAULTY_PLAN");
    FILE *file = plan ? fopen(plan, "re") : NULL;
    static int skipped;
    int at = -1, skip = 0, good;
    if (!file)
        return 0;
    good = fscanf(file, "%d %d %lu %d", &at, fault, value, &skip) >= 3 && at == index;
    fclose(file);
    if (good && skipped < skip) {
        skipped++;
        return 0;
    }
    if (good)
        skipped = 0;
    return good && (*fault == ALWAYS || *fault == POISON || unlink(plan) == 0);
}

/* The wrapped keys of the latest two C_UnwrapKey. */
static struct {
    word size;
    unsigned char bytes[8192];
} unwrapped[2];

static void remember(int index, word blob, word size)
{
    if ((void *)behind[index] != (void *)real->C_UnwrapKey || size > sizeof unwrapped[0].bytes)
        return;
    unwrapped[0] = unwrapped[1];
    unwrapped[1].size = size;
    memcpy(unwrapped[1].bytes, (const void *)blob, size);
}

static CK_RV call(int index, word a, word b, word c, word d, word e, word f, word g, word h)
{
    CK_SESSION_INFO info;
    int fault;
    word value;

    remember(index, d, e);
    if (!planned(index, &fault, &value))
        return behind[index](a, b, c, d, e, f, g, h);
    switch ((enum fault)fault) {
    case ANSWER:
    case ALWAYS:
        return value;
    case AFTER:
        behind[index](a, b, c, d, e, f, g, h);
        return value;
    case CRASH:
        raise(SIGSEGV);
        break;
    case HANG:
        for (;;)
            pause();
    case SESSIONS:
        if (real->C_GetSessionInfo(a, &info) == CKR_OK)
            real->C_CloseAllSessions(info.slotID);
        break;
    case LOGOUT:
        real->C_Logout(a);
        break;
    case POISON:
        if (c >= 6 && memcmp((const void *)b, "POISON", 6) == 0)
            raise(SIGSEGV);
        break;
    case SUBSTITUTE:
        if (unwrapped[0].size == e)
            d = (word)unwrapped[0].bytes;
        break;
    }
    return behind[index](a, b, c, d, e, f, g, h);
}

#define ONE(n)                                                                                                         \
    static CK_RV call_##n(word a, word b, word c, word d, word e, word f, word g, word h)                              \
    {                                                                                                                  \
        return call(n, a, b, c, d, e, f, g, h);                                                                        \
    }
#define TEN(X, t) X(t##0) X(t##1) X(t##2) X(t##3) X(t##4) X(t##5) X(t##6) X(t##7) X(t##8) X(t##9)
#define EACH(X)                                                                                                        \
    TEN(X, ) TEN(X, 1) TEN(X, 2) TEN(X, 3) TEN(X, 4) TEN(X, 5) X(60) X(61) X(62) X(63) X(64) X(65) X(66) X(67)
EACH(ONE)

#define NAME(n) call_##n,
static const function calls[COUNT] = {EACH(NAME)};

CK_RV C_GetFunctionList(CK_FUNCTION_LIST_PTR_PTR found)
{
    if (!behind[0]) {
        void *module = dlopen(getenv("FAULTY_MODULE"), RTLD_NOW | RTLD_LOCAL);
        CK_C_GetFunctionList get = module ? (CK_C_GetFunctionList)dlsym(module, "C_GetFunctionList") : NULL;
        if (!get || get(&real) != CKR_OK)
            return CKR_GENERAL_ERROR;
        memcpy(behind, &real->C_Initialize, sizeof behind);
        list.version = real->version;
        memcpy(&list.C_Initialize, calls, sizeof calls);
        list.C_GetFunctionList = C_GetFunctionList;
    }
    *found = &list;
    return CKR_OK;
}
