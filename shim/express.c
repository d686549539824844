/* See express.h. Source: SEMANTICS.md sections 2 and 3. */
#define _GNU_SOURCE
#include "express.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "places.h"

#define NOT_INITIALIZED 0x190 /* CKR_CRYPTOKI_NOT_INITIALIZED */
#define MEAN_WEIGHT 0.125     /* as pyha/ha/selection.py has it */
#define UNKNOWN 0.001         /* seconds that a call takes, before one has come back */
#define BOUND 1024            /* real handles that a seat remembers, at most one for each remainder of a virtual one */
#define MECHANISMS 64         /* likewise, by a remainder of theirs */
#define CHAINS 1024

struct pyha_seat {
    atomic_uint users;
    pyha_group *group;
    pyha_link *link;
    uint64_t identity;
    int open;
    int64_t user;
    uint64_t logins;
    double elsewhere;
    struct {
        int64_t load; /* nanoseconds: whole numbers cancel exactly */
        int64_t in_flight, served;
    } books;
    double used;
    uint64_t *stock; /* real sessions without operation */
    uint32_t stocked, room;
    struct { uint64_t handle, real; } bound[BOUND];
};

struct pyha_group {
    atomic_uint users;
    pthread_mutex_t lock;
    int64_t user;
    uint32_t count;
    pyha_seat **seats;
    double patience[PYHA_FUNCTIONS];
    double means[PYHA_FUNCTIONS];
    uint32_t turns[PYHA_TURNS];
    struct { uint64_t type, length; int known; } mechanisms[MECHANISMS];
};

enum { FREE, OURS, BUSY, PYTHONS };

struct pyha_session {
    atomic_uint users;
    pyha_session *next;
    _Atomic uint32_t state; /* a futex */
    atomic_uint waiting;    /* threads that claim it: no call goes in before them */
    uint64_t handle, run;
    pyha_group *group;
    pyha_record record; /* while OURS, and BUSY after that */
};

/* The sessions of this run, by handle. */
struct sessions {
    pthread_mutex_t lock;
    uint64_t run;
    pyha_session *chains[CHAINS];
};

static struct sessions *_Atomic sessions;
static _Atomic uint64_t runs, running;
static atomic_int shut; /* by pyha_express_allow */

/* -- runs --------------------------------------------------------------------------------------------------------- */

uint64_t pyha_express_begin(void)
{
    struct sessions *all = atomic_load(&sessions);
    if (!all) {
        all = calloc(1, sizeof *all);
        if (!all)
            return 0;
        pthread_mutex_init(&all->lock, NULL);
        atomic_store(&sessions, all);
    }
    uint64_t run = atomic_fetch_add(&runs, 1) + 1;
    atomic_store(&running, run);
    return run;
}

void pyha_express_end(uint64_t run)
{
    struct sessions *all = atomic_load(&sessions);
    uint64_t ended_run = run;
    atomic_compare_exchange_strong(&running, &ended_run, 0);
    if (!all)
        return;
    pyha_session *ended = NULL;
    pthread_mutex_lock(&all->lock);
    for (int i = 0; i < CHAINS; i++)
        for (pyha_session **at = &all->chains[i]; *at;) {
            pyha_session *session = *at;
            if (session->run != run) {
                at = &session->next;
                continue;
            }
            *at = session->next;
            session->next = ended;
            ended = session;
        }
    pthread_mutex_unlock(&all->lock);
    while (ended) {
        pyha_session *session = ended;
        ended = session->next;
        pyha_session_drop(session);
    }
}

void pyha_express_allow(int on)
{
    atomic_store(&shut, !on);
}

void pyha_express_disown(void)
{
    /* Its lock may have been a thread's that is not here. */
    atomic_store(&sessions, NULL);
    atomic_store(&running, 0);
}

/* -- groups ------------------------------------------------------------------------------------------------------- */

pyha_group *pyha_group_make(uint32_t turn)
{
    pyha_group *group = calloc(1, sizeof *group);
    if (!group)
        return NULL;
    atomic_init(&group->users, 1);
    pthread_mutex_init(&group->lock, NULL);
    group->user = -1;
    for (int i = 0; i < PYHA_TURNS; i++)
        group->turns[i] = turn;
    return group;
}

void pyha_group_drop(pyha_group *group)
{
    if (atomic_fetch_sub(&group->users, 1) != 1)
        return;
    free(group->seats);
    free(group);
}

double *pyha_group_means(pyha_group *group)
{
    return group->means;
}

uint32_t *pyha_group_turns(pyha_group *group)
{
    return group->turns;
}

