/*
 * The books of the express way (shim/express.c, shim/places.c) under threads, with a member that works for a moment.
 *
 * express_books claims | ended: exit status 0 where it is so.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "express.h"

#define RANDOM 0 /* functions of ours */
#define INIT 1
#define SIGN 2
#define THREADS 4
#define ROUNDS 1000
#define SECONDS 30.0 /* it takes one or two; where calls go in before it, minutes */

#define EXPECT(good)                                                          \
    do {                                                                      \
        if (!(good)) {                                                        \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #good); \
            exit(1);                                                          \
        }                                                                     \
    } while (0)

const uint8_t pyha_routes[PYHA_FUNCTIONS] = {[RANDOM] = PYHA_SINGLE, [INIT] = PYHA_START, [SIGN] = PYHA_FINISH};
const uint8_t pyha_operations[PYHA_FUNCTIONS] = {[INIT] = 1, [SIGN] = 1};

/* What the books need of the rest. */

double pyha_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

void pyha_arena_drop(pyha_arena *arena)
{
    EXPECT(atomic_fetch_sub(&arena->users, 1) > 1);
}

void pyha_link_unref(pyha_link *link)
{
    EXPECT(atomic_fetch_sub(&link->users, 1) > 1);
}

void pyha_dispatch_place(uint64_t link)
{
    (void)link;
}

static atomic_ulong real_seen, key_seen;

int pyha_straight_run(pyha_straight *call, pyha_arena *arena, uint64_t session, uint64_t key, double deadline)
{
    (void)arena, (void)deadline;
    atomic_store(&real_seen, session);
    atomic_store(&key_seen, key);
    for (double end = pyha_now() + 2e-5; pyha_now() < end;)
        ;
    return call->outcome = PYHA_DONE;
}

/* One group of one member, with places and sessions for all. */

static pyha_link way;
static pyha_arena arenas[2 * THREADS];
static pyha_group *group;
static pyha_seat *seat;

static void prepare(void)
{
    double patience[PYHA_FUNCTIONS];
    for (int i = 0; i < PYHA_FUNCTIONS; i++)
        patience[i] = 10;
    atomic_init(&way.users, 1);
    pyha_places_init(&way.places);
    for (int i = 0; i < 2 * THREADS; i++) {
        arenas[i].link = &way;
        arenas[i].place = i;
        atomic_init(&arenas[i].users, 1);
        EXPECT(pyha_place_put(&arenas[i]));
    }
    EXPECT(group = pyha_group_make(0));
    pyha_group_patience(group, patience);
    EXPECT(seat = pyha_seat_make(group, &way, 1));
    for (int i = 0; i < 2 * THREADS; i++)
        EXPECT(pyha_seat_put(seat, 100 + (uint64_t)i));
    EXPECT(pyha_group_open(group, &seat, 1) == 0);
    pyha_group_allow(group, 7, 0);
    pyha_seat_bind(seat, 5, 55);
}

static int call_it(uint32_t index, uint64_t session, uint64_t *rv)
{
    pyha_straight call = {.index = index, .session = session};
    if (index == INIT)
        call.mechanism = 7, call.key = 5, call.named = 1;
    int said = pyha_express(&call);
    *rv = call.rv;
    return said;
}

/* -- whoever claims a session gets it, however much it is in use ---------------------------------------------------- */

static atomic_int over;

static void *use(void *handle)
{
    uint64_t rv;
    while (!atomic_load(&over)) {
        call_it(RANDOM, (uint64_t)(uintptr_t)handle, &rv);
        call_it(INIT, (uint64_t)(uintptr_t)handle, &rv);
        call_it(SIGN, (uint64_t)(uintptr_t)handle, &rv);
    }
    return NULL;
}

static void claims(void)
{
    uint64_t run = pyha_express_begin();
    pyha_session *sessions[THREADS];
    pthread_t threads[THREADS];
    pyha_record record;
    double longest = 0, end = pyha_now() + SECONDS;
    for (int i = 0; i < THREADS; i++) {
        EXPECT(sessions[i] = pyha_session_make(group, (uint64_t)i + 1, run));
        pyha_session_grant(sessions[i]);
        EXPECT(pthread_create(&threads[i], NULL, use, (void *)(uintptr_t)(i + 1)) == 0);
    }
    int made = 0;
    for (; made < ROUNDS && pyha_now() < end; made++) {
        double begun = pyha_now();
        if (pyha_session_claim(sessions[made % THREADS], &record)) {
            EXPECT(record.key == 5 && record.mechanism == 7);
            EXPECT(pyha_seat_put(seat, record.real));
            pyha_seat_drop(record.seat);
        }
        double took = pyha_now() - begun;
        longest = took > longest ? took : longest;
        pyha_session_grant(sessions[made % THREADS]);
    }
    atomic_store(&over, 1);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    fprintf(stderr, "%d claims, the longest took %.6f s\n", made, longest);
    EXPECT(made == ROUNDS);
    for (int i = 0; i < THREADS; i++) {
        if (pyha_session_claim(sessions[i], &record))
            pyha_seat_drop(record.seat);
        pyha_session_end(sessions[i]);
        pyha_session_drop(sessions[i]);
    }
    pyha_express_end(run);
    EXPECT(pyha_seat_books(seat)[0] == 0 && pyha_seat_books(seat)[1] == 0);
    EXPECT(pyha_places_idle(&way) == 2 * THREADS);
    EXPECT(pyha_seat_users(seat) == 2);
}

/* -- the end of one run is not that of the next --------------------------------------------------------------------- */

static void ended(void)
{
    uint64_t rv, first = pyha_express_begin();
    pyha_session *before = pyha_session_make(group, 1, first);
    EXPECT(before);
    pyha_session_grant(before);
    EXPECT(call_it(RANDOM, 1, &rv) == PYHA_TAKEN && rv == 0);
    /* C_Initialize of another thread, before C_Finalize of this one has come so far. */
    uint64_t second = pyha_express_begin();
    EXPECT(call_it(RANDOM, 1, &rv) == PYHA_NOT_TAKEN);
    pyha_session *after = pyha_session_make(group, 1, second);
    EXPECT(after);
    pyha_session_grant(after);
    EXPECT(call_it(RANDOM, 1, &rv) == PYHA_TAKEN && rv == 0);
    pyha_express_end(first);
    EXPECT(call_it(RANDOM, 1, &rv) == PYHA_TAKEN && rv == 0);
    EXPECT(pyha_session_make(group, 2, first) == NULL);
    pyha_express_end(second);
    EXPECT(call_it(RANDOM, 1, &rv) == PYHA_NOT_TAKEN);
    pyha_session_drop(before);
    pyha_session_drop(after);
    EXPECT(pyha_seat_users(seat) == 2);
}

int main(int count, char **arguments)
{
    prepare();
    if (count == 2 && strcmp(arguments[1], "claims") == 0)
        claims();
    else if (count == 2 && strcmp(arguments[1], "ended") == 0)
        ended();
    else
        return 2;
    EXPECT(pyha_group_open(group, NULL, 0) == 0);
    pyha_seat_drop(seat);
    pyha_group_drop(group);
    EXPECT(atomic_load(&way.users) == 1);
    return 0;
}
