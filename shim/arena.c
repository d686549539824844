/*
 * Arenas and the calls made through them (link.h).
 *
 * What the helper writes is never believed: the call's number and the capacity are kept here, a wait compares with
 * them, and sealed memory cannot be cut away under our feet.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "guard.h"
#include "link.h"
#include "spin.h"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U /* Linux 6.3 */
#endif

double pyha_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

double pyha_slice(double deadline)
{
    double left = deadline - pyha_now();
    return left < PYHA_SLICE ? left : PYHA_SLICE;
}

static atomic_int calls; /* to all helpers, of this process */

void pyha_calls_disown(void)
{
    atomic_store_explicit(&calls, 0, memory_order_relaxed);
}

/* Sleeps until the helper has done call `number`. */
static int await(pyha_arena *arena, uint32_t number, double deadline)
{
    struct pyha_shared *shared = arena->shared;
    /* Said before the first look: a reply after that look sees it, and wakes us. */
    atomic_store(&shared->awaited, 1);
    for (int woken = 0;; woken = 1) {
        /* Sleep on the value that was seen, whatever it is: a scribbled one must not make this a busy loop. */
        uint32_t seen = atomic_load(&shared->reply);
        if (seen == number) {
            atomic_store_explicit(&shared->awaited, 0, memory_order_relaxed);
            return PYHA_DONE;
        }
        if (woken && pyha_link_lost(arena->link)) {
            if (atomic_load_explicit(&shared->reply, memory_order_acquire) == number)
                return PYHA_DONE; /* its last deed */
            return atomic_load(&shared->died) == number ? PYHA_CULPRIT : PYHA_DEAD;
        }
        double left = pyha_slice(deadline);
        if (left <= 0)
            return PYHA_LATE;
        if (woken)
            pyha_futex_wake(&shared->request); /* the helper may have scribbled over its word that it sleeps */
        struct timespec limit = {.tv_nsec = (long)(left * 1e9)};
        pyha_futex_wait(&shared->reply, seen, &limit);
    }
}

/* Gives the helper one call (`times` 0), or a series of them, and waits until it has done it. */
static int hand_over(pyha_arena *arena, uint32_t index, uint32_t times, double deadline)
{
    pyha_link *link = arena->link;
    if (pyha_now() >= deadline)
        return PYHA_LATE;
    struct pyha_shared *shared = arena->shared;
    arena->number = pyha_next(arena->number);
    shared->index = index;
    shared->times = times;
    shared->until = deadline;
    atomic_store(&shared->request, arena->number);
    if (atomic_load(&shared->idle))
        pyha_futex_wake(&shared->request);
    /* Calls that sleep count too: they are work for a helper, which needs a core. */
    int near = atomic_fetch_add_explicit(&calls, 1, memory_order_relaxed) < link->spin_room && index < PYHA_FUNCTIONS &&
               !times && pyha_spin(&arena->waits[index], &shared->reply, arena->number);
    int outcome = near ? PYHA_DONE : await(arena, arena->number, deadline);
    atomic_fetch_sub_explicit(&calls, 1, memory_order_relaxed);
    return outcome;
}

int pyha_arena_call(pyha_arena *arena, uint32_t index, double deadline)
{
    pyha_link *link = arena->link;
    if (atomic_load_explicit(&link->ended, memory_order_relaxed))
        return PYHA_DEAD;
    if (link->local) {
        arena->rv = pyha_module_call(&link->module, index, arena->words);
        return PYHA_DONE;
    }
    int outcome = hand_over(arena, index, 0, deadline);
    if (outcome == PYHA_DONE)
        arena->rv = *(volatile uint64_t *)&arena->shared->result;
    return outcome;
}

int pyha_arena_series(pyha_arena *arena, uint32_t index, uint64_t turns, uint32_t times, double budget, double deadline)
{
    pyha_link *link = arena->link;
    arena->made = 0;
    if (atomic_load_explicit(&link->ended, memory_order_relaxed))
        return PYHA_DEAD;
    if (!times)
        return PYHA_DONE;
    if (link->local) {
        struct pyha_turn *first = (struct pyha_turn *)(uintptr_t)turns;
        arena->made = pyha_module_series(&link->module, index, first, times, budget, &link->ended);
        return PYHA_DONE;
    }
    arena->shared->turns = turns;
    arena->shared->budget = budget;
    int outcome = hand_over(arena, index, times, deadline);
    if (outcome == PYHA_DONE) {
        uint32_t made = *(volatile uint32_t *)&arena->shared->made;
        arena->made = made <= times ? made : 0;
    }
    return outcome;
}

void pyha_arena_wipe(pyha_arena *arena, uint64_t used)
{
    if (pyha_link_owned(arena->link))
        explicit_bzero(arena->here, used < arena->capacity ? used : arena->capacity);
}