void pyha_group_patience(pyha_group *group, const double *seconds)
{
    pthread_mutex_lock(&group->lock);
    memcpy(group->patience, seconds, sizeof group->patience);
    pthread_mutex_unlock(&group->lock);
}

void pyha_group_user(pyha_group *group, int64_t user)
{
    pthread_mutex_lock(&group->lock);
    group->user = user;
    pthread_mutex_unlock(&group->lock);
}

int pyha_group_open(pyha_group *group, pyha_seat **seats, uint32_t count)
{
    pyha_seat **now = count ? malloc(count * sizeof *now) : NULL, **before;
    uint32_t former;
    if (count && !now)
        return ENOMEM;
    for (uint32_t i = 0; i < count; i++) {
        now[i] = seats[i];
        atomic_fetch_add(&seats[i]->users, 1);
    }
    pthread_mutex_lock(&group->lock);
    before = group->seats;
    former = group->count;
    group->seats = now;
    group->count = count;
    pthread_mutex_unlock(&group->lock);
    for (uint32_t i = 0; i < former; i++)
        pyha_seat_drop(before[i]);
    free(before);
    return 0;
}

static uint32_t mechanism_at(uint64_t type, uint64_t length)
{
    return (uint32_t)((type * 31 + length) % MECHANISMS);
}

void pyha_group_allow(pyha_group *group, uint64_t type, uint64_t length)
{
    uint32_t at = mechanism_at(type, length);
    if (length > PYHA_RECORD_PARAMETER)
        return;
    pthread_mutex_lock(&group->lock);
    group->mechanisms[at].type = type;
    group->mechanisms[at].length = length;
    group->mechanisms[at].known = 1;
    pthread_mutex_unlock(&group->lock);
}

void pyha_group_forbid(pyha_group *group)
{
    pthread_mutex_lock(&group->lock);
    memset(group->mechanisms, 0, sizeof group->mechanisms);
    pthread_mutex_unlock(&group->lock);
}

/* With the lock. */
static int is_allowed(const pyha_group *group, uint64_t type, uint64_t length)
{
    uint32_t at = mechanism_at(type, length);
    return group->mechanisms[at].known && group->mechanisms[at].type == type && group->mechanisms[at].length == length;
}

/* -- seats -------------------------------------------------------------------------------------------------------- */

pyha_seat *pyha_seat_make(pyha_group *group, pyha_link *link, uint64_t identity)
{
    pyha_seat *seat = calloc(1, sizeof *seat);
    if (!seat)
        return NULL;
    atomic_init(&seat->users, 1);
    atomic_fetch_add(&group->users, 1);
    atomic_fetch_add(&link->users, 1);
    seat->group = group;
    seat->link = link;
    seat->identity = identity;
    seat->user = -1;
    seat->open = 1;
    return seat;
}

void pyha_seat_drop(pyha_seat *seat)
{
    if (atomic_fetch_sub(&seat->users, 1) != 1)
        return;
    pyha_link_unref(seat->link);
    pyha_group_drop(seat->group);
    free(seat->stock);
    free(seat);
}

uint64_t pyha_seat_identity(const pyha_seat *seat)
{
    return seat->identity;
}

uint32_t pyha_seat_users(pyha_seat *seat)
{
    return atomic_load(&seat->users);
}

void pyha_seat_close(pyha_seat *seat)
{
    pthread_mutex_lock(&seat->group->lock);
    seat->open = 0;
    seat->stocked = 0;
    pthread_mutex_unlock(&seat->group->lock);
}

void pyha_seat_user(pyha_seat *seat, int64_t user, uint64_t logins)
{
    pthread_mutex_lock(&seat->group->lock);
    seat->user = user;
    seat->logins = logins;
    pthread_mutex_unlock(&seat->group->lock);
}

void pyha_seat_bind(pyha_seat *seat, uint64_t handle, uint64_t real)
{
    pthread_mutex_lock(&seat->group->lock);
    seat->bound[handle % BOUND].handle = handle;
    seat->bound[handle % BOUND].real = real;
    pthread_mutex_unlock(&seat->group->lock);
}

void pyha_seat_unbind(pyha_seat *seat, uint64_t handle)
{
    pthread_mutex_lock(&seat->group->lock);
    if (seat->bound[handle % BOUND].handle == handle)
        seat->bound[handle % BOUND].handle = 0;
    pthread_mutex_unlock(&seat->group->lock);
}

void pyha_seat_unbind_all(pyha_seat *seat)
{
    pthread_mutex_lock(&seat->group->lock);
    memset(seat->bound, 0, sizeof seat->bound);
    pthread_mutex_unlock(&seat->group->lock);
}

