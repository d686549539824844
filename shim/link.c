/*
 * Links: their start, their end, the registry for fork (link.h). The calls are in arena.c.
 *
 * The application may close any descriptor at any time and reuse its number. So a descriptor is looked at before it is
 * trusted, and losing one is the loss of the link: the helper ends by itself when the socket does.
 */
#define _GNU_SOURCE
#include "link.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "guard.h"
#include "spawn.h"

extern char **environ;

static pyha_link *links; /* guarded */

int pyha_link_owned(const pyha_link *link)
{
    return link->owner == getpid();
}

static struct pyha_owned own(int descriptor)
{
    struct stat found;
    if (descriptor < 0 || fstat(descriptor, &found) < 0)
        return (struct pyha_owned){.number = -1};
    return (struct pyha_owned){descriptor, found.st_dev, found.st_ino};
}

static int is_ours(const struct pyha_owned *owned)
{
    struct pyha_owned now = own(owned->number);
    return now.number >= 0 && now.device == owned->device && now.inode == owned->inode;
}

/* Before Linux 6.9 all pidfds look alike: so only together with the socket, which is lost where all are closed. */
static int is_our_helper(const pyha_link *link)
{
    return is_ours(&link->control) && is_ours(&link->helper);
}

int pyha_link_lost(pyha_link *link)
{
    if (atomic_load(&link->ended))
        return 1;
    if (link->local)
        return 0;
    /* Both: a child of the module may hold the socket open when the helper is gone. */
    struct pollfd watched[] = {{link->control.number, POLLIN, 0}, {link->helper.number, POLLIN, 0}};
    if (is_ours(&link->control) && poll(watched, 2, 0) <= 0)
        return 0;
    atomic_store(&link->ended, 1);
    return 1;
}

void pyha_link_pause(pyha_link *link, short events, double deadline)
{
    struct pollfd watched[] = {{link->control.number, events, 0}, {link->helper.number, POLLIN, 0}};
    double left = pyha_slice(deadline);
    poll(watched, 2, left > 0 ? (int)(left * 1000) + 1 : 0);
}

