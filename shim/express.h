/*
 * The express way of a call: what went the straight way once, and for which nothing has changed, goes without Python.
 *
 * Keeps books of its own beside Python's (pyha/runtime/express.py), of what Python has told it: which members of a group
 * serve, who is logged in there, real handles of keys, real sessions and places that nobody uses. What is not in them,
 * or not as usual, is Python's: the call goes the straight way as if this were not here. A member that answers anything
 * but CKR_OK, or nothing, was the first try of a call that Python goes on with. Decides nothing but who is the least busy,
 * by the rule of pyha/ha/selection.py.
 *
 * Three things, each counted by who uses it: a *session* is the application's, and either Python's or ours; a *group*
 * has one lock for its books, under which no member is called and nothing is waited for; a *seat* is one connection of
 * a member, in its group's books.
 */
#ifndef PYHA_EXPRESS_H
#define PYHA_EXPRESS_H

#include <stdint.h>

#include "straight.h"

#define PYHA_TURNS 1021 /* a prime: kinds of calls that go round by themselves, as good as always */

enum { PYHA_NO_WAY, PYHA_SINGLE, PYHA_START, PYHA_FINISH };

/* Generated: how a function goes (one of the above), and the number of its operation. */
extern const uint8_t pyha_routes[PYHA_FUNCTIONS];
extern const uint8_t pyha_operations[PYHA_FUNCTIONS];

typedef struct pyha_group pyha_group;
typedef struct pyha_session pyha_session;

#define PYHA_RECORD_PARAMETER 256

/* An operation that was begun here, as Python has to know it to go on with it. */
typedef struct pyha_record {
    struct pyha_seat *seat;
    uint32_t index; /* of the function that began it */
    uint64_t real;  /* the member's session */
    int64_t weight; /* nanoseconds by which it makes the member busier */
    uint64_t key, mechanism, parameter_length;
    uint8_t parameter[PYHA_RECORD_PARAMETER];
} pyha_record;

/* One run of the module, from C_Initialize to C_Finalize, has a number of its own. */
uint64_t pyha_express_begin(void); /* 0: no memory */
/* The next may have begun meanwhile. */
void pyha_express_end(uint64_t run);
/* In a forked child: the parent's sessions are not its own. */
void pyha_express_disown(void);

/* Whether calls may begin here at all (1 at first): what they do then is what they do in Python. */
void pyha_express_allow(int on);

/* What `pyha_express` says. */
enum {
    PYHA_NOT_TAKEN, /* it is as if it had not been called */
    PYHA_TAKEN,     /* the answer is in `rv` of the call */
    PYHA_MET        /* Python has to go on: pyha_dispatch_met(), and then pyha_express_over() */
};
int pyha_express(pyha_straight *call);
void pyha_express_over(pyha_straight *call);

/* Written in Python (pyha/entry.py): as pyha_dispatch_straight, for a call whose first try was here. */
extern uint64_t pyha_dispatch_met(uint32_t index, pyha_straight *call);

/* A group's books. `turn`: where the choices begin. */
pyha_group *pyha_group_make(uint32_t turn);
void pyha_group_drop(pyha_group *group);
/* For Python's own use too, without the lock: running means in seconds (0: none yet), turns, and how many calls or
 * operations of ours are on members now. */
double *pyha_group_means(pyha_group *group);
uint32_t *pyha_group_turns(pyha_group *group);
const int64_t *pyha_group_active(pyha_group *group);
void pyha_group_patience(pyha_group *group, const double *seconds);
void pyha_group_user(pyha_group *group, int64_t user); /* CK_USER_TYPE, -1: nobody */
/* These serve, in this order; none: everything is Python's again, but for what was begun here. 0, or ENOMEM. */
int pyha_group_open(pyha_group *group, pyha_seat **seats, uint32_t count);
/* A mechanism whose parameter of this length is plain bytes, and that the group offers. */
void pyha_group_allow(pyha_group *group, uint64_t mechanism, uint64_t parameter_length);
void pyha_group_forbid(pyha_group *group); /* all of them */

/* A connection of a member. `identity`: Python's number for it. */
pyha_seat *pyha_seat_make(pyha_group *group, pyha_link *link, uint64_t identity);
void pyha_seat_drop(pyha_seat *seat);
uint64_t pyha_seat_identity(const pyha_seat *seat);
uint32_t pyha_seat_users(pyha_seat *seat);
void pyha_seat_close(pyha_seat *seat);                 /* the member is lost: nothing of it is taken any more */
void pyha_seat_user(pyha_seat *seat, int64_t user, uint64_t logins);
void pyha_seat_bind(pyha_seat *seat, uint64_t handle, uint64_t real);
void pyha_seat_unbind(pyha_seat *seat, uint64_t handle);
void pyha_seat_unbind_all(pyha_seat *seat);
int pyha_seat_put(pyha_seat *seat, uint64_t real);     /* a real session without operation; 0: no room */
uint64_t pyha_seat_take(pyha_seat *seat);              /* 0: there is none */
double *pyha_seat_elsewhere(pyha_seat *seat);          /* seconds of load that Python knows of */
/* Ours alone, to be read without the lock: load in nanoseconds, calls in flight, operations completed; and when a call
 * came back last, in seconds. */
const int64_t *pyha_seat_books(pyha_seat *seat);
const double *pyha_seat_used(pyha_seat *seat);

/* A session of the application, Python's at first. NULL: no memory, or that run is over. */
pyha_session *pyha_session_make(pyha_group *group, uint64_t handle, uint64_t run);
void pyha_session_drop(pyha_session *session);
void pyha_session_end(pyha_session *session); /* its handle is void */
/* It is ours until it is claimed: no operation is open, and Python has nothing to do with it. */
void pyha_session_grant(pyha_session *session);
/* It is Python's again, when the call that is out has come back. 1: an operation is open, see `record`, whose load is
 * Python's to add, and whose seat the caller has to drop. */
int pyha_session_claim(pyha_session *session, pyha_record *record);

#endif