/* With the lock. */
static int stock(pyha_seat *seat, uint64_t real)
{
    if (seat->open && seat->stocked == seat->room) {
        uint32_t room = seat->room ? 2 * seat->room : 8;
        uint64_t *more = realloc(seat->stock, room * sizeof *more);
        if (more) {
            seat->stock = more;
            seat->room = room;
        }
    }
    if (!seat->open || seat->stocked == seat->room)
        return 0;
    seat->stock[seat->stocked++] = real;
    return 1;
}

int pyha_seat_put(pyha_seat *seat, uint64_t real)
{
    pthread_mutex_lock(&seat->group->lock);
    int put = stock(seat, real);
    pthread_mutex_unlock(&seat->group->lock);
    return put;
}

uint64_t pyha_seat_take(pyha_seat *seat)
{
    pthread_mutex_lock(&seat->group->lock);
    uint64_t real = seat->stocked ? seat->stock[--seat->stocked] : 0;
    pthread_mutex_unlock(&seat->group->lock);
    return real;
}

double *pyha_seat_elsewhere(pyha_seat *seat)
{
    return &seat->elsewhere;
}

const int64_t *pyha_seat_books(pyha_seat *seat)
{
    return &seat->books.load;
}

const double *pyha_seat_used(pyha_seat *seat)
{
    return &seat->used;
}

/* -- sessions ----------------------------------------------------------------------------------------------------- */

pyha_session *pyha_session_make(pyha_group *group, uint64_t handle, uint64_t run)
{
    struct sessions *all = atomic_load(&sessions);
    pyha_session *session = all ? calloc(1, sizeof *session) : NULL;
    if (!session)
        return NULL;
    atomic_init(&session->users, 2); /* Python, and the chain that it is in */
    atomic_init(&session->state, PYTHONS);
    atomic_fetch_add(&group->users, 1);
    session->group = group;
    session->handle = handle;
    session->run = run;
    pthread_mutex_lock(&all->lock);
    /* What came too late for C_Finalize would be found by the next run, by the same handle. */
    int late = run == 0 || atomic_load(&running) != run;
    if (!late) {
        session->next = all->chains[handle % CHAINS];
        all->chains[handle % CHAINS] = session;
    }
    pthread_mutex_unlock(&all->lock);
    if (!late)
        return session;
    pyha_session_drop(session);
    pyha_session_drop(session);
    return NULL;
}

void pyha_session_drop(pyha_session *session)
{
    if (atomic_fetch_sub(&session->users, 1) != 1)
        return;
    if (session->record.seat)
        pyha_seat_drop(session->record.seat);
    pyha_group_drop(session->group);
    explicit_bzero(session, sizeof *session);
    free(session);
}

void pyha_session_end(pyha_session *session)
{
    struct sessions *all = atomic_load(&sessions);
    int found = 0;
    if (!all)
        return;
    pthread_mutex_lock(&all->lock);
    for (pyha_session **at = &all->chains[session->handle % CHAINS]; *at && !found; at = found ? at : &(*at)->next)
        if (*at == session) {
            *at = session->next;
            found = 1;
        }
    pthread_mutex_unlock(&all->lock);
    if (found)
        pyha_session_drop(session);
}

/* Ours for one call, and the caller's to leave; NULL where it is not as this way needs it. `was`: as it is then. */
static pyha_session *enter(uint64_t handle, int way, uint32_t *was)
{
    struct sessions *all = atomic_load(&sessions);
    pyha_session *session = NULL;
    if (!all)
        return NULL;
    pthread_mutex_lock(&all->lock);
    for (session = all->chains[handle % CHAINS]; session && session->handle != handle; session = session->next)
        ;
    if (session) {
        *was = atomic_load(&session->state);
        /* Who waits for it would wait as long as calls come one after the other; and a session of a run that is over,
         * whose handle is another's by now, is nobody's. */
        if (!atomic_load(&session->waiting) && session->run == atomic_load(&running) &&
            (*was == FREE ? way != PYHA_FINISH : *was == OURS && way != PYHA_START) &&
            atomic_compare_exchange_strong(&session->state, was, BUSY))
            atomic_fetch_add(&session->users, 1);
        else
            session = NULL;
    }
    pthread_mutex_unlock(&all->lock);
    return session;
}

static void leave(pyha_session *session, uint32_t state)
{
    atomic_store(&session->state, state);
    /* Whoever begins to wait after this look finds the state as it is now. */
    if (atomic_load(&session->waiting))
        pyha_futex_wake(&session->state);
    pyha_session_drop(session);
}

