/* See module.h. Sources: PKCS #11 3.0, sections 5.2 (function lists) and 5.4 (C_GetFunctionList, C_GetInterface). */
#define _GNU_SOURCE
#include "module.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define FUNCTION_NOT_SUPPORTED 0x54 /* CKR_FUNCTION_NOT_SUPPORTED */

struct list {
    uint8_t major, minor;
    void *functions[];
};

struct interface {
    const char *name;
    const struct list *list;
    unsigned long flags;
};

typedef unsigned long (*get_list)(const struct list **list);
typedef unsigned long (*get_interface)(const char *name, const uint8_t *version, const struct interface **found,
                                       unsigned long flags);

/* The address at which the object that holds `address` is loaded; NULL where no object does. */
static void *object_of(const void *address)
{
    Dl_info found;
    return address && dladdr(address, &found) ? found.dli_fbase : NULL;
}

/* dlsym, but not from a library that `library` merely depends on: that one's functions are not the module's. */
static void *symbol(void *library, const char *name, const void *beside)
{
    void *found = dlsym(library, name);
    return found && (!beside || object_of(found) == object_of(beside)) ? found : NULL;
}

static int take(struct pyha_module *module, const struct list *list, unsigned from, unsigned to, const void *own)
{
    for (unsigned index = from; index < to; index++) {
        void *object = object_of(list->functions[index]);
        if (object && own && object == object_of(own))
            return -1;
        module->functions[index] = object ? list->functions[index] : NULL;
    }
    return 0;
}

/* The functions of 3.0: only from an interface that says it is 3.x, never from what follows a 2.40 list in memory. */
static const struct list *list_3(void *library, const void *beside)
{
    static const uint8_t v3[2] = {3, 0};
    get_interface ask = (get_interface)(uintptr_t)symbol(library, "C_GetInterface", beside);
    for (int try = 0; ask && try < 2; try++) {
        const struct interface *found = NULL;
        if (ask("PKCS 11", try ? NULL : v3, &found, 0) == 0 && found && found->name && found->list &&
            strcmp(found->name, "PKCS 11") == 0 && found->list->major == 3)
            return found->list;
    }
    return NULL;
}

int pyha_module_load(struct pyha_module *module, const char *path, int flags, const void *own, char *reason,
                     size_t room)
{
    memset(module, 0, sizeof *module);
    void *library = dlopen(path, flags);
    if (!library) {
        snprintf(reason, room, "cannot load %s: %s", path, dlerror());
        return -1;
    }
    get_list ask = (get_list)(uintptr_t)symbol(library, "C_GetFunctionList", NULL);
    if (!ask) {
        snprintf(reason, room, "%s is no PKCS #11 module: it has no C_GetFunctionList", path);
        return -1;
    }
    const struct list *list = NULL;
    unsigned long rv = ask(&list);
    if (rv != 0 || !list) {
        snprintf(reason, room, "C_GetFunctionList of %s answered 0x%08lx", path, rv);
        return -1;
    }
    /* C_WaitForSlotEvent, the last one, came with 2.01. */
    unsigned count = list->major == 2 && list->minor == 0 ? PYHA_FUNCTIONS_2 - 1 : PYHA_FUNCTIONS_2;
    int mixed = take(module, list, 0, count, own);
    const struct list *newer = list_3(library, (void *)(uintptr_t)ask);
    if (newer && !mixed)
        mixed = take(module, newer, PYHA_FUNCTIONS_2, PYHA_FUNCTIONS, own);
    if (mixed) {
        snprintf(reason, room, "%s hands out this module's own functions: it cannot run inside the application", path);
        return -1;
    }
    return 0;
}

typedef uint64_t word;
typedef word (*function)(word, word, word, word, word, word, word, word, word, word);

uint64_t pyha_module_call(const struct pyha_module *module, uint32_t index, const uint64_t w[PYHA_WORDS])
{
    void *found = index < PYHA_FUNCTIONS ? module->functions[index] : NULL;
    if (!found)
        return FUNCTION_NOT_SUPPORTED;
    return ((function)(uintptr_t)found)(w[0], w[1], w[2], w[3], w[4], w[5], w[6], w[7], w[8], w[9]);
}

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

uint32_t pyha_module_series(const struct pyha_module *module, uint32_t index, struct pyha_turn *turns, uint32_t times,
                            double budget, const atomic_int *ended)
{
    double end = seconds() + budget;
    uint32_t made = 0;
    do {
        uint64_t words[PYHA_WORDS];
        memcpy(words, turns[made].words, sizeof words);
        turns[made].result = pyha_module_call(module, index, words);
        made++;
    } while (made < times && !atomic_load(ended) && seconds() < end);
    return made;
}
