/*
 * See spawn.h. The way: application -> intermediate -> helper. The intermediate is a clone with exit signal 0, so
 * neither SIGCHLD nor an ordinary waitpid() ever speaks of it, and it is gone before pyha_spawn() returns. The helper
 * is its child, hence an orphan at once. (A direct child would not do: execve() sets the exit signal back to SIGCHLD.)
 *
 * Both run in the application's memory until the exec, on the thread-local storage of the calling thread, which is
 * suspended (CLONE_VFORK): only system calls here, no malloc, no locks, and no cancellation (the guard forbids it).
 */
#define _GNU_SOURCE
#include "spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "protocol.h"

#define STACK 65536
#define ABOVE 16 /* descriptors are moved out of the way of the fixed numbers first */

struct plan {
    const char *path;
    char *const *argv;
    char *const *envp;
    int control, application, life;
    char *stack;
    volatile int error;
    volatile pid_t pid;
    int pidfd;
};

static void close_from(unsigned first)
{
    if (close_range(first, ~0U, 0) == 0)
        return;
    /* A seccomp filter older than the call. */
    struct rlimit limit = {1 << 20, 0};
    getrlimit(RLIMIT_NOFILE, &limit);
    for (unsigned descriptor = first; descriptor < limit.rlim_cur && descriptor < 1 << 20; descriptor++)
        close((int)descriptor);
}

static int arrange_descriptors(const struct plan *plan)
{
    int control = fcntl(plan->control, F_DUPFD, ABOVE);
    int application = fcntl(plan->application, F_DUPFD, ABOVE);
    int life = fcntl(plan->life, F_DUPFD, ABOVE);
    int opened = open("/dev/null", O_RDWR);
    int null = fcntl(opened, F_DUPFD, ABOVE);
    if (control < 0 || application < 0 || life < 0 || null < 0)
        return -1;
    close(opened); /* it may have come out as the application's closed stderr */
    /* Closed, or by its flag no stderr but something of the application's own that got the number. */
    if (fcntl(STDERR_FILENO, F_GETFD) != 0 && dup2(null, STDERR_FILENO) < 0)
        return -1;
    if (dup2(null, STDIN_FILENO) < 0 || dup2(null, STDOUT_FILENO) < 0)
        return -1;
    if (dup2(control, PYHA_CONTROL_FD) < 0 || dup2(application, PYHA_APPLICATION_FD) < 0 ||
        dup2(life, PYHA_LIFE_FD) < 0)
        return -1;
    close_from(PYHA_LIFE_FD + 1);
    return 0;
}

static int helper(void *argument)
{
    struct plan *plan = argument;
    struct sigaction normal = {.sa_handler = SIG_DFL};
    sigset_t none;

    setsid(); /* the terminal's signals are for the application: it may well handle Ctrl-C and go on signing */
    for (int number = 1; number < _NSIG; number++)
        sigaction(number, &normal, NULL);
    if (arrange_descriptors(plan) == 0) {
        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, NULL);
        execve(plan->path, plan->argv, plan->envp);
    }
    plan->error = errno;
    _exit(127);
}

static int intermediate(void *argument)
{
    struct plan *plan = argument;
    /* Without CLONE_FILES the helper gets descriptors of its own; the pidfd appears in ours, the application's. */
    plan->pid = clone(helper, plan->stack + STACK, CLONE_VM | CLONE_VFORK | CLONE_PIDFD | SIGCHLD, plan, &plan->pidfd);
    if (plan->pid < 0)
        plan->error = errno;
    else if (plan->error)
        waitpid(plan->pid, NULL, __WALL); /* leave no zombie to an application that adopts orphans */
    _exit(0);
}

int pyha_spawn(int *pidfd, const char *path, char *const argv[], char *const envp[], int control, int application,
               int life)
{
    char *stacks = mmap(NULL, 2 * STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
    if (stacks == MAP_FAILED)
        return errno;
    struct plan plan = {path, argv, envp, control, application, life, stacks, 0, -1, -1};
    pid_t child = clone(intermediate, stacks + 2 * STACK, CLONE_VM | CLONE_VFORK | CLONE_FILES, &plan);
    if (child < 0)
        plan.error = errno;
    else
        while (waitpid(child, NULL, __WCLONE) < 0 && errno == EINTR)
            ;
    munmap(stacks, 2 * STACK);
    if (plan.error && plan.pidfd >= 0)
        close(plan.pidfd);
    *pidfd = plan.pidfd;
    return plan.error;
}
