/* Conditions of a script, and what the pods of a network have in common, bridge, rules, the host's settings: made by the launcher where
 * it is missing, after a boot above all.  The order and the conditions are those of make() of pyrun.net.bridges and rebuild() of pyrun.net.rules. */
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>

#include "handover.h"
#include "live.h"
#include "net_script.h"
#include "refuse.h"
#include "shared.h"

#define IPV6 "/proc/sys/net/ipv6/conf"
#define ELEMENTS (NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWSETELEM)
#define BORDER 20 /* bytes of the first and the last request of a transaction: struct nlmsghdr and struct nfgenmsg */

/* Whether the file says what it said. */
static int holds(const struct net *net, const struct net_op *op)
{
    OWNED_FD file = (int)sys_openat(AT_FDCWD, net->pool + op->word[0], O_RDONLY, 0);
    const char *then = net->pool + op->word[2];
    uint32_t left = op->word[3];
    char now[4096];
    long n = file;

    while (file >= 0 && (n = sys_read(file, now, sizeof now)) > 0) {
        if ((uint32_t)n > left || memcmp(now, then, (size_t)n) != 0)
            return 0;
        then += n;
        left -= (uint32_t)n;
    }
    return n == 0 && left == 0;
}

static long refuse_changed(const char *path)
{
    refuse("join network by", path, sys_call3(__NR_faccessat, AT_FDCWD, path, 0) < 0 ? "it is gone since the pod was prepared"
                                                                                     : "it has changed since the pod was prepared",
           "remove the pod and prepare it again", "--net");
    return -ESTALE;
}

/* For a pod that starts at once nothing may have changed that decided; for a prepared one it holds as long as its network's own file says
 * the same. */
long net_check(const struct net *net, const struct net_op *op)
{
    struct net_stamp then;
    struct stat st;

    if (op->word[1] >= net->pool_size || sizeof then >= net->pool_size - op->word[1] ||
        (op->word[3] > 0 && op->word[3] >= net->pool_size - op->word[2]))
        return -EINVAL;
    if (net->prepared)
        return op->word[3] == 0 || holds(net, op) ? 0 : refuse_changed(net->pool + op->word[0]);
    memcpy(&then, net->pool + op->word[1], sizeof then);
    if (sys_call4(__NR_newfstatat, AT_FDCWD, net->pool + op->word[0], &st, 0) < 0)
        return then.inode == 0 ? 0 : -ESTALE;
    return st.st_dev == then.device && st.st_ino == then.inode && (uint64_t)st.st_size == then.size &&
                   st.st_mtime * 1000000000 + st.st_mtime_nsec == then.modified &&
                   st.st_ctime * 1000000000 + st.st_ctime_nsec == then.changed
               ? 0
               : -ESTALE;
}

long net_when(struct net *net, const struct net_op *op)
{
    const uint32_t at = op->word[1], size = op->word[3];

    if (op->word[0] >= NET_VALUES || at > sizeof net->value->raw || size > sizeof net->value->raw - at || op->word[2] >= net->pool_size ||
        size >= net->pool_size - op->word[2] || op->word[6] > NET_OPS)
        return -EINVAL;
    if (memcmp(net->value[op->word[0]].raw + at, net->pool + op->word[2], size) != 0)
        net->skip = op->word[6];
    return 0;
}

long net_pick(struct net *net, const struct net_op *op)
{
    const uint32_t to = op->word[0], told = op->word[1], place = op->word[2], size = op->word[3] == 4 ? 4 : 16;
    const char *sources = net->pool + op->word[4];

    if (to >= NET_VALUES || told >= NET_VALUES || place >= sizeof net->value->raw || op->word[5] * sizeof(uint16_t) >= net->pool_size - op->word[4])
        return -EINVAL;
    for (uint32_t i = 0; i < op->word[5]; i++) {
        const uint32_t source = (unsigned char)sources[2 * i] | (uint32_t)(unsigned char)sources[2 * i + 1] << 8;
        const int plugged = (source & NET_PLUGGED_SOURCE) != 0;
        const struct net_plugged *network = &net->plugged[source % NET_PLUGGED];
        const struct net_value *from = plugged ? network->address : &net->value[source % NET_VALUES];
        const uint32_t count = plugged ? network->address_count : 1;

        for (uint32_t j = 0; j < count; j++)
            if (from[j].size == size) {
                net->value[to] = from[j];
                for (char *at = net->value[to].text; *at != '\0'; at++)
                    if (*at == '/')
                        *at = '\0';
                net->value[told].raw[place] = 1;
                return 0;
            }
    }
    return 0;
}

long net_unless(struct net *net, const struct net_op *op)
{
    struct net_op question = *op;
    long r;

    question.word[6] = 0;
    r = net_ask(net, &question);
    if (r == 0 && op->word[6] <= NET_OPS)
        net->skip = op->word[6];
    return r == -ENOENT || r == -ENODEV ? 0 : r;
}

