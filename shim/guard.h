/*
 * One lock for everything that fork() must find at rest: descriptors being opened, the registry of links, the PIN page.
 *
 * Knows nothing of what it guards. Held for moments only: never across a wait for a member, and never by a thread
 * that holds or wants Python's lock (cffi releases that before it enters C).
 */
#ifndef PYHA_GUARD_H
#define PYHA_GUARD_H

#include <signal.h>

/* Signals stay blocked inside: a handler that forks there would wait for its own thread. */
void pyha_guard_enter(sigset_t *saved);
void pyha_guard_leave(const sigset_t *saved);

#endif
