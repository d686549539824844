/*
 * pyha-host: the helper program that runs one vendor's module for one application.
 *
 * usage: pyha-host MODULE [TITLE]      (started by the link only, see spawn.c; TITLE is for whoever reads ps)
 *
 * Knows nothing of Cryptoki: it casts a function pointer, calls it with ten words, stores the result (protocol.h).
 * The main thread takes arenas from the control socket, one thread an arena serves calls, one thread watches for the
 * application's end. It ends with the application, with the socket, or when the module crashes - never otherwise.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "module.h"
#include "protocol.h"
#include "spin.h"

#define SIGNAL_STACK 65536 /* room for the widest register file, twice */
#define GRACE 3            /* seconds that calls under way have at least once the application is gone */
#define LONGEST 20         /* and at most */
#define SLICE 5            /* ms between two looks at them */

struct arena {
    struct arena *next;
    uint32_t identity;
    struct pyha_shared *shared;
    size_t size;
};

static struct pyha_module module;
static atomic_int leaving; /* the application is gone: nobody wants the rest of a series */
static int spin_room;      /* threads that may look for their next call at once */
static atomic_int looking; /* those that do */
static struct arena *lent;            /* memory only; the main thread's */
static struct arena *_Atomic serving; /* with a thread each; grows only, so a signal handler can walk it */

static __thread struct pyha_shared *volatile running; /* the call that this thread is in */
static __thread volatile uint32_t running_number;

/* Names the call that this thread is in as the one that ended the helper, and wakes every waiter at once. */
static void note_death(void)
{
    if (running)
        atomic_store(&running->died, running_number);
    shutdown(PYHA_CONTROL_FD, SHUT_RDWR);
    for (struct arena *arena = atomic_load(&serving); arena; arena = arena->next)
        pyha_futex_wake(&arena->shared->reply);
}

/* The disposition is back at its default (SA_RESETHAND): the raised signal ends the process on return. */
static void fatal(int number)
{
    note_death();
    raise(number);
}

static void catch_fatal_signals(void)
{
    static const int deadly[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGSYS, SIGTRAP};
    struct sigaction action = {.sa_handler = fatal, .sa_flags = SA_ONSTACK | SA_RESETHAND};
    for (size_t i = 0; i < sizeof deadly / sizeof *deadly; i++)
        sigaction(deadly[i], &action, NULL);
    atexit(note_death); /* a module that calls exit() */
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

/* Whether a call is under way that has time left: till its deadline, and `left` + GRACE where that is later. */
static int waited_for(double left, double time)
{
    for (struct arena *arena = atomic_load(&serving); arena; arena = arena->next)
        if (atomic_load(&arena->shared->request) == pyha_next(atomic_load(&arena->shared->reply)) &&
            (time < left + GRACE || time < arena->shared->until))
            return 1;
    return 0;
}

/*
 * Ends the helper when the application is gone (its pidfd), has exec'ed or shut the socket. Reads nothing.
 * A call that is under way may return first, as long as the application would have waited for it: nobody wants its
 * answer, but a module that is ended while it writes may spoil its token (SoftHSM's C_Login truncates the token's file
 * before it writes it). One that has not returned by then hangs. Whoever wants an end at once sends SIGKILL.
 */
static void *watch(void *unused)
{
    struct pollfd watched[] = {{PYHA_CONTROL_FD, POLLRDHUP, 0}, {PYHA_APPLICATION_FD, POLLIN, 0}};
    (void)unused;
    while (poll(watched, 2, -1) <= 0)
        ;
    atomic_store(&leaving, 1);
    double left = now(), time = left;
    while (time < left + LONGEST && waited_for(left, time)) {
        poll(NULL, 0, SLICE);
        time = now();
    }
    _exit(0);
}

/*
 * A helper that is stopped (SIGSTOP) could not notice the application's end, and would stay for ever. So the kernel
 * continues it: SIGCONT comes when the other end of this pipe closes, however the application ended. (PR_SET_PDEATHSIG
 * follows a thread, and that of the process that started us is gone at once.)
 */
static int be_continued(void)
{
    int flags = fcntl(PYHA_LIFE_FD, F_GETFL);
    return flags < 0 || fcntl(PYHA_LIFE_FD, F_SETFD, FD_CLOEXEC) < 0 || fcntl(PYHA_LIFE_FD, F_SETOWN, getpid()) < 0 ||
           fcntl(PYHA_LIFE_FD, F_SETSIG, SIGCONT) < 0 || fcntl(PYHA_LIFE_FD, F_SETFL, flags | O_ASYNC) < 0;
}

/* A service manager tells all of a service's processes to end. The application may have calls to make before it does. */
static void outlive(int number)
{
    (void)number;
}

static void start_watch(void)
{
    pthread_t thread;
    sigset_t all, saved;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &saved);
    int error = pthread_create(&thread, NULL, watch, NULL);
    pthread_sigmask(SIG_SETMASK, &saved, NULL);
    if (error)
        _exit(1);
}

