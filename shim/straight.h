/*
 * The straight way of a call: C reads what it needs of the arguments, Python says which member takes it and with which
 * handles (pyha/runtime/straight.py), C moves the bytes, and nothing is made a Python value.
 *
 * Knows what a function's arguments are by a row of parts (pyha/cryptoki/straight.py); knows nothing of members,
 * operations or what an answer means: all but CKR_OK is handed back, with nothing written to the application.
 */
#ifndef PYHA_STRAIGHT_H
#define PYHA_STRAIGHT_H

#include <stdint.h>

#include "link.h"

#define PYHA_PARTS 4
enum { PYHA_NO_PART, PYHA_SESSION, PYHA_KEY, PYHA_MECHANISM, PYHA_INPUT, PYHA_FILL, PYHA_RESULT };

/* Generated: what each argument of each function is; a function that begins with PYHA_NO_PART never goes straight. */
extern const uint8_t pyha_parts[PYHA_FUNCTIONS][PYHA_PARTS];

/* How pyha_straight_run ends, beside the outcomes of a call (link.h). */
enum {
    PYHA_ANSWERED = 16, /* with `rv`, which is not CKR_OK */
    PYHA_MALFORMED      /* with CKR_OK and more bytes than there was room for */
};

typedef struct pyha_seat pyha_seat;

#define PYHA_KEPT 256

/* One call. What the application may change meanwhile is read once, into this. */
typedef struct pyha_straight {
    void *arguments; /* the application's: struct pyha_args_C_Xxx */
    uint32_t index;
    uint64_t session, key; /* virtual ones, 0 where the function has none */
    uint64_t mechanism, parameter_length;
    void *parameter;
    uint64_t words[PYHA_WORDS];
    uint64_t capacity; /* bytes of the application's result */
    uint64_t size;     /* bytes of arena that it takes */
    uint64_t rv;       /* PYHA_ANSWERED: the member's CK_RV */
    uint64_t length;   /* bytes that the member says its result has, believed or not */
    int outcome;       /* of pyha_straight_run, for whom its return did not reach; PYHA_DONE before it */
    int named;         /* the function has a key among its arguments */
    /* What a try of the express way has met (express.h): on which member, in which of its sessions, when it began, and
     * the count of that member's logins before; the number of the arena that must not be used again, or -1. */
    pyha_seat *seat;
    uint64_t real, logins, run;
    double start, weight;
    int place;
    uint8_t kept[PYHA_KEPT]; /* the mechanism's parameter */
} pyha_straight;

/* Whether Python has a straight way at all (pyha_dispatch_straight). */
void pyha_straight_allow(int on);
int pyha_straight_allowed(void);

/*
 * Reads what is needed of the application's arguments. 0: this call is not for the straight way - a NULL pointer, a
 * query for a length, more than fits into an ordinary arena - and the general way says what the answer is.
 */
int pyha_straight_read(pyha_straight *call, uint32_t index, void *arguments);

/*
 * The call on one member, with its handles, through an arena of its link. PYHA_DONE: CKR_OK, and the result is the
 * application's. Otherwise nothing was written there. After an outcome that is not the member's answer (PYHA_DEAD,
 * _CULPRIT, _LATE) the arena must not be used again; else it is wiped.
 */
int pyha_straight_run(pyha_straight *call, pyha_arena *arena, uint64_t session, uint64_t key, double deadline);

/* Written in Python (pyha/entry.py). The CK_RV, with the bits of CKR_GENERAL_ERROR turned: cffi's 0 is never CKR_OK. */
extern uint64_t pyha_dispatch_straight(uint32_t index, pyha_straight *call, uint64_t session, uint64_t key,
                                       uint64_t mechanism, uint64_t parameter_length);

#endif
