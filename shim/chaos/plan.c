/* The grammar of a plan (docs/chaos.md). Nothing is guessed and nothing is skipped: a rehearsal that does not do what
 * was meant would be believed. */
#define _GNU_SOURCE
#include "chaos.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WORDS 16           /* words of a line */
#define LONGEST 86400000UL /* milliseconds: a day */

enum operand { NONE, MILLISECONDS, RV, RV_OR_NONE, STATUS_OR_NONE, SIZE, OFFSET_AND_BYTES };
enum needs { NOTHING, OUTPUT, LENGTH, SESSION, WRAPPED };

static const struct {
    const char *name;
    enum operand operand;
    enum needs needs;
} actions[] = {
    [CHAOS_DELAY] = {"delay", MILLISECONDS, NOTHING},
    [CHAOS_HANG] = {"hang", NONE, NOTHING},
    [CHAOS_ANSWER] = {"answer", RV, NOTHING},
    [CHAOS_ANSWER_AFTER] = {"answer-after", RV, NOTHING},
    [CHAOS_CRASH] = {"crash", NONE, NOTHING},
    [CHAOS_EXIT] = {"exit", STATUS_OR_NONE, NOTHING},
    [CHAOS_LENGTH] = {"length", SIZE, LENGTH},
    [CHAOS_CORRUPT] = {"corrupt", NONE, OUTPUT},
    [CHAOS_WRITE] = {"write", OFFSET_AND_BYTES, OUTPUT},
    [CHAOS_DEAD] = {"dead", RV_OR_NONE, NOTHING},
    [CHAOS_ALONE] = {"one-at-a-time", MILLISECONDS, NOTHING},
    [CHAOS_LOSE_SESSIONS] = {"lose-sessions", NONE, SESSION},
    [CHAOS_LOSE_LOGIN] = {"lose-login", NONE, SESSION},
    [CHAOS_SUBSTITUTE] = {"substitute", NONE, WRAPPED},
};
#define ACTIONS (sizeof actions / sizeof *actions)

/* Where a mistake is told. */
struct complaint {
    char *reason;
    size_t room;
    unsigned line; /* 0: of the whole */
};

__attribute__((format(printf, 2, 3))) static int wrong(const struct complaint *to, const char *format, ...)
{
    va_list values;
    int used = to->line ? snprintf(to->reason, to->room, "line %u: ", to->line) : 0;
    va_start(values, format);
    if ((size_t)used < to->room)
        vsnprintf(to->reason + used, to->room - (size_t)used, format, values);
    va_end(values);
    return -1;
}

static int number_of(const char *text, uint64_t most, uint64_t *number)
{
    uint64_t base = 10, value = 0;
    if (text[0] == '0' && text[1] == 'x') {
        base = 16;
        text += 2;
    }
    if (!*text)
        return -1;
    for (; *text; text++) {
        uint64_t digit;
        if (*text >= '0' && *text <= '9')
            digit = (uint64_t)(*text - '0');
        else if (isxdigit((unsigned char)*text))
            digit = (uint64_t)(tolower((unsigned char)*text) - 'a' + 10);
        else
            return -1;
        if (digit >= base || __builtin_mul_overflow(value, base, &value) ||
            __builtin_add_overflow(value, digit, &value) || value > most)
            return -1;
    }
    *number = value;
    return 0;
}

/* A number, or a constant's name with this prefix. */
static int value_of(const char *text, const char *prefix, uint64_t *value)
{
    if (!prefix || strncmp(text, prefix, strlen(prefix)) != 0)
        return number_of(text, UINT64_MAX, value);
    for (const struct chaos_constant *constant = chaos_constants; constant->name; constant++)
        if (strcmp(constant->name, text) == 0) {
            *value = constant->value;
            return 0;
        }
    return -1;
}

