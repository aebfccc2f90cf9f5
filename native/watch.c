/* What the supervisor does while its pod is there: signals, the control socket, what init says, the terminal.
 *
 * A keeper's supervisor does it without memory, see doze.c: what has happened wakes it, poll(2) says what it was. */
#include <linux/eventpoll.h>
#include <linux/poll.h>
#include <linux/signalfd.h>
#include <linux/wait.h>

#include "helper.h"

enum { POLL_SIGNAL, POLL_PIDFD, POLL_LINK, POLL_CONTROL, POLL_NOTIFY, POLL_TERMINAL, POLL_COUNT = POLL_TERMINAL + TERMINAL_SLOTS };

void kill_pod(struct context *ctx)
{
    look_for_victim(ctx);
    (void)sys_call4(__NR_pidfd_send_signal, ctx->pidfd, SIGKILL, 0, 0);
}

/* Children that this process had before it became the helper: the interpreter that has decided (decide.c), or a shell's. */
static void reap_others(const struct context *ctx)
{
    struct {
        int32_t head[4], pid; /* of siginfo_t, wait(2) */
        char rest[108];
    } info;

    while ((info.pid = 0, sys_call5(__NR_waitid, P_ALL, 0, &info, WNOHANG | WEXITED | WNOWAIT, 0)) == 0 && info.pid != 0 && info.pid != ctx->init_pid)
        (void)sys_call4(__NR_wait4, info.pid, 0, 0, 0);
}

/* Returns 1 after one that asks the app to end. */
SELDOM static int on_signal(struct context *ctx, int fd)
{
    struct signalfd_siginfo info;
    int hurry = 0;

    while (sys_read(fd, &info, sizeof info) == sizeof info) {
        int signal = (int)info.ssi_signo;

        if (signal == SIGWINCH && ctx->tty >= 0)
            terminal_copy_size(ctx);
        else if (signal == SIGCHLD)
            reap_others(ctx);
        else if (signal != SIGPIPE && signal != SIGTTIN && signal != SIGTTOU)
            (void)sys_call4(__NR_pidfd_send_signal, ctx->pidfd, signal, 0, 0);
        hurry |= signal == SIGTERM || signal == SIGINT || signal == SIGHUP || signal == SIGQUIT;
    }
    return hurry;
}

/* First thing when the app has ended: who waits for that need not wait for the namespaces to be taken apart. */
static void app_ended(struct context *ctx)
{
    if (ctx->shared->stays) { /* init does, for a handler */
        ctx->shared->stays = 0;
        post_stop(ctx);
        kill_pod(ctx);
        return;
    }
    if (ctx->reported || !ctx->shared->exited || ctx->tty >= 0) /* with a terminal its last words come first */
        return;
    ctx->reported = 1;
    if (ctx->shared->reported)
        return;
    report(ctx, &(struct plan_report){.kind = PLAN_EXITED,
                                      .detail = out_of_memory(ctx, ctx->shared->status),
                                      .status = ctx->shared->status,
                                      .time = now_ns()});
}

/* A pod that a keeper looks after may be gone before its root is unmounted: an overlay syncs all of the file system that it
 * writes to (overlayfs.rst, "Volatile mount"), which takes as long as others have written.  Whoever holds it last waits. */
static void hold_root(struct context *ctx)
{
    char path[32] = "/proc/";
    const char *end = path + sizeof path;

    if ((ctx->plan->flags & (PLAN_HAS_CONTROL | PLAN_HAS_POD | PLAN_ENTER)) != PLAN_HAS_CONTROL)
        return;
    (void)str_add(str_add_number(path + str_len(path), end, (uint64_t)ctx->init_pid), end, "/root");
    ctx->root = (int)sys_openat(AT_FDCWD, path, O_PATH | O_DIRECTORY, 0);
}

/* 'R' the app runs; 'T' with the master of its terminal; 'K' it was killed, and init waits: see oom.c. */
SELDOM static int on_link(struct context *ctx)
{
    struct link_message message;
    long n;

    link_message_init(&message, 0, 1);
    n = sys_call3(__NR_recvmsg, ctx->link, &message.header, 0x40000000 | 0x40 /* MSG_CMSG_CLOEXEC, MSG_DONTWAIT */);
    if (n == -EAGAIN || n == -EINTR)
        return 1;
    if (n != 1) {
        app_ended(ctx);
        return 0;
    }
    if (message.kind == 'T' && message.header.control_length != 0 && ctx->tty < 0) {
        ctx->tty = message.control.fds[0];
        terminal_start(ctx);
    }
    if (message.kind == 'K') {
        look_for_victim(ctx);
        ctx->shared->held = 0;
        (void)sys_call4(__NR_pidfd_send_signal, ctx->pidfd, SIGCHLD, 0, 0);
    }
    if (message.kind == 'R') {
        notify_ready(ctx);
        report(ctx, &(struct plan_report){.kind = PLAN_RUNNING, .pid = ctx->init_pid, .time = now_ns()});
        hold_root(ctx);
        (void)sys_call3(__NR_madvise, ctx->plan, ctx->plan->size, MADV_DONTNEED); /* comes back from its file when needed */
    }
    return 1;
}

