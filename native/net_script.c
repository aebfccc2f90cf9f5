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
#include "shared.h"

#define SOCK_RAW 3
#define AF_NETLINK 16
#define NETLINK_NETFILTER 12
#define ANSWER 32768

static const char *string(const struct net *net, uint32_t at)
{
    return net->pool + at; /* the pool ends with a NUL, and `at` was looked at */
}

static long lock(struct net *net)
{
    net->lock = (int)sys_openat(net->networks, "lock", O_RDWR | O_CREAT, 0600);
    return net->lock < 0 ? net->lock : sys_call2(__NR_flock, net->lock, LOCK_EX);
}

static long unlock(struct net *net)
{
    if (net->lock >= 0)
        sys_close(net->lock);
    net->lock = -1;
    return 0;
}

static long file(struct net *net, const struct net_op *op)
{
    static char text[NET_RECORD];
    const long n = net_text(net, op->word[1], op->word[2], text, sizeof text);

    net->recorded |= str_eq(string(net, op->word[0]), "net");
    return n < 0 ? n : replace_file(net->pod, string(net, op->word[0]), text, (size_t)n, 0);
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
    if (net->socket[where] < 0)
        net->socket[where] = net_socket(where == NET_FILTER ? NETLINK_NETFILTER : 0);
    return net->socket[where];
}

long net_send(struct net *net, uint32_t where, const char *data, size_t size, uint32_t awaited, uint32_t *number)
{
    long r = net_open(net, where);

    if (r < 0)
        return r;
    r = sys_write(net->socket[where], data, size);
    return r == (long)size ? answers(net->socket[where], awaited, number) : r < 0 ? r : -EIO;
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
        r = net_send(net, op->word[0], net->pool + op->word[1], size, op->word[5], &number);
    net->told |= r == 0 && op->word[0] == NET_FILTER && net->ns >= 0; /* it has elements in our table */
    if (r == 0 && value > 0)
        net_number(&net->value[value - 1], number);
    return r;
}

/* In the child: the relay says what became of it on descriptor 1.  Of a user's network it gets the program, a pidfd, and the namespace. */
static void become_relay(char *words, long size, int told, int program, int ns)
{
    char *argv[NET_OPS + 1] = {0};
    const int null = (int)sys_openat(AT_FDCWD, "/dev/null", O_RDWR, 0), first = program < 0 ? 3 : 5;
    const uint32_t count = net_split(words, size, argv);

    if (program >= 0 && (sys_call3(__NR_dup3, program, 3, 0) < 0 || sys_call3(__NR_dup3, ns, 4, 0) < 0))
        sys_exit(127);
    if (count > 1 && sys_call3(__NR_dup3, null, 0, 0) >= 0 && sys_call3(__NR_dup3, told, 1, 0) >= 0 && sys_call3(__NR_dup3, null, 2, 0) >= 0) {
        char *path = argv[0], name[] = "relay";
        const uint64_t none = 0;

        argv[0] = name;
        (void)sys_call4(__NR_rt_sigprocmask, SIG_SETMASK, &none, 0, sizeof none);
        (void)sys_call3(__NR_close_range, first, ~0U, 0);
        (void)sys_call3(__NR_execve, path, argv, argv + count);
    }
    sys_exit(127);
}

