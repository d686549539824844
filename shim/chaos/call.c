/* The way of a call: what it meets before the wrapped module, the module, what it meets after. And the module's own
 * functions: C_GetFunctionList, C_GetInterfaceList, C_GetInterface. */
#define _GNU_SOURCE
#include "chaos.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cryptoki.h"

static struct pyha_module wrapped;
static _Atomic int ready;
static pthread_mutex_t opening = PTHREAD_MUTEX_INITIALIZER;
static pthread_mutex_t alone = PTHREAD_MUTEX_INITIALIZER; /* one call at a time */

static struct timespec after(uint64_t milliseconds)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    at.tv_sec += (time_t)(milliseconds / 1000);
    at.tv_nsec += (long)(milliseconds % 1000) * 1000000;
    if (at.tv_nsec >= 1000000000) {
        at.tv_sec++;
        at.tv_nsec -= 1000000000;
    }
    return at;
}

static void sleep_until(const struct timespec *at)
{
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, at, NULL) == EINTR)
        ;
}

static void crash(void)
{
    volatile char *volatile nowhere = NULL;
    *nowhere = 0;
}

/* A function of the wrapped module, behind the caller's back. */
static uint64_t behind(const char *function, uint64_t first, void *second)
{
    const uint64_t words[PYHA_WORDS] = {first, (uint64_t)(uintptr_t)second};
    uint32_t index = 0;
    while (strcmp(chaos_functions[index].name, function) != 0)
        index++;
    return pyha_module_call(&wrapped, index, words);
}

static void lose(enum chaos_action action, uint64_t session)
{
    CK_SESSION_INFO info;
    if (action == CHAOS_LOSE_LOGIN)
        behind("C_Logout", session, NULL);
    else if (behind("C_GetSessionInfo", session, &info) == CHAOS_OK)
        behind("C_CloseAllSessions", info.slotID, NULL);
}

/* The wrapped keys of the latest two calls that brought one. */
static pthread_mutex_t remembering = PTHREAD_MUTEX_INITIALIZER;
static struct {
    uint64_t size;
    uint8_t bytes[8192];
} unwrapped[2];

static const struct chaos_argument *wrapped_key(unsigned index)
{
    const struct chaos_argument *argument = chaos_functions[index].arguments;
    while (argument->name && strcmp(argument->name, "wrapped") != 0)
        argument++;
    return argument->name ? argument : NULL;
}

static void remember(const struct chaos_argument *key, const uint64_t *words)
{
    const uint64_t size = words[key->word + 1];
    if (!words[key->word] || size > sizeof unwrapped[1].bytes)
        return;
    pthread_mutex_lock(&remembering);
    unwrapped[0] = unwrapped[1];
    unwrapped[1].size = size;
    memcpy(unwrapped[1].bytes, (const void *)(uintptr_t)words[key->word], size);
    pthread_mutex_unlock(&remembering);
}

/* RSA keys of one size differ in length by a byte or two, and wrapped by a block. */
static int as_long(uint64_t before, uint64_t now)
{
    const uint64_t block = 8, large = 256;
    return before == now || (before >= large && now >= large && (before > now ? before - now : now - before) <= block);
}

/* Another key in place of this one: what the call before brought, if it was as long. In `room`, which the call is
 * given. */
static void substitute(const struct chaos_act *act, unsigned index, uint64_t *words, uint8_t *room)
{
    const struct chaos_argument *key = wrapped_key(index);
    int found = 0;
    if (!key)
        return;
    pthread_mutex_lock(&remembering);
    const uint64_t size = unwrapped[0].size;
    if (size && as_long(size, words[key->word + 1])) {
        memcpy(room, unwrapped[0].bytes, size);
        found = 1;
    }
    pthread_mutex_unlock(&remembering);
    if (found && chaos_store_fire(act, index)) {
        words[key->word] = (uint64_t)(uintptr_t)room;
        words[key->word + 1] = size;
    }
}

static int has_session(unsigned index)
{
    const struct chaos_argument *first = chaos_functions[index].arguments;
    return first->name && strcmp(first->name, "session") == 0;
}

