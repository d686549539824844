/*
 * An application that must notice nothing of the helper it has: usage: link_host TEST PROGRAM MODULE [...]
 *
 * PROGRAM: pyha-host; MODULE: the hostile module. Each test exits with 0, or says what it noticed and exits with 1;
 * 77: cannot be tried here.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "hostile.h"
#include "link.h"
#include "pins.h"

#define LIMIT 30.0
#define SKIPPED 77

extern char **environ;

/* Python's part of places.h: nobody waits here. */
void pyha_dispatch_place(uint64_t link)
{
    (void)link;
}

static const char *program, *module;
static char *self;

#define check(condition) \
    do { \
        if (!(condition)) { \
            fprintf(stderr, "%s:%d: %s (errno %d)\n", __FILE__, __LINE__, #condition, errno); \
            _exit(1); \
        } \
    } while (0)

static pyha_link *start(void)
{
    char reason[PYHA_REASON] = "";
    char *settings[] = {"PYHA_TEST=member", NULL};
    pyha_link *link = pyha_link_start(program, module, "test", settings, pyha_now() + LIMIT, reason, sizeof reason);
    if (!link)
        fprintf(stderr, "%s\n", reason);
    return link;
}

static void *start_in_thread(void *unused)
{
    (void)unused;
    return start();
}

static pyha_arena *lease(pyha_link *link)
{
    pyha_arena *arena = NULL;
    check(pyha_arena_make(link, 4096, 1, pyha_now() + LIMIT, &arena) == PYHA_DONE);
    return arena;
}

static uint64_t ask(pyha_arena *arena, enum hostile command, uint64_t a, uint64_t b)
{
    arena->words[0] = command;
    arena->words[1] = a;
    arena->words[2] = b;
    check(pyha_arena_call(arena, 2, pyha_now() + LIMIT) == PYHA_DONE);
    return arena->rv;
}

/* A descriptor of the helper: numbers may come to mean another process. */
static int watch(pyha_arena *arena)
{
    int helper = pidfd_open((pid_t)ask(arena, PID, 0, 0), 0);
    check(helper >= 0);
    return helper;
}

static int ended(int helper, double limit)
{
    struct pollfd watched = {helper, POLLIN, 0};
    return poll(&watched, 1, (int)(limit * 1000)) == 1;
}

static int child_succeeds(pid_t child)
{
    int status;
    check(child > 0 && waitpid(child, &status, 0) == child);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static uint64_t open_descriptors(void)
{
    uint64_t open = 0;
    for (int number = 0; number < 64; number++)
        if (fcntl(number, F_GETFD) >= 0)
            open |= (uint64_t)1 << number;
    return open;
}

static void no_child(void)
{
    pyha_link *link = start();
    pyha_arena *arena = lease(link);
    int helper = watch(arena);
    check(waitpid(-1, NULL, WNOHANG) == -1 && errno == ECHILD);
    check(wait(NULL) == -1 && errno == ECHILD);
    check(waitpid(-1, NULL, WNOHANG | __WALL) == -1 && errno == ECHILD);
    pyha_link_close(link, 1);
    check(ended(helper, LIMIT));
    check(waitpid(-1, NULL, WNOHANG | __WALL) == -1 && errno == ECHILD);
}

/* One that would adopt what a failed start leaves behind. */
static void no_zombie(void)
{
    check(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0);
    program = "/nowhere/pyha-host";
    check(!start());
    check(waitpid(-1, NULL, __WALL) == -1 && errno == ECHILD);
}

static volatile sig_atomic_t delivered;

static void deliver(int number)
{
    delivered = number;
}

static void no_signal(void)
{
    struct sigaction before[NSIG] = {0}, action = {.sa_handler = deliver};
    sigset_t mask, now;
    for (int number = 1; number < NSIG; number++) {
        sigaction(number, &action, NULL);
        if (number == SIGUSR1)
            signal(number, SIG_IGN); /* exec would leave it so: INSPECT looks at it */
        sigaction(number, NULL, &before[number]);
    }
    sigemptyset(&mask);
    sigaddset(&mask, SIGUSR2);
    sigprocmask(SIG_SETMASK, &mask, NULL);
    pyha_link *link = start();
    pyha_arena *arena = lease(link);
    int helper = watch(arena);
    check(ask(arena, INSPECT, 0, 0) == 0);
    pyha_arena_drop(arena);
    pyha_link_drop(link);
    check(ended(helper, LIMIT));
    /* And one that is killed while the socket to it is written. */
    link = start();
    arena = lease(link);
    helper = watch(arena);
    pidfd_send_signal(helper, SIGKILL, NULL, 0);
    check(ended(helper, LIMIT));
    pyha_arena *second;
    check(pyha_arena_make(link, 4096, 1, pyha_now() + LIMIT, &second) == PYHA_DEAD);
    check(delivered == 0);
    sigprocmask(SIG_SETMASK, NULL, &now);
    for (int number = 1; number < NSIG; number++) {
        struct sigaction after = {0};
        sigaction(number, NULL, &after);
        check(after.sa_handler == before[number].sa_handler);
        check(sigismember(&now, number) == sigismember(&mask, number));
    }
}

static void environment(void)
{
    char **before = environ, *strings[256];
    size_t count = 0;
    setenv("PYHA_TEST", "application", 1);
    for (before = environ; before[count] && count < 255; count++)
        strings[count] = before[count];
    pyha_link *link = start();
    pyha_arena *arena = lease(link);
    strcpy((char *)arena->here, "PYHA_TEST");
    check(ask(arena, GETENV, arena->there, arena->there + 64) == 6);
    check(strcmp((char *)arena->here + 64, "member") == 0);
    check(environ == before && environ[count] == NULL);
    for (size_t i = 0; i < count; i++)
        check(environ[i] == strings[i]);
    check(strcmp(getenv("PYHA_TEST"), "application") == 0);
    /* An application that has thrown its environment away. */
    clearenv();
    pyha_link *second = start();
    pyha_arena *other = lease(second);
    strcpy((char *)other->here, "PYHA_TEST");
    check(ask(other, GETENV, other->there, other->there + 64) == 6);
    check(getenv("PYHA_TEST") == NULL);
}

static void exec(void)
{
    char before[32], pid[32];
    snprintf(before, sizeof before, "%lx", (unsigned long)open_descriptors());
    pyha_link *link = start();
    pyha_arena *arena = lease(link);
    snprintf(pid, sizeof pid, "%d", watch(arena));
    fcntl(atoi(pid), F_SETFD, 0); /* the one descriptor that goes along, to watch by */
    execl(self, self, "after_exec", program, module, before, pid, NULL);
    check(!"exec");
}

/* The module never finishes loading: the helper must see the end of its application all the same. */
static void exec_while_loading(void)
{
    int announced[2], kept = fcntl(2, F_DUPFD_CLOEXEC, 40);
    char text[32] = "", before[32];
    pthread_t thread;
    check(pipe2(announced, O_CLOEXEC) == 0);
    snprintf(before, sizeof before, "%lx", (unsigned long)open_descriptors() & ~(1UL << kept | 3UL << announced[0]));
    dup2(announced[1], 2);
    pthread_create(&thread, NULL, start_in_thread, NULL);
    check(read(announced[0], text, sizeof text - 1) > 0);
    dup2(kept, 2);
    int helper = pidfd_open((pid_t)strtol(text, NULL, 10), 0);
    check(helper >= 0);
    fcntl(helper, F_SETFD, 0);
    snprintf(text, sizeof text, "%d", helper);
    execl(self, self, "after_exec", program, module, before, text, NULL);
    check(!"exec");
}

static void after_exec(char *before, char *helper)
{
    check(ended(atoi(helper), LIMIT));
    close(atoi(helper));
    check(open_descriptors() == strtoul(before, NULL, 16));
}

static void exec_in_child(void)
{
    char before[32];
    snprintf(before, sizeof before, "%lx", (unsigned long)open_descriptors());
    pyha_link *link = start();
    pyha_arena *arena = lease(link);
    pid_t child = vfork();
    if (child == 0) {
        execl(self, self, "same_descriptors", program, module, before, NULL);
        _exit(1);
    }
    check(child_succeeds(child));
    check(ask(arena, ANSWER, 5, 0) == 5);
}

/* Closes everything, lets the numbers come to mean other things, and goes on. */
static void close_all(void)
{
    pyha_link *link = start();
    pyha_arena *arena = lease(link), *second;
    pid_t pid = (pid_t)ask(arena, PID, 0, 0);
    int pair[2], others[16];
    check(close_range(3, ~0U, 0) == 0);
    for (size_t i = 0; i < 8; i++) {
        check(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) == 0);
        others[2 * i] = pair[0];
        others[2 * i + 1] = pair[1];
    }
    arena->words[0] = HANG;
    int outcome = pyha_arena_call(arena, 2, pyha_now() + 1); /* it has so long to return from it, too */
    check(outcome == PYHA_DEAD);
    check(!pyha_link_alive(link));
    check(pyha_arena_make(link, 1 << 20, 0, pyha_now() + LIMIT, &second) == PYHA_DEAD);
    pyha_arena_drop(arena);
    pyha_link_drop(link);
    for (size_t i = 0; i < 16; i++) {
        char text[8];
        check(recv(others[i], text, sizeof text, MSG_DONTWAIT) == -1 && errno == EAGAIN);
    }
    int helper = pidfd_open(pid, 0);
    check(helper < 0 || ended(helper, LIMIT));
    link = start();
    check(link && ask(lease(link), ANSWER, 9, 0) == 9);
}

/* The same, but noticed only when something is to be sent: nothing may reach the application's own sockets. */
static void close_all_then_send(void)
{
    pyha_link *link = start();
    pyha_arena *arena = lease(link), *second;
    int pair[2];
    pyha_arena_make(link, 4096, 0, pyha_now() + LIMIT, &second);
    check(close_range(3, ~0U, 0) == 0);
    check(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) == 0 && pair[0] == 3 && pair[1] == 4);
    check(dup2(pair[0], 5) == 5 && dup2(pair[0], 6) == 6 && dup2(pair[0], 7) == 7);
    pyha_arena_forget(second);
    check(pyha_arena_make(link, 4096, 1, pyha_now() + LIMIT, &second) == PYHA_DEAD);
    pyha_link_close(link, 1);
    char text[8];
    check(recv(pair[1], text, sizeof text, MSG_DONTWAIT) == -1 && errno == EAGAIN);
    /* None of the application's was closed: 3 and 5 to 7 are one socket, 4 is its other end. */
    check(open_descriptors() == 0xff);
    pyha_arena_drop(arena);
}

