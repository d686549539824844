/* race MODULE: the first C_Initialize from many threads at once. */
#include "host.h"

#include <pthread.h>

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

int main(int argc, char **argv)
{
    pthread_t threads[THREADS];
    void *handle;

    CHECK(argc == 2);
    alarm(50);
    list = load(argv[1], &handle);
    pthread_barrier_init(&together, NULL, THREADS);
    for (int i = 0; i < THREADS; i++)
        pthread_create(&threads[i], NULL, initialize, NULL);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    return 0;
}
