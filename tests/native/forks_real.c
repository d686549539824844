/*
 * forks_real MODULE PIN: a server that forks while its threads work with keys of the group. Children and a grandchild
 * each start anew and reach the members by helpers of their own; the parent's sessions and login go on.
 */
#include "host.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/wait.h>

#define THREADS 4
#define CHILDREN 6

static CK_FUNCTION_LIST *list;
static const char *pin;
static atomic_int ending, calls;

static CK_SESSION_HANDLE open_session(void)
{
    CK_SLOT_ID slot;
    CK_ULONG count = 1;
    CK_SESSION_HANDLE session;

    CHECK(list->C_GetSlotList(CK_TRUE, &slot, &count) == CKR_OK && count == 1);
    CHECK(list->C_OpenSession(slot, CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &session) == CKR_OK);
    return session;
}

static void work(CK_SESSION_HANDLE session)
{
    unsigned char random[16], digest[32];
    CK_MECHANISM mechanism = {CKM_SHA256, NULL, 0};
    CK_ULONG size = sizeof digest;

    CHECK(list->C_GenerateRandom(session, random, sizeof random) == CKR_OK);
    CHECK(list->C_DigestInit(session, &mechanism) == CKR_OK);
    CHECK(list->C_Digest(session, random, sizeof random, digest, &size) == CKR_OK && size == 32);
}

static void *busy(void *unused)
{
    CK_SESSION_HANDLE session = open_session();

    (void)unused;
    while (!ending) {
        work(session);
        calls++;
    }
    return NULL;
}

static CK_SESSION_HANDLE start_anew(void)
{
    CK_SESSION_HANDLE session;

    alarm(40); /* a hung child must not outlive the test */
    CHECK(list->C_GetInfo(NULL) == CKR_CRYPTOKI_NOT_INITIALIZED);
    CHECK(list->C_Initialize(NULL) == CKR_OK);
    session = open_session();
    CHECK(list->C_Login(session, CKU_USER, (unsigned char *)pin, strlen(pin)) == CKR_OK);
    work(session);
    return session;
}

static void wait_for(pid_t child)
{
    int status;

    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void in_child(int with_grandchild)
{
    CK_SESSION_HANDLE session = start_anew();

    if (with_grandchild) {
        pid_t grandchild = fork();
        if (grandchild == 0) {
            start_anew();
            CHECK(list->C_Finalize(NULL) == CKR_OK);
            _exit(0);
        }
        wait_for(grandchild);
        work(session);
    }
    CHECK(list->C_Finalize(NULL) == CKR_OK);
    _exit(0);
}

int main(int argc, char **argv)
{
    pthread_t threads[THREADS];
    CK_SESSION_INFO info;
    CK_SESSION_HANDLE session;
    void *handle;
    int status;

    CHECK(argc == 3);
    alarm(55);
    pin = argv[2];
    list = load(argv[1], &handle);
    CHECK(list->C_Initialize(NULL) == CKR_OK);
    session = open_session();
    CHECK(list->C_Login(session, CKU_USER, (unsigned char *)pin, strlen(pin)) == CKR_OK);
    for (int i = 0; i < THREADS; i++)
        CHECK(pthread_create(&threads[i], NULL, busy, NULL) == 0);
    for (int i = 0; i < CHILDREN; i++) {
        int before = calls;
        pid_t child = fork();
        if (child == 0)
            in_child(i == 0);
        wait_for(child);
        while (calls < before + THREADS)
            work(session);
    }
    CHECK(list->C_GetSessionInfo(session, &info) == CKR_OK && info.state == CKS_RW_USER_FUNCTIONS);
    ending = 1;
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    CHECK(waitpid(-1, &status, WNOHANG) == -1); /* no child but the program's own was ever there */
    CHECK(list->C_Finalize(NULL) == CKR_OK);
    return 0;
}
