/*
 * PLAN.fired: what was read, what fired and what was released, a line each, by all processes that use the plan and by
 * `pyha chaos`. It is opened anew for each line: an application may close every descriptor that it does not know.
 */
#define _GNU_SOURCE
#include "chaos.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define LINE 1536

static char path[PATH_MAX];
static _Atomic int unwritable;

void chaos_journal_name(const char *plan)
{
    snprintf(path, sizeof path, "%s.fired", plan);
}

/* Writes to standard error, or lets it be: a reader that is gone must not kill the program, nor one that sleeps stop
 * it. */
static void write_line(const char *line, size_t length)
{
    struct pollfd standard_error = {.fd = STDERR_FILENO, .events = POLLOUT};
    const struct timespec now = {0, 0};
    sigset_t broken_pipe, before, pending;

    if (poll(&standard_error, 1, 0) != 1)
        return;
    sigemptyset(&broken_pipe);
    sigaddset(&broken_pipe, SIGPIPE);
    sigpending(&pending);
    pthread_sigmask(SIG_BLOCK, &broken_pipe, &before);
    if (write(STDERR_FILENO, line, length) < 0 && errno == EPIPE && !sigismember(&pending, SIGPIPE))
        sigtimedwait(&broken_pipe, NULL, &now);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* `format` after `head`, with an end of line whatever its length. */
static size_t compose(char line[LINE], size_t used, const char *format, va_list values)
{
    int added = vsnprintf(line + used, LINE - used, format, values);
    used += added < 0 ? 0 : (size_t)added;
    if (used > LINE - 1)
        used = LINE - 1;
    line[used++] = '\n';
    return used;
}

void chaos_complain(const char *format, ...)
{
    char line[LINE] = "pyha-chaos: ";
    va_list values;
    va_start(values, format);
    size_t length = compose(line, strlen(line), format, values);
    va_end(values);
    write_line(line, length);
}

void chaos_journal(const char *format, ...)
{
    char line[LINE];
    struct timespec now;
    struct tm utc;
    va_list values;

    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    size_t used = strftime(line, LINE, "%Y-%m-%dT%H:%M:%S", &utc);
    used += (size_t)snprintf(line + used, LINE - used, ".%06ldZ %d ", now.tv_nsec / 1000, (int)getpid());
    va_start(values, format);
    used = compose(line, used, format, values);
    va_end(values);

    int file = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0644);
    int written = file >= 0 && write(file, line, used) == (ssize_t)used;
    if (!written && !atomic_exchange(&unwritable, 1))
        chaos_complain("%s: what fires cannot be written: %s", path, strerrordesc_np(errno));
    if (file >= 0)
        close(file);
}

uint64_t chaos_journal_size(void)
{
    struct stat found;
    return stat(path, &found) == 0 ? (uint64_t)found.st_size : 0;
}

/* TIME PID fired NUMBER COUNT FUNCTION: TEXT */
static int says(char *line, const struct chaos_entry *entry)
{
    char number[24];
    int at = -1;
    if (sscanf(line, "%*s %*s fired %23s %*u %*s %n", number, &at) < 1 || at < 0)
        return 0;
    line[strcspn(line, "\n")] = '\0';
    return strtoull(number, NULL, 10) == entry->number && strcmp(line + at, entry->text) == 0;
}

int chaos_journal_has(const struct chaos_entry *entry)
{
    char line[LINE];
    int found = 0;
    FILE *file = fopen(path, "re");
    while (file && !found && fgets(line, sizeof line, file))
        found = says(line, entry);
    if (file)
        fclose(file);
    return found;
}

int chaos_journal_claim(const struct chaos_entry *entry, void (*note)(const struct chaos_entry *, unsigned),
                        unsigned index)
{
    int file = open(path, O_RDONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0644);
    if (file >= 0)
        while (flock(file, LOCK_EX) < 0 && errno == EINTR)
            ;
    int free_yet = !chaos_journal_has(entry);
    if (free_yet)
        note(entry, index);
    if (file >= 0)
        close(file);
    return free_yet;
}
