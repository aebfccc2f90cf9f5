/* The supervisor: the host-side half, single-threaded, in the host's namespaces.
 *
 * `pyrun run` becomes this process by execve, so it keeps the pid that systemd or a shell knows.
 * When something fails and nobody listens on the control socket it turns back into Python
 * (plan_header.explain), which knows what operation 17 was and who asked for it. */
#include <linux/poll.h>
#include <linux/signalfd.h>
#include <linux/wait.h>

#include "helper.h"

#define BLOCKED (~(1ULL << (SIGSEGV - 1) | 1ULL << (SIGBUS - 1) | 1ULL << (SIGILL - 1) | 1ULL << (SIGFPE - 1)))
#define CLONE_TIME 0x80 /* CLONE_NEWTIME; only unshare(2) leaves room to set the offsets first */

enum { POLL_SIGNAL, POLL_PIDFD, POLL_LINK, POLL_CONTROL, POLL_NOTIFY, POLL_TERMINAL, POLL_COUNT = POLL_TERMINAL + TERMINAL_SLOTS };

uint64_t now_ns(void)
{
    struct __kernel_timespec t = {0, 0};

    (void)sys_call2(__NR_clock_gettime, 0 /* CLOCK_REALTIME */, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

void send_report(const struct plan_report *what)
{
    (void)sys_call6(__NR_sendto, SLOT_CONTROL, what, sizeof *what, 0x4000 | 0x40 /* MSG_NOSIGNAL, MSG_DONTWAIT */, 0, 0);
}

static void report(const struct context *ctx, const struct plan_report *what)
{
    if (what->kind == PLAN_EXITED)
        send_figures(ctx);
    if (ctx->plan->flags & PLAN_HAS_CONTROL)
        send_report(what);
}

/* A caller may have left signals ignored, which execve keeps: those from `first` to `last` get their defaults. */
void default_signals(int first, int last)
{
    struct {
        uintptr_t handler, flags, restorer;
        uint64_t mask;
    } standard = {0, 0, 0, 0};

    for (int signal = first; signal <= last; signal++)
        (void)sys_call4(__NR_rt_sigaction, signal, &standard, 0, sizeof standard.mask);
}

/* What is blocked is queued even when it is ignored (signal(7)), but children of whoever ignores SIGCHLD leave no status
 * (wait(2)).  The other signals are the child's to reset: it has the time, while the network is made here. */
void block_signals(void)
{
    const uint64_t all = BLOCKED;

    default_signals(SIGCHLD, SIGCHLD);
    (void)sys_call4(__NR_rt_sigprocmask, SIG_SETMASK, &all, 0, sizeof all);
}

static long take_signals(void)
{
    const uint64_t all = BLOCKED;

    return sys_call4(__NR_signalfd4, -1, &all, sizeof all, SFD_CLOEXEC | SFD_NONBLOCK);
}

static long write_proc(int32_t pid, const char *file, const char *text)
{
    char path[64];
    char *at = str_add(path, path + sizeof path, "/proc/");

    at = pid == 0 ? str_add(at, path + sizeof path, "self") : str_add_number(at, path + sizeof path, (uint64_t)pid);
    (void)str_add(at, path + sizeof path, file);
    return write_file(AT_FDCWD, path, 0, 0, text, str_len(text));
}

/* user_namespaces(7): setgroups is denied before gid_map when the writer has no CAP_SETGID there. */
long map_ids(const struct context *ctx)
{
    const struct plan_header *plan = ctx->plan;
    long r = plan->flags & PLAN_SETGROUPS_DENY ? write_proc(ctx->init_pid, "/setgroups", "deny") : 0;

    if (r == 0)
        r = write_proc(ctx->init_pid, "/uid_map", pool_string(ctx, plan->uid_map));
    return r < 0 ? r : write_proc(ctx->init_pid, "/gid_map", pool_string(ctx, plan->gid_map));
}

/* Whether the pod's network is made here (network.c) and not by the clone. */
static int own_network(const struct context *ctx)
{
    return (ctx->plan->clone_flags & (CLONE_NEWNET | CLONE_NEWUSER)) == CLONE_NEWNET && !(ctx->plan->flags & PLAN_CLONE_NETWORK);
}

/* A child in the pod's cgroup from birth, with the other end of a pair of sockets; what is known of it goes into the context. */
long clone_child(struct context *ctx, uint64_t flags, int (*run)(struct context *))
{
    struct clone_args args = {.flags = flags | CLONE_PIDFD, .pidfd = (uintptr_t)&ctx->pidfd, .exit_signal = flags & CLONE_PARENT ? 0 : SIGCHLD};
    int links[2];
    long pid = sys_call4(__NR_socketpair, 1 /* AF_UNIX */, 5 | O_CLOEXEC /* SOCK_SEQPACKET */, 0, links);

    if (pid < 0)
        return pid;
    if ((ctx->plan->flags & PLAN_HAS_CGROUP) && !ctx->inside) {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = SLOT_CGROUP;
    }
    ctx->started = now_ns();
    pid = sys_call2(__NR_clone3, &args, sizeof args);
    if (pid == 0) {
        sys_close(links[0]);
        ctx->link = links[1];
        sys_exit(run(ctx));
    }
    sys_close(links[1]);
    ctx->link = links[0];
    ctx->init_pid = (int32_t)pid;
    return pid < 0 ? pid : 0;
}

/* The time namespace of the next child. */
long new_time(const struct context *ctx)
{
    long r = ctx->plan->clone_flags & CLONE_TIME ? sys_call1(__NR_unshare, CLONE_TIME) : 0;

    return r == 0 && ctx->plan->timens != 0 ? write_proc(0, "/timens_offsets", pool_string(ctx, ctx->plan->timens)) : r;
}

static long start(struct context *ctx, uint32_t *step)
{
    const uint64_t elsewhere = CLONE_TIME | (own_network(ctx) ? CLONE_NEWNET : 0);
    long r;

    *step = STEP_ENTER;
    if (ctx->plan->flags & PLAN_ENTER)
        return enter(ctx);
    *step = STEP_TIMENS;
    if ((r = new_time(ctx)) < 0)
        return r;
    for (*step = 0; before_clone(&ctx->ops[*step]); (*step)++)
        if ((r = set_limit(ctx, &ctx->ops[*step])) < 0)
            return r;
    if ((r = metadata_begin(ctx, step)) < 0)
        return r;
    *step = STEP_NOTIFY;
    if ((r = notify_listen(ctx)) < 0)
        return r;
    *step = STEP_JOIN;
    if ((ctx->plan->flags & PLAN_SHARED_PID) && (r = sys_call2(__NR_setns, SLOT_INIT, CLONE_NEWPID)) < 0) /* of the next child */
        return r;
    *step = STEP_CLONE;
    if ((r = move_version_1(ctx, 1)) == 0)
        r = clone_child(ctx, ctx->plan->clone_flags & ~elsewhere, init_main);
    (void)move_version_1(ctx, 0);
    if (r < 0)
        return r;
    if (own_network(ctx) && (r = make_network(ctx)) < 0)
        return r;
    *step = STEP_IDMAP;
    if (!(ctx->plan->clone_flags & CLONE_NEWUSER))
        return 0;
    r = map_ids(ctx);
    hold_namespaces(ctx, ctx->init_pid);
    if (r == 0 && (ctx->plan->flags & PLAN_WAIT)) {
        char byte;

        send_report(&(struct plan_report){.kind = PLAN_CHECKPOINT});
        r = sys_read(SLOT_CONTROL, &byte, 1) == 1 ? 0 : -EPIPE;
    }
    return r < 0 ? r : sys_write(ctx->link, "G", 1) == 1 ? 0 : -EPIPE;
}

static void kill_pod(struct context *ctx)
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

/* Until init is gone.  Its end, not the app's, counts: only then is every process of the pod dead.
 * What the app wrote is then shown to the end, however slowly the caller reads, unless the pod was told to stop. */
WAITING static void wait_for_init(struct context *ctx, int signals)
{
    static const struct __kernel_timespec at_once = {0, 0};
    struct pollfd polls[POLL_COUNT];
    int link = 1, control = (ctx->plan->flags & PLAN_HAS_CONTROL) != 0, ended = 0, hurry = 0;

    count_oom_kills(ctx);
    reap_others(ctx); /* what ended before its signal was waited for */
    for (;;) {
        long n;

        watch(&polls[POLL_SIGNAL], signals, POLLIN);
        watch(&polls[POLL_PIDFD], ctx->pidfd, ended ? 0 : POLLIN);
        watch(&polls[POLL_LINK], ctx->link, link ? POLLIN : 0);
        watch(&polls[POLL_CONTROL], SLOT_CONTROL, control ? POLLIN : 0);
        watch(&polls[POLL_NOTIFY], ctx->notify, ctx->notify >= 0 ? POLLIN : 0);
        terminal_watch(ctx, polls + POLL_TERMINAL, ended);
        n = sys_call5(__NR_ppoll, polls, POLL_COUNT, ended && (hurry || !terminal_waits()) ? &at_once : 0, 0, 8);
        if (n < 0)
            continue;
        if (n == 0)
            return;
        if (polls[POLL_LINK].revents)
            link = on_link(ctx);
        if (polls[POLL_SIGNAL].revents)
            hurry |= on_signal(ctx, signals);
        if (polls[POLL_CONTROL].revents)
            hurry |= !(control = on_control(ctx));
        if (polls[POLL_NOTIFY].revents)
            notify_relay(ctx);
        terminal_move(ctx, polls + POLL_TERMINAL);
        ended |= polls[POLL_PIDFD].revents != 0;
        if (!ended && link && (polls[POLL_LINK].revents | polls[POLL_SIGNAL].revents | polls[POLL_CONTROL].revents | polls[POLL_NOTIFY].revents))
            settle();
    }
}

static int exit_code(int32_t status)
{
    return (status & 0x7f) != 0 ? 128 + (status & 0x7f) : status >> 8 & 0xff;
}

/* The process becomes Python again, where a person reads what it says. */
static int explain(const struct context *ctx, const struct plan_report *failure)
{
    if (ctx->plan->flags & PLAN_HAS_EXPLAIN) {
        (void)sys_call3(__NR_close_range, SLOT_PLAN + 1, ~0U, 0);
        become_explainer(ctx->plan, failure, (char **)(void *)arena, ARENA_SIZE / sizeof(char *), ctx->envp);
    }
    return 125;
}

int supervise(struct context *ctx)
{
    struct plan_report end = {.kind = PLAN_FAILED};
    OWNED_FD signals = (int)take_signals();
    const int entering = (ctx->plan->flags & PLAN_ENTER) != 0;
    int32_t status = 0;
    long r = start(ctx, &end.op);

    /* The app's streams end with the pod, or with its last handler: nobody waits for the cleaning up. */
    if (r == 0 && (ctx->plan->flags & PLAN_ACCOUNT) && !entering && !find_handler(ctx, HANDLER_POST_STOP))
        (void)sys_call3(__NR_close_range, 0, 2, 0);
    if (r < 0) {
        end.error = (int32_t)-r;
        end.detail = ctx->detail;
        if (ctx->init_pid > 0)
            kill_pod(ctx);
    }
    if (ctx->init_pid > 0) {
        if (r == 0)
            wait_for_init(ctx, signals);
        (void)sys_call4(__NR_wait4, ctx->init_pid, &status, __WALL, 0);
    }
    if (ctx->plan->clone_flags & CLONE_NEWUSER)
        release_namespaces();
    terminal_stop();
    if (r == 0 && ctx->shared->failed) {
        end.op = ctx->shared->op;
        end.error = ctx->shared->error;
        end.detail = ctx->shared->detail;
    } else if (r == 0) {
        /* init tells the app's own end; if it was killed first, its own end is what is known, and never a success. */
        end.kind = PLAN_EXITED;
        end.op = 0;
        end.status = ctx->shared->exited ? ctx->shared->status : status != 0 || entering ? status : 125 << 8;
        end.detail = out_of_memory(ctx, end.status);
    }
    end.time = now_ns();
    if (!ctx->reported)
        report(ctx, &end);
    if (end.kind == PLAN_EXITED)
        write_exit_record(ctx, end.status, end.time, end.detail);
    if (!entering)
        remove_leftovers(ctx, end.kind == PLAN_EXITED && !(ctx->plan->flags & PLAN_REMOVE));
    if (ctx->root >= 0) /* the pod is gone: tell the keeper, then let go of the root */
        sys_close(SLOT_CONTROL);
    if (end.kind != PLAN_EXITED)
        return explain(ctx, &end);
    tell_caller(ctx, &end, exit_code(end.status));
    return exit_code(end.status);
}
