/* The way to the metadata service (pyrun.service.metadata), which serves every pod of a state directory from one process.
 *
 *     supervisor                          service
 *       |--- connect ----------------------->|    started here if nobody listens; its standard output says when
 *       |<-- 'H' ---------------------------|
 *       |--- "UUID/APP" -------------------->|    it reads what it is to say from the pod's directory
 *       |<-- 'K' ---------------------------|
 *     init, the same connection
 *       |--- 'L' + a listening socket ------>|    made in the pod's network: who asks there is known
 *       |<-- 'K' ---------------------------|
 *
 * The connection is the pod's sign of life: it closes with the supervisor, and with the last one the service ends. */
#include <linux/wait.h>

#include "helper.h"

#define NOSIGNAL 0x4000
#define TRIES 5
#define PATIENCE 15 /* seconds */

struct unix_address {
    uint16_t family;
    char path[108];
};

struct inet_address {
    uint16_t family;
    uint16_t port; /* this and the next in network byte order */
    uint32_t host;
    char zero[8];
};

static long expect(int fd, char what)
{
    char byte = 0;
    long n = sys_call6(__NR_recvfrom, fd, &byte, 1, 0, 0, 0);

    return n < 0 ? n : n == 1 && byte == what ? 0 : -ECONNRESET;
}

static long reach(const char *path)
{
    struct unix_address address = {.family = 1 /* AF_UNIX */};
    const struct {
        long seconds, microseconds;
    } patience = {PATIENCE, 0};
    long fd = sys_call3(__NR_socket, 1, 5 | O_CLOEXEC /* SOCK_SEQPACKET */, 0), r;

    if (fd < 0)
        return fd;
    r = str_add(address.path, address.path + sizeof address.path, path) == 0 ? -ENAMETOOLONG : 0;
    if (r == 0)
        r = sys_call5(__NR_setsockopt, fd, 1 /* SOL_SOCKET */, 20 /* SO_RCVTIMEO */, &patience, sizeof patience);
    if (r == 0)
        r = sys_call3(__NR_connect, fd, &address, sizeof address);
    if (r == 0)
        r = expect((int)fd, 'H'); /* one that is about to end does not say so */
    if (r < 0)
        sys_close((int)fd);
    return r < 0 ? r : fd;
}

/* In a session of its own, a child of nobody's that waits for it; it outlives this pod if others need it. */
__attribute__((noreturn)) static void become_service(const struct context *ctx, const struct plan_op *op, int out)
{
    const uint64_t none = 0;
    char *no_environment[1] = {0}, **argv = (char **)(void *)arena, **at = argv;
    const char *word = pool_string(ctx, op->s2);
    int null = (int)sys_openat(AT_FDCWD, "/dev/null", O_RDWR, 0);

    for (uint32_t i = 0; i < op->n; i++, word += str_len(word) + 1)
        *at++ = (char *)(uintptr_t)word;
    *at = 0;
    (void)sys_call0(__NR_setsid);
    (void)sys_call3(__NR_dup3, null, 0, 0);
    (void)sys_call3(__NR_dup3, null, 2, 0);
    (void)sys_call3(__NR_dup3, out, 1, 0);
    (void)sys_call3(__NR_close_range, 3, ~0U, 0);
    (void)sys_call1(__NR_chdir, "/");
    (void)sys_call4(__NR_rt_sigprocmask, SIG_SETMASK, &none, 0, sizeof none);
    (void)sys_call3(__NR_execve, argv[0], argv, no_environment);
    sys_exit(125);
}

static long start_service(const struct context *ctx, const struct plan_op *op)
{
    int ends[2];
    char byte;
    long child = sys_call2(__NR_pipe2, ends, O_CLOEXEC);

    if (child < 0)
        return child;
    child = sys_call5(__NR_clone, SIGCHLD, 0, 0, 0, 0);
    if (child == 0) {
        if (sys_call5(__NR_clone, SIGCHLD, 0, 0, 0, 0) == 0)
            become_service(ctx, op, ends[1]);
        sys_exit(0);
    }
    sys_close(ends[1]);
    if (child > 0)
        (void)sys_call4(__NR_wait4, child, 0, __WALL, 0);
    (void)sys_read(ends[0], &byte, 1); /* it listens, or it found another one that does */
    sys_close(ends[0]);
    return child < 0 ? child : 0;
}

/* Supervisor, before it clones: makes the pod known. */
long metadata_begin(struct context *ctx, uint32_t *step)
{
    const struct plan_op *op = ctx->ops;
    const char *uuid = pool_string(ctx, ctx->plan->pod_name);
    char name[128];
    long fd, r;

    while (op->code != OP_METADATA)
        if (op++->code == OP_APP) /* every plan has that */
            return 0;
    *step = (uint32_t)(op - ctx->ops);
    for (int i = 0; (fd = reach(pool_string(ctx, op->s1))) < 0; i++) {
        if ((fd != -ENOENT && fd != -ECONNREFUSED && fd != -ECONNRESET) || i == TRIES)
            return fd;
        if ((r = start_service(ctx, op)) < 0)
            return r;
    }
    ctx->service = (int)fd;
    if (str_add(str_add(str_add(name, name + sizeof name, uuid), name + sizeof name, "/"), name + sizeof name, pool_string(ctx, op->b)) == 0)
        return -ENAMETOOLONG;
    r = sys_call6(__NR_sendto, fd, name, str_len(name), NOSIGNAL, 0, 0);
    return r < 0 ? r : expect((int)fd, 'K');
}

/* Init, in the pod's network: several apps of a pod share its port, each with a socket for the time that it runs. */
long metadata_listen(struct context *ctx, const struct plan_op *op)
{
    const uint16_t port = (uint16_t)op->a;
    struct inet_address address = {.family = 2 /* AF_INET */, .port = (uint16_t)(port >> 8 | port << 8)};
    /* Only sockets of one user share a port (socket(7), SO_REUSEPORT).  In the host's network no app of another pod may: the
     * socket is that of a user whom only this pod knows. */
    const long user = sys_call1(__NR_setfsuid, op->a >> 16);
    OWNED_FD fd = (int)sys_call3(__NR_socket, 2, 1 | O_CLOEXEC /* SOCK_STREAM */, 0);
    struct link_message message;
    const int yes = 1;
    long r = fd;

    (void)sys_call1(__NR_setfsuid, user);
    address.host = __builtin_bswap32((uint32_t)(op->a >> 16));
    if (r >= 0)
        r = sys_call5(__NR_setsockopt, fd, 1, 15 /* SO_REUSEPORT */, &yes, sizeof yes);
    if (r >= 0)
        r = sys_call3(__NR_bind, fd, &address, sizeof address);
    if (r >= 0)
        r = sys_call2(__NR_listen, fd, 64);
    if (r < 0)
        return r;
    link_message_init(&message, 'L', 1);
    message.control.fds[0] = fd;
    r = sys_call3(__NR_sendmsg, ctx->service, &message.header, NOSIGNAL);
    if (r >= 0)
        r = expect(ctx->service, 'K');
    sys_close(ctx->service);
    ctx->service = -1;
    return r;
}