/* "text", or hex:0a0b. */
static int bytes_of(const char *text, struct chaos_bytes *bytes)
{
    size_t length = strlen(text);
    if (length >= 2 && text[0] == '"' && text[length - 1] == '"') {
        bytes->length = length - 2;
        if (bytes->length < 1 || bytes->length > CHAOS_BYTES)
            return -1;
        memcpy(bytes->content, text + 1, bytes->length);
        return 0;
    }
    if (strncmp(text, "hex:", 4) != 0 || length % 2 || length == 4 || length - 4 > 2 * CHAOS_BYTES)
        return -1;
    bytes->length = 0;
    for (text += 4; *text; text += 2) {
        char pair[] = {'0', 'x', text[0], text[1], 0};
        uint64_t value;
        if (number_of(pair, 255, &value) < 0)
            return -1;
        bytes->content[bytes->length++] = (uint8_t)value;
    }
    return 0;
}

/* The argument of that name that entries can compare. */
static const struct chaos_argument *argument_of(int function, const char *name)
{
    const struct chaos_argument *argument = chaos_functions[function].arguments;
    for (; argument->name; argument++)
        if (strcmp(argument->name, name) == 0 &&
            (argument->form == CHAOS_NUMBER || argument->form == CHAOS_MECHANISM || argument->form == CHAOS_INPUT))
            return argument;
    return NULL;
}

static int read_function(struct chaos_entry *entry, const char *word, const struct complaint *to)
{
    entry->function = CHAOS_ANY;
    if (strcmp(word, "any") == 0)
        return 0;
    for (int index = 0; index < PYHA_FUNCTIONS; index++)
        if (strcmp(chaos_functions[index].name, word) == 0) {
            if (!chaos_wrappers[index])
                return wrong(to, "%s is not passed on, so that nothing can happen to it", word);
            entry->function = index;
            return 0;
        }
    return wrong(to, "there is no function %s", word);
}

static int read_when(struct chaos_entry *entry, enum chaos_when when, const char *value, const struct complaint *to)
{
    if (entry->when != CHAOS_ALWAYS)
        return wrong(to, "only one of nth, from and every can be said");
    entry->when = when;
    if (number_of(value, UINT32_MAX, &entry->nth) < 0 || entry->nth == 0)
        return wrong(to, "%s is not the number of a call", value);
    return 0;
}

static int read_match(struct chaos_entry *entry, char *word, const struct complaint *to)
{
    static const char *const counts[] = {[CHAOS_NTH] = "nth", [CHAOS_FROM] = "from", [CHAOS_EVERY] = "every"};
    char *value = strchr(word, '=');
    const struct chaos_argument *argument = NULL;
    struct chaos_match *match;

    if (strcmp(word, "once") == 0) {
        if (entry->once)
            return wrong(to, "once is said twice");
        entry->once = 1;
        return 0;
    }
    if (!value)
        return wrong(to, "%s is neither once nor a NAME=VALUE", word);
    *value++ = '\0';
    for (enum chaos_when when = CHAOS_NTH; when <= CHAOS_EVERY; when++)
        if (strcmp(word, counts[when]) == 0)
            return read_when(entry, when, value, to);

    int first = entry->function == CHAOS_ANY ? 0 : entry->function;
    int last = entry->function == CHAOS_ANY ? PYHA_FUNCTIONS - 1 : entry->function;
    for (int index = first; !argument && index <= last; index++)
        argument = argument_of(index, word);
    if (!argument)
        return wrong(to, "%s has %s argument %s that can be compared",
                     entry->function == CHAOS_ANY ? "no function" : chaos_functions[first].name,
                     entry->function == CHAOS_ANY ? "an" : "no", word);
    for (size_t i = 0; i < entry->matches; i++)
        if (strcmp(entry->match[i].name, word) == 0)
            return wrong(to, "%s is said twice", word);
    if (entry->matches == CHAOS_MATCHES)
        return wrong(to, "more than %d arguments", CHAOS_MATCHES);
    match = &entry->match[entry->matches++];
    snprintf(match->name, sizeof match->name, "%s", word);
    match->is_bytes = argument->form == CHAOS_INPUT;
    if (match->is_bytes && bytes_of(value, &match->bytes) < 0)
        return wrong(to, "%s=%s is not \"text\" or hex:0a0b, 1 to %d bytes", word, value, CHAOS_BYTES);
    if (!match->is_bytes && value_of(value, argument->prefix, &match->number) < 0)
        return wrong(to, "%s=%s is not a number%s%s", word, value, argument->prefix ? " or the name of a " : "",
                     argument->prefix ? argument->prefix : "");
    return 0;
}

