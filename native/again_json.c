/* Where values begin and end in config.json, by the reader of oci_json.h.
 *
 * What is no JSON need not be refused, see again_key.c; but nothing may be read past the end. */
#include "again.h"

static struct json read_at(const struct again *a, uint32_t place)
{
    return (struct json){.at = (char *)(uintptr_t)(a->text + place), .end = a->text + a->size};
}

static struct span span_of(const struct again *a, const char *start, size_t size)
{
    return (struct span){(uint32_t)(start - a->text), (uint32_t)size};
}

int json_plain(const struct again *a, struct span value, struct span *inside)
{
    if (value.size < 2 || value.size > a->size || a->text[value.at] != '"')
        return 0;
    for (uint32_t i = 1; i + 1 < value.size; i++)
        if (a->text[value.at + i] < 0x20 || a->text[value.at + i] == 0x7f || a->text[value.at + i] == '\\')
            return 0;
    *inside = (struct span){value.at + 1, value.size - 2};
    return 1;
}

static int same(const struct again *a, struct span span, const char *word)
{
    return span.size == str_len(word) && memcmp(a->text + span.at, word, span.size) == 0;
}

struct members json_members(const struct again *a, struct span object)
{
    struct members members = {.json = read_at(a, object.at)};

    members.json.bad = object.size == 0;
    json_open(&members.json, '{');
    return members;
}

int json_next(const struct again *a, struct members *of, struct span *name, struct span *value)
{
    const char *start;
    size_t size;

    if (!json_more(&of->json, '}', &of->count))
        return 0;
    start = json_name(&of->json, &size);
    of->json.bad |= !json_plain(a, span_of(a, start - 1, size + 2), name);
    start = json_text(&of->json, &size);
    *value = span_of(a, start, size);
    return !of->json.bad;
}

int json_find(const struct again *a, struct span object, const char (*names)[16], struct span *values, int count)
{
    struct members members = json_members(a, object);
    struct span name, value;

    for (int i = 0; i < count; i++)
        values[i].size = 0;
    while (json_next(a, &members, &name, &value))
        for (int i = 0; i < count; i++)
            if (same(a, name, names[i]))
                values[i] = value;
    return !members.json.bad;
}

int json_elements(const struct again *a, struct span array, struct span *found, uint32_t *count)
{
    struct json json = read_at(a, array.at);
    const char *start;
    size_t size;

    *count = 0;
    if (array.size == 0 || same(a, array, "null"))
        return 1;
    json_open(&json, '[');
    while (json_more(&json, ']', count)) {
        start = json_text(&json, &size);
        if (json.bad || *count > AGAIN_ITEMS)
            return 0;
        found[*count - 1] = span_of(a, start, size);
    }
    return !json.bad;
}
