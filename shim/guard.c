/* See guard.h. */
#define _GNU_SOURCE
#include "guard.h"

#include <pthread.h>

#include "link.h"

static pthread_mutex_t guard = PTHREAD_MUTEX_INITIALIZER;
static sigset_t before_fork; /* belongs to whoever holds the guard */

void pyha_guard_enter(sigset_t *saved)
{
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, saved);
    pthread_mutex_lock(&guard);
}

void pyha_guard_leave(const sigset_t *saved)
{
    pthread_mutex_unlock(&guard);
    pthread_sigmask(SIG_SETMASK, saved, NULL);
}

static void prepare(void)
{
    sigset_t saved;
    pyha_guard_enter(&saved);
    before_fork = saved;
}

static void in_parent(void)
{
    sigset_t saved = before_fork;
    pyha_guard_leave(&saved);
}

static void in_child(void)
{
    pyha_links_disown();
    in_parent();
}

__attribute__((constructor)) static void watch_forks(void)
{
    pthread_atfork(prepare, in_parent, in_child);
}
