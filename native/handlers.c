/* Event handlers of an app (App Container spec, "eventHandlers"): programs that run as the app does, in its root, before it
 * starts and after it has ended.
 *
 *     init        starts the one for the start, once everything is mounted, and waits for it before the app's turn
 *     supervisor  starts the one for the end, as enter.c does; init stays for that long, see stay() in init.c
 *
 * Neither gets the sockets of the service manager or the app's terminal. */
#include <linux/poll.h>
#include <linux/wait.h>

#include "helper.h"

uint32_t find_handler(const struct context *ctx, uint32_t kind)
{
    for (uint32_t i = ctx->plan->op_count; i-- > 1 && ctx->ops[i].code != OP_APP;)
        if (ctx->ops[i].code == OP_HANDLER && ctx->ops[i].n == kind)
            return i;
    return 0;
}

static int failed(const struct context *ctx, uint32_t at, int error, uint32_t detail)
{
    ctx->shared->op = at;
    ctx->shared->error = error;
    ctx->shared->detail = detail;
    ctx->shared->failed = 1;
    return -1;
}

/* Init: 0 when there is none or it went well, else the failure stands in the shared page. */
int pre_start(struct context *ctx)
{
    const uint32_t at = find_handler(ctx, HANDLER_PRE_START);
    const uint64_t all = ~0ULL, limit = now_ns() + ctx->ops[at].a * 1000000000;
    struct context own = *ctx;
    long signal, child, pid;
    int status = 0, late = 0;

    if (at == 0)
        return 0;
    own.handler = at;
    own.tty = -1;
    child = start_program(&own, at);
    if (child < 0)
        return failed(ctx, at, (int)-child, DETAIL_NONE);
    for (;;) {
        uint64_t now = now_ns(), rest = late ? 1000000000 : now < limit ? limit - now : 0;
        struct __kernel_timespec time = {(long)(rest / 1000000000), (long)(rest % 1000000000)};

        signal = sys_call4(__NR_rt_sigtimedwait, &all, 0, &time, sizeof all);
        late |= signal == -EAGAIN;
        if (late || (signal > 0 && signal != SIGCHLD))
            (void)sys_call2(__NR_kill, child, late || signal == SIGNAL_LAST ? SIGKILL : signal);
        while ((pid = sys_call4(__NR_wait4, -1, &status, WNOHANG | __WALL, 0)) > 0)
            if (pid == child)
                return ctx->shared->failed ? -1 : late          ? failed(ctx, at, ETIMEDOUT, DETAIL_NONE)
                                              : status != 0     ? failed(ctx, at, ECANCELED, DETAIL_STATUS | (uint32_t)status)
                                                                : 0;
    }
}

/* What the app wrote last comes before what the handler writes, as far as the caller takes it. */
static void last_words(struct context *ctx)
{
    static const struct __kernel_timespec soon = {0, 50000000};
    struct pollfd polls[TERMINAL_SLOTS];

    for (int pieces = 0; ctx->tty >= 0 && pieces < 4096; pieces++) {
        terminal_watch(ctx, polls, 1);
        if (sys_call5(__NR_ppoll, polls, TERMINAL_SLOTS, &soon, 0, 8) <= 0)
            return;
        terminal_move(ctx, polls);
    }
}

/* Supervisor: whatever becomes of it, the app's end is what counts; what went wrong is said on standard error. */
void post_stop(struct context *ctx)
{
    static const char words[] = "pyrun: the event handler post-stop failed\n";
    const struct shared before = *ctx->shared;
    struct context own = *ctx;
    struct pollfd polls[2];
    uint64_t limit;
    int status = -1;

    last_words(ctx);
    own.handler = find_handler(ctx, HANDLER_POST_STOP);
    own.of = ctx->pidfd;
    own.tty = -1;
    limit = now_ns() + ctx->ops[own.handler].a * 1000000000;
    ctx->shared->failed = ctx->shared->entered = 0;
    if (enter(&own) == 0 && own.init_pid > 0) {
        for (;;) {
            uint64_t now = now_ns(), rest = now < limit ? limit - now : 0;
            struct __kernel_timespec time = {(long)(rest / 1000000000), (long)(rest % 1000000000)};
            unsigned char signal = SIGKILL;

            watch(&polls[0], own.pidfd, POLLIN);
            watch(&polls[1], SLOT_CONTROL, ctx->plan->flags & PLAN_HAS_CONTROL ? POLLIN : 0);
            if (sys_call5(__NR_ppoll, polls, 2, &time, 0, 8) == -EINTR)
                continue;
            if (polls[0].revents == 0 && polls[1].revents != 0 && sys_read(SLOT_CONTROL, &signal, 1) == 1 && signal != SIGKILL)
                continue;
            break;
        }
        (void)sys_call4(__NR_pidfd_send_signal, own.pidfd, SIGKILL, 0, 0);
        (void)sys_call4(__NR_wait4, own.init_pid, &status, __WALL, 0);
    }
    if (status != 0 || ctx->shared->failed)
        (void)sys_write(2, words, sizeof words - 1);
    sys_close(own.pidfd);
    sys_close(own.link);
    *ctx->shared = before;
}
