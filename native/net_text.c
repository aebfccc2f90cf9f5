/* Texts of a script: what only a start knows is put in where the script has a mark, see net_script.h. */
#include "net_script.h"

int net_inside(const struct net *net, uint64_t at, uint64_t size)
{
    return at < net->pool_size && size < net->pool_size - at;
}

static char *put_hex(char *at, const char *end, const struct net_value *value, const char *between)
{
    static const char digits[] = "0123456789abcdef";

    for (uint32_t i = 0; i < value->size; i++) {
        const char pair[] = {digits[value->raw[i] >> 4], digits[value->raw[i] & 15], '\0'};

        at = str_add(str_add(at, end, i > 0 ? between : ""), end, pair);
    }
    return at;
}

/* The addresses that the plug-ins of a network gave, as a list has them. */
static char *put_list(char *at, const char *end, const struct net_plugged *plugged)
{
    for (uint32_t i = 0; i < plugged->address_count; i++)
        at = str_add(str_add(str_add(at, end, i > 0 ? ",\"" : "\""), end, plugged->address[i].text), end, "\"");
    return at;
}

/* A line for each of them, without its length. */
static char *put_each(char *at, const char *end, const struct net_plugged *plugged, const char *from, const char *last)
{
    for (uint32_t i = 0; i < plugged->address_count; i++)
        for (const char *c = from; c < last && at != 0; c++) {
            if (at + sizeof plugged->address[i].text >= end)
                return 0;
            if (*c != NET_THIS)
                *at++ = *c;
            else
                for (const char *word = plugged->address[i].text; *word != '\0' && *word != '/'; word++)
                    *at++ = *word;
        }
    return at;
}

static char *put_mark(const struct net *net, char *out, const char *end, char mark, uint32_t number)
{
    const struct net_plugged *plugged = &net->plugged[number % NET_PLUGGED];

    switch (mark) {
    case NET_TEXT:
        return str_add(out, end, net->value[number].text);
    case NET_RESULT:
        return str_add(out, end, plugged->size > 0 ? plugged->result : "{}");
    case NET_LIST:
        return put_list(out, end, plugged);
    default:
        return put_hex(out, end, &net->value[number], mark == NET_HEX ? "" : ":");
    }
}

long net_text(const struct net *net, uint32_t at, uint32_t size, char *to, size_t room)
{
    const char *end = to + room;
    char *out = to;

    if (!net_inside(net, at, size))
        return -EINVAL;
    for (const char *from = net->pool + at, *last = from + size; from < last; from++) {
        const char mark = *from, *first;
        uint32_t number;

        if (out == 0 || out + 1 >= end)
            return -E2BIG;
        if (mark < NET_TEXT || mark > NET_EACH) {
            *out++ = mark;
            continue;
        }
        if (last - from < 3)
            return -EINVAL;
        number = ((uint32_t)(unsigned char)from[1] - NET_FIRST) * NET_BASE + (uint32_t)(unsigned char)from[2] - NET_FIRST;
        if (number >= (mark >= NET_RESULT ? NET_PLUGGED : NET_VALUES))
            return -EINVAL;
        from += 2;
        if (mark != NET_EACH) {
            out = put_mark(net, out, end, mark, number);
            continue;
        }
        for (first = ++from; from < last && *from != NET_END; from++)
            ;
        out = put_each(out, end, &net->plugged[number], first, from);
    }
    return out == 0 ? -E2BIG : out - to;
}
