/* Takes back what an earlier start of a prepared pod has made of its network, in the order and under the conditions of detach() of
 * pyrun.net.attach: of one that was killed, that failed when others knew of the pod, or whose namespace is gone.
 *
 * What that is stands in the pod's directory, `net` and NET_ELEMENTS, and in links and lines that name the pod; what plug-ins have made they
 * are asked to remove as the script says.  Whatever is gone already is passed over. */
#include <linux/if_link.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include <linux/poll.h>
#include <linux/rtnetlink.h>

#include "files.h"
#include "handover.h"
#include "live.h"
#include "net_plugin.h"
#include "net_script.h"
#include "oci_json.h"
#include "prepared.h"
#include "shared.h"

#define CLOCK_BOOTTIME 7
#define TICKS 100 /* sysconf(_SC_CLK_TCK) of every kernel of x86-64 */
#define ELEMENTS (NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWSETELEM)
#define LONGEST 4096 /* bytes of one request */

/* What `net` says. */
struct record {
    uint64_t relay[2], process[2];
    char program[16];
    unsigned nets;
};

static void read_pair(struct json *json, uint64_t pair[2])
{
    unsigned count = 0;

    json_open(json, '[');
    while (json_more(json, ']', &count)) {
        const uint64_t value = json_number(json, ~0ULL);

        if (count <= 2)
            pair[count - 1] = value;
    }
}

/* What the plug-ins of one network have said, which those from 0.4.0 on are told. */
static void read_net(struct json *json, struct net *net, unsigned *plugged)
{
    const char *result = 0;
    unsigned count = 0;
    size_t size = 0;
    int by_plug_ins = 0;

    json_open(json, '{');
    while (json_more(json, '}', &count)) {
        size_t length;
        const char *name = json_name(json, &length), *value;

        if (length == 6 && memcmp(name, "result", 6) == 0) {
            result = json_text(json, &size);
            continue;
        }
        value = json_text(json, &(size_t){0});
        by_plug_ins |= length == 4 && memcmp(name, "kind", 4) == 0 && memcmp(value, "\"cni\"", 5) == 0;
    }
    if (!by_plug_ins || *plugged >= NET_PLUGGED)
        return;
    net->plugged[*plugged].asked = 1;
    if (result != 0 && size > 2 && (net->plugged[*plugged].result = net_room(size + 1)) != 0) {
        memcpy(net->plugged[*plugged].result, result, size);
        net->plugged[*plugged].result[size] = '\0';
        net->plugged[*plugged].size = (uint32_t)size;
        net->plugged[*plugged].whole = 1;
    }
    *plugged += 1;
}

/* 0 where there is none, or one that is damaged: that says nothing. */
static int read_record(struct record *record, struct net *net)
{
    char *data;
    const long size = net_read(net->pod, "net", &data, NET_RECORD);
    struct json json = {.known = 1};
    unsigned count = 0, plugged = 0;

    if (size < 0)
        return 0;
    json.at = json.out = data;
    json.end = data + size;
    memset(record, 0, sizeof *record);
    json_open(&json, '{');
    while (json_more(&json, '}', &count)) {
        size_t length;
        const char *name = json_name(&json, &length);
        unsigned items = 0;

        if (length == 5 && memcmp(name, "relay", 5) == 0)
            read_pair(&json, record->relay);
        else if (length == 7 && memcmp(name, "process", 7) == 0)
            read_pair(&json, record->process);
        else if (length == 4 && memcmp(name, "nets", 4) == 0) {
            json_open(&json, '[');
            while (json_more(&json, ']', &items))
                read_net(&json, net, &plugged);
            record->nets = items;
        } else {
            const char *value = json_text(&json, &length);

            if (memcmp(name, "program\"", 8) == 0 && length > 2 && length < sizeof record->program)
                memcpy(record->program, value + 1, length - 2);
        }
    }
    return json_ended(&json);
}

