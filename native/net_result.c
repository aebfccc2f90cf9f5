/* Results of CNI plug-ins: JSON that somebody else wrote, and that becomes a part of the file `net` as it stands.  So all of it is read, and
 * what this reader lets pass, Python's lets pass. */
#include "net_plugin.h"

#define DEEPEST 32
#define LONGEST_NUMBER 32
#define LONGEST_MAC 40

enum part { OTHER, TOP, IPS, IP, ADDRESS, ROUTES, ROUTE, TARGET, INTERFACES, INTERFACE, MAC, SANDBOX, OLD4, OLD6, ADDRESS4, ADDRESS6 };

struct reader {
    const char *at;
    struct net_result *to;
    struct net_span address[2], mac, sandbox; /* of ip4 and ip6; of the interface that is read */
    unsigned depth;
    int inside; /* an interface in the pod was found */
    int bad;
};

static void value(struct reader *in, enum part what);

static char peek(struct reader *in)
{
    while (!in->bad && (*in->at == ' ' || *in->at == '\t' || *in->at == '\n' || *in->at == '\r'))
        in->at++;
    return in->bad ? '\0' : *in->at;
}

static int take(struct reader *in, char c)
{
    if (peek(in) != c)
        return 0;
    in->at++;
    return 1;
}

static int is_hex(char c)
{
    return (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'f');
}

/* How many bytes of UTF-8 follow the first one of a letter; -1 for what is none, or could be written shorter (RFC 3629). */
static int more_of(const unsigned char *at)
{
    const int more = at[0] < 0x80 ? 0 : at[0] >= 0xc2 && at[0] < 0xe0 ? 1 : (at[0] & 0xf0) == 0xe0 ? 2 : at[0] >= 0xf0 && at[0] < 0xf5 ? 3 : -1;

    for (int i = 1; i <= more; i++)
        if ((at[i] & 0xc0) != 0x80)
            return -1;
    if ((at[0] == 0xe0 && at[1] < 0xa0) || (at[0] == 0xed && at[1] >= 0xa0) || (at[0] == 0xf0 && at[1] < 0x90) || (at[0] == 0xf4 && at[1] >= 0x90))
        return -1;
    return more;
}

static void escape(struct reader *in)
{
    switch (*in->at++) {
    case '"': case '\\': case '/': case 'b': case 'f': case 'n': case 'r': case 't':
        break;
    case 'u':
        for (int i = 0; i < 4 && !in->bad; i++)
            in->bad |= !is_hex(*in->at++);
        break;
    default:
        in->bad = 1;
    }
}

/* With `plain` nothing in it is written otherwise than it is meant. */
static struct net_span string(struct reader *in, int plain)
{
    struct net_span found = {0, 0};

    in->bad |= !take(in, '"');
    found.at = in->at;
    while (!in->bad && *in->at != '"') {
        const unsigned char *c = (const unsigned char *)in->at;
        const int more = more_of(c);

        in->bad = *c < ' ' || more < 0 || (*c == '\\' && plain && c[1] != '/');
        in->at += 1 + (in->bad ? 0 : more);
        if (*c == '\\' && !in->bad)
            escape(in);
    }
    found.size = in->bad ? 0 : (uint32_t)(in->at - found.at);
    in->at += !in->bad;
    return found;
}

/* Some write a slash with a backslash before it, as JSON allows: without that. */
static struct net_span unescaped(struct reader *in, struct net_span text)
{
    char *to = in->to->room + in->to->used;
    uint32_t size = 0, any = 0;

    for (uint32_t i = 0; i < text.size; i++)
        any |= text.at[i] == '\\';
    if (!any)
        return text;
    in->bad |= text.size > sizeof in->to->room - in->to->used;
    for (uint32_t i = 0; i < text.size && !in->bad; i++)
        if (text.at[i] != '\\')
            to[size++] = text.at[i];
    in->to->used += size;
    return (struct net_span){to, size};
}

static uint32_t digits(struct reader *in)
{
    uint32_t n = 0;

    for (; *in->at >= '0' && *in->at <= '9'; n++)
        in->at++;
    in->bad |= n == 0;
    return n;
}

static void number(struct reader *in)
{
    const char *start = in->at, *first;

    in->at += *in->at == '-';
    first = in->at;
    in->bad |= digits(in) > 1 && *first == '0';
    if (*in->at == '.') {
        in->at++;
        (void)digits(in);
    }
    if ((*in->at | 0x20) == 'e') {
        in->at++;
        in->at += *in->at == '+' || *in->at == '-';
        (void)digits(in);
    }
    in->bad |= in->at - start > LONGEST_NUMBER;
}

static int word(struct reader *in, const char *text)
{
    const size_t size = str_len(text);

    for (size_t i = 0; i < size; i++)
        if (in->at[i] != text[i])
            return 0;
    in->at += size;
    return 1;
}

static int is(struct net_span text, const char *what)
{
    return str_len(what) == text.size && memcmp(text.at, what, text.size) == 0;
}

static enum part member(enum part within, struct net_span name)
{
    static const struct {
        unsigned char within, is;
        char name[11];
    } known[] = {
        {TOP, IPS, "ips"},
        {TOP, ROUTES, "routes"},
        {TOP, INTERFACES, "interfaces"},
        {TOP, OLD4, "ip4"},
        {TOP, OLD6, "ip6"},
        {IP, ADDRESS, "address"},
        {ROUTE, TARGET, "dst"},
        {INTERFACE, MAC, "mac"},
        {INTERFACE, SANDBOX, "sandbox"},
        {OLD4, ADDRESS4, "ip"},
        {OLD6, ADDRESS6, "ip"},
    };

    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (known[i].within == within && is(name, known[i].name))
            return known[i].is;
    return OTHER;
}