/* As pyrun.net.relay starts it: it says one number, its own, or what it failed at. */
static long relay(struct net *net, const struct net_op *op)
{
    static char words[NET_SIZE];
    char said[64];
    int pipe[2];
    uint64_t pid = 0;
    OWNED_FD held = op->word[3] != 0 ? (int)sys_call2(__NR_pidfd_open, net->program, 0) : -1, program = -1, ns = -1;
    long child, n = net_text(net, op->word[0], op->word[1], words, sizeof words - 1);

    if (n <= 0 || op->word[2] + 1 >= NET_VALUES || (op->word[3] != 0 && held < 0))
        return -EINVAL;
    words[n] = '\0';
    program = held < 0 ? -1 : out_of_the_way(held);
    ns = held < 0 ? -1 : out_of_the_way(net->ns);
    if (sys_call2(__NR_pipe2, pipe, O_CLOEXEC) < 0)
        return -EMFILE;
    child = sys_call5(__NR_clone, SIGCHLD, 0, 0, 0, 0);
    if (child == 0)
        become_relay(words, n, out_of_the_way(pipe[1]), program, ns);
    sys_close(pipe[1]);
    n = child < 0 ? child : sys_read(pipe[0], said, sizeof said - 1);
    sys_close(pipe[0]);
    if (child > 0)
        (void)sys_call4(__NR_wait4, child, 0, 0, 0);
    for (long i = 0; i < n && said[i] != '\n'; i++) {
        if (said[i] < '0' || said[i] > '9')
            return -EADDRINUSE; /* Python will know */
        pid = pid * 10 + (uint64_t)(said[i] - '0');
    }
    if (pid == 0)
        return -EIO;
    net->relay = (int32_t)pid;
    net_number(&net->value[op->word[2]], (uint32_t)pid);
    (void)str_add_number(net->value[op->word[2] + 1].text, net->value[op->word[2] + 1].text + sizeof net->value[0].text, start_time(net->relay));
    return 0;
}

static long carry_out(struct net *net, const struct net_op *op)
{
    for (size_t i = 0; i < 7; i++)
        if (op->what != NET_ASK && op->word[i] >= net->pool_size && !(op->what == NET_LEASE && i == 4))
            return -EINVAL;
    net->told |= op->what == NET_NAME;
    switch (op->what) {
    case NET_CHECK:
        return net_check(net, op);
    case NET_LOCK:
        return lock(net);
    case NET_UNLOCK:
        return unlock(net);
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
        return relay(net, op);
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

static void undo(struct net *net)
{
    net_end_relay(net);
    net_end_program(net);
    if (net->ns >= 0)
        sys_close(net->ns); /* and the kernel takes the links apart */
    if (net->socket[NET_INSIDE] >= 0)
        sys_close(net->socket[NET_INSIDE]);
    net->ns = net->socket[NET_INSIDE] = -1;
    if (net->told || !net_take_back(net))
        return;
    net_give_back(net);
    (void)sys_call3(__NR_unlinkat, net->pod, "hosts", 0);
    (void)sys_call3(__NR_unlinkat, net->pod, "cleaner", 0);
    (void)sys_call3(__NR_unlinkat, net->pod, NET_ELEMENTS, 0);
    if (net->recorded)
        (void)sys_call3(__NR_unlinkat, net->pod, "net", 0);
}

static int begin(struct net *net, const char *root, char *script, size_t size)
{
    const struct net_script *header = (const struct net_script *)script;
    char path[PATH_SIZE];

    if (size < sizeof *header || header->magic != NET_MAGIC || header->version != NET_VERSION || header->size != size ||
        header->count > NET_OPS || header->pool != sizeof *header + header->count * sizeof(struct net_op) || header->pool >= size ||
        script[size - 1] != '\0')
        return 0;
    net->ops = (const struct net_op *)(header + 1);
    net->op_count = header->count;
    net->pool = script + header->pool;
    net->pool_size = (uint32_t)size - header->pool;
    if (!net_inside(net, header->uuid, UUID_LENGTH) || join(path, root, "/networks", "") == 0)
        return 0;
    fill_in(net, net->pool + header->uuid);
    net->networks = (int)sys_openat(AT_FDCWD, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
    return net->networks >= 0;
}

int net_make(const char *root, int pod, const char *uuid, char *script, size_t size)
{
    static struct net net;
    long r = 0;

    net.pod = pod;
    net.uuid = uuid;
    net.lock = net.ns = -1;
    for (int i = 0; i < NET_SOCKETS; i++)
        net.socket[i] = -1;
    if (!begin(&net, root, script, size))
        return -EINVAL;
    for (uint32_t i = 0; r == 0 && i < net.op_count; i += 1 + net.skip) {
        net.skip = 0;
        r = carry_out(&net, net.ops + i);
    }
    if (r < 0)
        undo(&net);
    (void)unlock(&net);
    for (int i = 0; i < NET_SOCKETS; i++)
        if (net.socket[i] >= 0)
            sys_close(net.socket[i]);
    sys_close(net.networks);
    return r < 0 ? (int)r : net.ns;
}