int pyha_link_send(pyha_link *link, uint32_t wish, uint32_t arena, int descriptor)
{
    struct pyha_message message = {wish, arena};
    struct iovec content = {&message, sizeof message};
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(sizeof(int))];
    } attached = {0};
    struct msghdr envelope = {.msg_iov = &content, .msg_iovlen = 1};
    if (descriptor >= 0) {
        envelope.msg_control = &attached;
        envelope.msg_controllen = sizeof attached;
        attached.header = (struct cmsghdr){CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
        memcpy(CMSG_DATA(&attached.header), &descriptor, sizeof descriptor);
    }
    if (!is_ours(&link->control))
        return EPIPE;
    return sendmsg(link->control.number, &envelope, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 ? errno : 0;
}

int pyha_link_offers(const pyha_link *link, uint32_t index)
{
    return index < PYHA_FUNCTIONS && link->offered[index / 64] >> index % 64 & 1;
}

int pyha_link_alive(pyha_link *link)
{
    return !pyha_link_lost(link);
}

/* Closes what is still ours. Guarded. */
static void give_up_descriptors(pyha_link *link)
{
    if (is_our_helper(link))
        close(link->helper.number);
    if (is_ours(&link->control))
        close(link->control.number);
    if (is_ours(&link->life))
        close(link->life.number);
    link->control.number = link->helper.number = link->life.number = -1;
}

static void wait_for_helper(pyha_link *link, double deadline)
{
    while (is_our_helper(link)) {
        struct pollfd watched = {link->helper.number, POLLIN, 0};
        double left = pyha_slice(deadline);
        if (poll(&watched, 1, left > 0 ? (int)(left * 1000) + 1 : 0) > 0 || left <= 0)
            return;
    }
}

void pyha_link_dismiss(pyha_link *link, double deadline)
{
    struct pyha_guarded saved;
    if (!pyha_link_owned(link) || link->local)
        return;
    pyha_guard_enter(&saved);
    atomic_store(&link->ended, 1);
    if (is_ours(&link->control))
        shutdown(link->control.number, SHUT_RDWR);
    if (is_our_helper(link))
        pidfd_send_signal(link->helper.number, SIGCONT, NULL, 0); /* one that is stopped would be waited for in vain */
    pyha_guard_leave(&saved);
    wait_for_helper(link, deadline);
}

int pyha_link_close(pyha_link *link, int at_once)
{
    struct pyha_guarded saved;
    if (!pyha_link_owned(link))
        return 0;
    pyha_guard_enter(&saved);
    atomic_store(&link->ended, 1);
    /* The shutdown reaches a helper that kill() may no longer touch, and one whose socket a forked process copied. */
    if (is_ours(&link->control))
        shutdown(link->control.number, SHUT_RDWR);
    if (at_once && is_our_helper(link))
        pidfd_send_signal(link->helper.number, SIGKILL, NULL, 0);
    give_up_descriptors(link);
    pyha_guard_leave(&saved);
    return 1;
}

static void enroll(pyha_link *link)
{
    link->next = links;
    links = link;
}

void pyha_link_unref(pyha_link *link)
{
    struct pyha_guarded saved;
    if (atomic_fetch_sub(&link->users, 1) != 1)
        return;
    pyha_guard_enter(&saved);
    for (pyha_link **place = &links; *place; place = &(*place)->next)
        if (*place == link) {
            *place = link->next;
            break;
        }
    pyha_guard_leave(&saved);
    pyha_places_destroy(&link->places);
    free(link);
}

void pyha_link_drop(pyha_link *link)
{
    pyha_link_close(link, 0);
    pyha_link_unref(link);
}

void pyha_links_disown(void)
{
    for (pyha_link *link = links; link; link = link->next) {
        atomic_store(&link->ended, 1);
        give_up_descriptors(link);
    }
}

static pyha_link *new_link(char *reason, size_t room)
{
    /* A module of modules (p11-kit-proxy) may lead a helper back to us: it would start helpers without end. */
    const char *running = (const char *)getauxval(AT_EXECFN);
    size_t length = running ? strlen(running) : 0, suffix = sizeof "/pyha-host" - 1;
    if (length >= suffix && strcmp(running + length - suffix, "/pyha-host") == 0) {
        snprintf(reason, room, "this process is itself a member's helper: a member cannot lead back to a group");
        return NULL;
    }
    pyha_link *link = calloc(1, sizeof *link);
    if (!link) {
        snprintf(reason, room, "out of memory");
        return NULL;
    }
    atomic_init(&link->users, 1);
    pyha_places_init(&link->places);
    link->owner = getpid();
    link->spin_room = pyha_spin_room();
    link->control.number = link->helper.number = link->life.number = -1;
    return link;
}

/* The environment that helpers inherit: a copy that pyha_link_keep_environment() made, one block; NULL: what is now. */
static char **kept;

int pyha_link_keep_environment(void)
{
    struct pyha_guarded saved;
    size_t count = 0, size = 0;
    while (environ && environ[count])
        size += strlen(environ[count++]) + 1;
    char **copy = malloc((count + 1) * sizeof *copy + size);
    if (!copy)
        return ENOMEM;
    char *text = (char *)(copy + count + 1);
    for (size_t i = 0; i < count; i++, text += strlen(text) + 1)
        copy[i] = strcpy(text, environ[i]);
    copy[count] = NULL;
    pyha_guard_enter(&saved);
    char **before = kept;
    kept = copy;
    pyha_guard_leave(&saved);
    free(before);
    return 0;
}

/* The inherited environment with `settings` over it; one block, to be freed. The strings are borrowed. Guarded. */
static char **merged(char **settings)
{
    char **source = kept ? kept : environ;
    size_t inherited = 0, added = 0, count = 0;
    while (source && source[inherited])
        inherited++;
    while (settings[added])
        added++;
    char **result = calloc(inherited + added + 1, sizeof *result);
    for (size_t i = 0; result && i < inherited; i++) {
        size_t j = 0;
        while (j < added && strncmp(settings[j], source[i], strcspn(settings[j], "=") + 1) != 0)
            j++;
        if (j == added)
            result[count++] = source[i];
    }
    for (size_t j = 0; result && j < added; j++)
        result[count++] = settings[j];
    return result;
}

/* Out of the numbers of standard input to standard error, where somebody would print into it. */
static int above_standard(int descriptor)
{
    if (descriptor < 0 || descriptor > STDERR_FILENO)
        return descriptor;
    int moved = fcntl(descriptor, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
    close(descriptor);
    return moved;
}

/* Descriptors and process; guarded, so that a fork finds them whole. An errno. */
static int start_helper(pyha_link *link, const char *program, char *const argv[], char *const envp[])
{
    int pair[2], ends[2], pidfd = -1;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return errno;
    if (pipe2(ends, O_CLOEXEC) < 0) {
        int error = errno;
        close(pair[0]);
        close(pair[1]);
        return error;
    }
    int control = above_standard(pair[0]), theirs = above_standard(pair[1]);
    int their_life = above_standard(ends[0]), life = above_standard(ends[1]);
    int application = above_standard(pidfd_open(getpid(), 0));
    int error = control < 0 || theirs < 0 || their_life < 0 || life < 0 || application < 0 ? errno : 0;
    if (!error)
        error = pyha_spawn(&pidfd, program, argv, envp, theirs, application, their_life);
    if (!error) {
        link->control = own(control);
        link->helper = own(above_standard(pidfd));
        link->life = own(life);
        control = life = -1;
    }
    const int done[] = {control, theirs, application, their_life, life};
    for (size_t n = 0; n < sizeof done / sizeof *done; n++)
        if (done[n] >= 0)
            close(done[n]);
    return error;
}

/* Waits for the helper's one message. */
static int hear_hello(pyha_link *link, const char *module, double deadline, char *reason, size_t room)
{
    struct pyha_hello hello;
    ssize_t size;
    while ((size = is_ours(&link->control) ? recv(link->control.number, &hello, sizeof hello, MSG_DONTWAIT) : 0) < 0) {
        if (errno != EAGAIN && errno != EINTR)
            break;
        if (pyha_now() >= deadline) {
            snprintf(reason, room, "the helper for %s did not load it in time", module);
            return -1;
        }
        pyha_link_pause(link, POLLIN, deadline);
    }
    if (size <= 0)
        snprintf(reason, room, "the helper for %s ended while loading it", module);
    else if (size != sizeof hello || hello.protocol != PYHA_PROTOCOL)
        snprintf(reason, room, "the helper program is not of this version: restart the application after an update");
    else if (hello.reason[0])
        snprintf(reason, room, "%.*s", PYHA_REASON, hello.reason);
    else {
        memcpy(link->offered, hello.offered, sizeof link->offered);
        return 0;
    }
    return -1;
}

pyha_link *pyha_link_start(const char *program, const char *module, const char *title, char **environment,
                           double deadline, char *reason, size_t room)
{
    char *argv[] = {"pyha-host", (char *)module, *title ? (char *)title : NULL, NULL};
    struct pyha_guarded saved;
    pyha_link *link = new_link(reason, room);
    if (!link)
        return NULL;
    int error = ENOMEM;
    pyha_guard_enter(&saved);
    char **envp = merged(environment);
    if (envp) {
        error = start_helper(link, program, argv, envp);
        if (!error)
            enroll(link);
    }
    pyha_guard_leave(&saved);
    free(envp);
    if (error)
        snprintf(reason, room, "cannot start the helper program %s: %s", program, strerrordesc_np(error));
    if (!error && hear_hello(link, module, deadline, reason, room) == 0)
        return link;
    pyha_link_drop(link);
    return NULL;
}

pyha_link *pyha_link_load(const char *module, char *reason, size_t room)
{
    struct pyha_guarded saved;
    pyha_link *link = new_link(reason, room);
    if (!link)
        return NULL;
    link->local = 1;
    /* DEEPBIND: the module must find its own C_ functions, not those that this object exports. */
    int flags = RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND;
    if (pyha_module_load(&link->module, module, flags, (void *)(uintptr_t)pyha_link_load, reason, room) < 0) {
        free(link);
        return NULL;
    }
    pyha_module_offers(&link->module, link->offered);
    pyha_guard_enter(&saved);
    enroll(link);
    pyha_guard_leave(&saved);
    return link;
}
