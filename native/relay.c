/* The way to the published ports of one pod that the kernel does not go: from [::1] of the host, and to pods of users.
 *
 * nf_tables does it for every other address.  From ::1 it cannot: the answer comes in by a bridge for ::1, and such a packet the kernel
 * drops (RFC 4291, 2.5.3; ip6_rcv_core of net/ipv6/ip6_input.c), before rules see it where bridges call them.  There is no
 * route_localnet for IPv6.  So this program listens there and speaks to the pod as any program of the host does.
 *
 * A user has no rules.  There it listens in the host, enters the pod's network, and speaks to the pod's own address, not to its
 * loopback: who asks is not to be taken for somebody inside.
 *
 *   relay LINK TARGET[,TARGET] PORTS...
 *   relay in|inside - PORTS...               descriptor 3: a process, 4: a network, 5 (inside): the user namespace that it belongs to
 *
 *       LINK     number of the host's interface of the pod
 *       TARGET   address of the pod, 32 hexadecimal digits; the second is for what the first refuses
 *       PORTS    t or u, first port of the host, first of the pod, how many, address of the host: t8080:80:1:00..01
 *
 * What is written to standard output is the number of the process that stays, or `! ERRNO PORT`, port 0 where it is about none.
 *
 * The process that stays has no rights and no files, and a filter that leaves it sockets.  It ends when the kernel takes the
 * pod's interface away, which it does when nothing is left of the pod, whoever was killed; inside, with the process that makes the
 * pod's network. */
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>

#include "relay.h"

enum { NETLINK = 16, NOBODY = 65534, SPARE_FILES = 64 };

struct relay relay;

__attribute__((noreturn)) static void give_up(long error, unsigned port)
{
    char text[64] = "! ", *const end = text + sizeof text, *at = str_add_number(text + 2, end, (uint64_t)-error);

    at = str_add_number(str_add(at, end, " "), end, port);
    (void)sys_write(1, text, at - text);
    sys_exit(1);
}

static void must(long result)
{
    if (result < 0)
        give_up(result, 0);
}

static unsigned number(const char **at)
{
    unsigned value = 0;

    for (; **at >= '0' && **at <= '9' && value < 1000000000 / 10; ++*at)
        value = value * 10 + (unsigned)(**at - '0');
    *at += **at == ':';
    return value;
}

static uint16_t swapped(unsigned value)
{
    return (uint16_t)(value << 8 | (value >> 8 & 0xff));
}

/* One of IPv4, ::ffff:a.b.c.d, gets that family, which works where IPv6 is switched off. */
static struct address address_of(const char *text)
{
    static const unsigned char mapped[12] = {[10] = 0xff, [11] = 0xff};
    struct address to = {.family = INET6};

    if (str_len(text) < 32)
        give_up(-EINVAL, 0);
    for (int i = 0; i < 32; i++, text++)
        to.bytes[i / 2] = (unsigned char)(to.bytes[i / 2] << 4 | (*text <= '9' ? *text - '0' : *text - 'a' + 10));
    if (memcmp(to.bytes, mapped, sizeof mapped) == 0) {
        to.family = INET;
        memcpy(&to.flow, to.bytes + sizeof mapped, sizeof to.flow);
        memset(to.bytes, 0, sizeof to.bytes);
    }
    return to;
}

static void read_ports(const char *text)
{
    const uint8_t kind = *text++ == 't' ? STREAM : DATAGRAM;
    unsigned outer = number(&text), inner = number(&text), count = number(&text);
    struct address at = address_of(text);

    for (; count-- > 0; outer++, inner++) {
        if (relay.ports == MOST_PORTS)
            give_up(-E2BIG, outer);
        at.port = swapped(outer);
        relay.port[relay.ports++] = (struct port){at, -1, swapped(inner), kind, 0};
    }
}

long watch_for(int poll, int how, int fd, uint32_t events, uint64_t data)
{
    struct __attribute__((packed)) {
        uint32_t events;
        uint64_t data;
    } event = {events, data};

    return sys_call4(__NR_epoll_ctl, poll, how, fd, &event);
}

/* Only what says that interface `link` is gone comes in: RTM_DELLINK, of no family's own (a bridge has one), its number.  BPF loads in
 * the order of the network. */
