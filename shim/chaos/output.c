/* What a call gives its caller (chaos.h): where it is, how much of it is filled, where its length is said. */
#include "chaos.h"

struct attribute { /* CK_ATTRIBUTE on LP64 */
    uint64_t type;
    uint8_t *value;
    uint64_t length;
};

static uint64_t *pointed(uint64_t word)
{
    return (uint64_t *)(uintptr_t)word;
}

/* The word that points to the length; 0 where there is none. */
static uint64_t *length_of(const struct chaos_argument *output, const uint64_t *words)
{
    if (output->form == CHAOS_COUNTED)
        return pointed(words[output->word + 1]);
    return output->form == CHAOS_LISTED ? pointed(words[output->word + 2]) : NULL;
}

const struct chaos_argument *chaos_output_of(unsigned index, int lengths)
{
    const struct chaos_argument *found = NULL, *argument = chaos_functions[index].arguments;
    for (; argument->name; argument++)
        switch (argument->form) {
        case CHAOS_FIXED:
        case CHAOS_FILL:
            if (!lengths)
                found = argument;
            break;
        case CHAOS_COUNTED:
        case CHAOS_LISTED:
        case CHAOS_QUERY:
            found = argument;
            break;
        default:
            break;
        }
    return found;
}

uint64_t chaos_output_room(const struct chaos_argument *output, const uint64_t *words)
{
    const uint64_t *length = length_of(output, words);
    uint64_t room;
    switch (output->form) {
    case CHAOS_FIXED:
        return output->unit;
    case CHAOS_FILL:
        return words[output->word + 1];
    case CHAOS_COUNTED:
        room = length ? *length : 0;
        break;
    case CHAOS_LISTED:
        room = words[output->word + 1];
        break;
    default: /* each attribute has its own */
        return UINT64_MAX;
    }
    return __builtin_mul_overflow(room, output->unit, &room) ? UINT64_MAX : room;
}

/* The last attribute that was filled. */
static struct chaos_output last_attribute(const uint64_t *words)
{
    struct attribute *attributes = (struct attribute *)(uintptr_t)words[0];
    struct chaos_output found = {0};
    for (uint64_t i = 0; attributes && i < words[1]; i++)
        if (attributes[i].length != CHAOS_UNAVAILABLE)
            found = (struct chaos_output){attributes[i].value, attributes[i].length, &attributes[i].length};
    return found;
}

struct chaos_output chaos_output_read(const struct chaos_argument *output, const uint64_t *words, uint64_t room)
{
    if (output->form == CHAOS_QUERY)
        return last_attribute(words + output->word);
    struct chaos_output found = {(uint8_t *)(uintptr_t)words[output->word], room, length_of(output, words)};
    if (found.length && __builtin_mul_overflow(*found.length, output->unit, &found.size))
        found.size = UINT64_MAX;
    /* A module that says more than it had room for is left to speak for itself. */
    if (found.size > room)
        found.bytes = NULL;
    return found;
}
