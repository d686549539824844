/*
 * A PKCS #11 module that hands every call on to the one behind it, and writes down how many sessions are open there:
 * what a leak of sessions inside a helper is seen by.
 *
 * Variables: COUNTING_MODULE the module behind; COUNTING_FILE, beginning of a file's name to which the process number is
 * added: the count in decimal, always as wide.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <p11-kit/pkcs11.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static CK_FUNCTION_LIST *behind, list;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int file = -1;
static long count;

static void change(long by)
{
    char name[512], text[32];
    const char *beginning = getenv("COUNTING_FILE");

    pthread_mutex_lock(&lock);
    count = by ? count + by : 0;
    if (file < 0 && beginning) {
        snprintf(name, sizeof name, "%s%d", beginning, (int)getpid());
        file = open(name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    }
    if (file >= 0 && pwrite(file, text, snprintf(text, sizeof text, "%10ld\n", count), 0) < 0)
        file = -1;
    pthread_mutex_unlock(&lock);
}

static CK_RV open_session(CK_SLOT_ID slot, CK_FLAGS flags, void *application, CK_NOTIFY notify,
                          CK_SESSION_HANDLE *session)
{
    CK_RV rv = behind->C_OpenSession(slot, flags, application, notify, session);
    if (rv == CKR_OK)
        change(1);
    return rv;
}

static CK_RV close_session(CK_SESSION_HANDLE session)
{
    CK_RV rv = behind->C_CloseSession(session);
    if (rv == CKR_OK)
        change(-1);
    return rv;
}

static CK_RV close_all(CK_SLOT_ID slot)
{
    CK_RV rv = behind->C_CloseAllSessions(slot);
    if (rv == CKR_OK)
        change(0);
    return rv;
}

CK_RV C_GetFunctionList(CK_FUNCTION_LIST_PTR_PTR found)
{
    if (!behind) {
        const char *path = getenv("COUNTING_MODULE");
        void *module = path ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : NULL;
        CK_C_GetFunctionList get = module ? (CK_C_GetFunctionList)dlsym(module, "C_GetFunctionList") : NULL;
        if (!get || get(&behind) != CKR_OK)
            return CKR_GENERAL_ERROR;
        list = *behind;
        list.C_OpenSession = open_session;
        list.C_CloseSession = close_session;
        list.C_CloseAllSessions = close_all;
        list.C_GetFunctionList = C_GetFunctionList;
    }
    *found = &list;
    return CKR_OK;
}
