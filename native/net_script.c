/* The launcher's short way to a network of the pod's own: carries out a script of pyrun.net.script's.
 *
 * Nothing is decided here.  What cannot be had as the script says, an address that somebody has, a port, a bridge that is not there, an answer that is
 * not yes, is given back, and the start is Python's.  The order is that of pyrun.net.attach, so that whoever finds the rest of a start
 * that was killed knows it. */
#include <linux/netlink.h>
#include <linux/poll.h>

#include "fast.h"
#include "handover.h"
#include "net_script.h"
#include "prepared.h"
#include "refuse.h"
#include "shared.h"

#define SOCK_RAW 3
#define AF_NETLINK 16
#define NETLINK_NETFILTER 12
#define ANSWER 32768

static const char *string(const struct net *net, uint32_t at)
{
    return net->pool + at; /* the pool ends with a NUL, and `at` was looked at */
}

long net_lock(struct net *net)
{
    net->lock = (int)sys_openat(net->networks, "lock", O_RDWR | O_CREAT, 0600);
    return net->lock < 0 ? net->lock : sys_call2(__NR_flock, net->lock, LOCK_EX);
}

void net_unlock(struct net *net)
{
    if (net->lock >= 0)
        sys_close(net->lock);
    net->lock = -1;
}

static long file(struct net *net, const struct net_op *op)
{
    static char text[NET_RECORD];
    const long n = net_text(net, op->word[1], op->word[2], text, sizeof text);

    net->recorded |= str_eq(string(net, op->word[0]), "net");
    return n < 0 ? n : replace_file(net->pod, string(net, op->word[0]), text, (size_t)n, 0);
}

char *net_room(size_t size)
{
    const long r = sys_call6(__NR_mmap, 0, size, 3 /* read, write */, 0x4022 /* private, anonymous, without reserve */, -1, 0);

    return (unsigned long)r > -4096UL ? 0 : (char *)r;
}

long net_read(int dir, const char *name, char **data, size_t most)
{
    OWNED_FD file = (int)sys_openat(dir, name, O_RDONLY | O_NOFOLLOW, 0);
    struct stat st;
    long n = file < 0 ? file : sys_fstat(file, &st), size = 0;

    *data = 0;
    if (n < 0)
        return n;
    if ((uint64_t)st.st_size > most)
        return -EFBIG;
    *data = net_room((size_t)st.st_size + 1);
    while (*data != 0 && size < st.st_size && (n = sys_read(file, *data + size, st.st_size - size)) > 0)
        size += n;
    return *data == 0 ? -ENOMEM : n < 0 ? n : size;
}

int net_socket(int family)
{
    return (int)sys_call3(__NR_socket, AF_NETLINK, SOCK_RAW | O_CLOEXEC, family);
}

/* Nobody on a pod's network is its router but the host, which says so without advertisements (CVE-2020-10749). */
void net_hear_no_advertisements(void)
{
    (void)write_file(AT_FDCWD, "/proc/sys/net/ipv6/conf/default/accept_ra", 0, 0, "0", 1); /* without IPv6 there is nothing to be told */
}

static long new_namespace(struct net *net, const struct net_op *op)
{
    OWNED_FD host = (int)sys_openat(AT_FDCWD, "/proc/self/ns/net", O_RDONLY, 0);
    long r = host;

    if (host >= 0 && !is_root()) {
        r = net_make_user(net);
        net_number(&net->value[op->word[0]], (uint32_t)net->ns);
        return r;
    }
    r = host < 0 ? host : sys_call1(__NR_unshare, CLONE_NEWNET);
    if (r < 0)
        return r;
    net->ns = (int)sys_openat(AT_FDCWD, "/proc/self/ns/net", O_RDONLY, 0);
    net->socket[NET_INSIDE] = net_socket(0);
    net_hear_no_advertisements();
    if (sys_call2(__NR_setns, host, CLONE_NEWNET) < 0)
        sys_exit(125); /* it may: it was there.  Anything but going on in the wrong place */
    net_number(&net->value[op->word[0]], (uint32_t)net->ns);
    return net->ns < 0 ? net->ns : net->socket[NET_INSIDE] < 0 ? net->socket[NET_INSIDE] : 0;
}