/* What counts the users of a chain: its rules, and those that jump there (nf_tables.h). */
static uint32_t users_of(const char *data, size_t size)
{
    for (size_t at = sizeof(struct nlmsghdr) + sizeof(struct nfgenmsg); at + 4 <= size;) {
        uint16_t length, kind;
        unsigned char raw[4];

        memcpy(&length, data + at, sizeof length);
        memcpy(&kind, data + at + 2, sizeof kind);
        if (length < 4 || length > size - at)
            break;
        if ((kind & 0x3fff) == NFTA_CHAIN_USE && length == 8) {
            memcpy(raw, data + at + 4, sizeof raw);
            return (uint32_t)raw[0] << 24 | (uint32_t)raw[1] << 16 | (uint32_t)raw[2] << 8 | raw[3];
        }
        at += NLMSG_ALIGN(length);
    }
    return 0;
}

/* Reads all answers, since others will be read here: how many chains there are as wanted; minus an errno. */
static long intact(int fd, uint32_t count, const char *wanted)
{
    static char data[32768] __attribute__((aligned(8)));
    uint32_t answered = 0, found = 0;
    long failed = 0;

    while (answered < count) {
        const long n = sys_call6(__NR_recvfrom, fd, data, sizeof data, 0, 0, 0);
        struct nlmsghdr header;
        int32_t error;

        if (n <= 0 && n != -EINTR)
            return n < 0 ? n : -EIO;
        for (size_t at = 0; n > 0 && (size_t)n - at >= sizeof header && answered < count; at += NLMSG_ALIGN(header.nlmsg_len)) {
            memcpy(&header, data + at, sizeof header);
            if (header.nlmsg_len < sizeof header + sizeof error || header.nlmsg_len > (size_t)n - at)
                return -EIO;
            if (header.nlmsg_type != NLMSG_ERROR) {
                found += users_of(data + at, header.nlmsg_len) >= (unsigned char)wanted[answered];
                continue;
            }
            memcpy(&error, data + at + sizeof header, sizeof error);
            failed = error != 0 && error != -ENOENT ? error : failed;
            answered++;
        }
    }
    return failed != 0 ? failed : found;
}

/* A table that is there may have been flushed. */
long net_intact(struct net *net, const struct net_op *op)
{
    const uint32_t at = op->word[0], size = op->word[1], count = op->word[2], wanted = op->word[3];
    long r;

    if (size >= net->pool_size - at || count >= net->pool_size - wanted || op->word[6] > NET_OPS)
        return -EINVAL;
    if ((r = net_open(net, NET_FILTER)) < 0 || (r = sys_write((int)r, net->pool + at, size)) != (long)size)
        return r < 0 ? r : -EIO;
    r = intact(net->socket[NET_FILTER], count, net->pool + wanted);
    net->skip = r == (long)count ? op->word[6] : 0;
    return r < 0 ? r : 0;
}

static char *pod_path(char path[PATH_SIZE], const char *phase, const char *uuid, const char *file)
{
    const char *end = path + PATH_SIZE;

    return str_add(str_add(str_add(str_add(path, end, "../pods/"), end, phase), end, uuid), end, file);
}

int net_lives(const struct net *net, const char *uuid)
{
    static const char phases[][12] = {"running/", "preparing/"};
    char path[PATH_SIZE];

    if (pod_path(path, "prepared/", uuid, "") == 0 || sys_call3(__NR_faccessat, net->networks, path, 0) == 0)
        return 1;
    for (size_t i = 0; i < sizeof phases / sizeof *phases; i++) {
        OWNED_FD dir = pod_path(path, phases[i], uuid, "") == 0
                           ? -1
                           : (int)sys_openat(net->networks, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);

        if (dir >= 0 && sys_call2(__NR_flock, dir, LOCK_SH | LOCK_NB) < 0)
            return 1;
    }
    return 0;
}

/* Whether the kernel will read it to its end: it says nothing of what breaks off.  With `elements` it is what one pod has in the table, and
 * nothing else. */
static int is_whole(const char *data, size_t size, int elements)
{
    struct nlmsghdr header = {0};
    size_t at = 0;

    while (size - at >= sizeof header) {
        memcpy(&header, data + at, sizeof header);
        if (header.nlmsg_len < sizeof header || header.nlmsg_len > size - at || header.nlmsg_len % NLMSG_ALIGNTO != 0)
            return 0;
        if (elements && header.nlmsg_type != ELEMENTS && (header.nlmsg_type != (at == 0 ? NFNL_MSG_BATCH_BEGIN : NFNL_MSG_BATCH_END) || header.nlmsg_len != BORDER))
            return 0;
        at += header.nlmsg_len;
    }
    return at == size && header.nlmsg_type == NFNL_MSG_BATCH_END && header.nlmsg_len == BORDER;
}

/* A transaction that grows. */
struct batch {
    char *data;
    size_t size; /* without its end */
};