static void watch_link(uint32_t link)
{
    struct sock_filter program[] = {
        BPF_STMT(BPF_LD | BPF_H | BPF_ABS, 4),  BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 17 << 8, 0, 5),
        BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 16), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 20), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __builtin_bswap32(link), 0, 1),
        BPF_STMT(BPF_RET | BPF_K, 0xffff),      BPF_STMT(BPF_RET | BPF_K, 0),
    };
    const struct sock_fprog filter = {sizeof program / sizeof *program, program};
    struct { /* struct sockaddr_nl of netlink(7) */
        uint16_t family, pad;
        uint32_t pid, groups;
    } from = {NETLINK, 0, 0, 1 /* RTMGRP_LINK */};
    struct { /* struct ifreq of netdevice(7) */
        char name[16];
        int index;
        char rest[20];
    } request = {"", (int)link, ""};

    must(relay.watch = (int)sys_call3(__NR_socket, NETLINK, 3 /* SOCK_RAW */ | NONBLOCK_CLOEXEC, 0));
    must(sys_call5(__NR_setsockopt, relay.watch, 1, 26 /* SO_ATTACH_FILTER */, &filter, sizeof filter));
    must(sys_call3(__NR_bind, relay.watch, &from, sizeof from));
    must(sys_call3(__NR_ioctl, relay.watch, 0x8910 /* SIOCGIFNAME */, &request)); /* or has it gone already? */
    must(watch_for(relay.poll, 1, relay.watch, 1, EVENT(WATCH, 0)));
}

static void listen_at(unsigned index)
{
    static const int yes = 1, no = 0;
    struct port *port = &relay.port[index];
    const int streams = port->kind == STREAM;
    long r = sys_call3(__NR_socket, port->at.family, port->kind | NONBLOCK_CLOEXEC, 0);

    if (r == -EAFNOSUPPORT && port->at.bytes[15] == 0) { /* every address, of IPv4 then */
        port->at.family = INET;
        r = sys_call3(__NR_socket, INET, port->kind | NONBLOCK_CLOEXEC, 0);
    }
    if (r >= 0) {
        port->fd = (int)r;
        (void)sys_call5(__NR_setsockopt, port->fd, 41, 26 /* IPV6_V6ONLY */, &no, sizeof no);
        (void)sys_call5(__NR_setsockopt, port->fd, 41, 49 /* IPV6_RECVPKTINFO */, &yes, sizeof yes);
        r = streams ? sys_call5(__NR_setsockopt, port->fd, 1, 2 /* SO_REUSEADDR */, &yes, sizeof yes) : 0;
    }
    if (r < 0 || (r = sys_call3(__NR_bind, port->fd, &port->at, sizeof port->at)) < 0 ||
        (streams && (r = sys_call2(__NR_listen, port->fd, 4096)) < 0) ||
        (r = watch_for(streams ? relay.streams : relay.poll, 1, port->fd, 1, EVENT(PORT, index))) < 0)
        give_up(r, swapped(port->at.port));
}

/* The pod's own addresses: those that it speaks with to others. */
static void find_targets(void)
{
    static const struct address others[2] = {
        {INET6, 1 << 8, 0, {0x20, 0x01, 0x0d, 0xb8, [15] = 1}, 0},
        {.family = INET, .port = 1 << 8, .flow = 192 | 2 << 16 | 1 << 24},
    };

    for (int i = 0; i < 2; i++) {
        struct address *own = &relay.target[relay.targets];
        int size = sizeof *own;
        OWNED_FD fd = (int)sys_call3(__NR_socket, others[i].family, DATAGRAM | O_CLOEXEC, 0);

        if (sys_call3(__NR_connect, fd, &others[i], sizeof others[i]) == 0 && sys_call3(__NR_getsockname, fd, own, &size) == 0)
            relay.targets++;
    }
    must(relay.targets > 0 ? 0 : -ENETUNREACH);
}

static void enter(int user_namespace)
{
    must(watch_for(relay.poll, 1, 3, 1, EVENT(WATCH, 0)));
    relay.watch = -1;
    if (user_namespace) {
        must(sys_call2(__NR_setns, 5, CLONE_NEWUSER));
        sys_close(5);
    }
    must(sys_call2(__NR_setns, 4, CLONE_NEWNET));
    sys_close(4);
    find_targets();
}

