/*
 * A link runs the functions of one vendor's module: in a helper process (link.c), or in this process (pyha_link_load).
 * An arena (arena.c) is memory that carries a call's arguments to it.
 *
 * Knows processes, descriptors and shared memory. Knows nothing of Cryptoki: a call is an index, ten words, a result.
 * Deadlines are seconds of CLOCK_MONOTONIC. Nothing here is called with Python's lock held.
 */
#ifndef PYHA_LINK_H
#define PYHA_LINK_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "module.h"
#include "places.h"
#include "protocol.h"
#include "spin.h"

enum {
    PYHA_DONE = 0,
    PYHA_DEAD,    /* the helper is gone, or the link was closed */
    PYHA_CULPRIT, /* the same, and the helper named this call as the one it died in */
    PYHA_LATE,    /* the deadline passed; the arena must not be used again */
    PYHA_FULL     /* this process or the helper has no memory, descriptor or thread left for another arena */
};

typedef struct pyha_link pyha_link;
typedef struct pyha_arena pyha_arena;

struct pyha_arena {
    uint64_t *words;   /* PYHA_WORDS of them: a call's arguments */
    uint8_t *here;     /* the memory, at our address */
    uint64_t there;    /* the same byte at the module's address */
    uint64_t capacity; /* bytes */
    uint64_t rv;       /* result of the last call that was done */
    uint32_t made;     /* calls of the last series; 0 where the helper's number cannot be */

    pyha_link *link;
    struct pyha_shared *shared;
    size_t mapped;
    uint32_t number; /* of the last call; never read back from shared memory */
    uint32_t identity;
    int place;         /* its number among the ordinary ones, Python's */
    atomic_uint users; /* Python, and who has borrowed it (places.h) */
    int serves; /* a thread of the helper waits for calls here */
    struct pyha_spin waits[PYHA_FUNCTIONS]; /* how long the helper has taken lately, for each function */
};

/* A descriptor of ours, and how to know it again: an application may close it and reuse its number. */
struct pyha_owned {
    int number; /* -1: none */
    dev_t device;
    ino_t inode;
};

struct pyha_link {
    pyha_link *next;     /* guarded: the registry */
    atomic_uint users;   /* whoever has the link, and each arena: memory outlives the last of them */
    atomic_int ended;    /* no further call; set once */
    pid_t owner;         /* a forked child inherits the structure, not the link */
    /* The socket, the helper's pidfd, and the end of a pipe whose closing wakes a helper that is stopped. Changed under
     * the guard. */
    struct pyha_owned control, helper, life;
    uint32_t identities; /* guarded */
    int local;
    struct pyha_places places;
    int spin_room; /* threads of this process that may look for an answer at once */
    struct pyha_module module; /* local link only */
    uint64_t offered[2];
};

/* Copies the environment: what helpers inherit from now on. For the application's own thread, at C_Initialize: helpers are
 * also started later and by a thread of ours, when reading what the application may be changing would be a race. 0, or
 * ENOMEM. */
int pyha_link_keep_environment(void);

/*
 * Starts `program` (absolute path) for `module`. `environment`: NULL-terminated NAME=value settings over those of the
 * application. `title`: shown by ps; may be empty. NULL: one sentence is in `reason`.
 */
pyha_link *pyha_link_start(const char *program, const char *module, const char *title, char **environment,
                           double deadline, char *reason, size_t room);

/* Loads `module` into this process. NULL: one sentence is in `reason`. */
pyha_link *pyha_link_load(const char *module, char *reason, size_t room);

int pyha_link_offers(const pyha_link *link, uint32_t index);

/* Looks, without waiting. 0: gone, for good. */
int pyha_link_alive(pyha_link *link);

/*
 * Lets the helper end by itself, as pyha_link_close() does, and returns when it is gone, or at the deadline. For whoever
 * waits for a call that is under way it ends within a slice. To be closed afterwards.
 */
void pyha_link_dismiss(pyha_link *link, double deadline);

/*
 * Calls in flight end within a slice, for whoever waits for them. The helper is killed (`at_once`), or ends by itself
 * once its module has returned from them, or has not by their deadlines, but after three seconds at least and twenty at
 * most: a module that is killed while it writes may spoil its token. Never waits; may be repeated. 0 in a forked child.
 */
int pyha_link_close(pyha_link *link, int at_once);

/* Gives up the reference that start or load returned; closes the link. */
void pyha_link_drop(pyha_link *link);

/*
 * Makes an arena of at least `capacity` bytes; `serves`: calls can be made through it. PYHA_DONE, _DEAD, _LATE, _FULL.
 */
int pyha_arena_make(pyha_link *link, uint64_t capacity, int serves, double deadline, pyha_arena **made);

/* Calls function `index` with `arena->words`; the result is in `arena->rv`. PYHA_DONE, _DEAD, _CULPRIT or _LATE. */
int pyha_arena_call(pyha_arena *arena, uint32_t index, double deadline);

/*
 * Calls function `index` for each of `times` turns, in one hand-over; `turns`: the module's address of the first, in
 * this arena or in one that serves no calls. The results are there, as many as `arena->made` says: none is begun once
 * `budget` seconds have gone by, so the deadline is that of one call. PYHA_DONE, _DEAD, _CULPRIT (in one of the calls) or
 * _LATE.
 */
int pyha_arena_series(pyha_arena *arena, uint32_t index, uint64_t turns, uint32_t times, double budget, double deadline);

void pyha_arena_wipe(pyha_arena *arena, uint64_t used);

/* Lets the helper unmap an arena that serves no calls and that none uses; it is of no use afterwards. */
void pyha_arena_forget(pyha_arena *arena);

/* Lets go of it; the last who does unmaps it. */
void pyha_arena_drop(pyha_arena *arena);

/* Between link.c and arena.c. */
double pyha_now(void);
int pyha_link_lost(pyha_link *link);
int pyha_link_owned(const pyha_link *link);
void pyha_link_unref(pyha_link *link);
/* Waits for `events` on the control socket, the helper's end, the end of a slice or the deadline. */
void pyha_link_pause(pyha_link *link, short events, double deadline);
/* A slice of a wait that is over at `deadline`, in seconds; 0 or less: it is. */
double pyha_slice(double deadline);
/* sendmsg without blocking, guarded by the caller; `descriptor` -1: none. 0, or an errno. */
int pyha_link_send(pyha_link *link, uint32_t wish, uint32_t arena, int descriptor);

/* In a forked child: closes its copies of descriptors and ends every link there. The parent's are untouched. */
void pyha_links_disown(void);
/* Likewise: the parent's other threads make no calls there. */
void pyha_calls_disown(void);

#define PYHA_SLICE 0.020 /* seconds: how long a dead helper may go unnoticed */

#endif