/* What a pod has in the table stands in its directory as it was sent, NET_ELEMENTS. */
static long add_elements(const struct net *net, const char *path, struct batch *batch)
{
    OWNED_FD file = (int)sys_openat(net->networks, path, O_RDONLY | O_NOFOLLOW, 0);
    char *at = batch->data + batch->size - BORDER; /* its beginning comes to lie where the end so far is */
    const size_t room = NET_SIZE - batch->size;
    char before[BORDER], *end = batch->data + batch->size;
    long n;

    memcpy(before, at, BORDER);
    n = file < 0 ? file : sys_read(file, at, room);
    if (n < 0 || (size_t)n == room || (n > 0 && !is_whole(at, (size_t)n, 1)))
        return n < 0 ? n : -EINVAL;
    memcpy(at, before, BORDER);
    batch->size = (size_t)(end - batch->data) + (n > 0 ? (size_t)n - 2 * BORDER : 0);
    return 0;
}

static long add_pods(const struct net *net, const char *phase, struct batch *batch)
{
    char path[PATH_SIZE], buffer[8192] __attribute__((aligned(8)));
    OWNED_FD dir = pod_path(path, phase, "", "") == 0 ? -1 : (int)sys_openat(net->networks, path, O_RDONLY | O_DIRECTORY, 0);
    long n = 0, r = 0;

    while (dir >= 0 && r == 0 && (n = sys_call3(__NR_getdents64, dir, buffer, sizeof buffer)) > 0)
        for (long at = 0; at < n && r == 0; at += *(unsigned short *)(buffer + at + 16)) {
            const char *name = buffer + at + 19; /* struct linux_dirent64: 8 + 8 + 2 + 1 bytes before the name */

            if (name[0] != '.' && pod_path(path, phase, name, "/net") != 0 && sys_call3(__NR_faccessat, net->networks, path, 0) == 0 &&
                net_lives(net, name))
                r = pod_path(path, phase, name, "/" NET_ELEMENTS) == 0 ? -ENAMETOOLONG : add_elements(net, path, batch);
        }
    return r < 0 ? r : dir == -ENOENT ? 0 : dir < 0 ? dir : n;
}

/* The table as a file says, and in the same transaction what is living pods' in it. */
long net_rules(struct net *net, const struct net_op *op)
{
    struct batch batch = {net_room(NET_SIZE), 0};
    static const char phases[][12] = {"prepared/", "running/"}; /* in the order in which pods move on, so that none is missed */
    OWNED_FD file = (int)sys_openat(net->networks, net->pool + op->word[0], O_RDONLY | O_NOFOLLOW, 0);
    long r = batch.data == 0 ? -ENOMEM : file < 0 ? file : sys_read(file, batch.data, NET_SIZE);
    char end[BORDER];
    uint32_t number;

    if (r <= 0 || r == NET_SIZE || !is_whole(batch.data, (size_t)r, 0))
        return r < 0 ? r : -EINVAL;
    batch.size = (size_t)r - BORDER;
    memcpy(end, batch.data + batch.size, BORDER);
    for (size_t i = 0; i < sizeof phases / sizeof *phases; i++) {
        r = add_pods(net, phases[i], &batch);
        if (r < 0)
            return r;
    }
    memcpy(batch.data + batch.size, end, BORDER);
    r = net_send(net, NET_FILTER, batch.data, batch.size + BORDER, 1, &number);
    net->fresh = r == 0;
    return r;
}

static int says(const char *path, const char *value)
{
    char text[16 + MARGIN];

    return read_text(AT_FDCWD, path, text, 16) && str_eq(text, value);
}

/* A host that passes packets on hears no router advertisements, unless told to. */
static void keep_hearing(void)
{
    char path[PATH_SIZE], buffer[8192] __attribute__((aligned(8)));
    OWNED_FD dir = (int)sys_openat(AT_FDCWD, IPV6, O_RDONLY | O_DIRECTORY, 0);
    long n;

    while (dir >= 0 && (n = sys_call3(__NR_getdents64, dir, buffer, sizeof buffer)) > 0)
        for (long at = 0; at < n; at += *(unsigned short *)(buffer + at + 16)) {
            const char *name = buffer + at + 19;

            if (name[0] != '.' && !str_eq(name, "all") && !str_eq(name, "lo") && join(path, IPV6 "/", name, "/accept_ra") != 0 &&
                says(path, "1\n"))
                (void)write_file(AT_FDCWD, path, 0, 0, "2", 1);
        }
}

long net_forward(void)
{
    static const char first[] = "/proc/sys/net/ipv4/ip_forward", second[] = IPV6 "/all/forwarding";
    long r = says(first, "0\n") ? write_file(AT_FDCWD, first, 0, 0, "1", 1) : 0;

    if (r < 0 || !says(second, "0\n"))
        return r;
    keep_hearing();
    return write_file(AT_FDCWD, second, 0, 0, "1", 1);
}
