/* signals MODULE: a handler of the application runs on the application's thread, whatever threads we started. */
#include "host.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/syscall.h>

static atomic_int seen, elsewhere;
static pid_t main_thread;

static void handler(int number)
{
    (void)number;
    if (syscall(SYS_gettid) != main_thread)
        elsewhere++;
    seen++;
}

int main(int argc, char **argv)
{
    struct sigaction action = {.sa_handler = handler};
    sigset_t set, mask;
    void *handle;

    CHECK(argc == 2);
    alarm(50);
    main_thread = getpid();
    sigaction(SIGUSR1, &action, NULL);
    CK_FUNCTION_LIST *list = load(argv[1], &handle);
    CHECK(list->C_Initialize(NULL) == CKR_OK);
    tell(list, "import threading; from pyha.abi.threads import start_thread\n"
               "def work():\n"
               "    while True: sum(range(1000))\n"
               "for number in range(3): start_thread(work, 'test')\n");
    CHECK(strcmp(ask(list, "threading.active_count() >= 4"), "True") == 0);
    pthread_sigmask(SIG_SETMASK, NULL, &mask);
    CHECK(!sigismember(&mask, SIGUSR1)); /* given back to who started the threads */
    /* Blocked where we are, a signal to the process goes to any thread that takes it: it has to wait for us. */
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    for (int i = 0; i < 50; i++) {
        pthread_sigmask(SIG_BLOCK, &set, NULL);
        CHECK(kill(getpid(), SIGUSR1) == 0);
        CHECK(strcmp(ask(list, "6 * 7"), "42") == 0);
        CHECK(seen == i);
        pthread_sigmask(SIG_UNBLOCK, &set, NULL);
        CHECK(seen == i + 1);
    }
    CHECK(elsewhere == 0);
    return 0;
}
