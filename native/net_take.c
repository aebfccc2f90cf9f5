/* What a pod takes of what pods share: addresses and ports, which are links to its UUID (pyrun.net.leases, pyrun.net.ports). */
#include "net_script.h"

#include "refuse.h"
#include "say.h"

#define SOL_SOCKET 1
#define SO_REUSEADDR 2
#define IPPROTO_IPV6 41
#define IPV6_V6ONLY 26
#define AF_INET6 10
#define SOCK_STREAM 1

static int any(const char *address)
{
    return str_eq(address, "any");
}

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

/* Whether what a link says is a dead pod's; `owner` is who has it, "" where that is gone. */
static int is_left(const struct net *net, int dir, const char *path, char owner[UUID_LENGTH + 1])
{
    const long n = sys_call4(__NR_readlinkat, dir, path, owner, UUID_LENGTH + 1);

    owner[n == UUID_LENGTH ? n : 0] = '\0';
    return owner[0] != '\0' && !net_lives(net, owner);
}

/* Takes it unless somebody has it or, unless with `dead`, had. */
static long claim(struct net *net, const char *folder, const char *name, int dead)
{
    char path[PATH_SIZE], owner[UUID_LENGTH + 1] = "";
    long r = path_of(path, folder, name) == 0 ? -ENAMETOOLONG : sys_call3(__NR_symlinkat, net->uuid, net->networks, path);

    if (r == -ENOENT) {
        (void)sys_call3(__NR_mkdirat, net->networks, folder, 0700);
        r = sys_call3(__NR_symlinkat, net->uuid, net->networks, path);
    }
    if (r == -EEXIST && dead && is_left(net, net->networks, path, owner)) {
        (void)sys_call3(__NR_unlinkat, net->networks, path, 0);
        r = sys_call3(__NR_symlinkat, net->uuid, net->networks, path);
        if (r == 0)
            net_clear(net, folder, name);
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

static void refuse_address(const struct net *net, const char *folder, const char *address)
{
    char path[PATH_SIZE], owner[UUID_LENGTH + 1] = "", why[160];
    const char *end = why + sizeof why;
    const long n = path_of(path, folder, address) == 0 ? -1 : sys_call4(__NR_readlinkat, net->networks, path, owner, UUID_LENGTH);

    owner[n == UUID_LENGTH ? n : 0] = '\0';
    if (n != UUID_LENGTH || !net_lives(net, owner) ||
        str_add(str_add(str_add(str_add(why, end, address), end, " is pod "), end, owner), end, "'s") == 0)
        return;
    refuse("join network", folder, why, "choose another address", "--net");
}

/* Behind the name of the network stands the subnet. */
static void refuse_all(const char *folder, uint64_t count)
{
    char why[256], hint[256];
    struct say to = {why, why + sizeof why};

    say_text(&to, "all ");
    say_number(&to, count);
    say_text(&to, " addresses of ");
    say_text(&to, folder + str_len(folder) + 1);
    say_text(&to, " are in use");
    to = (struct say){hint, hint + sizeof hint};
    say_text(&to, "end pods, or make a larger one: see `pyrun network show ");
    say_text(&to, folder);
    say_text(&to, "`");
    refuse("join network", folder, why, hint, "");
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
        r = claim(net, folder, value->text, 1);
        if (r == -EEXIST)
            refuse_address(net, folder, value->text);
        return r;
    }
    n = sys_call4(__NR_readlinkat, net->networks, path, text, sizeof text);
    start = number_in(text, n) % most;
    for (uint64_t step = 0; step < 2 * (uint64_t)most && r == -EEXIST; step++) { /* first what nobody has, then what the dead have */
        const uint64_t place = (start + step) % most;

        set_address(value, net->pool + base, size, place + 2);
        r = claim(net, folder, value->text, step >= most);
        if (r == 0)
            note(net, path, (place + 1) % most);
    }
    if (r == -EEXIST)
        refuse_all(folder, most);
    return r;
}

/* What a link of a port means, PROTOCOL-PORT-ADDRESS, in words. */
static void refuse_port(const char *name, const char *why, const char *hint)
{
    char subject[128], part[3][64] = {"", "", ""};
    struct say to = {subject, subject + sizeof subject};
    int at = 0;

    for (size_t n = 0; *name != '\0'; name++)
        if (*name == '-' && at < 2) {
            at++;
            n = 0;
        } else if (n + 1 < sizeof part[0])
            part[at][n++] = *name;
    if (!any(part[2])) {
        say_text(&to, part[2]);
        say_text(&to, ":");
    }
    say_text(&to, part[1]);
    say_text(&to, "/");
    say_text(&to, part[0]);
    refuse("forward port", subject, why, hint, "--port");
}

#define OTHER_PORT "choose another port of the host"

/* Whether somebody has the same port of that address, or of all, which is told; what dead pods have is taken from them, `dead` says so. */
static int is_claimed(struct net *net, const char *name, int *dead)
{
    OWNED_FD dir = (int)sys_openat(net->networks, "ports", O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
    char buffer[8192] __attribute__((aligned(8))), owner[UUID_LENGTH + 1] = "", why[96] = "it is forwarded to pod ";
    size_t head = 0;
    long n;

    for (int dashes = 0; dashes < 2 && name[head] != '\0'; head++)
        dashes += name[head] == '-';
    while (dir >= 0 && (n = sys_call3(__NR_getdents64, dir, buffer, sizeof buffer)) > 0)
        for (long at = 0; at < n; at += *(unsigned short *)(buffer + at + 16)) {
            const char *other = buffer + at + 19; /* struct linux_dirent64: 8 + 8 + 2 + 1 bytes before the name */

            if (memcmp(other, name, head) != 0 || !(any(other + head) || any(name + head) || str_eq(other, name)))
                continue;
            if (is_left(net, dir, other, owner)) {
                (void)sys_call3(__NR_unlinkat, dir, other, 0);
                net_clear(net, "ports", other);
                *dead = 1;
            } else if (owner[0] != '\0') {
                (void)str_add(why + str_len(why), why + sizeof why, owner);
                refuse_port(name, why, OTHER_PORT);
                return 1;
            }
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

/* A pod that has just ended may have a process that listens yet, which is being ended. */
static long probe_soon(const char *address, uint32_t type, uint32_t protocol, int dead)
{
    static const struct __kernel_timespec step = {0, 10000000};
    long r = probe(address, type, protocol);

    for (int left = dead ? 500 : 0; r == -EADDRINUSE && left > 0; left--) {
        (void)sys_call2(__NR_nanosleep, &step, 0);
        r = probe(address, type, protocol);
    }
    return r;
}

long net_port(struct net *net, const struct net_op *op)
{
    const char *name = string(net, op->word[0]);
    int dead = 0;

    if (op->word[2] > 2 || net->pool_size - op->word[1] <= op->word[2] * 32)
        return -EINVAL;
    if (is_claimed(net, name, &dead))
        return -EADDRINUSE;
    for (uint32_t i = 0; i < op->word[2]; i++) {
        const long r = probe_soon(net->pool + op->word[1] + i * 32, op->word[3], op->word[4], dead);

        if (r == -EADDRINUSE)
            refuse_port(name, "a program of the host uses it", OTHER_PORT);
        else if (r == -EADDRNOTAVAIL)
            refuse_port(name, "the host has no such address", "write an address of the host, or none for all of them");
        if (r < 0)
            return r;
    }
    return claim(net, "ports", name, 1);
}