/* One byte is a signal for the pod (SIGKILL ends all of it); EOF is the end of whoever wanted it. */
SELDOM static int on_control(struct context *ctx)
{
    unsigned char signal = 0;
    long n = sys_call6(__NR_recvfrom, SLOT_CONTROL, &signal, 1, 0x40 /* MSG_DONTWAIT */, 0, 0);

    if (n == -EAGAIN || n == -EINTR)
        return 1;
    if (n == 1 && signal == SIGKILL && !ctx->killed && find_handler(ctx, HANDLER_POST_STOP)) {
        ctx->killed = 1;
        signal = SIGNAL_LAST;
    }
    if (n == 1 && signal != SIGKILL)
        (void)sys_call4(__NR_pidfd_send_signal, ctx->pidfd, signal, 0, 0);
    else
        kill_pod(ctx);
    return n == 1;
}

/* What the supervisor knows while it waits. */
struct waiting {
    unsigned long top;
    struct context ctx;
    int signals, events; /* `events`: epoll(7), see watch_all() */
    unsigned char link, control, ended, hurry, told, unused[3];
    char rest[sizeof(struct kept) - sizeof(struct context) - 24];
};

/* Of its environment a keeper's helper has the one word that is left after a doze, if any. */
static const char keepers[] = "NOTIFY_SOCKET=/proc/self/fd/5/manager";

int may_doze(const struct context *ctx)
{
    const uint32_t wanted = PLAN_HAS_CONTROL | PLAN_TELL_RUNNING;

    return (ctx->plan->flags & (wanted | PLAN_HAS_POD | PLAN_ENTER)) == wanted &&
           (ctx->envp[0] == 0 || (str_eq(ctx->envp[0], keepers) && ctx->envp[1] == 0));
}

/* All that may come while the app runs: poll(2) would have to be told each time, in memory. */
static int watch_all(const struct context *ctx, int signals)
{
    const int fds[] = {signals, ctx->pidfd, ctx->link, SLOT_CONTROL, ctx->notify};
    struct epoll_event event = {.events = EPOLLIN};
    int events = (int)sys_call1(__NR_epoll_create1, O_CLOEXEC);

    for (unsigned i = 0; i < sizeof fds / sizeof *fds && events >= 0; i++)
        if (fds[i] >= 0 && sys_call4(__NR_epoll_ctl, events, EPOLL_CTL_ADD, fds[i], &event) < 0)
            events = -1;
    return events;
}

static woken woken_up;

/* Until init is gone.  Its end, not the app's, counts: only then is every process of the pod dead.
 * What the app wrote is then shown to the end, however slowly the caller reads, unless the pod was told to stop. */
WAITING static void wait_for_init(struct waiting *w)
{
    static const struct __kernel_timespec at_once = {0, 0};
    struct context *ctx = &w->ctx;
    struct pollfd polls[POLL_COUNT];

    for (;;) {
        long n;

        watch(&polls[POLL_SIGNAL], w->signals, POLLIN);
        watch(&polls[POLL_PIDFD], ctx->pidfd, w->ended ? 0 : POLLIN);
        watch(&polls[POLL_LINK], ctx->link, w->link ? POLLIN : 0);
        watch(&polls[POLL_CONTROL], SLOT_CONTROL, w->control ? POLLIN : 0);
        watch(&polls[POLL_NOTIFY], ctx->notify, ctx->notify >= 0 ? POLLIN : 0);
        terminal_watch(ctx, polls + POLL_TERMINAL, w->ended);
        n = sys_call5(__NR_ppoll, polls, POLL_COUNT, w->ended && (w->hurry || !terminal_waits()) ? &at_once : 0, 0, 8);
        if (n < 0)
            continue;
        if (n == 0)
            return;
        if (polls[POLL_LINK].revents)
            w->link = (unsigned char)on_link(ctx);
        if (polls[POLL_SIGNAL].revents)
            w->hurry |= (unsigned char)on_signal(ctx, w->signals);
        if (polls[POLL_CONTROL].revents)
            w->hurry |= !(w->control = (unsigned char)on_control(ctx));
        if (polls[POLL_NOTIFY].revents)
            notify_relay(ctx);
        terminal_move(ctx, polls + POLL_TERMINAL);
        w->ended |= polls[POLL_PIDFD].revents != 0;
        if (w->ended || !w->link || !(polls[POLL_LINK].revents | polls[POLL_SIGNAL].revents | polls[POLL_CONTROL].revents | polls[POLL_NOTIFY].revents))
            continue;
        settle();
        if (w->top != 0 && w->control && ctx->tty < 0)
            doze((struct kept *)w, woken_up, __NR_epoll_wait, w->events, (long)w - 64, 1, -1);
    }
}

__attribute__((noreturn)) WAITING static void woken_up(struct kept *kept, long result)
{
    struct waiting *w = (struct waiting *)kept;
    char *words[2] = {w->told ? (char *)(uintptr_t)keepers : 0, 0};

    (void)result; /* poll(2) says it once more */
    w->ctx.envp = words;
    wait_for_init(w);
    sys_exit(wind_up(&w->ctx, (struct plan_report){.kind = PLAN_FAILED}));
}

void wait_for_pod(struct context *ctx, int signals)
{
    struct waiting w = {.signals = signals, .events = -1, .link = 1, .control = (ctx->plan->flags & PLAN_HAS_CONTROL) != 0};

    count_oom_kills(ctx);
    reap_others(ctx); /* what ended before its signal was waited for */
    if (ctx->top != 0 && (w.events = watch_all(ctx, signals)) >= 0)
        w.top = ctx->top;
    w.told = ctx->envp[0] != 0;
    memcpy(&w.ctx, ctx, sizeof w.ctx);
    wait_for_init(&w);
    memcpy(ctx, &w.ctx, sizeof w.ctx);
}
