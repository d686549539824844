/*
 * Waiting for the other side of an arena without sleep, for as long as that has paid lately.
 *
 * To sleep and to be woken takes longer than most calls. So whoever waits looks for some microseconds first - but only
 * where looking has helped: each miss doubles (twice over) the number of waits that do not look at all, up to 1,024 of
 * them, so that a side that waits long, or has no core of its own, sleeps at once as if this were not here. Kept for
 * each function by itself: after C_SignInit the next call is near, after C_Sign it may not be. And no more threads of a
 * process look than every second core, so that none takes the core of the one that it waits for.
 */
#ifndef PYHA_SPIN_H
#define PYHA_SPIN_H

#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <time.h>

/* About as long as it takes to sleep and to be woken. Four times as much, enough for a signature of an elliptic curve,
 * made signatures on a busy machine slower by half: what it finds by then it has paid for with a core. */
#define PYHA_SPIN_NANOSECONDS 25000
#define PYHA_SPIN_LOOKS 16 /* between two looks at the clock */
#define PYHA_SPIN_MISSES 10

struct pyha_spin {
    uint16_t skip; /* waits that sleep at once */
    uint8_t misses;
};

static inline void pyha_spin_rest(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static inline int64_t pyha_spin_clock(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* How many threads of this process may look at once: none where there is one core. */
static inline int pyha_spin_room(void)
{
    cpu_set_t cores;
    return sched_getaffinity(0, sizeof cores, &cores) == 0 ? CPU_COUNT(&cores) / 2 : 0;
}

/* Looks at *word until it is `wanted`. 0: it is not, and the caller sleeps. */
static inline int pyha_spin(struct pyha_spin *spin, const _Atomic uint32_t *word, uint32_t wanted)
{
    if (atomic_load_explicit(word, memory_order_acquire) == wanted)
        return 1;
    if (spin->skip) {
        spin->skip--;
        return 0;
    }
    int64_t end = pyha_spin_clock() + PYHA_SPIN_NANOSECONDS;
    do {
        for (int look = 0; look < PYHA_SPIN_LOOKS; look++) {
            pyha_spin_rest();
            if (atomic_load_explicit(word, memory_order_acquire) == wanted) {
                spin->misses -= spin->misses > 0;
                return 1;
            }
        }
    } while (pyha_spin_clock() < end);
    spin->misses = spin->misses + 2 < PYHA_SPIN_MISSES ? spin->misses + 2 : PYHA_SPIN_MISSES;
    spin->skip = (uint16_t)(1u << spin->misses);
    return 0;
}

#endif