/* One act before the call. Whether the call is answered with it. */
static int act_before(const struct chaos_act *act, unsigned index, const uint64_t *words, uint64_t *rv)
{
    struct timespec until;
    switch (act->action) {
    case CHAOS_DELAY:
        until = after(act->value);
        if (chaos_store_fire(act, index))
            sleep_until(&until);
        return 0;
    case CHAOS_HANG:
        if (chaos_store_fire(act, index))
            chaos_store_wait(act, index);
        return 0;
    case CHAOS_ANSWER:
    case CHAOS_DEAD:
        if (!chaos_store_fire(act, index))
            return 0;
        *rv = act->value;
        return 1;
    case CHAOS_CRASH:
        if (chaos_store_fire(act, index))
            crash();
        return 0;
    case CHAOS_EXIT:
        if (chaos_store_fire(act, index))
            exit((int)act->value);
        return 0;
    case CHAOS_LOSE_SESSIONS:
    case CHAOS_LOSE_LOGIN:
        if (has_session(index) && chaos_store_fire(act, index))
            lose(act->action, words[0]);
        return 0;
    default:
        return 0;
    }
}

/* What a call's outputs are, before and after. */
struct outputs {
    const struct chaos_argument *last, *measured;
    uint64_t last_room, measured_room;
};

static struct outputs look(unsigned index, const uint64_t *words)
{
    struct outputs found = {.last = chaos_output_of(index, 0), .measured = chaos_output_of(index, 1)};
    if (found.last)
        found.last_room = chaos_output_room(found.last, words);
    if (found.measured)
        found.measured_room = chaos_output_room(found.measured, words);
    return found;
}

static void act_after(const struct chaos_act *act, unsigned index, const uint64_t *words, const struct outputs *outputs,
                      uint64_t *rv)
{
    struct chaos_output output = {0};
    if (act->action == CHAOS_ANSWER_AFTER) {
        if (chaos_store_fire(act, index))
            *rv = act->value;
    } else if (act->action == CHAOS_LENGTH && outputs->measured && (*rv == CHAOS_OK || *rv == CHAOS_BUFFER_TOO_SMALL)) {
        output = chaos_output_read(outputs->measured, words, outputs->measured_room);
        if (output.length && chaos_store_fire(act, index))
            *output.length = act->sign > 0   ? *output.length + act->value
                             : act->sign < 0 ? *output.length - act->value
                                             : act->value;
    } else if ((act->action == CHAOS_CORRUPT || act->action == CHAOS_WRITE) && outputs->last && *rv == CHAOS_OK) {
        output = chaos_output_read(outputs->last, words, outputs->last_room);
        if (!output.bytes || !output.size)
            return;
        if (act->action == CHAOS_CORRUPT) {
            if (chaos_store_fire(act, index))
                output.bytes[output.size - 1] ^= 1;
        } else if (act->value <= output.size && act->bytes.length <= output.size - act->value)
            if (chaos_store_fire(act, index))
                memcpy(output.bytes + act->value, act->bytes.content, act->bytes.length);
    }
}

static uint64_t obey(unsigned index, const uint64_t *given, const struct chaos_act *acts, int count)
{
    uint8_t another[sizeof unwrapped[0].bytes];
    uint64_t words[PYHA_WORDS];
    struct timespec until = {0};
    struct outputs outputs;
    uint64_t rv = CHAOS_GENERAL_ERROR;
    int answered = 0, held = 0;

    memcpy(words, given, sizeof words);
    for (int i = 0; i < count && !answered; i++)
        if (acts[i].action == CHAOS_ALONE) {
            if (!held)
                pthread_mutex_lock(&alone);
            held = 1;
            if (chaos_store_fire(&acts[i], index))
                until = after(acts[i].value);
        } else if (acts[i].action == CHAOS_SUBSTITUTE)
            substitute(&acts[i], index, words, another);
        else
            answered = act_before(&acts[i], index, words, &rv);
    if (!answered) {
        outputs = look(index, words);
        rv = pyha_module_call(&wrapped, index, words);
        for (int i = 0; i < count; i++)
            act_after(&acts[i], index, words, &outputs, &rv);
    }
    if (held) {
        sleep_until(&until);
        pthread_mutex_unlock(&alone);
    }
    return rv;
}

static void in_child(void)
{
    pthread_mutex_init(&opening, NULL);
    pthread_mutex_init(&alone, NULL);
    pthread_mutex_init(&remembering, NULL);
}

static int open_once(void)
{
    static __thread int inside;
    char reason[2048], module[PATH_MAX];
    int good;

    if (atomic_load(&ready))
        return 1;
    /* The module that the plan names has led back to us. */
    if (inside)
        return 0;
    pthread_mutex_lock(&opening);
    inside = 1;
    good = atomic_load(&ready);
    if (!good) {
        good = chaos_store_open(module, reason, sizeof reason) == 0 &&
               pyha_module_load(&wrapped, module, RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND, (void *)(uintptr_t)open_once,
                                reason, sizeof reason) == 0;
        if (!good)
            chaos_complain("%s", reason);
        else if (pthread_atfork(NULL, NULL, in_child) == 0)
            atomic_store(&ready, 1);
    }
    inside = 0;
    pthread_mutex_unlock(&opening);
    return atomic_load(&ready);
}

