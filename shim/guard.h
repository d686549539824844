/*
 * One lock for everything that fork() must find at rest: descriptors being opened, the registry of links, the PIN page.
 *
 * Knows nothing of what it guards. Held for moments only: never across a wait for a member, and never by a thread
 * that holds or wants Python's lock (cffi releases that before it enters C).
 */
#ifndef PYHA_GUARD_H
#define PYHA_GUARD_H

#include <signal.h>

/* What entering changes in the calling thread, to be restored. */
struct pyha_guarded {
    sigset_t signals; /* blocked inside: a handler that forks there would wait for its own thread */
    int cancel;       /* disabled inside: a cancelled thread would never leave */
};

void pyha_guard_enter(struct pyha_guarded *saved);
void pyha_guard_leave(const struct pyha_guarded *saved);

#endif
