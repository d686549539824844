/* forks_start MODULE: a fork while another thread is in the middle of the first C_Initialize (slow_entry.py). */
#include "host.h"

#include <pthread.h>
#include <sys/wait.h>

static CK_FUNCTION_LIST *list;

static void *initialize(void *unused)
{
    (void)unused;
    CHECK(list->C_Initialize(NULL) == CKR_OK);
    return NULL;
}

static void name(const char *variable, int descriptor)
{
    char text[16];

    snprintf(text, sizeof text, "%d", descriptor);
    setenv(variable, text, 1);
}

int main(int argc, char **argv)
{
    int begun[2], forked[2], status;
    pthread_t thread;
    void *handle;
    char byte;
    pid_t child;

    CHECK(argc == 2 && pipe(begun) == 0 && pipe(forked) == 0);
    alarm(50);
    name("TEST_BEGUN", begun[1]);
    name("TEST_FORKED", forked[0]);
    list = load(argv[1], &handle);
    CHECK(pthread_create(&thread, NULL, initialize, NULL) == 0);
    CHECK(read(begun[0], &byte, 1) == 1);
    child = fork();
    if (child == 0) {
        alarm(10);
        CHECK(list->C_GetInfo(NULL) == CKR_CRYPTOKI_NOT_INITIALIZED);
        CHECK(list->C_Initialize(NULL) == CKR_OK);
        CHECK(strcmp(ask(list, "6 * 7"), "42") == 0);
        _exit(0);
    }
    CHECK(write(forked[1], ".", 1) == 1);
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(strcmp(ask(list, "6 * 7"), "42") == 0);
    return 0;
}
