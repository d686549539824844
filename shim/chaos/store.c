/*
 * The plan that is obeyed now, and what of it has been (chaos.h).
 *
 * PLAN.change is a number in memory that all share; `pyha chaos` counts it up, and so the next call knows. A plan that
 * was changed by other means is found within 10 ms: to look at the file before every call would be too dear. Everything
 * here is under one lock, which is never held while the wrapped module is called or while a call waits.
 */
#define _GNU_SOURCE
#include "chaos.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
#define INTERVAL 10000000 /* nanoseconds between two looks at the file, where nobody has told of a change */

static char path[PATH_MAX];
static _Atomic uint64_t *change; /* PLAN.change, once it is there */
static int can_tell;             /* whether we may count it up */
static uint64_t told;            /* as it was at the last look */
static int64_t looked;           /* nanoseconds */
static struct chaos_plan *plan;
static struct stat seen;    /* of the file as it was when it was last read, with or without success */
static void *pinned;        /* keeps that file's inode number from being given to the next one */
static uint64_t identities; /* given so far */
static uint64_t scanned;    /* bytes of the journal in which no death of ours was found */

static int same_file(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_size == b->st_size &&
           a->st_mtim.tv_sec == b->st_mtim.tv_sec && a->st_mtim.tv_nsec == b->st_mtim.tv_nsec &&
           a->st_ctim.tv_sec == b->st_ctim.tv_sec && a->st_ctim.tv_nsec == b->st_ctim.tv_nsec;
}

/* A plan names a library that runs with our rights. */
static int trusted(const struct stat *found, char *reason, size_t room)
{
    if (!S_ISREG(found->st_mode))
        snprintf(reason, room, "it is no regular file");
    else if (found->st_uid != 0 && found->st_uid != geteuid())
        snprintf(reason, room, "it belongs neither to root nor to the user of this program");
    else if (found->st_mode & (S_IWGRP | S_IWOTH))
        snprintf(reason, room, "others than its owner may write to it");
    else
        return 1;
    return 0;
}

/* The whole file; `seen` and `pinned` are of it. */
static ssize_t read_file(char *text, size_t room, char *reason, size_t reasons)
{
    size_t length = 0;
    ssize_t part = 1;
    int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

    if (file < 0 || fstat(file, &seen) < 0) {
        snprintf(reason, reasons, "%s", strerrordesc_np(errno));
        memset(&seen, 0, sizeof seen);
        if (file >= 0)
            close(file);
        return -1;
    }
    if (pinned)
        munmap(pinned, 1);
    pinned = mmap(NULL, 1, PROT_NONE, MAP_PRIVATE, file, 0);
    if (pinned == MAP_FAILED)
        pinned = NULL;
    if (!trusted(&seen, reason, reasons)) {
        close(file);
        return -1;
    }
    while (part > 0 && length < room) {
        part = read(file, text + length, room - length);
        if (part > 0)
            length += (size_t)part;
    }
    if (part < 0)
        snprintf(reason, reasons, "%s", strerrordesc_np(errno));
    close(file);
    return part < 0 ? -1 : (ssize_t)length;
}

static struct chaos_plan *read_plan(char *reason, size_t room)
{
    struct chaos_plan *read = NULL;
    char *text = malloc(CHAOS_PLAN + 1);
    ssize_t length = -1;
    if (text)
        length = read_file(text, CHAOS_PLAN + 1, reason, room);
    else
        snprintf(reason, room, "no memory to read it");
    if (length >= 0)
        read = chaos_parse(text, (size_t)length, reason, room);
    free(text);
    return read;
}

/* A line that was there before goes on where it was. */
static void inherit(struct chaos_plan *fresh)
{
    for (size_t i = 0; i < fresh->count; i++) {
        struct chaos_entry *entry = &fresh->entries[i], *old = NULL;
        for (size_t j = 0; plan && !old && j < plan->count; j++)
            if (plan->entries[j].act.identity && plan->entries[j].number == entry->number &&
                strcmp(plan->entries[j].text, entry->text) == 0)
                old = &plan->entries[j];
        if (old) {
            entry->act.identity = old->act.identity;
            entry->met = old->met;
            entry->fired = old->fired;
            entry->spent = old->spent;
            entry->dead = old->dead;
            old->act.identity = 0; /* of two like lines each has its own */
        } else
            entry->act.identity = ++identities;
    }
}

