/* What dead pods have in the table by an address or a port that another pod takes over: clear() of pyrun.net.rules.  The lock is held.
 *
 * The elements of a set are asked for, and those are removed that are about that port, or lead to that address or keep it from the host. */
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>

#include "fast.h"
#include "net_script.h"

#define OF_INET 0x70 /* second byte of the MAC of an interface with an IPv4 address: pyrun.net.addresses */
#define NESTED 0x8000
#define KEY 24 /* bytes at most: an address, protocol and port, each padded to four */

/* What is meant: a port, or addresses. */
struct meant {
    int port;
    unsigned char raw[2][KEY];
    size_t size[2];
};

struct request {
    char data[512];
    size_t size;
};

static void put(struct request *to, const void *data, size_t size)
{
    if (size > sizeof to->data - to->size)
        return;
    memcpy(to->data + to->size, data, size);
    to->size += size;
    while (to->size % 4 != 0 && to->size < sizeof to->data)
        to->data[to->size++] = '\0';
}

static void put_attribute(struct request *to, uint16_t kind, const void *data, size_t size)
{
    const uint16_t head[2] = {(uint16_t)(4 + size), kind};

    put(to, head, sizeof head);
    put(to, data, size);
}

static size_t begin(struct request *to, uint16_t kind, uint16_t flags, unsigned char family, unsigned char subsystem)
{
    const size_t at = to->size;
    const struct nlmsghdr head = {.nlmsg_type = kind, .nlmsg_flags = flags | NLM_F_REQUEST};
    const unsigned char message[4] = {family, 0, 0, subsystem};

    put(to, &head, sizeof head);
    put(to, message, sizeof message);
    return at;
}

static void end(struct request *to, size_t at)
{
    const uint32_t size = (uint32_t)(to->size - at);

    memcpy(to->data + at, &size, sizeof size);
}

/* The value in an attribute of a list of them; size 0 where there is none. */
static const char *attribute(const char *data, size_t size, unsigned kind, size_t *found)
{
    for (size_t at = 0; size - at >= 4;) {
        uint16_t length, is;

        memcpy(&length, data + at, sizeof length);
        memcpy(&is, data + at + 2, sizeof is);
        if (length < 4 || length > size - at)
            break;
        if ((is & 0x3fffU) == kind) {
            *found = length - 4U;
            return data + at + 4;
        }
        if (NLMSG_ALIGN(length) > size - at)
            break;
        at += NLMSG_ALIGN(length);
    }
    *found = 0;
    return data;
}

static const char *value_of(const char *element, size_t size, unsigned kind, size_t *found)
{
    const char *data = attribute(element, size, kind, &size);

    return attribute(data, size, NFTA_DATA_VALUE, found);
}

static int is_meant(const struct meant *meant, const char *key, size_t key_size, const char *to, size_t to_size)
{
    for (int i = 0; i < 2; i++) {
        const size_t size = meant->size[i];

        if (size == 0)
            continue;
        if (key_size == size && memcmp(key, meant->raw[i], size) == 0)
            return 1;
        if (!meant->port && to_size >= size + 4 && to_size - size <= 4 && memcmp(to, meant->raw[i], size) == 0)
            return 1;
    }
    return 0;
}

static void forget(struct net *net, const char *set, const char *key, size_t size)
{
    struct request request = {.size = 0}, inner = {.size = 0}, outer = {.size = 0}, item = {.size = 0}, list = {.size = 0};
    uint32_t number;
    size_t at = begin(&request, NFNL_MSG_BATCH_BEGIN, 0, 0, NFNL_SUBSYS_NFTABLES);

    end(&request, at);
    put_attribute(&inner, NFTA_DATA_VALUE, key, size);
    put_attribute(&outer, NFTA_SET_ELEM_KEY | NESTED, inner.data, inner.size);
    put_attribute(&item, 1 | NESTED, outer.data, outer.size);
    put_attribute(&list, NFTA_SET_ELEM_LIST_ELEMENTS | NESTED, item.data, item.size);
    at = begin(&request, NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_DELSETELEM, NLM_F_ACK, 1 /* NFPROTO_INET */, 0);
    put_attribute(&request, NFTA_SET_ELEM_LIST_TABLE, net->table, str_len(net->table) + 1);
    put_attribute(&request, NFTA_SET_ELEM_LIST_SET, set, str_len(set) + 1);
    put(&request, list.data, list.size);
    end(&request, at);
    end(&request, begin(&request, NFNL_MSG_BATCH_END, 0, 0, NFNL_SUBSYS_NFTABLES));
    (void)net_send(net, NET_FILTER, request.data, request.size, 1, &number);
}