/* Standard descriptors closed before the start: the helper's sockets must not become its stdout. */
static void start_without_standard_descriptors(void)
{
    close(0);
    close(1);
    int kept = fcntl(2, F_DUPFD_CLOEXEC, 40);
    close(2);
    pyha_link *link = start();
    uint64_t result = link ? ask(lease(link), DESCRIPTORS, 0, 0) : 0;
    uint64_t sound = link ? ask(lease(link), INSPECT, 0, 0) : 1;
    dup2(kept, 2);
    if (result != 63)
        fprintf(stderr, "%lx\n", result);
    check(result == 63);
    check(sound == 0);
    check(link->control.number > 2 && link->helper.number > 2);
    /* A number 2 that is not meant to be anybody's stderr. */
    fcntl(2, F_SETFD, FD_CLOEXEC);
    check(ask(lease(start()), DESCRIPTORS, 0, 0) == 63);
}

static void setuid_after_start(void)
{
    if (geteuid() != 0)
        _exit(SKIPPED);
    pyha_link *link = start();
    pyha_arena *arena = lease(link);
    int helper = watch(arena);
    check(setresgid(65534, 65534, 65534) == 0 && setresuid(65534, 65534, 65534) == 0);
    check(ask(arena, ANSWER, 5, 0) == 5);
    check(pidfd_send_signal(helper, SIGKILL, NULL, 0) == -1 && errno == EPERM);
    pyha_link_close(link, 1);
    check(ended(helper, LIMIT));
}

