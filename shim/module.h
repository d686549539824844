/*
 * A vendor's module: loaded, its functions found, one of them called.
 *
 * Serves the helper program and the in-process link alike. Takes no pointer on trust: modules announce newer function
 * lists than they hold, and a module inside an application may find the application's functions instead of its own.
 */
#ifndef PYHA_MODULE_H
#define PYHA_MODULE_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol.h"

struct pyha_module {
    void *functions[PYHA_FUNCTIONS]; /* NULL where there is none */
};

/*
 * dlopen `path` with `flags` and fill `module`. `own`: an address inside the object whose functions must not be taken
 * for the module's, or NULL. 0, or -1 with one sentence in `reason`.
 */
int pyha_module_load(struct pyha_module *module, const char *path, int flags, const void *own, char *reason,
                     size_t room);

/* The result of function `index`; CKR_FUNCTION_NOT_SUPPORTED where there is none. */
uint64_t pyha_module_call(const struct pyha_module *module, uint32_t index, const uint64_t words[PYHA_WORDS]);

/*
 * Calls function `index` for each of the turns, of which there is one at least, and puts the results there. Begins no
 * further call once `budget` seconds have gone by, or *ended is set. Returns how many were made.
 */
uint32_t pyha_module_series(const struct pyha_module *module, uint32_t index, struct pyha_turn *turns, uint32_t times,
                            double budget, const atomic_int *ended);

static inline void pyha_module_offers(const struct pyha_module *module, uint64_t offered[2])
{
    for (unsigned index = 0; index < PYHA_FUNCTIONS; index++)
        if (module->functions[index])
            offered[index / 64] |= UINT64_C(1) << index % 64;
}

#endif
