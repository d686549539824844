/*
 * SoftHSM, or any other PKCS #11 module, that dies at the call it was told: a member's helper is killed midway.
 *
 * Variables: FAULTY_MODULE the module behind, FAULTY_NAME our name, FAULTY_PLAN a file with "name count": the member of
 * that name kills its process at its count'th call that needs a session, once no other call is inside (SoftHSM's C_Login
 * empties its token's file before it writes it), and adds a line to FAULTY_LOG.
 * Knows nothing of a call but its place in the list: at most eight words are handed on, which is right on LP64.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <p11-kit/pkcs11.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef unsigned long word;
typedef CK_RV (*function)(word, word, word, word, word, word, word, word);

#define COUNT 68
#define FIRST_COUNTED 12    /* C_OpenSession: those before it are asked when a member is connected */

static function behind[COUNT];
static CK_FUNCTION_LIST list;
_Static_assert(sizeof list == sizeof(void *) * (COUNT + 1), "a list of PKCS #11 2.40 on LP64");
static atomic_long left = -1;
static pthread_rwlock_t inside = PTHREAD_RWLOCK_INITIALIZER; /* of the module behind */

static void read_plan(void)
{
    const char *plan = getenv("FAULTY_PLAN"), *name = getenv("FAULTY_NAME");
    FILE *file = plan ? fopen(plan, "re") : NULL;
    char victim[64];
    long at;
    if (!file)
        return;
    if (fscanf(file, "%63s %ld", victim, &at) == 2 && name && strcmp(victim, name) == 0)
        atomic_store(&left, at);
    fclose(file);
}

static void die(int index)
{
    const char *log = getenv("FAULTY_LOG"), *name = getenv("FAULTY_NAME");
    pthread_rwlock_wrlock(&inside);
    int file = log ? open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600) : -1;
    if (file >= 0)
        dprintf(file, "%s %d\n", name, index);
    kill(getpid(), SIGKILL);
}

static CK_RV call(int index, word a, word b, word c, word d, word e, word f, word g, word h)
{
    if (index == 0)
        read_plan();
    if (index >= FIRST_COUNTED && atomic_load(&left) > 0 && atomic_fetch_sub(&left, 1) == 1)
        die(index);
    pthread_rwlock_rdlock(&inside);
    CK_RV rv = behind[index](a, b, c, d, e, f, g, h);
    pthread_rwlock_unlock(&inside);
    return rv;
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
    CK_FUNCTION_LIST *real;
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
