/* cancelled MODULE: threads that the application cancels while they are inside the module. */
#include "host.h"

#include <pthread.h>

static CK_FUNCTION_LIST *list;

static void *busy(void *unused)
{
    unsigned char byte;

    (void)unused;
    for (;;) {
        list->C_GenerateRandom(0, &byte, 1);
        pthread_testcancel();
    }
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t threads[4];
    void *handle, *result;

    CHECK(argc == 2);
    alarm(50);
    list = load(argv[1], &handle);
    CHECK(list->C_Initialize(NULL) == CKR_OK);
    for (int round = 0; round < 25; round++) {
        for (int i = 0; i < 4; i++)
            CHECK(pthread_create(&threads[i], NULL, busy, NULL) == 0);
        CHECK(strcmp(ask(list, "6 * 7"), "42") == 0);
        for (int i = 0; i < 4; i++) {
            CHECK(pthread_cancel(threads[i]) == 0);
            CHECK(pthread_join(threads[i], &result) == 0 && result == PTHREAD_CANCELED);
        }
    }
    CHECK(strcmp(ask(list, "6 * 7"), "42") == 0);
    return 0;
}
