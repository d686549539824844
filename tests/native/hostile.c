/*
 * A PKCS #11 module that does harm on request (hostile.h): every function of its list takes the same commands.
 *
 * Compiled with -DVARIANT=n for modules that are wrong in themselves:
 * 0 2.40, all functions; 1 C_GetFunctionList fails; 2 it gives no list; 3 the list has a NULL and a pointer into the
 * heap; 4 the list says 3.0 but ends where 2.40 does; 5 a good 3.0 interface; 6 an interface that is not PKCS 11;
 * 7 says its pid (stderr) and never finishes loading; 8 dies while loading; 9 an interface PKCS 11 that is 2.40.
 */
#define _GNU_SOURCE
#include "hostile.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#ifndef VARIANT
#define VARIANT 0
#endif

#define EXPORT __attribute__((visibility("default")))

typedef uint64_t word;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static word entered, hanging;

static void count(word *counter)
{
    pthread_mutex_lock(&lock);
    ++*counter;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

static void wait_for(word *counter, word wanted)
{
    pthread_mutex_lock(&lock);
    while (*counter < wanted)
        pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
}

static void hang(void)
{
    count(&hanging);
    for (;;)
        pause();
}

/* The volatile array keeps the compiler from turning the recursion into a loop. */
__attribute__((noinline)) static int overflow(int depth)
{
    volatile char room[4096];
    room[0] = (char)depth;
    return depth < 0 ? 0 : overflow(depth + 1) + room[0];
}

static void *abort_here(void *unused)
{
    (void)unused;
    abort();
}

static void die(word how)
{
    pthread_t other;
    switch (how) {
    case BY_SEGV:
        *(volatile int *)8 = 1;
        break;
    case BY_ABORT:
        abort();
    case BY_EXIT:
        exit(0);
    case BY_STACK:
        overflow(0);
        break;
    case BY_TRAP:
        __builtin_trap();
    case BY_OTHER_THREAD:
        pthread_create(&other, NULL, abort_here, NULL);
        pthread_join(other, NULL);
        break;
    case BY_KILL:
        raise(SIGKILL);
    }
}

static word inspect(void)
{
    sigset_t mask;
    struct sigaction action;
    struct rlimit core;
    char text[8];
    sigprocmask(SIG_SETMASK, NULL, &mask);
    for (int number = 1; number < NSIG; number++)
        if (sigismember(&mask, number) == 1)
            return 1;
    if (sigaction(SIGPIPE, NULL, &action) < 0 || action.sa_handler != SIG_IGN)
        return 2;
    if (sigaction(SIGUSR1, NULL, &action) < 0 || action.sa_handler != SIG_DFL)
        return 3;
    if (getsid(0) != getpid())
        return 4;
    if (prctl(PR_GET_DUMPABLE) != 0)
        return 5;
    if (getrlimit(RLIMIT_CORE, &core) < 0 || core.rlim_max != 0)
        return 6;
    if (read(0, text, sizeof text) != 0 || write(1, "x", 1) != 1)
        return 7;
    if (!(fcntl(3, F_GETFD) & FD_CLOEXEC) || !(fcntl(4, F_GETFD) & FD_CLOEXEC))
        return 8;
    return 0;
}

static word descriptors(void)
{
    word open = 0;
    for (int number = 0; number < 64; number++)
        if (fcntl(number, F_GETFD) >= 0)
            open |= (word)1 << number;
    return open;
}

static word truncate_all(void)
{
    word result = 1000;
    DIR *maps = opendir("/proc/self/map_files");
    struct dirent *entry;
    while (maps && (entry = readdir(maps))) {
        char path[300], target[64] = "";
        snprintf(path, sizeof path, "/proc/self/map_files/%s", entry->d_name);
        if (readlink(path, target, sizeof target - 1) < 0 || strncmp(target, "/memfd:", 7) != 0)
            continue;
        int memory = open(path, O_RDWR);
        if (memory >= 0)
            result = ftruncate(memory, 0) < 0 ? (word)errno : 0;
        close(memory);
    }
    return result;
}

static word get_environment(word name, word value)
{
    const char *found = getenv((const char *)name);
    if (!found)
        return ~(word)0;
    strcpy((char *)value, found);
    return strlen(found);
}

static word leave_child(void)
{
    pid_t child = fork();
    if (child)
        return (word)child;
    prctl(PR_SET_NAME, "left-behind");
    for (;;)
        pause();
}

static word act(word a, word b, word c, word d, word e, word f, word g, word h, word i, word j)
{
    word sum = 0;
    switch ((enum hostile)a) {
    case ANSWER:
        return b;
    case MIX:
        return b + 2 * c + 3 * d + 4 * e + 5 * f + 6 * g + 7 * h + 8 * i + 9 * j;
    case SUM:
        for (word n = 0; n < c; n++)
            sum += ((const uint8_t *)b)[n];
        return sum;
    case FILL:
        memset((void *)b, (int)d, c);
        return 0;
    case PID:
        return (word)getpid();
    case INSPECT:
        return inspect();
    case DESCRIPTORS:
        return descriptors();
    case GETENV:
        return get_environment(b, c);
    case HANG:
        hang();
        break;
    case GATE:
        count(&entered);
        wait_for(&entered, b);
        return 0;
    case CRASH:
        wait_for(&hanging, b);
        die(c);
        break;
    case TRUNCATE:
        return truncate_all();
    case SCRIBBLE:
        memset((void *)(b & ~(word)4095), 0xA5, 256);
        if (!c)
            hang();
        return 7;
    case CHILD:
        return leave_child();
    case DEAFEN:
        for (int number = 3; number < 1024; number++)
            close(number);
        return 0;
    case LAST:
        count(&hanging);
        poll(&(struct pollfd){3, POLLRDHUP, 0}, 1, -1);
        poll(NULL, 0, (int)c);
        *(uint8_t *)b = 1;
        return 0;
    }
    return ~(word)0;
}

static word other(void)
{
    return 0x1234;
}

static struct list {
    uint8_t version[2];
    void *functions[92];
} list;

static word get_list(struct list **found)
{
    for (int n = 0; n < 92; n++)
        list.functions[n] = (void *)(uintptr_t)act;
    list.functions[1] = (void *)(uintptr_t)other;
    list.version[0] = 2;
    list.version[1] = 40;
    if (VARIANT == 1)
        return 5;
    *found = VARIANT == 2 ? NULL : &list;
    if (VARIANT == 3) {
        list.functions[1] = NULL;
        list.functions[2] = malloc(16);
    }
    if (VARIANT == 4)
        list.version[0] = 3, list.version[1] = 0;
    return 0;
}

EXPORT word C_GetFunctionList(struct list **found)
{
    return get_list(found);
}

#if VARIANT == 5 || VARIANT == 6 || VARIANT == 9
static struct list newer;
static struct interface {
    const char *name;
    struct list *list;
    word flags;
} interface = {VARIANT == 6 ? "PKCS eleven" : "PKCS 11", &newer, 0};

EXPORT word C_GetInterface(const char *name, const uint8_t *version, struct interface **found, word flags)
{
    (void)name, (void)version, (void)flags;
    newer = list;
    if (VARIANT != 9)
        newer.version[0] = 3, newer.version[1] = 0;
    *found = &interface;
    return 0;
}
#endif

#if VARIANT == 7 || VARIANT == 8
__attribute__((constructor)) static void load(void)
{
    if (VARIANT == 8)
        abort();
    dprintf(2, "%d\n", (int)getpid());
    for (;;)
        pause();
}
#endif
