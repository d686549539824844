/*
 * See pins.h. The PINs lie one behind the other, each with its ticket before it; ticket 0 is the end. The table is in
 * the page itself, so the kernel wipes PINs and tickets of a forked child at once: a child finds an empty page.
 */
#define _GNU_SOURCE
#include "pins.h"

#include <string.h>
#include <sys/mman.h>

#include "guard.h"

#define PAGE 4096

struct entry {
    uint64_t ticket;
    uint64_t size;
    uint8_t pin[];
};

static uint8_t *page; /* this and what it points at: guarded */
static uint64_t last_ticket;

static uint64_t room_of(uint64_t size)
{
    return sizeof(struct entry) + (size + 7) / 8 * 8;
}

static struct entry *after(struct entry *entry)
{
    return (struct entry *)((uint8_t *)entry + room_of(entry->size));
}

/* The entry of `ticket`, or NULL. Ticket 0 finds the end. */
static struct entry *find(uint64_t ticket)
{
    struct entry *entry = (struct entry *)page;
    while (entry->ticket && entry->ticket != ticket)
        entry = after(entry);
    return entry->ticket == ticket ? entry : NULL;
}

static int have_page(void)
{
    if (!page) {
        void *mapped = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (mapped == MAP_FAILED)
            return 0;
        /* A page that a child would inherit, or a core show, must hold no PIN. */
        if (madvise(mapped, PAGE, MADV_WIPEONFORK) < 0 || madvise(mapped, PAGE, MADV_DONTDUMP) < 0) {
            munmap(mapped, PAGE);
            return 0;
        }
        page = mapped;
    }
    mlock(page, PAGE); /* every time: a forked child does not inherit the lock. Without a limit to spare, unlocked */
    return 1;
}

uint64_t pyha_pin_keep(const uint8_t *memory, uint64_t size)
{
    uint64_t ticket = 0;
    struct pyha_guarded saved;
    pyha_guard_enter(&saved);
    if (size < PAGE && have_page()) {
        struct entry *entry = find(0);
        uint64_t used = (uint64_t)((uint8_t *)entry - page);
        if (used + room_of(size) + sizeof(struct entry) <= PAGE) { /* the end mark has to fit behind it */
            ticket = ++last_ticket;
            memcpy(entry->pin, memory, size);
            entry->size = size;
            entry->ticket = ticket;
        }
    }
    pyha_guard_leave(&saved);
    return ticket;
}

int pyha_pin_copy(uint64_t ticket, uint8_t *memory)
{
    struct pyha_guarded saved;
    pyha_guard_enter(&saved);
    struct entry *entry = page && ticket ? find(ticket) : NULL;
    if (entry)
        memcpy(memory, entry->pin, entry->size);
    pyha_guard_leave(&saved);
    return entry != NULL;
}

void pyha_pin_wipe(uint64_t ticket)
{
    struct pyha_guarded saved;
    pyha_guard_enter(&saved);
    struct entry *entry = page && ticket ? find(ticket) : NULL;
    if (entry) {
        uint8_t *rest = (uint8_t *)after(entry), *used = (uint8_t *)find(0);
        uint64_t gap = (uint64_t)(rest - (uint8_t *)entry);
        memmove(entry, rest, (size_t)(used - rest));
        explicit_bzero(used - gap, gap);
    }
    pyha_guard_leave(&saved);
}