/* All answers are read before anything is removed: `keys` takes what is meant. */
static uint32_t find(struct net *net, const char *set, const struct meant *meant, unsigned char (*keys)[KEY + 1], uint32_t most)
{
    static char data[65536] __attribute__((aligned(8)));
    struct request request = {.size = 0};
    const size_t start = begin(&request, NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETSETELEM, NLM_F_DUMP, 1, 0);
    uint32_t count = 0;
    long fd, n;

    put_attribute(&request, NFTA_SET_ELEM_LIST_TABLE, net->table, str_len(net->table) + 1);
    put_attribute(&request, NFTA_SET_ELEM_LIST_SET, set, str_len(set) + 1);
    end(&request, start);
    if ((fd = net_open(net, NET_FILTER)) < 0 || sys_write((int)fd, request.data, request.size) != (long)request.size)
        return 0;
    while ((n = sys_call6(__NR_recvfrom, fd, data, sizeof data, 0, 0, 0)) > 0 || n == -EINTR) {
        struct nlmsghdr header;

        for (size_t at = 0; n > 0 && (size_t)n - at >= sizeof header; at += NLMSG_ALIGN(header.nlmsg_len)) {
            size_t left, size;
            const char *list, *element;

            memcpy(&header, data + at, sizeof header);
            if (header.nlmsg_type == NLMSG_DONE || header.nlmsg_type == NLMSG_ERROR || header.nlmsg_len < NET_BORDER ||
                NLMSG_ALIGN(header.nlmsg_len) > (size_t)n - at)
                return count;
            list = attribute(data + at + NET_BORDER, header.nlmsg_len - NET_BORDER, NFTA_SET_ELEM_LIST_ELEMENTS, &left);
            for (; left >= 4; list += NLMSG_ALIGN(size + 4), left -= NLMSG_ALIGN(size + 4) < left ? NLMSG_ALIGN(size + 4) : left) {
                size_t key_size, to_size;
                const char *key, *to;

                element = attribute(list, left, 1, &size);
                key = value_of(element, size, NFTA_SET_ELEM_KEY, &key_size);
                to = value_of(element, size, NFTA_SET_ELEM_DATA, &to_size);
                if (key_size > 0 && key_size <= KEY && count < most && is_meant(meant, key, key_size, to, to_size)) {
                    keys[count][0] = (unsigned char)key_size;
                    memcpy(keys[count++] + 1, key, key_size);
                }
            }
        }
    }
    return count;
}

static size_t raw_of(const char *text, unsigned char raw[16])
{
    struct net_value value = {.size = 0};

    if (!net_read_address(&value, text))
        return 0;
    memcpy(raw, value.raw, value.size);
    return value.size;
}

/* PROTOCOL-PORT-ADDRESS */
static void mean_port(struct meant *meant, const char *name)
{
    const unsigned char protocol = name[0] == 't' ? 6 : name[0] == 'u' ? 17 : 132;
    unsigned char *at = meant->raw[0];
    uint32_t port = 0;

    while (*name != '-' && *name != '\0')
        name++;
    for (name += *name == '-'; *name >= '0' && *name <= '9'; name++)
        port = port * 10 + (uint32_t)(*name - '0');
    meant->port = 1;
    at += *name == '-' && !str_eq(name + 1, "any") ? raw_of(name + 1, at) : 0;
    at[0] = protocol;
    at[4] = (unsigned char)(port >> 8);
    at[5] = (unsigned char)port;
    meant->size[0] = (size_t)(at + 8 - meant->raw[0]);
}

static void mean_address(struct meant *meant, const char *name)
{
    static const unsigned char local[9] = {0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0x04};
    unsigned char *other = meant->raw[1];

    meant->size[0] = raw_of(name, meant->raw[0]);
    if (meant->size[0] != 4)
        return;
    memcpy(other, local, sizeof local); /* that of its MAC (RFC 4291, appendix A) */
    other[9] = OF_INET;
    other[10] = meant->raw[0][0];
    other[11] = 0xff;
    other[12] = 0xfe;
    memcpy(other + 13, meant->raw[0] + 1, 3);
    meant->size[1] = 16;
}

void net_clear(struct net *net, const char *folder, const char *name)
{
    static const char sets[][8] = {"own4", "any4", "own6", "any6", "alone4", "alone6"};
    static unsigned char keys[4096][KEY + 1];
    struct meant meant = {.port = 0};

    if (net->fresh || net->table[0] == '\0' || !is_root())
        return;
    if (str_eq(folder, "ports"))
        mean_port(&meant, name);
    else
        mean_address(&meant, name);
    for (size_t i = 0; i < sizeof sets / sizeof *sets && meant.size[0] > 0; i++) {
        const uint32_t count = find(net, sets[i], &meant, keys, sizeof keys / sizeof *keys);

        for (uint32_t j = 0; j < count; j++)
            forget(net, sets[i], (const char *)keys[j] + 1, keys[j][0]);
    }
}
