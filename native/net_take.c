/* What a pod takes of what pods share: addresses and ports, which are links to its UUID (pyrun.net.leases, pyrun.net.ports). */
#include "net_script.h"

#define SOL_SOCKET 1
#define SO_REUSEADDR 2
#define IPPROTO_IPV6 41
#define IPV6_V6ONLY 26
#define AF_INET6 10
#define SOCK_STREAM 1

static const char *string(const struct net *net, uint32_t at)
{
    return net->pool + at;
}

void net_number(struct net_value *value, uint32_t number)
{
    value->size = sizeof number;
    memcpy(value->raw, &number, sizeof number);
    (void)str_add_number(value->text, value->text + sizeof value->text, number);
}

/* inet_ntop(3) of IPv6, for addresses that do not begin with 16 zero bits. */
static void write_ipv6(struct net_value *value)
{
    static const char digits[] = "0123456789abcdef";
    unsigned words[8];
    int best = -1, length = 1; /* the first of the longest runs of zeros, of two at least */
    char *at = value->text;

    for (int i = 0; i < 8; i++)
        words[i] = (unsigned)value->raw[2 * i] << 8 | value->raw[2 * i + 1];
    for (int i = 0; i < 8; i++) {
        int n = 0;

        while (i + n < 8 && words[i + n] == 0)
            n++;
        if (n > length) {
            best = i;
            length = n;
        }
    }
    for (int i = 0; i < 8; i++) {
        if (i == best) {
            *at++ = ':';
            if (i + length == 8)
                *at++ = ':';
            i += length - 1;
            continue;
        }
        if (i > 0)
            *at++ = ':';
        for (int shift = 12, shown = 0; shift >= 0; shift -= 4) {
            shown |= words[i] >> shift != 0 || shift == 0;
            if (shown)
                *at++ = digits[words[i] >> shift & 15];
        }
    }
    *at = '\0';
}

static void write_ipv4(struct net_value *value)
{
    char *at = value->text;

    for (int i = 0; i < 4; i++)
        at = str_add_number(str_add(at, value->text + sizeof value->text, i > 0 ? "." : ""), value->text + sizeof value->text, value->raw[i]);
}

static void set_address(struct net_value *value, const void *base, uint32_t size, uint64_t more)
{
    value->size = size;
    memcpy(value->raw, base, size);
    for (uint32_t i = size; i-- > 0 && more > 0; more >>= 8) {
        more += value->raw[i];
        value->raw[i] = (unsigned char)more;
    }
    if (size == 4)
        write_ipv4(value);
    else
        write_ipv6(value);
}

long net_link_local(struct net *net, const struct net_op *op)
{
    static const unsigned char beginning[12] = {0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0x04, 0, 0, 0xff}; /* of a MAC 06:... */
    unsigned char address[16];
    const unsigned char *from;

    if (op->word[0] >= NET_VALUES || op->word[1] >= NET_VALUES)
        return -EINVAL;
    from = net->value[op->word[0]].raw;
    memcpy(address, beginning, sizeof beginning);
    address[9] = (unsigned char)op->word[2];
    address[10] = from[0];
    address[12] = 0xfe;
    memcpy(address + 13, from + 1, 3);
    set_address(&net->value[op->word[1]], address, sizeof address, 0);
    return 0;
}

long net_random(struct net *net, const struct net_op *op)
{
    struct net_value *value = &net->value[op->word[0] < NET_VALUES ? op->word[0] : 0];

    value->size = 4;
    return op->word[0] < NET_VALUES && sys_call3(__NR_getrandom, value->raw, 4, 0) == 4 ? 0 : -EINVAL;
}

static char *path_of(char path[PATH_SIZE], const char *folder, const char *name)
{
    return join(path, folder, "/", name);
}

/* Whether what a link says is a dead pod's, which has no rules that would have to be taken away first; else that is Python's to find out. */
static int is_left(const struct net *net, int dir, const char *path)
{
    char owner[UUID_LENGTH + 1];

    if (!net->fresh || sys_call4(__NR_readlinkat, dir, path, owner, sizeof owner) != UUID_LENGTH)
        return 0;
    owner[UUID_LENGTH] = '\0';
    return !net_lives(net, owner);
}

/* Takes it unless somebody has it, or had. */
static long claim(struct net *net, const char *folder, const char *name)
{
    char path[PATH_SIZE];
    long r = path_of(path, folder, name) == 0 ? -ENAMETOOLONG : sys_call3(__NR_symlinkat, net->uuid, net->networks, path);

    if (r == -ENOENT) {
        (void)sys_call3(__NR_mkdirat, net->networks, folder, 0700);
        r = sys_call3(__NR_symlinkat, net->uuid, net->networks, path);
    }
    if (r == -EEXIST && is_left(net, net->networks, path)) {
        (void)sys_call3(__NR_unlinkat, net->networks, path, 0);
        r = sys_call3(__NR_symlinkat, net->uuid, net->networks, path);
    }
    if (r == 0 && net->taken_count < NET_TAKEN) {
        net->taken[net->taken_count].folder = folder;
        net->taken[net->taken_count++].name = name;
    }
    return r;
}