uint64_t chaos_call(unsigned index, const uint64_t *words)
{
    struct chaos_act acts[CHAOS_ENTRIES];
    uint64_t rv = CHAOS_GENERAL_ERROR;
    int count;

    if (!atomic_load_explicit(&ready, memory_order_acquire)) {
        if (strcmp(chaos_functions[index].name, "C_Initialize") != 0)
            return CHAOS_NOT_INITIALIZED;
        if (!open_once())
            return CHAOS_GENERAL_ERROR;
    }
    if (wrapped_key(index))
        remember(wrapped_key(index), words);
    count = chaos_store_meet(index, words, acts, &rv);
    return count < 0 ? rv : obey(index, words, acts, count);
}

/* --- The module's own functions --- */

static CK_FUNCTION_LIST functions_2_40 = {.version = {2, 40}};
static CK_FUNCTION_LIST_3_0 functions_3_0 = {.version = {3, 0}};
static char name[] = "PKCS 11";
static CK_INTERFACE interfaces[2];

static size_t offered; /* under `opening` */

/* What the wrapped module has, and no more. */
static void fill(void)
{
    void *list[PYHA_FUNCTIONS];
    int has_3_0 = 0;
    for (int index = 0; index < PYHA_FUNCTIONS; index++) {
        list[index] = wrapped.functions[index] ? chaos_wrappers[index] : NULL;
        has_3_0 |= index >= PYHA_FUNCTIONS_2 && list[index];
    }
    memcpy(&functions_2_40.C_Initialize, list, PYHA_FUNCTIONS_2 * sizeof *list);
    memcpy(&functions_3_0.C_Initialize, list, sizeof list);
    functions_2_40.C_GetFunctionList = functions_3_0.C_GetFunctionList = C_GetFunctionList;
    functions_3_0.C_GetInterfaceList = C_GetInterfaceList;
    functions_3_0.C_GetInterface = C_GetInterface;
    if (has_3_0)
        interfaces[offered++] = (CK_INTERFACE){(CK_CHAR *)name, &functions_3_0, 0};
    interfaces[offered++] = (CK_INTERFACE){(CK_CHAR *)name, &functions_2_40, 0};
}

/* The number of interfaces; 0 where there is no module. */
static size_t offer(void)
{
    size_t count;
    if (!open_once())
        return 0;
    pthread_mutex_lock(&opening);
    if (!offered)
        fill();
    count = offered;
    pthread_mutex_unlock(&opening);
    return count;
}

CK_RV C_GetFunctionList(CK_FUNCTION_LIST_PTR_PTR list)
{
    if (!list)
        return CHAOS_ARGUMENTS_BAD;
    if (!offer())
        return CHAOS_GENERAL_ERROR;
    *list = &functions_2_40;
    return CHAOS_OK;
}

CK_RV C_GetInterfaceList(CK_INTERFACE_PTR list, CK_ULONG_PTR count)
{
    if (!count)
        return CHAOS_ARGUMENTS_BAD;
    const size_t has = offer();
    if (!has)
        return CHAOS_GENERAL_ERROR;
    if (list && *count < has) {
        *count = has;
        return CHAOS_BUFFER_TOO_SMALL;
    }
    if (list)
        memcpy(list, interfaces, has * sizeof *list);
    *count = has;
    return CHAOS_OK;
}

CK_RV C_GetInterface(CK_UTF8CHAR_PTR wanted, CK_VERSION_PTR version, CK_INTERFACE_PTR_PTR interface, CK_FLAGS flags)
{
    if (!interface || (wanted && strcmp((const char *)wanted, name) != 0))
        return CHAOS_ARGUMENTS_BAD;
    const size_t count = offer();
    if (!count)
        return CHAOS_GENERAL_ERROR;
    for (size_t i = 0; i < count; i++) {
        const CK_VERSION *has = interfaces[i].pFunctionList;
        if ((version && (version->major != has->major || version->minor != has->minor)) || flags)
            continue;
        *interface = &interfaces[i];
        return CHAOS_OK;
    }
    return CHAOS_ARGUMENTS_BAD;
}

/* For `pyha chaos`: whether a plan would be obeyed. 0, or -1 with one sentence in `reason`. */
__attribute__((visibility("default"))) int pyha_chaos_check(const char *text, size_t length, char *reason, size_t room)
{
    struct chaos_plan *plan = chaos_parse(text, length, reason, room);
    free(plan);
    return plan ? 0 : -1;
}
