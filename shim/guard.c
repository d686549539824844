/* See guard.h. */
#define _GNU_SOURCE
#include "guard.h"

#include <pthread.h>

#include "link.h"

static pthread_mutex_t guard = PTHREAD_MUTEX_INITIALIZER;
static struct pyha_guarded before_fork; /* belongs to whoever holds the guard */

void pyha_guard_enter(struct pyha_guarded *saved)
{
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &saved->signals);
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &saved->cancel);
    pthread_mutex_lock(&guard);
}

void pyha_guard_leave(const struct pyha_guarded *saved)
{
    pthread_mutex_unlock(&guard);
    pthread_setcancelstate(saved->cancel, NULL);
    pthread_sigmask(SIG_SETMASK, &saved->signals, NULL);
}

static void prepare(void)
{
    struct pyha_guarded saved;
    pyha_guard_enter(&saved);
    before_fork = saved;
}

static void in_parent(void)
{
    struct pyha_guarded saved = before_fork;
    pyha_guard_leave(&saved);
}

static void in_child(void)
{
    pyha_links_disown();
    pyha_calls_disown();
    in_parent();
}

__attribute__((constructor)) static void watch_forks(void)
{
    pthread_atfork(prepare, in_parent, in_child);
}
