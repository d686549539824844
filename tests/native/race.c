/* race MODULE: the first C_Initialize from many threads at once, with a fork in the middle of it. */
#include "host.h"

#include <pthread.h>
#include <sys/wait.h>

#define THREADS 8

static CK_FUNCTION_LIST *list;
static pthread_barrier_t together;

static void *initialize(void *unused)
{
    (void)unused;
    pthread_barrier_wait(&together);
    CHECK(list->C_Initialize(NULL) == CKR_OK);
    CHECK(strcmp(ask(list, "6 * 7"), "42") == 0);
    return NULL;
}

static void *fork_meanwhile(void *unused)
{
    int status;

    (void)unused;
    pthread_barrier_wait(&together);
    for (int i = 0; i < 10; i++) {
        pid_t child = fork();
        if (child == 0) {
            alarm(20);
            CHECK(list->C_GetInfo(NULL) == CKR_CRYPTOKI_NOT_INITIALIZED);
            CHECK(list->C_Initialize(NULL) == CKR_OK);
            CHECK(strcmp(ask(list, "6 * 7"), "42") == 0);
            _exit(0);
        }
        CHECK(waitpid(child, &status, 0) == child);
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
        usleep(1000); /* spreads the forks over the start; nothing waits for it */
    }
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t threads[THREADS + 1];
    void *handle;

    CHECK(argc == 2);
    alarm(50);
    list = load(argv[1], &handle);
    pthread_barrier_init(&together, NULL, THREADS + 1);
    for (int i = 0; i < THREADS; i++)
        pthread_create(&threads[i], NULL, initialize, NULL);
    pthread_create(&threads[THREADS], NULL, fork_meanwhile, NULL);
    for (int i = 0; i <= THREADS; i++)
        pthread_join(threads[i], NULL);
    return 0;
}