static atomic_int stop;

static void *keep_calling(void *argument)
{
    pyha_arena *arena = argument;
    for (uint64_t n = 0; !atomic_load(&stop); n++)
        check(ask(arena, ANSWER, n, 0) == n);
    return NULL;
}

static void *keep_growing(void *argument)
{
    pyha_arena *arena;
    while (!atomic_load(&stop)) {
        check(pyha_arena_make(argument, 1 << 20, 0, pyha_now() + LIMIT, &arena) == PYHA_DONE);
        pyha_arena_forget(arena);
        pyha_arena_drop(arena);
    }
    return NULL;
}

static void *keep_starting(void *unused)
{
    (void)unused;
    while (!atomic_load(&stop)) {
        pyha_link *link = start();
        check(link);
        pyha_link_drop(link);
    }
    return NULL;
}

static void in_child(pyha_link *link, pyha_arena *arena, uint64_t before)
{
    sigset_t mask;
    sigprocmask(SIG_SETMASK, NULL, &mask);
    check(sigismember(&mask, SIGINT) == 0);
    check(open_descriptors() == before);
    check(!pyha_link_alive(link));
    check(pyha_arena_call(arena, 2, pyha_now() + LIMIT) == PYHA_DEAD);
    /* The arena's address may be something else's here: letting go of the arena must not unmap it. */
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE;
    uint8_t *mine = mmap(arena->shared, 4096, PROT_READ | PROT_WRITE, flags, -1, 0);
    check(mine == (uint8_t *)arena->shared);
    mine[0] = 1;
    pyha_arena_wipe(arena, 4096);
    pyha_arena_drop(arena);
    check(mine[0] == 1);
    check(pyha_link_close(link, 1) == 0);
    pyha_link_drop(link);
    pyha_link *own = start();
    check(own && ask(lease(own), ANSWER, 3, 0) == 3);
    pyha_link_close(own, 1);
}