void net_give_back(const struct net *net)
{
    char path[PATH_SIZE];

    for (uint32_t i = 0; i < net->taken_count; i++)
        if (path_of(path, net->taken[i].folder, net->taken[i].name) != 0)
            (void)sys_call3(__NR_unlinkat, net->networks, path, 0);
}

static uint64_t number_in(const char *text, long size)
{
    uint64_t number = 0;

    for (long i = 0; i < size && text[i] >= '0' && text[i] <= '9'; i++)
        number = number * 10 + (uint64_t)(text[i] - '0');
    return number;
}

/* Not the same one again: somebody may still mean the old pod. */
static void note(const struct net *net, const char *path, uint64_t place)
{
    char beside[PATH_SIZE], text[24];

    if (join(beside, path, ".new", "") == 0)
        return;
    (void)str_add_number(text, text + sizeof text, place);
    (void)sys_call3(__NR_unlinkat, net->networks, beside, 0);
    if (sys_call3(__NR_symlinkat, text, net->networks, beside) == 0)
        (void)sys_call4(__NR_renameat, net->networks, beside, net->networks, path);
}

long net_lease(struct net *net, const struct net_op *op)
{
    const char *folder = string(net, op->word[0]), *last = string(net, op->word[1]);
    const uint32_t base = op->word[2], size = op->word[3], most = op->word[4], fixed = op->word[5];
    struct net_value *value = &net->value[op->word[6] < NET_VALUES ? op->word[6] : 0];
    char path[PATH_SIZE], text[32];
    uint64_t start;
    long n, r = -EEXIST;

    if (op->word[6] >= NET_VALUES || (size != 4 && size != 16) || net->pool_size - base <= size || net->pool_size - fixed <= size ||
        most == 0 || path_of(path, folder, last) == 0)
        return -EINVAL;
    if (fixed != 0) {
        set_address(value, net->pool + fixed, size, 0);
        return claim(net, folder, value->text);
    }
    n = sys_call4(__NR_readlinkat, net->networks, path, text, sizeof text);
    start = number_in(text, n) % most;
    for (uint64_t step = 0; step < most && r == -EEXIST; step++) {
        const uint64_t place = (start + step) % most;

        set_address(value, net->pool + base, size, place + 2);
        r = claim(net, folder, value->text);
        if (r == 0)
            note(net, path, (place + 1) % most);
    }
    return r;
}

static int any(const char *address)
{
    return str_eq(address, "any");
}

/* Whether somebody has, or had, the same port of that address, or of all. */
static int is_claimed(const struct net *net, const char *name)
{
    OWNED_FD dir = (int)sys_openat(net->networks, "ports", O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
    char buffer[8192] __attribute__((aligned(8)));
    size_t head = 0;
    long n;

    for (int dashes = 0; dashes < 2 && name[head] != '\0'; head++)
        dashes += name[head] == '-';
    while (dir >= 0 && (n = sys_call3(__NR_getdents64, dir, buffer, sizeof buffer)) > 0)
        for (long at = 0; at < n; at += *(unsigned short *)(buffer + at + 16)) {
            const char *other = buffer + at + 19; /* struct linux_dirent64: 8 + 8 + 2 + 1 bytes before the name */

            if (memcmp(other, name, head) == 0 && (any(other + head) || any(name + head) || str_eq(other, name)) &&
                !is_left(net, dir, other))
                return 1;
        }
    return 0;
}

/* Forwarding would hide what listens there already. */
static long probe(const char *address, uint32_t type, uint32_t protocol)
{
    static const int on = 1;
    const int family = (unsigned char)address[0]; /* little-endian */
    OWNED_FD fd = (int)sys_call3(__NR_socket, family, type | O_CLOEXEC, protocol);

    if (fd < 0)
        return 0; /* no IPv6, or no SCTP, in this host: nobody can listen */
    if (type == SOCK_STREAM)
        (void)sys_call5(__NR_setsockopt, fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (family == AF_INET6)
        (void)sys_call5(__NR_setsockopt, fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
    return sys_call3(__NR_bind, fd, address, family == AF_INET6 ? 28 : 16);
}

long net_port(struct net *net, const struct net_op *op)
{
    const char *name = string(net, op->word[0]);

    if (op->word[2] > 2 || net->pool_size - op->word[1] <= op->word[2] * 32)
        return -EINVAL;
    if (is_claimed(net, name))
        return -EADDRINUSE;
    for (uint32_t i = 0; i < op->word[2]; i++) {
        const long r = probe(net->pool + op->word[1] + i * 32, op->word[3], op->word[4]);

        if (r < 0)
            return r;
    }
    return claim(net, "ports", name);
}
