/* Results of CNI plug-ins: JSON that somebody else wrote, and that becomes a part of the file `net` as it stands.  So all of it is read, and
 * what this reader lets pass, Python's lets pass. */
#include "net_plugin.h"

#define DEEPEST 200
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

static struct net_span string(struct reader *in)
{
    struct net_span found = {0, 0};

    in->bad |= !take(in, '"');
    found.at = in->at;
    while (!in->bad && *in->at != '"') {
        const unsigned char *c = (const unsigned char *)in->at;
        const int more = more_of(c);

        in->bad = *c < ' ' || more < 0;
        in->at += 1 + (in->bad ? 0 : more);
        if (*c == '\\' && !in->bad)
            escape(in);
    }
    found.size = in->bad ? 0 : (uint32_t)(in->at - found.at);
    in->at += !in->bad;
    return found;
}

/* Some write a slash with a backslash before it, or a letter as \u0041, as JSON allows: without that. */
static struct net_span unescaped(struct reader *in, struct net_span text)
{
    char *to = in->to->room + in->to->used;
    uint32_t size = 0, any = 0;

    for (uint32_t i = 0; i < text.size; i++)
        any |= text.at[i] == '\\';
    if (!any || text.size > sizeof in->to->room - in->to->used) /* as long as that is nothing that counts */
        return text;
    for (uint32_t i = 0; i < text.size; i++) {
        const char *at = text.at + i;

        if (*at == '\\' && at[1] == 'u' && at[2] == '0' && at[3] == '0' && at[4] >= '2' && at[4] <= '7') {
            to[size++] = (char)((at[4] - '0') << 4 | (at[5] <= '9' ? at[5] - '0' : (at[5] | 0x20) - 'a' + 10));
            i += 5;
        } else if (*at == '\\' && (at[1] == '/' || at[1] == '"' || at[1] == '\\')) {
            to[size++] = at[1];
            i++;
        } else
            to[size++] = *at; /* of an escape that is no letter of ASCII, which is nothing that counts either */
    }
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
        struct net_span name;
        enum part part;

        in->bad |= count++ > 0 && !take(in, ',');
        name = string(in);
        part = what == OTHER ? OTHER : member(what, unescaped(in, name));
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

/* Of more than anybody has one of each family is enough. */
static void take_default(struct net_result *to, unsigned char family)
{
    for (uint32_t i = 0; i < to->default_count && to->default_count == NET_DEFAULTS; i++)
        if (to->defaults[i] == family)
            return;
    to->defaults[to->default_count < NET_DEFAULTS ? to->default_count++ : NET_DEFAULTS - 1] = family;
}

static void text(struct reader *in, enum part what)
{
    const struct net_span raw = string(in), found = what == OTHER ? raw : unescaped(in, raw);

    if (what == ADDRESS) {
        in->bad |= in->to->address_count == NET_ADDRESSES;
        if (!in->bad)
            in->to->address[in->to->address_count++] = found;
    } else if (what == ADDRESS4 || what == ADDRESS6) {
        in->address[what == ADDRESS6] = found;
        in->bad |= found.size == 0;
    } else if (what == TARGET && (is(found, "0.0.0.0/0") || is(found, "::/0"))) {
        take_default(in->to, found.at[0] == ':' ? '6' : '4');
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

long net_take_result(struct net_value *first, struct net_value *addresses, const struct net_result *result)
{
    struct net_value *kinds = first, *defaults = first + 1, *mac = first + 2;
    char *at = defaults->text, *end = at + sizeof defaults->text;

    memset(first, 0, sizeof *first * NET_OF_RESULT);
    for (uint32_t i = 0; i < result->address_count; i++) {
        const unsigned char family = net_take_address(addresses + i, result->address[i]);

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
        {
        memcpy(mac->text, result->mac.at, result->mac.size);
        mac->text[result->mac.size] = '\0';
    }
    return 0;
}