/* A process that is the one that was meant: SIGTERM and, after two seconds, SIGKILL. */
static void end(uint64_t pid, uint64_t began)
{
    static const int signals[] = {SIGTERM, SIGKILL};
    const struct __kernel_timespec patience = {2, 0};
    OWNED_FD held = pid == 0 || pid > 0x7fffffff ? -1 : (int)sys_call2(__NR_pidfd_open, pid, 0);

    for (size_t i = 0; held >= 0 && start_time((int32_t)pid) == began && i < 2; i++) {
        struct pollfd gone = {held, POLLIN, 0};

        if (sys_call4(__NR_pidfd_send_signal, held, signals[i], 0, 0) < 0 || sys_call5(__NR_ppoll, &gone, 1, &patience, 0, 8) == 1)
            return;
    }
}

static int begins(const char *text, const char *with)
{
    return memcmp(text, with, str_len(with)) == 0;
}

/* One that only its own file tells of, if it is no other program, and none that began later (_wrote() of pyrun.net.user). */
static void end_written(const struct net *net, const char *program)
{
    char path[64], text[TEXT + MARGIN] = "", *at = text;
    struct __kernel_timespec now = {0, 0};
    struct stat st;
    uint64_t pid, began, age;

    if (!read_text(net->pod, "net.pid", text, 32) || (pid = next_number(&at)) == 0 || pid > 0x7fffffff ||
        sys_call4(__NR_newfstatat, net->pod, "net.pid", &st, 0) < 0)
        return;
    began = start_time((int32_t)pid);
    (void)sys_call2(__NR_clock_gettime, 0, &now);
    age = clock_ns(CLOCK_BOOTTIME) / 1000000000 - began / TICKS;
    if (began == 0 || !read_text(AT_FDCWD, process_path(path, pid, "/comm"), text, TEXT) || (uint64_t)now.tv_sec - age > (uint64_t)st.st_mtime + 1)
        return;
    if (str_eq(program, "pasta") ? begins(text, "pasta") || begins(text, "passt") : program[0] != '\0' && begins(text, program))
        end(pid, began);
}

static int names_it(const struct net *net, int dir, const char *name)
{
    char owner[UUID_LENGTH + 1];

    return sys_call4(__NR_readlinkat, dir, name, owner, sizeof owner) == UUID_LENGTH && memcmp(owner, net->uuid, UUID_LENGTH) == 0;
}