/* A memory file whose size nobody can change any more; -1 with errno. */
static int sealed(size_t size)
{
    int memory = memfd_create("pyha-arena", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);
    if (memory < 0 && errno == EINVAL)
        memory = memfd_create("pyha-arena", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (memory < 0)
        return -1;
    int seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
    if (ftruncate(memory, (off_t)size) < 0 || fcntl(memory, F_ADD_SEALS, seals) < 0) {
        close(memory);
        return -1;
    }
    return memory;
}

/* Memory for `arena`, offered to the helper. An errno; EAGAIN: the helper does not read its socket at the moment. */
static int share(pyha_arena *arena)
{
    int memory = sealed(arena->mapped);
    if (memory < 0)
        return errno;
    int error = 0;
    arena->shared = mmap(NULL, arena->mapped, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
    if (arena->shared == MAP_FAILED) {
        error = errno;
    } else {
        /* The helper locks the pages: that counts against its limit, not against the application's. */
        madvise(arena->shared, arena->mapped, MADV_DONTFORK);
        madvise(arena->shared, arena->mapped, MADV_DONTDUMP);
        error = pyha_link_send(arena->link, arena->serves ? PYHA_SERVE : PYHA_TAKE, arena->identity, memory);
        if (error)
            munmap(arena->shared, arena->mapped);
    }
    close(memory);
    return error;
}

static int make_shared(pyha_arena *arena, double deadline)
{
    for (;;) {
        struct pyha_guarded saved;
        int error = EPIPE;
        pyha_guard_enter(&saved);
        if (!atomic_load(&arena->link->ended)) {
            arena->identity = ++arena->link->identities;
            error = share(arena);
        }
        pyha_guard_leave(&saved);
        if (error == 0)
            break;
        if (error != EAGAIN)
            return pyha_link_lost(arena->link) ? PYHA_DEAD : PYHA_FULL;
        pyha_link_pause(arena->link, POLLOUT, deadline);
        if (pyha_link_lost(arena->link))
            return PYHA_DEAD;
        if (pyha_now() >= deadline)
            return PYHA_LATE;
    }
    int outcome = await(arena, PYHA_MAPPED, deadline);
    arena->number = PYHA_MAPPED;
    arena->there = arena->shared->there;
    if (outcome == PYHA_DONE && arena->there == 0)
        outcome = PYHA_FULL;
    if (outcome != PYHA_DONE)
        munmap(arena->shared, arena->mapped);
    return outcome == PYHA_CULPRIT ? PYHA_DEAD : outcome;
}

static int make_local(pyha_arena *arena)
{
    arena->shared = mmap(NULL, arena->mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (arena->shared == MAP_FAILED)
        return PYHA_FULL;
    mlock2(arena->shared, arena->mapped, MLOCK_ONFAULT);
    madvise(arena->shared, arena->mapped, MADV_WIPEONFORK);
    madvise(arena->shared, arena->mapped, MADV_DONTDUMP);
    arena->there = (uint64_t)(uintptr_t)arena->shared + PYHA_HEAD;
    return PYHA_DONE;
}

int pyha_arena_make(pyha_link *link, uint64_t capacity, int serves, double deadline, pyha_arena **made)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    if (atomic_load(&link->ended))
        return PYHA_DEAD;
    pyha_arena *arena = capacity < UINT64_C(1) << 40 ? calloc(1, sizeof *arena) : NULL;
    if (!arena)
        return PYHA_FULL;
    arena->link = link;
    atomic_init(&arena->users, 1);
    arena->serves = serves;
    arena->mapped = (capacity + PYHA_HEAD + page - 1) / page * page;
    arena->capacity = arena->mapped - PYHA_HEAD;
    int outcome = link->local ? make_local(arena) : make_shared(arena, deadline);
    if (outcome != PYHA_DONE) {
        free(arena);
        return outcome;
    }
    arena->words = arena->shared->words;
    arena->here = (uint8_t *)arena->shared + PYHA_HEAD;
    atomic_fetch_add(&link->users, 1);
    *made = arena;
    return PYHA_DONE;
}

void pyha_arena_forget(pyha_arena *arena)
{
    int error = EAGAIN;
    if (arena->link->local)
        return;
    /* The pages go now, on both sides; a helper too busy to hear keeps only the address range. */
    madvise(arena->shared, arena->mapped, MADV_REMOVE);
    for (int try = 0; try < 5 && error == EAGAIN && !atomic_load(&arena->link->ended); try++) {
        struct pyha_guarded saved;
        if (try)
            pyha_link_pause(arena->link, POLLOUT, pyha_now() + PYHA_SLICE);
        pyha_guard_enter(&saved);
        error = pyha_link_send(arena->link, PYHA_FORGET, arena->identity, -1);
        pyha_guard_leave(&saved);
    }
}

void pyha_arena_drop(pyha_arena *arena)
{
    pyha_link *link = arena->link;
    if (atomic_fetch_sub(&arena->users, 1) != 1)
        return;
    /* In a forked child the mapping was never there, and its address may be someone else's by now. */
    if (link->local || pyha_link_owned(link))
        munmap(arena->shared, arena->mapped);
    free(arena);
    pyha_link_unref(link);
}