/* Waits for call `wanted`. `spin`: how long waits after the function that was called last have been. */
static void expect(struct pyha_shared *shared, uint32_t wanted, struct pyha_spin *spin)
{
    uint32_t seen;
    int near = atomic_fetch_add_explicit(&looking, 1, memory_order_relaxed) < spin_room &&
               pyha_spin(spin, &shared->request, wanted);
    atomic_fetch_sub_explicit(&looking, 1, memory_order_relaxed);
    if (near)
        return;
    /* Said before the last look: whoever asks after that look sees it, and wakes us. */
    atomic_store(&shared->idle, 1);
    while ((seen = atomic_load(&shared->request)) != wanted)
        pyha_futex_wait(&shared->request, seen, NULL);
    atomic_store_explicit(&shared->idle, 0, memory_order_relaxed);
}

static void *serve(void *argument)
{
    struct arena *arena = argument;
    struct pyha_shared *shared = arena->shared;
    uint32_t wanted = pyha_next(PYHA_MAPPED), last = 0;
    struct pyha_spin waits[PYHA_FUNCTIONS + 1] = {0}; /* the last one: after a series */
    /* A module that overflows its stack must still be able to say so. */
    stack_t stack = {.ss_sp = malloc(SIGNAL_STACK), .ss_size = SIGNAL_STACK};
    if (stack.ss_sp)
        sigaltstack(&stack, NULL);
    for (;;) {
        uint64_t words[PYHA_WORDS];
        expect(shared, wanted, &waits[last]);
        uint32_t times = shared->times;
        last = times ? PYHA_FUNCTIONS : shared->index < PYHA_FUNCTIONS ? shared->index : 0;
        memcpy(words, shared->words, sizeof words);
        running_number = wanted;
        running = shared;
        if (times)
            shared->made = pyha_module_series(&module, shared->index, (struct pyha_turn *)(uintptr_t)shared->turns,
                                              times, shared->budget, &leaving);
        else
            shared->result = pyha_module_call(&module, shared->index, words);
        running = NULL;
        atomic_store(&shared->reply, wanted);
        if (atomic_load(&shared->awaited))
            pyha_futex_wake(&shared->reply);
        wanted = pyha_next(wanted);
    }
    return NULL;
}

static int start_serving(struct arena *arena)
{
    pthread_t thread;
    pthread_attr_t detached;
    arena->next = atomic_load(&serving);
    atomic_store(&serving, arena);
    pthread_attr_init(&detached);
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    int error = pthread_create(&thread, &detached, serve, arena);
    pthread_attr_destroy(&detached);
    if (error)
        atomic_store(&serving, arena->next);
    return error;
}

