/*
 * fork_now MODULE PIN LABEL: a program of two threads that work with the group, and forks on request. Each line of stdin:
 * "fork": a child is forked at once, whatever the threads and the module's own are in the middle of; the child finds the
 * module uninitialised, starts it anew, signs, ends. "work": the parent signs, digests and searches. The answer is "ok".
 * Anything else than CKR_OK, in any thread of parent or child, ends the program with a line on stderr.
 */
#include "host.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/wait.h>

#define THREADS 2

static CK_FUNCTION_LIST *list;
static const char *pin, *label;
static atomic_int ending;
static atomic_long calls;

static CK_SESSION_HANDLE open_session(void)
{
    CK_SLOT_ID slot;
    CK_ULONG count = 1;
    CK_SESSION_HANDLE session;

    CHECK(list->C_GetSlotList(CK_TRUE, &slot, &count) == CKR_OK && count == 1);
    CHECK(list->C_OpenSession(slot, CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &session) == CKR_OK);
    return session;
}

static CK_OBJECT_HANDLE key_of(CK_SESSION_HANDLE session)
{
    CK_OBJECT_CLASS class = CKO_PRIVATE_KEY;
    CK_ATTRIBUTE wanted[] = {{CKA_CLASS, &class, sizeof class}, {CKA_LABEL, (void *)label, strlen(label)}};
    CK_OBJECT_HANDLE key[2];
    CK_ULONG count = 0;

    CHECK(list->C_FindObjectsInit(session, wanted, 2) == CKR_OK);
    CHECK(list->C_FindObjects(session, key, 2, &count) == CKR_OK && count == 1);
    CHECK(list->C_FindObjectsFinal(session) == CKR_OK);
    return key[0];
}

static void work(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE key)
{
    unsigned char digest[32], signature[64];
    CK_MECHANISM sha = {CKM_SHA256, NULL, 0}, ecdsa = {CKM_ECDSA, NULL, 0};
    CK_ULONG size = sizeof digest, length = sizeof signature;

    CHECK(list->C_DigestInit(session, &sha) == CKR_OK);
    CHECK(list->C_Digest(session, (unsigned char *)"data", 4, digest, &size) == CKR_OK && size == 32);
    CHECK(list->C_SignInit(session, &ecdsa, key) == CKR_OK);
    CHECK(list->C_Sign(session, digest, size, signature, &length) == CKR_OK && length == 64);
}

static void *busy(void *unused)
{
    CK_SESSION_HANDLE session = open_session();
    CK_OBJECT_HANDLE key = key_of(session);

    (void)unused;
    while (!ending) {
        work(session, key);
        calls++;
    }
    return NULL;
}

static void in_child(void)
{
    CK_SESSION_HANDLE session;

    alarm(40); /* a hung child must not outlive the test */
    CHECK(list->C_GetInfo(NULL) == CKR_CRYPTOKI_NOT_INITIALIZED);
    CHECK(list->C_Finalize(NULL) == CKR_CRYPTOKI_NOT_INITIALIZED);
    CHECK(list->C_Initialize(NULL) == CKR_OK);
    session = open_session();
    CHECK(list->C_Login(session, CKU_USER, (unsigned char *)pin, strlen(pin)) == CKR_OK);
    work(session, key_of(session));
    CHECK(list->C_Finalize(NULL) == CKR_OK);
    _exit(0);
}

static void fork_now(void)
{
    int status;
    pid_t child = fork();

    CHECK(child >= 0);
    if (child == 0)
        in_child();
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

int main(int argc, char **argv)
{
    pthread_t threads[THREADS];
    CK_SESSION_HANDLE session;
    CK_OBJECT_HANDLE key;
    char line[32];
    void *handle;

    CHECK(argc == 4);
    alarm(110);
    pin = argv[2];
    label = argv[3];
    list = load(argv[1], &handle);
    CHECK(list->C_Initialize(NULL) == CKR_OK);
    session = open_session();
    CHECK(list->C_Login(session, CKU_USER, (unsigned char *)pin, strlen(pin)) == CKR_OK);
    key = key_of(session);
    for (int i = 0; i < THREADS; i++)
        CHECK(pthread_create(&threads[i], NULL, busy, NULL) == 0);
    while (calls < THREADS)
        work(session, key);
    setvbuf(stdout, NULL, _IOLBF, 0);
    puts("ok");
    while (fgets(line, sizeof line, stdin)) {
        if (strcmp(line, "fork\n") == 0)
            fork_now();
        else
            work(session, key);
        puts("ok");
    }
    ending = 1;
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    CHECK(list->C_Finalize(NULL) == CKR_OK);
    return 0;
}
