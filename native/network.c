/* The pod's network namespace.
 *
 * To make one takes the kernel longer than all that init mounts.  So the supervisor, which has nothing else to do
 * then, makes it while init mounts, and sends it over; sysfs(5) shows the network of whoever mounts it and waits for
 * that.  In a user namespace the network must belong to the pod: there init is cloned into one.
 *
 * A network that reaches further was made by pyrun.net, and its namespace came along (PLAN_NETWORK): that is sent over. */
#include "helper.h"

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
