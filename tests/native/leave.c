/* leave MODULE: a program that calls exit() while Python threads, and calls of other threads, are running. */
#include "host.h"

#include <pthread.h>

static CK_FUNCTION_LIST *list;

static void *busy(void *unused)
{
    unsigned char byte;

    (void)unused;
    for (;;)
        list->C_GenerateRandom(0, &byte, 1);
    return NULL;
}

static void at_exit(void)
{
    CHECK(strcmp(ask(list, "6 * 7"), "42") == 0);
    CHECK(list->C_Finalize(NULL) == CKR_OK);
}

int main(int argc, char **argv)
{
    pthread_t thread;
    void *handle;

    alarm(50);
    atexit(at_exit);
    list = load(argv[argc - 1], &handle);
    CHECK(list->C_Initialize(NULL) == CKR_OK);
    tell(list, "from pyha.abi.threads import start_thread\n"
               "def work():\n"
               "    while True: sum(range(1000))\n"
               "start_thread(work, 'test'); start_thread(work, 'test')\n");
    pthread_create(&thread, NULL, busy, NULL);
    pthread_create(&thread, NULL, busy, NULL);
    CHECK(strcmp(ask(list, "6 * 7"), "42") == 0);
    exit(0);
}
