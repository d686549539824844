/*
 * The places of a link: its ordinary arenas that nobody uses, for whoever takes one, in C or in Python.
 *
 * Knows arenas by the number that Python gave them; who waits for one, and that there are no more than the operator
 * allows, is Python's (pyha/abi/link.py). Its lock is held for moments, and never while anything else is waited for.
 */
#ifndef PYHA_PLACES_H
#define PYHA_PLACES_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

struct pyha_link;
struct pyha_arena;

struct pyha_places {
    pthread_mutex_t lock;
    struct pyha_arena **idle; /* the one that was used last is the last */
    unsigned count, room;
    int shut;           /* the link has ended: none is taken back */
    atomic_int awaited; /* somebody waits for one, in Python: C takes none, and says when it gives one back */
};

void pyha_places_init(struct pyha_places *places);
void pyha_places_destroy(struct pyha_places *places);

/* Gives an arena back, or a new one. 0: the link has ended, or there is no memory to note it in. */
int pyha_place_put(struct pyha_arena *arena);

/* The number of an arena that nobody uses, the caller's from now on; -1: there is none. */
int pyha_place_take(struct pyha_link *link);

int pyha_places_idle(struct pyha_link *link);

/* No arena is taken from now on. */
void pyha_places_shut(struct pyha_link *link);

/* Whether somebody waits. */
void pyha_places_await(struct pyha_link *link, int waiting);

/* For C: an arena that stays mapped until it is returned, NULL where none is free or somebody waits for one. */
struct pyha_arena *pyha_place_borrow(struct pyha_link *link);

/* `good`: it can be used again. */
void pyha_place_return(struct pyha_arena *arena, int good);

/* Written in Python (pyha/abi/link.py): an arena of this link (its address) is free, and somebody waits. */
extern void pyha_dispatch_place(uint64_t link);

#endif