static void adopt(struct chaos_plan *fresh)
{
    inherit(fresh);
    free(plan);
    plan = fresh;
    scanned = 0;
    chaos_journal("read %zu entries", plan->count);
}

static void map_change(void)
{
    char name[sizeof path + sizeof ".change"];
    struct stat found;
    int file;

    snprintf(name, sizeof name, "%s.change", path);
    file = open(name, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    can_tell = file >= 0;
    if (file < 0)
        file = open(name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (file < 0)
        return;
    if (fstat(file, &found) == 0 && S_ISREG(found.st_mode) && found.st_size == sizeof *change) {
        void *mapped = mmap(NULL, sizeof *change, PROT_READ | (can_tell ? PROT_WRITE : 0), MAP_SHARED, file, 0);
        change = mapped == MAP_FAILED ? NULL : mapped;
    }
    close(file);
}

/* Whether it is time to look at files. */
static int time_to_look(void)
{
    struct timespec now;
    const uint64_t number = change ? atomic_load(change) : 0;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    const int64_t at = (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
    if (number == told && looked && at - looked < INTERVAL)
        return 0;
    if (!change)
        map_change();
    told = number;
    looked = at;
    return 1;
}

static void refresh(void)
{
    char reason[1024] = "";
    struct stat now = {0};
    struct chaos_plan *fresh;

    if (stat(path, &now) < 0)
        memset(&now, 0, sizeof now);
    if (same_file(&now, &seen))
        return;
    fresh = read_plan(reason, sizeof reason);
    if (fresh && strcmp(fresh->module, plan->module) != 0) {
        snprintf(reason, sizeof reason, "the module cannot change while it is in use");
        free(fresh);
        fresh = NULL;
    }
    if (fresh)
        adopt(fresh);
    else {
        chaos_complain("%s: %s; the plan that was there before goes on", path, reason);
        chaos_journal("ignored %s", reason);
    }
}

static void before_fork(void)
{
    pthread_mutex_lock(&lock);
}

static void in_parent(void)
{
    pthread_mutex_unlock(&lock);
}

/* Calls are counted for each process. */
static void in_child(void)
{
    for (size_t i = 0; plan && i < plan->count; i++)
        plan->entries[i].met = plan->entries[i].fired = 0;
    pthread_mutex_init(&lock, NULL);
}

int chaos_store_open(char *module, char *reason, size_t room)
{
    static int watched;
    const char *named = getenv("PYHA_CHAOS_PLAN");
    char cause[1024] = "";

    if (getauxval(AT_SECURE)) {
        snprintf(reason, room, "refused in a program that runs with more rights than its user has");
        return -1;
    }
    if (!named || named[0] != '/' || strlen(named) >= sizeof path - sizeof ".fired") {
        snprintf(reason, room, "$PYHA_CHAOS_PLAN is not the absolute path of a plan");
        return -1;
    }
    pthread_mutex_lock(&lock);
    strcpy(path, named);
    chaos_journal_name(path);
    free(plan); /* of an attempt whose module could not be loaded */
    plan = NULL;
    plan = read_plan(cause, sizeof cause);
    if (plan) {
        strcpy(module, plan->module);
        inherit(plan);
        chaos_journal("read %zu entries", plan->count);
        if (!watched)
            watched = pthread_atfork(before_fork, in_parent, in_child) == 0;
    } else
        snprintf(reason, room, "%s: %s", path, cause);
    pthread_mutex_unlock(&lock);
    return plan ? 0 : -1;
}

static struct chaos_entry *find(uint64_t identity)
{
    for (size_t i = 0; i < plan->count; i++)
        if (plan->entries[i].act.identity == identity)
            return &plan->entries[i];
    return NULL;
}

static int agrees(const struct chaos_match *match, const struct chaos_argument *argument, const uint64_t *words)
{
    const uint64_t word = words[argument->word];
    switch (argument->form) {
    case CHAOS_NUMBER:
        return !match->is_bytes && word == match->number;
    case CHAOS_MECHANISM:
        return !match->is_bytes && word && *(const uint64_t *)(uintptr_t)word == match->number;
    case CHAOS_INPUT:
        return match->is_bytes && word && words[argument->word + 1] >= match->bytes.length &&
               memcmp((const void *)(uintptr_t)word, match->bytes.content, match->bytes.length) == 0;
    default:
        return 0;
    }
}

static int matches(const struct chaos_entry *entry, unsigned index, const uint64_t *words)
{
    /* It waits by its nature: one at a time, everything would wait with it. */
    int waits = strcmp(chaos_functions[index].name, "C_WaitForSlotEvent") == 0;
    if (entry->function == CHAOS_ANY ? waits : entry->function != (int)index)
        return 0;
    for (size_t i = 0; i < entry->matches; i++) {
        const struct chaos_argument *argument = chaos_functions[index].arguments;
        while (argument->name && strcmp(argument->name, entry->match[i].name) != 0)
            argument++;
        if (!argument->name || !agrees(&entry->match[i], argument, words))
            return 0;
    }
    return 1;
}

static int its_turn(const struct chaos_entry *entry)
{
    switch (entry->when) {
    case CHAOS_NTH:
        return entry->met == entry->nth;
    case CHAOS_FROM:
        return entry->met >= entry->nth;
    case CHAOS_EVERY:
        return entry->met % entry->nth == 0;
    default:
        return 1;
    }
}

/* A device that is dead is dead for every process that uses it, also for one that starts later. */
static const struct chaos_entry *death(int look)
{
    uint64_t size = 0;
    for (size_t i = 0; i < plan->count; i++) {
        struct chaos_entry *entry = &plan->entries[i];
        if (entry->act.action != CHAOS_DEAD)
            continue;
        if (!entry->dead && look && (size || (size = chaos_journal_size()) != 0) && size != scanned)
            entry->dead = chaos_journal_has(entry);
        if (entry->dead)
            return entry;
    }
    if (size)
        scanned = size;
    return NULL;
}

int chaos_store_meet(unsigned index, const uint64_t *words, struct chaos_act acts[CHAOS_ENTRIES], uint64_t *rv)
{
    const struct chaos_entry *dead;
    int count = 0, look;

    pthread_mutex_lock(&lock);
    look = time_to_look();
    if (look)
        refresh();
    dead = death(look);
    if (dead)
        *rv = dead->act.value;
    for (size_t i = 0; !dead && i < plan->count; i++) {
        struct chaos_entry *entry = &plan->entries[i];
        if (!matches(entry, index, words))
            continue;
        entry->met++;
        if (its_turn(entry) && !entry->spent)
            acts[count++] = entry->act;
    }
    pthread_mutex_unlock(&lock);
    return dead ? -1 : count;
}

/* Every firing of an entry up to the thousandth is noted, then each time their number has doubled. */
static void note(const struct chaos_entry *entry, unsigned index)
{
    char number[24] = "-";
    if (entry->fired > 1000 && (entry->fired & (entry->fired - 1)) != 0)
        return;
    if (entry->number)
        snprintf(number, sizeof number, "%lu", entry->number);
    chaos_journal("fired %s %lu %s: %s", number, entry->fired, chaos_functions[index].name, entry->text);
}

int chaos_store_fire(const struct chaos_act *act, unsigned index)
{
    struct chaos_entry *entry;
    int fires = 0;

    pthread_mutex_lock(&lock);
    entry = find(act->identity);
    if (entry && !entry->spent) {
        entry->fired++;
        fires = 1;
        if (entry->once) {
            fires = chaos_journal_claim(entry, note, index);
            entry->spent = 1;
        } else
            note(entry, index);
        entry->dead = fires && act->action == CHAOS_DEAD;
        if (entry->dead && change && can_tell)
            atomic_fetch_add(change, 1);
    }
    pthread_mutex_unlock(&lock);
    return fires;
}

void chaos_store_wait(const struct chaos_act *act, unsigned index)
{
    const struct timespec pause = {0, 10000000};
    int there = 1;
    while (there) {
        nanosleep(&pause, NULL);
        pthread_mutex_lock(&lock);
        if (time_to_look())
            refresh();
        there = find(act->identity) != NULL;
        pthread_mutex_unlock(&lock);
    }
    chaos_journal("released %s", chaos_functions[index].name);
}