static void fork_under_load(void)
{
    uint64_t before = open_descriptors();
    pthread_t threads[4];
    pyha_link *link = start();
    pyha_arena *arena = lease(link);
    int helper = watch(arena);
    before |= (uint64_t)1 << helper;
    pthread_create(&threads[0], NULL, keep_calling, lease(link));
    pthread_create(&threads[1], NULL, keep_calling, lease(link));
    pthread_create(&threads[2], NULL, keep_growing, link);
    pthread_create(&threads[3], NULL, keep_starting, NULL);
    for (int n = 0; n < 30; n++) {
        pid_t child = fork();
        if (child == 0) {
            pid_t grandchild = n % 2 ? -1 : fork();
            if (grandchild > 0)
                _exit(!child_succeeds(grandchild));
            in_child(link, arena, before);
            _exit(0);
        }
        check(child_succeeds(child));
        check(ask(arena, ANSWER, 11, 0) == 11);
    }
    atomic_store(&stop, 1);
    for (int n = 0; n < 4; n++)
        pthread_join(threads[n], NULL);
    check(pyha_link_alive(link));
    pyha_link_drop(link);
    check(ended(helper, LIMIT));
}

/* A child made behind the C library's back: no fork handler ran in it. */
static void raw_clone(void)
{
    pyha_link *link = start();
    pyha_arena *arena = lease(link);
    pid_t child = (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
    if (child == 0) {
        check(pyha_link_close(link, 1) == 0);
        pyha_arena_drop(arena);
        pyha_link_drop(link);
        _exit(0);
    }
    check(child_succeeds(child));
    check(ask(arena, ANSWER, 3, 0) == 3);
}

/* A forked process that keeps a copy of the socket must not keep the helper alive. */
static void copied_socket(void)
{
    pyha_link *link = start();
    pyha_arena *arena = lease(link);
    int helper = watch(arena);
    pid_t child = (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
    if (child == 0)
        for (;;)
            pause();
    close(link->helper.number); /* so that only the socket is left to end it by */
    pyha_link_close(link, 1);
    check(ended(helper, LIMIT));
    kill(child, SIGKILL);
    check(!child_succeeds(child));
}

/* The helper belongs to the process, not to the thread that started it. */
static void thread_that_started_it_ends(void)
{
    pthread_t thread;
    void *link;
    pthread_create(&thread, NULL, start_in_thread, NULL);
    pthread_join(thread, &link);
    check(ask(lease(link), ANSWER, 3, 0) == 3);
}

static void *close_while_cancelled(void *link)
{
    pthread_cancel(pthread_self());
    pyha_link_close(link, 1);
    pthread_testcancel();
    return NULL;
}

/* Opening and closing descriptors are cancellation points: a thread that goes there must not take a lock with it. */
static void cancelled_thread(void)
{
    pthread_t thread;
    void *result;
    pyha_link *link = start();
    pthread_create(&thread, NULL, close_while_cancelled, link);
    pthread_join(thread, &result);
    check(result == PTHREAD_CANCELED);
    check(ask(lease(start()), ANSWER, 3, 0) == 3);
}

static void pins(void)
{
    uint8_t out[4096] = {0};
    uint64_t first = pyha_pin_keep((const uint8_t *)"1234", 4), second = pyha_pin_keep((const uint8_t *)"abcdefghi", 9);
    uint64_t empty = pyha_pin_keep((const uint8_t *)"", 0);
    check(first && second && empty && first != second);
    pid_t child = fork();
    if (child == 0) {
        check(!pyha_pin_copy(first, out) && !pyha_pin_copy(second, out) && !pyha_pin_copy(empty, out));
        pyha_pin_wipe(second);
        uint64_t own = pyha_pin_keep((const uint8_t *)"child", 5);
        check(own && own != first && own != second && pyha_pin_copy(own, out) && memcmp(out, "child", 6) == 0);
        _exit(0);
    }
    check(child_succeeds(child));
    check(pyha_pin_copy(first, out) && memcmp(out, "1234", 5) == 0);
    check(pyha_pin_copy(second, out) && memcmp(out, "abcdefghi", 10) == 0);
    check(pyha_pin_copy(empty, out));
}

/* Prints the helper's pid and waits to be killed; beside it a process that has a copy of everything open. */
static void hold_alone(void)
{
    printf("%ld\n", (long)ask(lease(start()), PID, 0, 0));
    fflush(stdout);
    for (;;)
        pause();
}

static void hold(void)
{
    pyha_link *link = start();
    pyha_arena *arena = lease(link);
    int helper = watch(arena);
    printf("%ld\n", (long)ask(arena, PID, 0, 0));
    fflush(stdout);
    if (syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL) == 0) {
        close(1); /* the pipe's end is how the test sees that the application is gone */
        _exit(!ended(helper, LIMIT));
    }
    for (;;)
        pause();
}

/* Run from a file called pyha-host: a helper that was led back to a group. */
static void inside_a_helper(void)
{
    char reason[PYHA_REASON] = "";
    check(!pyha_link_start(program, module, "", (char *[]){NULL}, pyha_now() + LIMIT, reason, sizeof reason));
    check(strstr(reason, "itself a member's helper"));
    check(!pyha_link_load(module, reason, sizeof reason));
}

static void speed(void)
{
    pyha_link *link = start();
    pyha_arena *arena = lease(link);
    double best = 1;
    for (int round = 0; round < 5; round++) {
        double began = pyha_now();
        for (int n = 0; n < 20000; n++)
            ask(arena, ANSWER, 0, 0);
        double took = (pyha_now() - began) / 20000;
        best = took < best ? took : best;
    }
    printf("%.2f us a call\n", best * 1e6);
}

int main(int argc, char *argv[])
{
    static const struct {
        const char *name;
        void (*run)(void);
    } tests[] = {
#define TEST(name) {#name, name}
        TEST(no_child), TEST(no_zombie), TEST(no_signal), TEST(environment), TEST(exec), TEST(exec_in_child),
        TEST(exec_while_loading),
        TEST(close_all), TEST(close_all_then_send), TEST(start_without_standard_descriptors),
        TEST(setuid_after_start), TEST(fork_under_load), TEST(raw_clone), TEST(copied_socket),
        TEST(thread_that_started_it_ends), TEST(cancelled_thread), TEST(pins), TEST(hold), TEST(hold_alone), TEST(inside_a_helper),
        TEST(speed),
    };
    check(argc >= 4);
    self = argv[0];
    program = argv[2];
    module = argv[3];
    if (strcmp(argv[1], "after_exec") == 0) {
        after_exec(argv[4], argv[5]);
        return 0;
    }
    if (strcmp(argv[1], "same_descriptors") == 0)
        return open_descriptors() != strtoul(argv[4], NULL, 16);
    for (size_t n = 0; n < sizeof tests / sizeof *tests; n++)
        if (strcmp(argv[1], tests[n].name) == 0) {
            tests[n].run();
            return 0;
        }
    fprintf(stderr, "no test %s\n", argv[1]);
    return 1;
}
