/* Entering a running pod (PLAN_ENTER): one more process with exactly what the app got.
 *
 *   client    this process, which stays on the host's side as a supervisor does, for the one process
 *   joiner    its child, born in the pod's cgroup: takes over init's limits, joins the namespaces by init's pidfd,
 *             runs the operations up to OP_SESSION, gives up what it has of the host, and clones
 *   process   the client's child as well (CLONE_PARENT), the first one that is visible inside: the other operations
 *
 * The joiner is not in the pod's pid namespace.  An app that may trace others thus never sees anybody who still has
 * the host's root, a descriptor of the host, or one privilege more than the app itself (CVE-2016-9962). */
#include <linux/poll.h>
#include <linux/wait.h>

#include "helper.h"

#define JOINED (CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP)
#define JOIN_SECONDS 10 /* a joiner that takes longer sits in a frozen cgroup */

/* What the app has from init and not by its plan: limits and the oom score.  Where they are above what this caller
 * may set, the process gets less than the app, never more. */
void inherit(struct context *ctx)
{
    char path[64] = "/proc/", text[16] = "";
    uint64_t init = 0, limit[2];
    OWNED_FD fd = -1;

    for (const char *c = ctx->argv[1]; c != 0 && *c >= '0' && *c <= '9'; c++)
        init = init * 10 + (uint64_t)(*c - '0');
    for (unsigned i = 0; i < 16; i++)
        if (sys_call4(__NR_prlimit64, init, i, 0, limit) == 0 && sys_call4(__NR_prlimit64, 0, i, limit, 0) < 0)
            (void)run_process_op(ctx, &(struct plan_op){.code = OP_RLIMIT, .flags = OPF_CLAMP, .n = i, .a = limit[0], .b = limit[1]});
    (void)str_add(str_add_number(path + 6, path + sizeof path, init), path + sizeof path, "/oom_score_adj");
    fd = (int)sys_openat(AT_FDCWD, path, O_RDONLY, 0);
    if (sys_read(fd, text, sizeof text - 1) > 0)
        (void)write_file(AT_FDCWD, "/proc/self/oom_score_adj", 0, 0, text, str_len(text));
}

/* A pod's namespaces, in the order of joining: the user namespace gives what the others take. */
static const struct {
    char file[12];
    uint64_t kind;
} kinds[] = {
    {"/ns/user", CLONE_NEWUSER}, {"/ns/pid", CLONE_NEWPID}, {"/ns/ipc", CLONE_NEWIPC},       {"/ns/uts", CLONE_NEWUTS},
    {"/ns/net", CLONE_NEWNET},   {"/ns/mnt", CLONE_NEWNS},  {"/ns/cgroup", CLONE_NEWCGROUP},
};
#define KINDS (sizeof kinds / sizeof *kinds)

/* In a user namespace of the pod's own.  Who made that may join it, but by a pidfd only who may trace init, and without root nobody
 * may that is of a program executed outside (PR_SET_DUMPABLE).  So the supervisor opens all while init waits for its ids, and a client
 * opens those.  What could not be opened fails in setns(2).  Where the supervisor is in that namespace too, the pidfd will do. */
void hold_namespaces(const struct context *ctx, int32_t init)
{
    for (unsigned i = 0; i < KINDS; i++) {
        char path[64] = "/proc/", *end = path + sizeof path;
        OWNED_FD fd = -1;

        if (init > 0)
            (void)str_add(str_add_number(path + 6, end, (uint64_t)init), end, kinds[i].file);
        else
            (void)str_add_number(str_add(path, end, "fd/"), end, SLOT_NAMESPACES + i);
        if ((ctx->plan->clone_flags & kinds[i].kind) && (fd = (int)sys_openat(SLOT_SUPERVISOR, path, O_RDONLY, 0)) >= 0)
            (void)sys_call3(__NR_dup3, fd, SLOT_NAMESPACES + i, O_CLOEXEC);
    }
}

/* They would outlive init, and with them the mounts. */
void release_namespaces(void)
{
    (void)sys_call3(__NR_close_range, SLOT_NAMESPACES, SLOT_NAMESPACES + KINDS - 1, 0);
}

static long join_each(const struct context *ctx)
{
    long r = 0;

    if (ctx->of < 0)
        hold_namespaces(ctx, 0);
    for (unsigned i = 0; i < KINDS && r == 0; i++)
        if (ctx->plan->clone_flags & kinds[i].kind)
            r = sys_call2(__NR_setns, SLOT_NAMESPACES + i, kinds[i].kind);
    release_namespaces();
    return r;
}

/* Until init has pivoted, the root of its mount namespace is the host's: nobody may enter that.  No descriptor of the
 * host's stays, but for the link. */