/* What has no address where there has to be one is for Python to refuse. */
static void end_object(struct reader *in, enum part what, uint32_t seen)
{
    const enum part needed = what == IP ? ADDRESS : what == OLD4 ? ADDRESS4 : what == OLD6 ? ADDRESS6 : OTHER;

    in->bad |= needed != OTHER && (seen & 1U << needed) == 0;
    if (what != INTERFACE)
        return;
    if (in->sandbox.size > 0 && !in->inside) {
        in->inside = 1;
        in->to->mac = in->mac;
    }
    in->mac.size = in->sandbox.size = 0;
}

static void object(struct reader *in, enum part what)
{
    uint32_t seen = 0, count = 0;

    in->at++;
    while (!in->bad && !take(in, '}')) {
        enum part part;

        in->bad |= count++ > 0 && !take(in, ',');
        part = member(what, string(in, what != OTHER));
        in->bad |= !take(in, ':') || (part != OTHER && (seen & 1U << part) != 0);
        seen |= 1U << part;
        value(in, part);
    }
    if (what == TOP)
        in->to->members = count;
    end_object(in, what, seen);
}

static void array(struct reader *in, enum part what)
{
    const enum part item = what == IPS ? IP : what == ROUTES ? ROUTE : what == INTERFACES ? INTERFACE : OTHER;
    uint32_t count = 0;

    in->at++;
    while (!in->bad && !take(in, ']')) {
        in->bad |= count++ > 0 && !take(in, ',');
        value(in, item);
    }
}

static void text(struct reader *in, enum part what)
{
    const struct net_span found = what == OTHER ? string(in, 0) : unescaped(in, string(in, 1));

    if (what == ADDRESS) {
        in->bad |= in->to->address_count == NET_ADDRESSES;
        if (!in->bad)
            in->to->address[in->to->address_count++] = found;
    } else if (what == ADDRESS4 || what == ADDRESS6) {
        in->address[what == ADDRESS6] = found;
        in->bad |= found.size == 0;
    } else if (what == TARGET && (is(found, "0.0.0.0/0") || is(found, "::/0"))) {
        in->bad |= in->to->default_count == NET_DEFAULTS;
        if (!in->bad)
            in->to->defaults[in->to->default_count++] = found.at[0] == ':' ? '6' : '4';
    } else if (what == MAC) {
        in->mac = found;
    } else if (what == SANDBOX) {
        in->sandbox = found;
    }
}

static void value(struct reader *in, enum part what)
{
    static const uint32_t objects = 1 << OTHER | 1 << TOP | 1 << IP | 1 << ROUTE | 1 << INTERFACE | 1 << OLD4 | 1 << OLD6;
    static const uint32_t arrays = 1 << OTHER | 1 << IPS | 1 << ROUTES | 1 << INTERFACES;
    static const uint32_t texts = 1 << OTHER | 1 << ADDRESS | 1 << TARGET | 1 << MAC | 1 << SANDBOX | 1 << ADDRESS4 | 1 << ADDRESS6;
    static const uint32_t nulls = 1 << OTHER | 1 << IPS | 1 << ROUTES | 1 << INTERFACES | 1 << TARGET | 1 << SANDBOX | 1 << OLD4 | 1 << OLD6;
    const char c = peek(in);
    const uint32_t kinds = c == '{' ? objects : c == '[' ? arrays : c == '"' ? texts : c == 'n' ? nulls : 1 << OTHER;

    in->bad |= (kinds & 1U << what) == 0 || ++in->depth > DEEPEST;
    if (in->bad)
        return;
    if (c == '{')
        object(in, what);
    else if (c == '[')
        array(in, what);
    else if (c == '"')
        text(in, what);
    else if (c == '-' || (c >= '0' && c <= '9'))
        number(in);
    else
        in->bad |= !word(in, "null") && !word(in, "true") && !word(in, "false");
    in->depth--;
}

int net_read_result(struct net_result *result, const char *data, size_t size)
{
    struct reader in = {.at = data, .to = result};

    memset(result, 0, sizeof *result);
    value(&in, TOP);
    (void)peek(&in);
    in.bad |= in.at != data + size;
    for (size_t i = 0; i < 2; i++) /* results before 0.3.0 */
        if (in.address[i].size > 0) {
            in.bad |= result->address_count == NET_ADDRESSES;
            if (!in.bad)
                result->address[result->address_count++] = in.address[i];
        }
    return !in.bad;
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
static unsigned char take_address(struct net_value *address, struct net_span from)
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

long net_take_result(struct net_value *first, struct net_value *addresses, const struct net_result *result)
{
    struct net_value *kinds = first, *defaults = first + 1, *mac = first + 2;
    char *at = defaults->text, *end = at + sizeof defaults->text;

    memset(first, 0, sizeof *first * NET_OF_RESULT);
    for (uint32_t i = 0; i < result->address_count; i++) {
        const unsigned char family = take_address(addresses + i, result->address[i]);

        if (family == 0)
            return -EINVAL;
        kinds->raw[family == '6'] = kinds->raw[2] = 1;
    }
    for (uint32_t i = 0; i < result->default_count; i++) {
        const int six = result->defaults[i] == '6';

        defaults->raw[six] = 1;
        at = str_add(str_add(at, end, i > 0 ? "," : ""), end, six ? "\"::/0\"" : "\"0.0.0.0/0\"");
    }
    for (uint32_t i = 0; i < result->mac.size; i++)
        if (result->mac.size > LONGEST_MAC || (result->mac.at[i] != ':' && !is_hex(result->mac.at[i])))
            return -EINVAL;
    if (result->mac.size > 0)
        set_text(mac, result->mac.at, result->mac.size);
    return 0;
}