static int read_operand(struct chaos_act *act, enum operand kind, size_t count, char **words,
                        const struct complaint *to)
{
    size_t wanted = kind == NONE ? 0 : kind == OFFSET_AND_BYTES ? 2 : 1;
    const char *word = count ? words[0] : "";

    if (!count && kind == RV_OR_NONE)
        act->value = CHAOS_DEVICE_ERROR;
    if (!count && kind == STATUS_OR_NONE)
        act->value = 1;
    if (!count && (kind == RV_OR_NONE || kind == STATUS_OR_NONE))
        return 0;
    if (count != wanted)
        return wrong(to, "%s takes %s", actions[act->action].name,
                     wanted == 0 ? "nothing after it" : wanted == 1 ? "one value" : "an offset and bytes");
    switch (kind) {
    case NONE:
        return 0;
    case MILLISECONDS:
        if (number_of(word, LONGEST, &act->value) < 0)
            return wrong(to, "%s is not a number of milliseconds up to a day", word);
        return 0;
    case RV:
    case RV_OR_NONE:
        if (value_of(word, "CKR_", &act->value) < 0)
            return wrong(to, "%s is not the name or number of a CK_RV", word);
        return 0;
    case STATUS_OR_NONE:
        if (number_of(word, 255, &act->value) < 0)
            return wrong(to, "%s is not an exit status", word);
        return 0;
    case SIZE:
        act->sign = *word == '+' ? 1 : *word == '-' ? -1 : 0;
        if (number_of(word + (act->sign != 0), UINT64_MAX, &act->value) < 0)
            return wrong(to, "%s is not a length such as 300, +8 or -1", word);
        return 0;
    case OFFSET_AND_BYTES:
        if (number_of(word, UINT32_MAX, &act->value) < 0)
            return wrong(to, "%s is not an offset", word);
        if (bytes_of(words[1], &act->bytes) < 0)
            return wrong(to, "%s is not \"text\" or hex:0a0b, 1 to %d bytes", words[1], CHAOS_BYTES);
        return 0;
    }
    return -1;
}

static int read_action(struct chaos_entry *entry, size_t count, char **words, const struct complaint *to)
{
    size_t action = 0;

    if (!count)
        return wrong(to, "no action after ->");
    while (action < ACTIONS && strcmp(actions[action].name, words[0]) != 0)
        action++;
    if (action == ACTIONS)
        return wrong(to, "there is no action %s", words[0]);
    entry->act.action = (enum chaos_action)action;
    if (entry->function != CHAOS_ANY) {
        const struct chaos_function *function = &chaos_functions[entry->function];
        enum needs needs = actions[action].needs;
        if ((needs == OUTPUT || needs == LENGTH) && !chaos_output_of((unsigned)entry->function, needs == LENGTH))
            return wrong(to, "%s gives no %s", function->name, needs == LENGTH ? "length" : "output");
        if (needs == SESSION && (!function->arguments->name || strcmp(function->arguments->name, "session") != 0))
            return wrong(to, "%s has no session", function->name);
        if (needs == WRAPPED && !argument_of(entry->function, "wrapped"))
            return wrong(to, "%s takes no wrapped key", function->name);
    }
    return read_operand(&entry->act, actions[action].operand, count - 1, words + 1, to);
}

/* Cuts a line at blanks; quotes hold blanks together. The number of words, or -1. */
static int cut(char *line, char *words[WORDS], const struct complaint *to)
{
    int count = 0, quoted = 0;
    for (char *at = line; *at; at++) {
        if (*at == ' ' || *at == '\t')
            continue;
        if (count == WORDS)
            return wrong(to, "more than %d words", WORDS);
        words[count++] = at;
        for (; *at && (quoted || (*at != ' ' && *at != '\t')); at++)
            quoted ^= *at == '"';
        if (quoted)
            return wrong(to, "a \" is not closed");
        if (!*at)
            break;
        *at = '\0';
    }
    return count;
}