/* Maps the arena that came as `memory` and says where; a `there` of 0 says that it could not. */
static void take(uint32_t identity, int memory, int serves)
{
    static const uint32_t answered = PYHA_MAPPED;
    struct stat found;
    struct arena *arena = calloc(1, sizeof *arena);
    void *mapped = MAP_FAILED;
    if (arena && fstat(memory, &found) == 0)
        mapped = mmap(NULL, (size_t)found.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
    if (mapped != MAP_FAILED) {
        mlock2(mapped, (size_t)found.st_size, MLOCK_ONFAULT); /* as far as the limit allows */
        *arena = (struct arena){.identity = identity, .shared = mapped, .size = (size_t)found.st_size};
        if (serves && start_serving(arena) != 0)
            munmap(mapped, arena->size);
        else {
            if (!serves) {
                arena->next = lent;
                lent = arena;
            }
            close(memory);
            arena->shared->there = (uint64_t)(uintptr_t)mapped + PYHA_HEAD;
            atomic_store_explicit(&arena->shared->reply, PYHA_MAPPED, memory_order_release);
            pyha_futex_wake(&arena->shared->reply);
            return;
        }
    }
    free(arena);
    if (pwrite(memory, &answered, sizeof answered, offsetof(struct pyha_shared, reply)) < 0)
        _exit(1);
    close(memory);
}

static void forget(uint32_t identity)
{
    for (struct arena **place = &lent; *place; place = &(*place)->next)
        if ((*place)->identity == identity) {
            struct arena *arena = *place;
            *place = arena->next;
            munmap(arena->shared, arena->size);
            free(arena);
            return;
        }
}

static void obey(void)
{
    struct pyha_message message;
    struct iovec content = {&message, sizeof message};
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(sizeof(int))];
    } attached;
    struct msghdr envelope = {
        .msg_iov = &content, .msg_iovlen = 1, .msg_control = &attached, .msg_controllen = sizeof attached};
    ssize_t size = recvmsg(PYHA_CONTROL_FD, &envelope, MSG_CMSG_CLOEXEC);
    if (size < 0 && errno == EINTR)
        return;
    while (size <= 0)
        pause(); /* the end of the application, or of the socket: the watching thread has noticed it as well */
    if (size != sizeof message)
        _exit(0);
    struct cmsghdr *header = CMSG_FIRSTHDR(&envelope);
    int memory = -1;
    if (header && header->cmsg_type == SCM_RIGHTS)
        memcpy(&memory, CMSG_DATA(header), sizeof memory);
    if (message.wish == PYHA_FORGET)
        forget(message.arena);
    else if (memory >= 0)
        take(message.arena, memory, message.wish == PYHA_SERVE);
}

/* Secrets pass through this process: no debugger of the same user, no core file. */
static void seclude(void)
{
    struct rlimit limit = {0, 0};
    prctl(PR_SET_DUMPABLE, 0);
    setrlimit(RLIMIT_CORE, &limit);
    if (getrlimit(RLIMIT_MEMLOCK, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_MEMLOCK, &limit);
    }
}

int main(int argc, char *argv[])
{
    struct pyha_hello hello = {.protocol = PYHA_PROTOCOL};
    seclude();
    if (argc < 2 || fcntl(PYHA_CONTROL_FD, F_SETFD, FD_CLOEXEC) < 0 ||
        fcntl(PYHA_APPLICATION_FD, F_SETFD, FD_CLOEXEC) < 0 || be_continued()) {
        fputs("pyha-host is started by the pyha PKCS #11 module, not by hand\n", stderr);
        return 2;
    }
    signal(SIGPIPE, SIG_IGN); /* modules that speak to a server die of it when the server is gone */
    signal(SIGTERM, outlive);
    catch_fatal_signals();
    start_watch();
    spin_room = pyha_spin_room();
    if (pyha_module_load(&module, argv[1], RTLD_NOW | RTLD_LOCAL, NULL, hello.reason, sizeof hello.reason) == 0)
        pyha_module_offers(&module, hello.offered);
    if (send(PYHA_CONTROL_FD, &hello, sizeof hello, MSG_NOSIGNAL) < 0 || hello.reason[0])
        _exit(1);
    for (;;)
        obey();
}
