/*
 * What the application's side (link.c, arena.c) and the helper program (host.c) agree on: the layout of shared memory,
 * the messages of the control socket, the helper's descriptors. Nothing here knows Cryptoki.
 *
 * Change PYHA_PROTOCOL with any change: an application may run for months beside a helper program that was updated.
 */
#ifndef PYHA_PROTOCOL_H
#define PYHA_PROTOCOL_H

#include <limits.h>
#include <linux/futex.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define PYHA_PROTOCOL 0x70790004u

#define PYHA_WORDS 10       /* 2.40 needs eight words for a call, 3.0 nine, 3.2 ten */
#define PYHA_FUNCTIONS 92   /* the rows of the table: CK_FUNCTION_LIST, then CK_FUNCTION_LIST_3_0's own */
#define PYHA_FUNCTIONS_2 68
#define PYHA_REASON 512

#define PYHA_CONTROL_FD 3     /* the helper's end of the control socket */
#define PYHA_APPLICATION_FD 4 /* a pidfd of the application */
#define PYHA_LIFE_FD 5        /* a pipe that nobody writes to; its other end is the application's, see host.c */

/* One call of a series: the same function again and again, in one hand-over. A series is an array of these. */
struct pyha_turn {
    uint64_t words[PYHA_WORDS];
    uint64_t result;
};

/* The head of every shared arena; its memory proper begins PYHA_HEAD bytes after it. */
#define PYHA_HEAD 256
struct pyha_shared {
    _Atomic uint32_t request; /* number of the call that is wanted; a futex */
    uint32_t index;
    uint64_t words[PYHA_WORDS];
    double until; /* the call's deadline, of CLOCK_MONOTONIC, in seconds */
    _Atomic uint32_t awaited; /* the application sleeps, or is about to: the reply has to wake it */
    uint32_t times;           /* calls of a series; 0: one call, with `words` */
    uint64_t turns;           /* the helper's address of the series */
    double budget;            /* seconds after which it begins no further call of it */
    /* Number of the call that is done; a futex. PYHA_MAPPED once the helper has the arena. */
    _Alignas(64) _Atomic uint32_t reply;
    _Atomic uint32_t died; /* number of the call in which the helper met its end */
    uint64_t result;
    uint64_t there; /* the helper's address of the memory proper; 0: it could not take it */
    _Atomic uint32_t idle; /* the helper's thread sleeps, or is about to: a request has to wake it */
    uint32_t made;         /* calls of the series that were made */
};
_Static_assert(sizeof(struct pyha_shared) <= PYHA_HEAD, "the head of an arena has outgrown its room");
_Static_assert(sizeof(long) == 8 && sizeof(void *) == 8, "pyha is for LP64 platforms");

#define PYHA_MAPPED 1u

/* Calls are numbered one by one, so that neither side takes overwritten memory for a call or an answer. */
static inline uint32_t pyha_next(uint32_t number)
{
    return number < PYHA_MAPPED || number == UINT32_MAX ? PYHA_MAPPED + 1 : number + 1;
}

/* Application -> helper. TAKE and SERVE bring the arena's memory as a descriptor; SERVE starts a thread for it. */
enum pyha_wish { PYHA_TAKE = 1, PYHA_SERVE, PYHA_FORGET };
struct pyha_message {
    uint32_t wish;
    uint32_t arena;
};

/* Helper -> application, once and never anything else: so anything readable later is the helper's end. */
struct pyha_hello {
    uint32_t protocol;
    uint64_t offered[2];      /* one bit for each function the module has */
    char reason[PYHA_REASON]; /* why the module cannot be used; empty where it can */
};

static inline void pyha_futex_wake(_Atomic uint32_t *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

/* Sleeps while *word is `seen`, at most `limit` (NULL: without end). */
static inline void pyha_futex_wait(_Atomic uint32_t *word, uint32_t seen, const struct timespec *limit)
{
    syscall(SYS_futex, word, FUTEX_WAIT, seen, limit, NULL, 0);
}

#endif