/* Reads answers until the kernel has acknowledged all; the number of the link that one of them is about. */
static long answers(int fd, uint32_t awaited, uint32_t *number)
{
    static char data[ANSWER] __attribute__((aligned(8)));

    while (awaited > 0) {
        const long n = sys_call6(__NR_recvfrom, fd, data, sizeof data, 0, 0, 0);
        struct nlmsghdr header;

        if (n == -EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? n : -EIO;
        for (size_t at = 0, left = (size_t)n; left >= sizeof header; at += NLMSG_ALIGN(header.nlmsg_len), left = (size_t)n - at) {
            int32_t error = 0;

            memcpy(&header, data + at, sizeof header);
            if (header.nlmsg_len < sizeof header + sizeof error || header.nlmsg_len > left)
                break;
            if (header.nlmsg_type == NLMSG_ERROR) {
                memcpy(&error, data + at + sizeof header, sizeof error);
                if (error != 0)
                    return error;
                if (awaited > 0)
                    awaited--;
            } else if (header.nlmsg_len >= sizeof header + 8) {
                memcpy(number, data + at + sizeof header + 4, sizeof *number); /* struct ifinfomsg */
            }
            if (NLMSG_ALIGN(header.nlmsg_len) > left)
                break;
        }
    }
    return 0;
}

long net_open(struct net *net, uint32_t where)
{
    static const int room = 2 * NET_SIZE;

    if (net->socket[where] < 0) {
        net->socket[where] = net_socket(where == NET_FILTER ? NETLINK_NETFILTER : 0);
        if (where == NET_FILTER) /* a transaction comes in one piece */
            (void)sys_call5(__NR_setsockopt, net->socket[where], 1 /* SOL_SOCKET */, 32 /* SO_SNDBUFFORCE */, &room, sizeof room);
    }
    return net->socket[where];
}

/* Of a transaction only the last request is acknowledged: a socket has no room for thousands of answers.  Errors come in any case. */
static void quieten(char *data, size_t size)
{
    struct nlmsghdr header;
    size_t last = 0;

    for (size_t at = 0; size - at >= sizeof header; at += NLMSG_ALIGN(header.nlmsg_len)) {
        memcpy(&header, data + at, sizeof header);
        if (header.nlmsg_len < sizeof header || NLMSG_ALIGN(header.nlmsg_len) > size - at)
            return;
        if ((header.nlmsg_flags & NLM_F_ACK) == 0)
            continue;
        if (last > 0) {
            struct nlmsghdr before;

            memcpy(&before, data + last, sizeof before);
            before.nlmsg_flags &= (uint16_t)~NLM_F_ACK;
            memcpy(data + last, &before, sizeof before);
        }
        last = at;
    }
}

long net_send(struct net *net, uint32_t where, char *data, size_t size, uint32_t awaited, uint32_t *number)
{
    long r = net_open(net, where);

    if (r < 0)
        return r;
    if (where == NET_FILTER)
        quieten(data, size);
    r = sys_write(net->socket[where], data, size);
    r = r == (long)size ? answers(net->socket[where], awaited, number) : r < 0 ? r : -EIO;
    if (r < 0 && where == NET_FILTER) { /* there may be more of the answer */
        sys_close(net->socket[where]);
        net->socket[where] = -1;
    }
    return r;
}

long net_ask(struct net *net, const struct net_op *op)
{
    const uint32_t size = op->word[2], patches = op->word[4], value = op->word[6];
    uint32_t number = 0;
    long r = 0;

    if (op->word[0] >= NET_SOCKETS || !net_inside(net, op->word[1], size) || patches > NET_OPS ||
        !net_inside(net, op->word[3], patches * sizeof(struct net_patch)) || value > NET_VALUES)
        return -EINVAL;
    for (uint32_t i = 0; i < patches; i++) {
        struct net_patch patch;

        memcpy(&patch, net->pool + op->word[3] + i * sizeof patch, sizeof patch);
        if (patch.value >= NET_VALUES || patch.at > size || net->value[patch.value].size > size - patch.at)
            return -EINVAL;
        memcpy(net->pool + op->word[1] + patch.at, net->value[patch.value].raw, net->value[patch.value].size);
    }
    if (op->word[0] == NET_FILTER && net->ns >= 0)
        r = replace_file(net->pod, NET_ELEMENTS, net->pool + op->word[1], size, 0);
    if (r == 0)
        r = net_send(net, op->word[0], net->pool + op->word[1], size, op->word[0] == NET_FILTER ? op->word[5] > 0 : op->word[5], &number);
    net->told |= r == 0 && op->word[0] == NET_FILTER && net->ns >= 0; /* it has elements in our table */
    if (r == 0 && value > 0)
        net_number(&net->value[value - 1], number);
    return r;
}

static long carry_out(struct net *net, const struct net_op *op)
{
    for (size_t i = 0; i < 7; i++)
        if (op->what != NET_ASK && op->word[i] >= net->pool_size && !(op->what == NET_LEASE && i == 4))
            return -EINVAL;
    net->told |= op->what == NET_NAME;
    switch (op->what) {
    case NET_FAIL:
        refuse("forward port", string(net, op->word[0]), "the pod has no address of that family", "", "--port");
        return -EADDRNOTAVAIL;
    case NET_CHECK:
        return net_check(net, op);
    case NET_LOCK:
        return net_lock(net);
    case NET_UNLOCK:
        net_unlock(net);
        return 0;
    case NET_LEASE:
        return net_lease(net, op);
    case NET_RANDOM:
        return net_random(net, op);
    case NET_LINK_LOCAL:
        return net_link_local(net, op);
    case NET_PORT:
        return net_port(net, op);
    case NET_FILE:
        return file(net, op);
    case NET_NAMESPACE:
        return op->word[0] < NET_VALUES ? new_namespace(net, op) : -EINVAL;
    case NET_ASK:
        return net_ask(net, op);
    case NET_RELAY:
        return net_relay(net, op);
    case NET_SETTING:
        return write_file(AT_FDCWD, string(net, op->word[0]), 0, 0, string(net, op->word[1]), str_len(string(net, op->word[1])));
    case NET_NAME:
        return net_name(net, op);
    case NET_HOSTS:
        return net_hosts(net, op);
    case NET_UNLESS:
        return net_unless(net, op);
    case NET_RULES:
        return net_rules(net, op);
    case NET_FORWARD:
        return net_forward();
    case NET_PROGRAM:
        return net_program(net, op);
    case NET_PLUGIN:
        return net_plugin(net, op);
    case NET_WHEN:
        return net_when(net, op);
    case NET_PICK:
        return net_pick(net, op);
    case NET_INTACT:
        return net_intact(net, op);
    default:
        return -EINVAL;
    }
}

/* The pool for another pod: its UUID, and the beginning of that, which is in names of links. */
static void fill_in(struct net *net, const char *before)
{
    char old[UUID_LENGTH];

    memcpy(old, before, sizeof old);
    if (memcmp(old, net->uuid, sizeof old) == 0)
        return;
    for (char *at = net->pool, *end = at + net->pool_size; at + RECIPE_SHORT < end; at++)
        if (*at == old[0] && memcmp(at, old, RECIPE_SHORT) == 0)
            memcpy(at, net->uuid, at + UUID_LENGTH < end && memcmp(at, old, UUID_LENGTH) == 0 ? UUID_LENGTH : RECIPE_SHORT);
}

static void undo(struct net *net, const char *root)
{
    net_end_relay(net);
    net_end_program(net);
    if (net->ns >= 0)
        sys_close(net->ns); /* and the kernel takes the links apart */
    if (net->socket[NET_INSIDE] >= 0)
        sys_close(net->socket[NET_INSIDE]);
    net->ns = net->socket[NET_INSIDE] = -1;
    if (net->told && net->prepared) {
        net_unlock(net);
        (void)net_undo(net, root); /* else `net` stays, for who comes next */
    }
    if (net->told || !net_take_back(net))
        return;
    net_give_back(net);
    (void)sys_call3(__NR_unlinkat, net->pod, "hosts", 0);
    (void)sys_call3(__NR_unlinkat, net->pod, "cleaner", 0);
    (void)sys_call3(__NR_unlinkat, net->pod, NET_ELEMENTS, 0);
    if (net->recorded)
        (void)sys_call3(__NR_unlinkat, net->pod, "net", 0);
}

static struct net net;

static int begin(const char *root, int pod, const char *uuid, char *script, size_t size)
{
    const struct net_script *header = (const struct net_script *)script;
    char path[PATH_SIZE];

    static int used; /* all is zero before that */

    if (used)
        memset(&net, 0, sizeof net);
    used = 1;
    net.pod = pod;
    net.uuid = uuid;
    net.lock = net.ns = -1;
    for (int i = 0; i < NET_SOCKETS; i++)
        net.socket[i] = -1;
    if (size < sizeof *header || header->magic != NET_MAGIC || header->version != NET_VERSION || header->size != size ||
        header->count > NET_OPS || header->pool != sizeof *header + header->count * sizeof(struct net_op) || header->pool >= size ||
        script[size - 1] != '\0')
        return 0;
    net.ops = (const struct net_op *)(header + 1);
    net.op_count = header->count;
    net.pool = script + header->pool;
    net.pool_size = (uint32_t)size - header->pool;
    net.table = net.pool + (header->table < net.pool_size ? header->table : 0);
    if (!net_inside(&net, header->uuid, UUID_LENGTH) || join(path, root, "/networks", "") == 0)
        return 0;
    fill_in(&net, net.pool + header->uuid);
    net.networks = (int)sys_openat(AT_FDCWD, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
    return net.networks >= 0;
}

static void finish(void)
{
    net_unlock(&net);
    for (int i = 0; i < NET_SOCKETS; i++)
        if (net.socket[i] >= 0)
            sys_close(net.socket[i]);
    sys_close(net.networks);
}

/* What went wrong with what this start has asked for, where whoever did it has not said so: as _refused() of pyrun.net.attach. */
static void refuse_op(long error)
{
    const char *hint = error == -EOPNOTSUPP ? "this kernel has no such kind of interface: CONFIG_VETH, CONFIG_BRIDGE"
                       : error == -ENOSPC || error == -EDQUOT ? "free some space, or keep the state elsewhere with --root DIR"
                                          : "pyrun needs root (CAP_NET_ADMIN), and a kernel with veth, bridge and nf_tables";

    refuse("set up the pod's network", "", errno_text(error), hint, "");
}

int net_make(const char *root, int pod, const char *uuid, char *script, size_t size, int prepared)
{
    long r = 0;

    if (!begin(root, pod, uuid, script, size))
        return -EINVAL;
    net.prepared = prepared;
    for (uint32_t i = 0; r == 0 && i < net.op_count; i += 1 + net.skip) {
        net.skip = 0;
        r = carry_out(&net, net.ops + i);
        if (r < 0 && !is_refused() && net.ops[i].what != NET_RULES)
            refuse_op(r);
    }
    if (r < 0)
        undo(&net, root);
    finish();
    return r < 0 ? (int)r : net.ns;
}

int net_take_apart(const char *root, int pod, const char *uuid, char *script, size_t size)
{
    int done;

    if (!begin(root, pod, uuid, script, size))
        return 0;
    net.prepared = 1;
    done = net_undo(&net, root);
    finish();
    return done;
}
