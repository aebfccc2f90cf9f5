/* Addresses as text: what plug-ins answer, and names of links. */
#include "net_plugin.h"

static int is_hex(char c)
{
    return (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'f');
}

/* inet_pton(3); what stands at the end, or 0. */
static const char *read_ipv4(unsigned char raw[16], const char *at, const char *end)
{
    for (int i = 0; i < 4; i++) {
        unsigned number = 0;
        const char *start;

        if (i > 0 && (at == end || *at++ != '.'))
            return 0;
        for (start = at; at < end && at - start < 3 && *at >= '0' && *at <= '9'; at++)
            number = number * 10 + (unsigned)(*at - '0');
        if (at == start || number > 255 || (*start == '0' && at - start > 1))
            return 0;
        raw[i] = (unsigned char)number;
    }
    return at;
}

static const char *read_ipv6(unsigned char raw[16], const char *at, const char *end)
{
    int count = 0, gap = -1;

    memset(raw, 0, 16);
    while (at < end && *at != '/') {
        unsigned number = 0;
        const char *start;

        if (gap < 0 && end - at > 1 && at[0] == ':' && at[1] == ':') {
            gap = count;
            at += 2;
            continue;
        }
        if (count > 0 && gap != count && *at++ != ':')
            return 0;
        for (start = at; at < end && at - start < 4 && is_hex(*at); at++)
            number = number * 16 + (unsigned)(*at <= '9' ? *at - '0' : (*at | 0x20) - 'a' + 10);
        if (at < end && *at == '.' && count <= 6) { /* the rest is an IPv4 address */
            at = read_ipv4(raw + 2 * count, start, end);
            count += 2;
            if (at == 0 || at == end || *at != '/')
                return 0;
            break;
        }
        if (at == start || count == 8)
            return 0;
        raw[2 * count] = (unsigned char)(number >> 8);
        raw[2 * count++ + 1] = (unsigned char)number;
    }
    if (gap < 0 ? count != 8 : count == 8)
        return 0;
    if (gap >= 0) {
        memmove(raw + 16 - 2 * (count - gap), raw + 2 * gap, (size_t)(2 * (count - gap)));
        memset(raw + 2 * gap, 0, (size_t)(2 * (8 - count)));
    }
    return at;
}

static void set_text(struct net_value *value, const char *at, size_t size)
{
    memcpy(value->text, at, size);
    value->text[size] = '\0';
}

/* ADDRESS/LENGTH; the family's digit, 0 for anything else. */
unsigned char net_take_address(struct net_value *address, struct net_span from)
{
    const char *end = from.at + from.size, *at = from.at, *slash;
    unsigned number = 0;
    int six = 0;

    for (const char *c = from.at; c < end; c++)
        six |= *c == ':';
    slash = six ? read_ipv6(address->raw, at, end) : read_ipv4(address->raw, at, end);
    if (slash == 0 || from.size >= sizeof address->text)
        return 0;
    if (slash != end && (*slash != '/' || end - slash < 2 || end - slash > 4 || (slash[1] == '0' && end - slash > 2)))
        return 0;
    for (at = slash == end ? end : slash + 1; at < end && *at >= '0' && *at <= '9'; at++)
        number = number * 10 + (unsigned)(*at - '0');
    if (at != end || number > (six ? 128 : 32))
        return 0;
    address->size = six ? 16 : 4;
    set_text(address, from.at, from.size);
    return six ? '6' : '4';
}

int net_read_address(struct net_value *value, const char *text)
{
    return net_take_address(value, (struct net_span){text, (uint32_t)str_len(text)}) != 0;
}
