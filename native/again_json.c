/* A walk through config.json without understanding it: where values begin and end.
 *
 * It need not refuse what is no JSON, see again_key.c; but it may not read past the end. */
#include "again.h"

uint32_t json_blank(const struct again *a, uint32_t at)
{
    while (a->text[at] == ' ' || a->text[at] == '\t' || a->text[at] == '\n' || a->text[at] == '\r')
        at++;
    return at;
}

/* Behind the value at `at`; 0 where the text ends before it does, which is not JSON. */
static uint32_t value_end(const struct again *a, uint32_t at)
{
    uint32_t depth = 0;
    int quoted = 0;

    for (; at < a->size; at++) {
        const char c = a->text[at];

        if (quoted) {
            if (c == '\\')
                at++;
            quoted = c != '"';
        } else if (c == '"') {
            quoted = 1;
        } else if (c == '{' || c == '[') {
            depth++;
            continue;
        } else if (c == '}' || c == ']') {
            if (depth == 0)
                return at;
            depth--;
        } else if (depth == 0 && (c == ',' || c == ' ' || c == '\t' || c == '\n' || c == '\r')) {
            return at;
        } else {
            continue;
        }
        if (depth == 0 && !quoted)
            return at + 1;
    }
    return 0;
}

/* What is between the quotes of a string of plain characters; 0 for anything else. */
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

/* Steps through an object or array: `at` is behind its bracket or a comma; 0 at the end, and with *at 0 for what is no JSON.
 * An array has no names. */
int json_next(const struct again *a, uint32_t *at, struct span *name, struct span *value)
{
    uint32_t here = json_blank(a, *at);

    if (a->text[here] == '}' || a->text[here] == ']')
        return 0;
    if (name != 0) {
        struct span quoted = {here, value_end(a, here) - here};

        *at = 0;
        if (a->text[here] != '"' || !json_plain(a, quoted, name))
            return 0;
        here = json_blank(a, here + quoted.size);
        if (a->text[here] != ':')
            return 0;
        here = json_blank(a, here + 1);
    }
    *value = (struct span){here, value_end(a, here) - here};
    here = json_blank(a, here + value->size);
    *at = a->text[here] == ',' ? here + 1 : here;
    if (value->size == 0 || value->size > a->size || (a->text[here] != ',' && a->text[here] != '}' && a->text[here] != ']'))
        return (int)(*at = 0);
    return 1;
}

/* The values of an object's members by name, of size 0 where there is none. */
int json_find(const struct again *a, struct span object, const char (*names)[16], struct span *values, int count)
{
    uint32_t at = object.at + 1;
    struct span name, value;

    for (int i = 0; i < count; i++)
        values[i].size = 0;
    if (object.size == 0 || a->text[object.at] != '{')
        return 0;
    while (json_next(a, &at, &name, &value))
        for (int i = 0; i < count; i++)
            if (same(a, name, names[i]))
                values[i] = value;
    return at != 0;
}

int json_elements(const struct again *a, struct span array, struct span *found, uint32_t *count)
{
    uint32_t at = array.at + 1;
    struct span value;

    *count = 0;
    if (array.size == 0 || same(a, array, "null"))
        return 1;
    if (a->text[array.at] != '[')
        return 0;
    while (json_next(a, &at, 0, &value)) {
        if (*count == AGAIN_ITEMS)
            return 0;
        found[(*count)++] = value;
    }
    return at != 0;
}
