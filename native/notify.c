/* What the supervisor and the app say to the service manager, sd_notify(3) and sd_listen_fds(3).
 *
 * The manager knows the supervisor as the unit's main process and believes it alone (NotifyAccess=main).  So it is the
 * supervisor that says READY=1: when the app runs, or, with PLAN_NOTIFY_APP, when the app says so on a socket in the
 * pod's directory.  Of the app's datagrams only the lines below pass: it may not name another main process, store
 * descriptors, or change who is believed.  Descriptors that come with a datagram are never taken out of the socket. */
#include "helper.h"

#define AF_UNIX 1
#define DATAGRAM (2 | 02000000 | 04000) /* SOCK_DGRAM, SOCK_CLOEXEC, SOCK_NONBLOCK */

struct address { /* struct sockaddr_un of unix(7) */
    unsigned short family;
    char path[108];
};

/* One text, since an array of pointers would have to be relocated.  Behind a '=' at the end anything may follow. */
static const char passed[] = "READY=1\0RELOADING=1\0STOPPING=1\0STATUS=\0ERRNO=\0EXIT_STATUS=\0WATCHDOG=1\0WATCHDOG=trigger\0"
                             "MONOTONIC_USEC=\0EXTEND_TIMEOUT_USEC=\0";

int notify_wanted(const struct context *ctx)
{
    const char *path = from_environment(ctx->envp, "NOTIFY_SOCKET");

    return (path[0] == '/' || path[0] == '@') && !(ctx->plan->flags & (PLAN_NOTIFY_APP | PLAN_NOTIFY_NONE | PLAN_ENTER));
}

void notify_ready(const struct context *ctx)
{
    static const char ready[] = "READY=1";

    if (notify_wanted(ctx))
        tell_manager(ctx->envp, ready, sizeof ready - 1);
}

/* The app's end of it is bound into the pod by an operation of the plan. */
long notify_listen(struct context *ctx)
{
    struct address own = {AF_UNIX, "/proc/self/fd/5/notify"};
    long r;

    if (!(ctx->plan->flags & PLAN_NOTIFY_APP))
        return 0;
    ctx->notify = (int)sys_call3(__NR_socket, AF_UNIX, DATAGRAM, 0);
    if (ctx->notify < 0)
        return ctx->notify;
    (void)sys_call3(__NR_unlinkat, SLOT_POD, "notify", 0);
    r = sys_call3(__NR_bind, ctx->notify, &own, 2 + str_len(own.path) + 1);
    return r < 0 ? r : sys_call3(__NR_fchmodat, SLOT_POD, "notify", 0666); /* whatever user the app is */
}

static int passes(const char *line, size_t size)
{
    for (const char *word = passed; *word != '\0'; word += str_len(word) + 1) {
        size_t n = str_len(word);

        if (size >= n && memcmp(line, word, n) == 0 && (size == n || word[n - 1] == '='))
            return 1;
    }
    return 0;
}

void notify_relay(const struct context *ctx)
{
    char in[4096], out[4096];

    for (int datagrams = 0; datagrams < 16; datagrams++) { /* then others get their turn */
        long n = sys_call6(__NR_recvfrom, ctx->notify, in, sizeof in, 0x40 /* MSG_DONTWAIT */, 0, 0);
        size_t used = 0, start = 0;

        if (n < 0)
            return;
        for (size_t i = 0; i <= (size_t)n; i++) {
            size_t size = i - start;

            if (i < (size_t)n && in[i] != '\n')
                continue;
            if (passes(in + start, size)) {
                if (used > 0)
                    out[used++] = '\n';
                memcpy(out + used, in + start, size);
                used += size;
            }
            start = i + 1;
        }
        tell_manager(ctx->envp, out, used);
    }
}

static char **add_number(char **at, char *text, const char *name, uint64_t number)
{
    char *end = str_add(text, text + 40, name);

    (void)str_add_number(end, text + 40, number);
    *at++ = text;
    return at;
}

static char **add_same(char **at, const struct context *ctx, const char *name)
{
    const char *value = from_environment(ctx->envp, name);

    if (value[0] != '\0')
        *at++ = (char *)(uintptr_t)(value - str_len(name) - 1);
    return at;
}

/* Variables that only the app's own process can know, for execve(2): the pid in them is the one it has in its namespace. */
char **notify_environment(const struct context *ctx, char **at)
{
    static char texts[3][40];
    uint64_t pid = (uint64_t)sys_call0(__NR_getpid);
    uint32_t sockets = ctx->handler ? 0 : ctx->plan->flags >> PLAN_LISTEN_SHIFT;

    if (sockets > 0 && (!(ctx->plan->flags & PLAN_OCI) || from_environment(ctx->envp, "LISTEN_FDS")[0] != '\0')) {
        /* an OCI container's descriptors need not be sockets (--preserve-fds): how many are was counted before */
        at = ctx->plan->flags & PLAN_OCI ? add_same(at, ctx, "LISTEN_FDS") : add_number(at, texts[0], "LISTEN_FDS=", sockets);
        at = add_number(at, texts[1], "LISTEN_PID=", pid);
        at = add_same(at, ctx, "LISTEN_FDNAMES");
    }
    if ((ctx->plan->flags & PLAN_NOTIFY_APP) && from_environment(ctx->envp, "WATCHDOG_USEC")[0] != '\0') {
        at = add_number(at, texts[2], "WATCHDOG_PID=", pid);
        at = add_same(at, ctx, "WATCHDOG_USEC");
    }
    *at = 0;
    return at;
}