/* An entry's line without leading and trailing blanks. */
static int read_entry(struct chaos_entry *entry, char *line, const struct complaint *to)
{
    char *colon = strchr(line, ':'), *words[WORDS];
    int count, arrow = 1;

    if (isdigit((unsigned char)*line) && colon) {
        *colon = '\0';
        if (number_of(line, UINT32_MAX, &entry->number) < 0 || entry->number == 0)
            return wrong(to, "%s is not the number of an entry", line);
        line = colon + 1 + strspn(colon + 1, " \t");
    }
    snprintf(entry->text, sizeof entry->text, "%s", line);
    count = cut(line, words, to);
    if (count < 0)
        return -1;
    if (count == 0)
        return wrong(to, "an entry without a function");
    while (arrow < count && strcmp(words[arrow], "->") != 0)
        arrow++;
    if (arrow >= count)
        return wrong(to, "an entry is FUNCTION [CONDITION...] -> ACTION");
    if (read_function(entry, words[0], to) < 0)
        return -1;
    for (int i = 1; i < arrow; i++)
        if (read_match(entry, words[i], to) < 0)
            return -1;
    return read_action(entry, (size_t)(count - arrow - 1), words + arrow + 1, to);
}

static int read_module(struct chaos_plan *plan, const char *path, const struct complaint *to)
{
    if (path[0] != '/')
        return wrong(to, "the path of the module is not absolute");
    if (plan->module[0])
        return wrong(to, "a second module");
    snprintf(plan->module, sizeof plan->module, "%s", path);
    return 0;
}

static int read_line(struct chaos_plan *plan, char *line, const struct complaint *to)
{
    struct chaos_entry *entry = &plan->entries[plan->count];

    if (*line == '\0' || *line == '#')
        return 0;
    if (strncmp(line, "module", 6) == 0 && (line[6] == ' ' || line[6] == '\t'))
        return read_module(plan, line + 6 + strspn(line + 6, " \t"), to);
    if (plan->count == CHAOS_ENTRIES)
        return wrong(to, "more than %d entries", CHAOS_ENTRIES);
    if (read_entry(entry, line, to) < 0)
        return -1;
    for (size_t i = 0; entry->number && i < plan->count; i++)
        if (plan->entries[i].number == entry->number)
            return wrong(to, "a second entry %lu", entry->number);
    plan->count++;
    return 0;
}

static int read_lines(struct chaos_plan *plan, const char *text, size_t length, struct complaint *to)
{
    const char *end = text + length;
    while (text < end) {
        char line[CHAOS_LINE];
        const char *stop = memchr(text, '\n', (size_t)(end - text));
        size_t size = (size_t)((stop ? stop : end) - text);
        to->line++;
        if (size >= sizeof line)
            return wrong(to, "longer than %d bytes", CHAOS_LINE - 1);
        for (size_t i = 0; i < size; i++)
            if ((unsigned char)text[i] < ' ' && text[i] != '\t')
                return wrong(to, "a control character");
        while (size && (text[size - 1] == ' ' || text[size - 1] == '\t'))
            size--;
        memcpy(line, text, size);
        line[size] = '\0';
        if (read_line(plan, line + strspn(line, " \t"), to) < 0)
            return -1;
        text = stop ? stop + 1 : end;
    }
    to->line = 0;
    return plan->module[0] ? 0 : wrong(to, "no line says `module /path/of/the/library`");
}

struct chaos_plan *chaos_parse(const char *text, size_t length, char *reason, size_t room)
{
    struct complaint to = {reason, room, 0};
    struct chaos_plan *plan = calloc(1, sizeof *plan + CHAOS_ENTRIES * sizeof *plan->entries);
    if (!plan || length > CHAOS_PLAN) {
        wrong(&to, plan ? "longer than %d bytes" : "no memory to read it, of at most %d bytes", CHAOS_PLAN);
        free(plan);
        return NULL;
    }
    if (read_lines(plan, text, length, &to) == 0) {
        struct chaos_plan *fitting = realloc(plan, sizeof *plan + plan->count * sizeof *plan->entries);
        return fitting ? fitting : plan;
    }
    free(plan);
    return NULL;
}