void pyha_session_grant(pyha_session *session)
{
    uint32_t claimed = PYTHONS;
    atomic_compare_exchange_strong(&session->state, &claimed, FREE);
}

int pyha_session_claim(pyha_session *session, pyha_record *record)
{
    uint32_t seen = atomic_load(&session->state);
    atomic_fetch_add(&session->waiting, 1);
    for (;;) {
        if (seen == BUSY) {
            pyha_futex_wait(&session->state, BUSY, NULL);
            seen = atomic_load(&session->state);
        } else if (atomic_compare_exchange_weak(&session->state, &seen, PYTHONS)) {
            break;
        }
    }
    atomic_fetch_sub(&session->waiting, 1);
    if (seen != OURS)
        return 0;
    *record = session->record;
    explicit_bzero(&session->record, sizeof session->record);
    pthread_mutex_lock(&session->group->lock);
    record->seat->books.load -= record->weight;
    pthread_mutex_unlock(&session->group->lock);
    return 1;
}

/* -- one call ----------------------------------------------------------------------------------------------------- */

/* All with the group's lock. */

static double load_of(const pyha_seat *seat)
{
    return (double)seat->books.load / 1e9 + seat->elsewhere;
}

/* `least_busy` of pyha/ha/selection.py. */
static pyha_seat *least_busy(const pyha_group *group, uint32_t turn)
{
    pyha_seat *best = group->seats[turn % group->count];
    for (uint32_t step = 1; step < group->count && load_of(best) > 0; step++) {
        pyha_seat *other = group->seats[(turn + step) % group->count];
        if (load_of(other) < load_of(best))
            best = other;
    }
    return best;
}

static int64_t weight_of(const pyha_group *group, uint32_t index)
{
    return (int64_t)((group->means[index] > 0 ? group->means[index] : UNKNOWN) * 1e9);
}

static int is_logged_in(const pyha_group *group, const pyha_seat *seat)
{
    return group->user < 0 || seat->user == group->user;
}

static void goes_out(pyha_seat *seat, int64_t weight)
{
    seat->books.load += weight;
    seat->books.in_flight++;
}

/* It came back; its load stays. */
static void is_back(pyha_group *group, pyha_seat *seat, uint32_t index, double start)
{
    double now = pyha_now(), mean = group->means[index], took = now - start;
    group->means[index] = mean > 0 ? mean + (took - mean) * MEAN_WEIGHT : took;
    seat->used = now;
    seat->books.in_flight--;
}

/* What a call that begins needs of a member: its session, handle and place. The seat is the caller's to drop. */
struct needs {
    pyha_seat *seat;
    pyha_arena *arena;
    uint64_t real, key;
    int64_t weight;
};

static int provide(pyha_group *group, const pyha_straight *call, int way, struct needs *needs)
{
    uint32_t *turn = &group->turns[(call->index + (call->mechanism << 8)) % PYHA_TURNS];
    if (!group->count || (way == PYHA_START && !is_allowed(group, call->mechanism, call->parameter_length)))
        return 0;
    uint32_t next = *turn + (group->count > 1);
    pyha_seat *seat = least_busy(group, next);
    if (!seat->open || !is_logged_in(group, seat) || !seat->stocked)
        return 0;
    needs->key = 0;
    if (call->named) {
        if (!call->key || seat->bound[call->key % BOUND].handle != call->key)
            return 0;
        needs->key = seat->bound[call->key % BOUND].real;
    }
    needs->arena = pyha_place_borrow(seat->link);
    if (!needs->arena)
        return 0;
    *turn = next;
    needs->seat = seat;
    needs->real = seat->stock[--seat->stocked];
    needs->weight = weight_of(group, call->index);
    atomic_fetch_add(&seat->users, 1);
    goes_out(seat, needs->weight);
    return 1;
}

static int came_to_an_answer(int outcome)
{
    return outcome == PYHA_DONE || outcome == PYHA_ANSWERED || outcome == PYHA_MALFORMED;
}

/* What Python needs to go on. */
static int met(pyha_straight *call, pyha_seat *seat, uint64_t real, const pyha_arena *arena)
{
    call->seat = seat;
    call->real = real;
    call->place = came_to_an_answer(call->outcome) ? -1 : arena->place;
    return PYHA_MET;
}

