/* The pod's network namespace.
 *
 * To make one takes the kernel longer than all that init mounts.  So the supervisor, which has nothing else to do
 * then, makes it while init mounts, and sends it over; sysfs(5) shows the network of whoever mounts it and waits for
 * that.  In a user namespace the network must belong to the pod: there init is cloned into one.
 *
 * A network that reaches further was made by pyrun.net, and its namespace came along (PLAN_NETWORK): that is sent over. */
#include "helper.h"

long loopback_up(void)
{
    struct { /* struct ifreq of netdevice(7), whose header wants a libc */
        char name[16];
        short flags;
        char rest[22];
    } request = {"lo", 0, ""};
    OWNED_FD fd = (int)sys_call3(__NR_socket, 1 /* AF_UNIX: any socket will do, netdevice(7) */, 2 | O_CLOEXEC, 0);
    long r = fd < 0 ? fd : sys_call3(__NR_ioctl, fd, 0x8913 /* SIOCGIFFLAGS */, &request);

    if (r < 0)
        return r;
    request.flags |= 1; /* IFF_UP */
    return sys_call3(__NR_ioctl, fd, 0x8914 /* SIOCSIFFLAGS */, &request);
}

/* Returns to the host's network whatever happens. */
static int new_network(void)
{
    OWNED_FD host = (int)sys_openat(AT_FDCWD, "/proc/self/ns/net", O_RDONLY, 0);
    long r = host < 0 ? host : sys_call1(__NR_unshare, CLONE_NEWNET), back;
    int made;

    if (r < 0)
        return (int)r;
    r = loopback_up();
    made = (int)sys_openat(AT_FDCWD, "/proc/self/ns/net", O_RDONLY, 0);
    back = sys_call2(__NR_setns, host, CLONE_NEWNET);
    if ((r < 0 || back < 0) && made >= 0)
        sys_close(made);
    return r < 0 ? (int)r : back < 0 ? (int)back : made;
}

/* Supervisor. */
long make_network(const struct context *ctx)
{
    OWNED_FD made = ctx->plan->flags & PLAN_NETWORK ? SLOT_NETWORK : new_network();
    struct link_message message;
    long r;

    if (made < 0)
        return made;
    link_message_init(&message, 'N', 1);
    message.control.fds[0] = made;
    r = sys_call3(__NR_sendmsg, ctx->link, &message.header, 0x4000 /* MSG_NOSIGNAL */);
    return r < 0 && r != -EPIPE ? r : 0; /* EPIPE: init failed before it came to its network, and has said why */
}

/* Init: waits for it. */
long join_network(const struct context *ctx)
{
    struct link_message message;
    OWNED_FD made = -1;
    long r;

    if ((ctx->plan->clone_flags & CLONE_NEWUSER) || (ctx->plan->flags & (PLAN_OCI | PLAN_CLONE_NETWORK)))
        return loopback_up();
    link_message_init(&message, 0, 1);
    r = sys_call3(__NR_recvmsg, ctx->link, &message.header, 0x40000000 /* MSG_CMSG_CLOEXEC */);
    if (r != 1 || message.kind != 'N' || message.header.control_length == 0)
        return r < 0 ? r : -EPIPE;
    made = message.control.fds[0];
    return sys_call2(__NR_setns, made, CLONE_NEWNET);
}