static void release(const struct net *net, const char *folder)
{
    OWNED_FD dir = (int)sys_openat(net->networks, folder, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
    char buffer[8192] __attribute__((aligned(8)));
    long n;

    while (dir >= 0 && (n = sys_call3(__NR_getdents64, dir, buffer, sizeof buffer)) > 0)
        for (long at = 0; at < n; at += *(unsigned short *)(buffer + at + 16))
            if (names_it(net, dir, buffer + at + 19)) /* struct linux_dirent64: 8 + 8 + 2 + 1 bytes before the name */
                (void)sys_call3(__NR_unlinkat, dir, buffer + at + 19, 0);
}

/* Each folder of networks, and each list of names there. */
static void in_networks(struct net *net, int lists)
{
    char buffer[8192] __attribute__((aligned(8)));
    OWNED_FD dir = (int)sys_openat(net->networks, ".", O_RDONLY | O_DIRECTORY, 0);
    long n;

    while (dir >= 0 && (n = sys_call3(__NR_getdents64, dir, buffer, sizeof buffer)) > 0)
        for (long at = 0; at < n; at += *(unsigned short *)(buffer + at + 16)) {
            char *name = buffer + at + 19;

            if (name[0] == '.')
                continue;
            if (!lists)
                release(net, name);
            else if (ends_with(name, ".hosts")) {
                name[str_len(name) - 6] = '\0';
                (void)net_forget(net, name);
            }
        }
}

/* What the pod had in the table, one by one: what is gone already stops the others of its transaction. */
static void remove_elements(struct net *net)
{
    char *data;
    const long size = net_read(net->pod, NET_ELEMENTS, &data, NET_SIZE);
    struct nlmsghdr header, first, last;

    if (size < (long)sizeof header)
        return;
    memcpy(&first, data, sizeof first);
    memcpy(&last, data + size - NET_BORDER, sizeof last);
    for (long at = 0; size - at >= (long)sizeof header; at += (long)NLMSG_ALIGN(header.nlmsg_len)) {
        char request[LONGEST];
        uint32_t number;

        memcpy(&header, data + at, sizeof header);
        if (header.nlmsg_len < sizeof header || header.nlmsg_len > size - at)
            return;
        if (header.nlmsg_type != ELEMENTS || header.nlmsg_len > sizeof request - 2 * NET_BORDER)
            continue;
        memcpy(request, data, NET_BORDER);
        memcpy(request + NET_BORDER, data + at, header.nlmsg_len);
        memcpy(request + NET_BORDER + header.nlmsg_len, data + size - NET_BORDER, NET_BORDER);
        header.nlmsg_type = NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_DELSETELEM;
        header.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
        memcpy(request + NET_BORDER, &header, sizeof header);
        (void)net_send(net, NET_FILTER, request, header.nlmsg_len + 2 * NET_BORDER, 1, &number);
    }
}

/* The kernel does it too, when the last process of the namespace has gone. */
static void remove_links(struct net *net, unsigned count)
{
    for (unsigned place = 0; place < count; place++) {
        struct {
            struct nlmsghdr head;
            struct ifinfomsg link;
            struct nlattr name;
            char text[16];
        } request = {.head = {.nlmsg_type = RTM_DELLINK, .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK}};
        size_t size = 3 + RECIPE_SHORT;
        uint32_t number;

        request.text[0] = 'p';
        request.text[1] = 'y';
        memcpy(request.text + 2, net->uuid, RECIPE_SHORT);
        request.text[size - 1] = '-';
        if (place >= 100)
            request.text[size++] = (char)('0' + place / 100 % 10);
        if (place >= 10)
            request.text[size++] = (char)('0' + place / 10 % 10);
        request.text[size++] = (char)('0' + place % 10);
        request.name.nla_type = IFLA_IFNAME;
        request.name.nla_len = (uint16_t)(sizeof request.name + size + 1);
        request.head.nlmsg_len = (uint32_t)(offsetof(__typeof__(request), name) + NLMSG_ALIGN(request.name.nla_len));
        (void)net_send(net, NET_HOST, (char *)&request, request.head.nlmsg_len, 1, &number);
    }
}

static void unpin(const char *root, const char *uuid)
{
    char path[PATH_SIZE];

    if (join(path, root, "/netns/", uuid) != 0 && sys_call2(__NR_umount2, path, MNT_DETACH | 8 /* UMOUNT_NOFOLLOW */) != -ENOENT)
        (void)sys_call3(__NR_unlinkat, AT_FDCWD, path, 0);
}

int net_undo(struct net *net, const char *root)
{
    static struct record record;
    int done;

    unpin(root, net->uuid);
    if (!read_record(&record, net)) /* it had come no further than to addresses and ports */
        memset(&record, 0, sizeof record);
    if (record.relay[0] != 0)
        end(record.relay[0], record.relay[1]);
    if (record.process[0] != 0)
        end(record.process[0], record.process[1]);
    else if (record.program[0] != '\0')
        end_written(net, record.program);
    done = net_take_back(net);
    if (net_lock(net) < 0)
        return 0;
    remove_elements(net);
    (void)sys_call3(__NR_unlinkat, net->pod, NET_ELEMENTS, 0);
    in_networks(net, 1);
    remove_links(net, record.nets);
    in_networks(net, 0);
    (void)sys_call3(__NR_unlinkat, net->pod, "net.pid", 0);
    if (done)
        (void)sys_call3(__NR_unlinkat, net->pod, "net", 0);
    net_unlock(net);
    return done;
}
