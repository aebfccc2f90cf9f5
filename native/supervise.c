/* The supervisor: the host-side half, single-threaded, in the host's namespaces.
 *
 * `pyrun run` becomes this process by execve, so it keeps the pid that systemd or a shell knows.
 * When something fails and nobody listens on the control socket it turns back into Python
 * (plan_header.explain), which knows what operation 17 was and who asked for it. */
#include <linux/signalfd.h>
#include <linux/wait.h>

#include "helper.h"

#define BLOCKED (~(1ULL << (SIGSEGV - 1) | 1ULL << (SIGBUS - 1) | 1ULL << (SIGILL - 1) | 1ULL << (SIGFPE - 1)))
#define CLONE_TIME 0x80 /* CLONE_NEWTIME; only unshare(2) leaves room to set the offsets first */

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

void report(const struct context *ctx, const struct plan_report *what)
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

/* Both are gone; `end` says what failed, if that is known already. */
int wind_up(struct context *ctx, struct plan_report end)
{
    const int entering = (ctx->plan->flags & PLAN_ENTER) != 0, well = end.error == 0;
    int32_t status = 0;

    if (ctx->init_pid > 0)
        (void)sys_call4(__NR_wait4, ctx->init_pid, &status, __WALL, 0);
    if (ctx->plan->clone_flags & CLONE_NEWUSER)
        release_namespaces();
    terminal_stop();
    if (well && ctx->shared->failed) {
        end.op = ctx->shared->op;
        end.error = ctx->shared->error;
        end.detail = ctx->shared->detail;
    } else if (well) {
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

int supervise(struct context *ctx)
{
    struct plan_report end = {.kind = PLAN_FAILED};
    const int signals = (int)take_signals();
    long r;

    ctx->top = may_doze(ctx) ? stack_top(ctx) : 0;
    r = start(ctx, &end.op);
    /* The app's streams end with the pod, or with its last handler: nobody waits for the cleaning up. */
    if (r == 0 && (ctx->plan->flags & (PLAN_ACCOUNT | PLAN_ENTER)) == PLAN_ACCOUNT && !find_handler(ctx, HANDLER_POST_STOP))
        (void)sys_call3(__NR_close_range, 0, 2, 0);
    if (r < 0) {
        end.error = (int32_t)-r;
        end.detail = ctx->detail;
        if (ctx->init_pid > 0)
            kill_pod(ctx);
    } else if (ctx->init_pid > 0) {
        wait_for_pod(ctx, signals);
    }
    return wind_up(ctx, end);
}
