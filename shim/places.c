/* See places.h. */
#define _GNU_SOURCE
#include "places.h"

#include <stdlib.h>

#include "link.h"

void pyha_places_init(struct pyha_places *places)
{
    pthread_mutex_init(&places->lock, NULL);
}

/* In a forked child another thread of the parent may have had the lock: nobody asks for it here. */
void pyha_places_destroy(struct pyha_places *places)
{
    free(places->idle);
}

int pyha_place_put(pyha_arena *arena)
{
    struct pyha_places *places = &arena->link->places;
    int put = 0;
    pthread_mutex_lock(&places->lock);
    if (places->count == places->room && !places->shut) {
        unsigned room = places->room ? 2 * places->room : 8;
        pyha_arena **idle = realloc(places->idle, room * sizeof *idle);
        if (idle) {
            places->idle = idle;
            places->room = room;
        }
    }
    if (places->count < places->room && !places->shut) {
        places->idle[places->count++] = arena;
        put = 1;
    }
    pthread_mutex_unlock(&places->lock);
    return put;
}

int pyha_place_take(pyha_link *link)
{
    struct pyha_places *places = &link->places;
    int place = -1;
    pthread_mutex_lock(&places->lock);
    if (places->count)
        place = places->idle[--places->count]->place;
    pthread_mutex_unlock(&places->lock);
    return place;
}

int pyha_places_idle(pyha_link *link)
{
    pthread_mutex_lock(&link->places.lock);
    int count = (int)link->places.count;
    pthread_mutex_unlock(&link->places.lock);
    return count;
}

void pyha_places_shut(pyha_link *link)
{
    pthread_mutex_lock(&link->places.lock);
    link->places.shut = 1;
    link->places.count = 0;
    pthread_mutex_unlock(&link->places.lock);
}

void pyha_places_await(pyha_link *link, int waiting)
{
    atomic_store(&link->places.awaited, waiting);
}

pyha_arena *pyha_place_borrow(pyha_link *link)
{
    struct pyha_places *places = &link->places;
    pyha_arena *arena = NULL;
    if (atomic_load(&places->awaited))
        return NULL;
    pthread_mutex_lock(&places->lock);
    if (places->count) {
        arena = places->idle[--places->count];
        /* As long as it is among the idle Python has it; from now on it may let go of it at any time. */
        atomic_fetch_add_explicit(&arena->users, 1, memory_order_relaxed);
    }
    pthread_mutex_unlock(&places->lock);
    return arena;
}

void pyha_place_return(pyha_arena *arena, int good)
{
    pyha_link *link = arena->link;
    /* Whoever begins to wait after this look finds the arena by a look of its own. */
    if (good && pyha_place_put(arena) && atomic_load(&link->places.awaited))
        pyha_dispatch_place((uint64_t)(uintptr_t)link);
    pyha_arena_drop(arena);
}
