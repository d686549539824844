/*
 * The PINs that must be kept for members that return, in one page: locked, in no dump, wiped in a forked child.
 *
 * Whoever keeps one holds a ticket, never an address. Knows nothing of tokens or members.
 */
#ifndef PYHA_PINS_H
#define PYHA_PINS_H

#include <stdint.h>

/* Copies `size` bytes. A ticket, never 0; 0: the page has no room for them. */
uint64_t pyha_pin_keep(const uint8_t *memory, uint64_t size);

/* Copies the PIN to `memory`. 1, or 0: it was wiped, or was kept by the process that this one was forked from. */
int pyha_pin_copy(uint64_t ticket, uint8_t *memory);

void pyha_pin_wipe(uint64_t ticket);

#endif