long join_namespaces(struct context *ctx)
{
    const uint64_t user = ctx->plan->clone_flags & CLONE_NEWUSER, time = ctx->plan->clone_flags & CLONE_NEWTIME;
    const uint64_t all = ctx->plan->flags & PLAN_OCI ? ctx->plan->clone_flags : JOINED | JOINED_NETWORK(ctx) | user | time;
    struct stat before, after;
    long r = sys_call4(__NR_newfstatat, AT_FDCWD, "/", &before, 0);

    if (r == 0 && user && (ctx->plan->clone_flags & CLONE_NEWNS) && !(ctx->plan->flags & PLAN_OCI))
        r = join_each(ctx);
    else if (r == 0 && all != 0) /* an OCI container may have none of its own */
        r = sys_call2(__NR_setns, ctx->of < 0 ? SLOT_INIT : ctx->of, all);
    if (r == 0 && user && (r = sys_call3(__NR_setresgid, 0, 0, 0)) == 0)
        r = sys_call3(__NR_setresuid, 0, 0, 0);
    if (r == 0)
        r = sys_call4(__NR_newfstatat, AT_FDCWD, "/", &after, 0);
    if (r == 0 && (all & CLONE_NEWNS) && before.st_dev == after.st_dev && before.st_ino == after.st_ino)
        r = -EAGAIN;
    if (r < 0 || (r = ctx->link = (int)sys_call3(__NR_fcntl, ctx->link, F_DUPFD_CLOEXEC, SLOT_COUNT)) < 0)
        return r;
    (void)sys_call3(__NR_close_range, SLOT_PLAN, SLOT_COUNT - 1, 0);
    return ctx->root = (int)sys_openat(AT_FDCWD, "/", O_PATH | O_DIRECTORY, 0);
}

static int joiner(struct context *ctx)
{
    const uint64_t none = 0;
    uint32_t i = 0;
    long r = move_version_1(ctx, 1);

    default_signals(ALL_SIGNALS_OF_LINUX);
    if (ctx->handler) /* what init did for the app before it was one */
        (void)run_process_op(ctx, &(struct plan_op){.code = OP_KEYRING});
    else
        inherit(ctx);
    if (r == 0)
        r = join_namespaces(ctx);
    if (r >= 0) {
        i = run_ops(ctx, (ctx->handler ? ctx->handler : run_ops(ctx, 0, OP_APP)) + 1, OP_SESSION);
        sys_close(ctx->root);
        (void)sys_prctl(PR_SET_DUMPABLE, 0, 0); /* a change of ids may have set it */
        if (!(ctx->plan->flags & PLAN_SHARED_PID)) /* else the supervisor's children are in the pod's pid namespace as they are */
            r = sys_call5(__NR_clone, CLONE_PARENT | CLONE_PARENT_SETTID | SIGCHLD, 0, &ctx->shared->entered, 0, 0);
        else
            r = 0;
    }
    if (r < 0)
        fail(ctx, STEP_JOIN, r);
    if (r > 0)
        return 0;
    (void)sys_prctl(PR_SET_PDEATHSIG, SIGKILL, 0);
    if (!alone(ctx)) {
        (void)sys_call4(__NR_rt_sigprocmask, SIG_SETMASK, &none, 0, sizeof none);
        (void)run_ops(ctx, i, OP_NONE);
    }
    return 125;
}

/* Returns once the process is there, as init_pid and pidfd, or has failed in a way that stands in the shared page. */
long enter(struct context *ctx)
{
    static const struct __kernel_timespec limit = {JOIN_SECONDS, 0};
    struct pollfd end = {-1, POLLIN, 0};
    long n, r = clone_child(ctx, 0, joiner);

    if (r < 0 || (ctx->plan->flags & PLAN_SHARED_PID))
        return r;
    end.fd = ctx->pidfd;
    n = sys_call5(__NR_ppoll, &end, 1, &limit, 0, 8);
    if (n == 0)
        (void)sys_call4(__NR_pidfd_send_signal, ctx->pidfd, SIGKILL, 0, 0);
    (void)sys_call4(__NR_wait4, ctx->init_pid, 0, __WALL, 0);
    ctx->init_pid = (int32_t)ctx->shared->entered;
    if (ctx->init_pid == 0)
        return n == 0 ? -ETIMEDOUT : ctx->shared->failed ? 0 : -ESRCH; /* killed with the pod */
    ctx->pidfd = (int)sys_call2(__NR_pidfd_open, ctx->init_pid, 0);
    return ctx->pidfd < 0 ? ctx->pidfd : 0;
}