/* A root that is one of a user namespace may have nobody to become; without capabilities it is nobody in effect. */
static void drop_rights(void)
{
    static const uint32_t header[2] = {0x20080522 /* _LINUX_CAPABILITY_VERSION_3 */, 0}, none[6] = {0};

    must(sys_prctl(PR_SET_NO_NEW_PRIVS, 1, 0));
    must(sys_call1(__NR_chdir, "/"));
    (void)sys_call2(__NR_setgroups, 0, 0);
    (void)sys_call3(__NR_setresgid, NOBODY, NOBODY, NOBODY);
    (void)sys_call3(__NR_setresuid, NOBODY, NOBODY, NOBODY);
    must(sys_call2(__NR_capset, header, none));
    must(sys_prctl(PR_SET_DUMPABLE, 0, 0));
}

static void filter_calls(void)
{
    static const uint32_t allowed[] = {
        __NR_epoll_wait, __NR_epoll_ctl, __NR_accept4,    __NR_socket,  __NR_connect,       __NR_recvfrom,  __NR_sendto,    __NR_shutdown,
        __NR_recvmsg,    __NR_sendmsg,
        __NR_close,      __NR_getsockopt, __NR_setsockopt, __NR_madvise, __NR_clock_gettime, __NR_nanosleep, __NR_exit_group,
        __NR_restart_syscall, /* of nanosleep(2), after a stop */
    };
    enum { COUNT = sizeof allowed / sizeof *allowed };
    struct sock_filter program[COUNT + 5] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 0, COUNT + 1),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
    };
    const struct sock_fprog filter = {sizeof program / sizeof *program, program};

    for (unsigned i = 0; i < COUNT; i++)
        program[i + 3] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, allowed[i], (uint8_t)(COUNT - i), 0);
    program[COUNT + 3] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
    program[COUNT + 4] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    must(sys_call3(__NR_seccomp, SECCOMP_SET_MODE_FILTER, 0, &filter));
}

static void tell(void)
{
    char text[32], *at = str_add_number(text, text + sizeof text, (uint64_t)sys_call0(__NR_getpid));
    int fd = (int)sys_openat(AT_FDCWD, "/dev/null", O_RDWR, 0);

    must(fd);
    (void)sys_call3(__NR_dup3, fd, 0, 0);
    (void)sys_call3(__NR_dup3, fd, 2, 0);
    (void)sys_write(1, text, at - text);
    (void)sys_call3(__NR_dup3, fd, 1, 0);
    sys_close(fd);
}

int program(int argc, char **argv, char **envp)
{
    const char *link = argc > 3 ? argv[1] : "", *target = argc > 3 ? argv[2] : "";
    const int inside = link[0] == 'i' ? str_eq(link, "inside") ? 2 : 1 : 0;
    uint64_t files[2];
    long r;

    (void)envp;
    if (argc < 4)
        return 2;
    must(r = sys_call5(__NR_clone, 0, 0, 0, 0, 0)); /* nobody's child, so that nobody has to reap it */
    if (r > 0)
        return 0;
    (void)sys_call0(__NR_setsid);
    (void)sys_call3(__NR_close_range, inside > 0 ? 4 + inside : 3, ~0U, 0);
    for (; !inside && relay.targets < 2 && *target != '\0'; target += target[32] == ',' ? 33 : 32)
        relay.target[relay.targets++] = address_of(target);
    for (char **at = argv + 3; *at != 0; at++)
        read_ports(*at);
    files[0] = files[1] = relay.ports + 2 * MOST_FLOWS + SPARE_FILES;
    (void)sys_call2(__NR_setrlimit, 7 /* RLIMIT_NOFILE */, files);
    must(relay.poll = (int)sys_call1(__NR_epoll_create1, O_CLOEXEC));
    must(relay.streams = (int)sys_call1(__NR_epoll_create1, O_CLOEXEC));
    must(watch_for(relay.poll, 1, relay.streams, 1, EVENT(STREAMS, 0)));
    for (unsigned i = 0; i < relay.ports; i++)
        listen_at(i);
    if (inside > 0)
        enter(inside > 1);
    else
        watch_link(number(&link));
    drop_rights();
    tell();
    filter_calls();
    serve();
}