/* A call that is complete in itself, or begins an operation. */
static int begin(pyha_straight *call, pyha_session *session, int way, uint32_t was)
{
    pyha_group *group = session->group;
    struct needs needs;
    pthread_mutex_lock(&group->lock);
    int provided = provide(group, call, way, &needs);
    double patience = group->patience[call->index];
    uint64_t logins = provided ? needs.seat->logins : 0;
    pthread_mutex_unlock(&group->lock);
    if (!provided) {
        leave(session, was);
        return PYHA_NOT_TAKEN;
    }
    call->logins = logins;
    call->start = pyha_now();
    call->weight = (double)needs.weight / 1e9;
    int outcome = pyha_straight_run(call, needs.arena, needs.real, needs.key, call->start + patience);
    pthread_mutex_lock(&group->lock);
    is_back(group, needs.seat, call->index, call->start);
    if (way == PYHA_SINGLE) {
        needs.seat->books.served += outcome == PYHA_DONE;
        if (came_to_an_answer(outcome))
            stock(needs.seat, needs.real);
    }
    if (way == PYHA_SINGLE || outcome != PYHA_DONE)
        needs.seat->books.load -= needs.weight;
    pthread_mutex_unlock(&group->lock);
    if (outcome != PYHA_DONE) {
        int said = met(call, needs.seat, needs.real, needs.arena);
        pyha_place_return(needs.arena, came_to_an_answer(outcome));
        leave(session, was);
        return said;
    }
    pyha_place_return(needs.arena, 1);
    if (way == PYHA_SINGLE) {
        pyha_seat_drop(needs.seat);
        leave(session, was);
        return PYHA_TAKEN;
    }
    pyha_record *record = &session->record;
    record->seat = needs.seat;
    record->index = call->index;
    record->real = needs.real;
    record->weight = needs.weight;
    record->key = call->key;
    record->mechanism = call->mechanism;
    record->parameter_length = call->parameter_length;
    memcpy(record->parameter, call->kept, call->parameter_length);
    leave(session, OURS);
    return PYHA_TAKEN;
}

/* A call that ends the operation that is open. */
static int finish(pyha_straight *call, pyha_session *session)
{
    pyha_group *group = session->group;
    pyha_record *record = &session->record;
    pyha_seat *seat = record->seat;
    pyha_arena *arena = NULL;
    pthread_mutex_lock(&group->lock);
    if (pyha_operations[record->index] == pyha_operations[call->index] && seat->open && is_logged_in(group, seat))
        arena = pyha_place_borrow(seat->link);
    int64_t weight = weight_of(group, call->index);
    double patience = group->patience[call->index];
    call->logins = seat->logins;
    if (arena)
        goes_out(seat, weight);
    pthread_mutex_unlock(&group->lock);
    if (!arena) {
        leave(session, OURS);
        return PYHA_NOT_TAKEN;
    }
    call->start = pyha_now();
    int outcome = pyha_straight_run(call, arena, record->real, 0, call->start + patience);
    pthread_mutex_lock(&group->lock);
    is_back(group, seat, call->index, call->start);
    seat->books.load -= weight;
    if (outcome == PYHA_DONE) {
        seat->books.load -= record->weight;
        seat->books.served++;
        stock(seat, record->real);
    }
    pthread_mutex_unlock(&group->lock);
    if (outcome != PYHA_DONE) {
        atomic_fetch_add(&seat->users, 1);
        int said = met(call, seat, record->real, arena);
        pyha_place_return(arena, came_to_an_answer(outcome));
        leave(session, OURS);
        return said;
    }
    explicit_bzero(record, sizeof *record);
    pyha_place_return(arena, 1);
    leave(session, FREE);
    pyha_seat_drop(seat);
    return PYHA_TAKEN;
}

int pyha_express(pyha_straight *call)
{
    int way = pyha_routes[call->index], said;
    uint32_t was;
    if (way == PYHA_NO_WAY || call->parameter_length > PYHA_RECORD_PARAMETER || atomic_load(&shut))
        return PYHA_NOT_TAKEN;
    pyha_session *session = enter(call->session, way, &was);
    if (!session)
        return PYHA_NOT_TAKEN;
    call->run = session->run;
    call->rv = 0;
    if (way == PYHA_FINISH) {
        said = finish(call, session);
    } else {
        /* The application may change it meanwhile; what the member gets is what is written down. */
        if (call->parameter_length) {
            memcpy(call->kept, call->parameter, call->parameter_length);
            call->parameter = call->kept;
        }
        said = begin(call, session, way, was);
    }
    if (said == PYHA_TAKEN && atomic_load(&running) != call->run)
        call->rv = NOT_INITIALIZED;
    return said;
}

void pyha_express_over(pyha_straight *call)
{
    pyha_seat_drop(call->seat);
}
