/*
 * forks MODULE: children and grandchildren of a program whose other threads are busy inside the module. Each must
 * find the module uninitialised, be able to use it, and end; the parent must notice nothing.
 */
#include "host.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/wait.h>

#define THREADS 4
#define ROUNDS 15

static CK_FUNCTION_LIST *list;
static atomic_int ending, calls;

static void *busy(void *unused)
{
    unsigned char byte;

    (void)unused;
    while (!ending) {
        CHECK(list->C_GenerateRandom(0, &byte, 1) == CKR_OK);
        calls++;
    }
    return NULL;
}

static void wait_for(pid_t child)
{
    int status;

    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void use(int generation)
{
    char expected[16];

    alarm(20); /* a hung child must not outlive the test */
    snprintf(expected, sizeof expected, "%d", generation);
    CHECK(list->C_GetInfo(NULL) == CKR_CRYPTOKI_NOT_INITIALIZED);
    CHECK(list->C_Finalize(NULL) == CKR_CRYPTOKI_NOT_INITIALIZED);
    CHECK(list->C_Initialize(NULL) == CKR_OK);
    CHECK(strcmp(ask(list, "lib.pyha_generation_of_fork()"), expected) == 0);
    tell(list, "import threading; t = threading.Thread(target=lambda: None, daemon=True); t.start(); t.join()");
}

static void *fork_many(void *unused)
{
    (void)unused;
    for (int i = 0; i < ROUNDS; i++) {
        pid_t child = fork();
        if (child == 0) {
            use(1);
            pid_t grandchild = fork();
            if (grandchild == 0) {
                use(2);
                _exit(0);
            }
            wait_for(grandchild);
            CHECK(list->C_GetInfo(NULL) != CKR_CRYPTOKI_NOT_INITIALIZED);
            _exit(0);
        }
        CHECK(child > 0);
        wait_for(child);
        CHECK(list->C_GetInfo(NULL) != CKR_CRYPTOKI_NOT_INITIALIZED);
    }
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t threads[THREADS], forking[2];
    void *handle;
    pid_t child;
    int before;

    CHECK(argc == 2);
    alarm(50);
    list = load(argv[1], &handle);
    /* Before anything was started. */
    child = fork();
    if (child == 0) {
        CHECK(list->C_Initialize(NULL) == CKR_OK);
        CHECK(strcmp(ask(list, "6 * 7"), "42") == 0);
        _exit(0);
    }
    wait_for(child);

    CHECK(list->C_Initialize(NULL) == CKR_OK);
    for (int i = 0; i < THREADS; i++)
        pthread_create(&threads[i], NULL, busy, NULL);
    for (int i = 0; i < 2; i++)
        pthread_create(&forking[i], NULL, fork_many, NULL);
    for (int i = 0; i < 2; i++)
        pthread_join(forking[i], NULL);
    before = calls;
    while (calls < before + 100)
        CHECK(strcmp(ask(list, "lib.pyha_generation_of_fork()"), "0") == 0);
    ending = 1;
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    printf("%d calls\n", calls);
    return 0;
}
