/* See straight.h. Source: PKCS #11 Base Specification 2.40, sections 3.5 (CK_MECHANISM) and 5.2 (lengths). */
#define _GNU_SOURCE
#include "straight.h"

#include <string.h>

#define OK 0 /* CKR_OK */

/* Where the arena holds what has a fixed size; the rest follows, aligned as anything in C may need it. */
#define MECHANISM_AT 0
#define LENGTH_AT 32
#define CONTENT_AT 48

#define SIZE_MOST ((64u << 10) - PYHA_HEAD) /* bytes; an ordinary arena (pyha/abi/link.py) has them */
#define PARAMETER_MOST 4096                 /* bytes */

struct mechanism {
    uint64_t type, parameter, length;
};
_Static_assert(sizeof(struct mechanism) <= LENGTH_AT - MECHANISM_AT, "a mechanism has outgrown its room");

static atomic_int allowed;

void pyha_straight_allow(int on)
{
    atomic_store(&allowed, on != 0);
}

int pyha_straight_allowed(void)
{
    return atomic_load_explicit(&allowed, memory_order_acquire);
}

static uint64_t aligned(uint64_t size)
{
    return (size + 15) & ~UINT64_C(15);
}

static void *pointer(uint64_t word)
{
    return (void *)(uintptr_t)word;
}

/* Takes the mechanism's own words, once. */
static int read_mechanism(pyha_straight *call, const void *given)
{
    struct mechanism mechanism;
    if (!given)
        return 0;
    memcpy(&mechanism, given, sizeof mechanism);
    if (mechanism.length > PARAMETER_MOST || (mechanism.length && !mechanism.parameter))
        return 0;
    call->mechanism = mechanism.type;
    call->parameter = pointer(mechanism.parameter);
    call->parameter_length = mechanism.length;
    call->size += aligned(mechanism.length);
    return 1;
}

int pyha_straight_read(pyha_straight *call, uint32_t index, void *arguments)
{
    const uint8_t *parts = pyha_parts[index];
    uint64_t *word = call->words, length;
    size_t words = 0;
    for (int i = 0; i < PYHA_PARTS && parts[i]; i++)
        words += parts[i] >= PYHA_INPUT ? 2 : 1;
    memcpy(call->words, arguments, words * sizeof *call->words);
    call->arguments = arguments;
    call->index = index;
    call->outcome = PYHA_DONE;
    call->session = call->key = call->mechanism = call->parameter_length = call->capacity = 0;
    call->named = 0;
    call->size = CONTENT_AT;
    for (int i = 0; i < PYHA_PARTS && parts[i]; i++) {
        switch (parts[i]) {
        case PYHA_SESSION:
            call->session = *word++;
            break;
        case PYHA_KEY:
            call->key = *word++;
            call->named = 1;
            break;
        case PYHA_MECHANISM:
            if (!read_mechanism(call, pointer(*word++)))
                return 0;
            break;
        default:
            if (!word[0] || (parts[i] == PYHA_RESULT && !word[1]))
                return 0;
            length = word[1];
            if (parts[i] == PYHA_RESULT)
                memcpy(&length, pointer(word[1]), sizeof length);
            if (length > SIZE_MOST)
                return 0;
            if (parts[i] != PYHA_INPUT)
                call->capacity = length;
            call->size += aligned(length);
            word += 2;
        }
    }
    return words && call->size <= SIZE_MOST;
}

/* The words of the call as the module is to see them. Returns where the result's bytes will be. */
static uint64_t lay_out(const pyha_straight *call, const pyha_arena *arena, uint64_t session, uint64_t key)
{
    const uint8_t *parts = pyha_parts[call->index];
    const uint64_t *word = call->words;
    uint64_t *given = arena->words, at = CONTENT_AT, result = 0;
    for (int i = 0; i < PYHA_PARTS && parts[i]; i++) {
        switch (parts[i]) {
        case PYHA_SESSION:
            *given++ = session;
            word++;
            break;
        case PYHA_KEY:
            *given++ = key;
            word++;
            break;
        case PYHA_MECHANISM: {
            struct mechanism mechanism = {call->mechanism, 0, call->parameter_length};
            if (mechanism.length) {
                memcpy(arena->here + at, call->parameter, mechanism.length);
                mechanism.parameter = arena->there + at;
                at += aligned(mechanism.length);
            }
            memcpy(arena->here + MECHANISM_AT, &mechanism, sizeof mechanism);
            *given++ = arena->there + MECHANISM_AT;
            word++;
            break;
        }
        case PYHA_INPUT:
            memcpy(arena->here + at, pointer(word[0]), word[1]);
            *given++ = arena->there + at;
            *given++ = word[1];
            at += aligned(word[1]);
            word += 2;
            break;
        default:
            result = at;
            *given++ = arena->there + at;
            if (parts[i] == PYHA_RESULT) {
                memcpy(arena->here + LENGTH_AT, &call->capacity, sizeof call->capacity);
                *given++ = arena->there + LENGTH_AT;
            } else {
                *given++ = call->capacity;
            }
            at += aligned(call->capacity);
            word += 2;
        }
    }
    return result;
}

/* Brings the result to the application, whose buffer is the last argument. */
static int bring_back(pyha_straight *call, const pyha_arena *arena, uint64_t result)
{
    const uint8_t *parts = pyha_parts[call->index];
    const uint64_t *word = call->words;
    int last = 0;
    while (last + 1 < PYHA_PARTS && parts[last + 1])
        word += parts[last++] >= PYHA_INPUT ? 2 : 1;
    if (parts[last] < PYHA_FILL)
        return PYHA_DONE;
    uint64_t length = call->capacity;
    if (parts[last] == PYHA_RESULT) {
        length = call->length;
        if (length > call->capacity)
            return PYHA_MALFORMED;
    }
    memcpy(pointer(word[0]), arena->here + result, length);
    if (parts[last] == PYHA_RESULT)
        memcpy(pointer(word[1]), &length, sizeof length);
    return PYHA_DONE;
}

static int run(pyha_straight *call, pyha_arena *arena, uint64_t session, uint64_t key, double deadline)
{
    if (call->size > arena->capacity)
        return PYHA_FULL;
    uint64_t result = lay_out(call, arena, session, key);
    int outcome = pyha_arena_call(arena, call->index, deadline);
    if (outcome != PYHA_DONE)
        return outcome;
    /* Read once: the helper may write there at any time. */
    call->length = *(volatile uint64_t *)(void *)(arena->here + LENGTH_AT);
    call->rv = arena->rv;
    outcome = call->rv == OK ? bring_back(call, arena, result) : PYHA_ANSWERED;
    explicit_bzero(arena->here, call->size);
    return outcome;
}

int pyha_straight_run(pyha_straight *call, pyha_arena *arena, uint64_t session, uint64_t key, double deadline)
{
    return call->outcome = run(call, arena, session, key, deadline);
}
