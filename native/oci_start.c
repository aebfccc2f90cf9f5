/* An OCI container's process (PLAN_OCI): pid 1 of its namespaces is the program itself, and nothing of ours stays.
 *
 *     Python (create)        helper                    the container's process
 *       |--- spawn ------------>|                                 |
 *       |                       |--- clone3, CLONE_PARENT ------->| a child of Python's, hence of who reaps for it
 *       |                       |--- 'G' once ids are mapped ---->|
 *       |<-- PLAN_RUNNING, pid -| exits                           | operations
 *       |<-- PLAN_CHECKPOINT -------------------------------------| its namespaces are there: hooks
 *       |--- byte ----------------------------------------------->| pivot, identity
 *       |<-- PLAN_PARKED -----------------------------------------| all but the execve is done
 *       |--- byte, once the state is on disk -------------------->|
 *     exits                                                       | reads the fifo at SLOT_START
 *     start ------------------- byte on the fifo ---------------->| startContainer hooks, execve
 *
 * The fifo is close-on-exec: whoever wrote the byte sees it without a reader once the program runs, or has ended and left a
 * PLAN_FAILED in it, which is there for as long as that one has it open.  Behind the system call filter, which may refuse much, the process
 * needs read, write, execve and exit only.  Should Python die before the state is written, the process ends with it. */
#include <linux/memfd.h>
#include <linux/poll.h>
#include <linux/wait.h>

#include "oci_ops.h"

#define JOIN_SECONDS 10 /* as in enter.c */
#define NAMESPACES 8    /* kinds of them */

static void tell(const struct context *ctx, const struct plan_report *what)
{
    (void)sys_write(ctx->link, what, sizeof *what);
}

void oci_fail(const struct context *ctx, uint32_t op, long error)
{
    if (ctx->plan->flags & PLAN_OCI)
        tell(ctx, &(struct plan_report){.kind = PLAN_FAILED, .op = op, .error = (int32_t)-error, .detail = ctx->detail});
}

long oci_close(int first)
{
    long r = sys_call3(__NR_close_range, first, OCI_LINK - 1, 0);

    return r < 0 ? r : sys_call3(__NR_close_range, OCI_END, ~0U, 0);
}

/* Puts what must outlive OP_SESSION where that leaves it alone.  Signals are as they come with a program: Python ignores some.
 * Whoever calls may be kept to some processors; the container has its cgroup's, to which the kernel keeps it. */
static long keep_descriptors(struct context *ctx)
{
    long r = sys_call3(__NR_dup3, SLOT_CONTROL, OCI_LINK, O_CLOEXEC);

    (void)sys_call3(__NR_sched_setaffinity, 0, 128, ((uint64_t[16]){[0 ... 15] = ~0ULL}));
    default_signals(ALL_SIGNALS_OF_LINUX);
    if (r >= 0 && !(ctx->plan->flags & PLAN_ENTER))
        r = sys_call3(__NR_dup3, SLOT_START, OCI_START, O_CLOEXEC);
    if (r >= 0)
        ctx->link = OCI_LINK;
    return r < 0 ? r : 0;
}

static void end_by(int signal)
{
    sys_exit(128 + signal);
}

/* Process 1 of a pid namespace is spared what it has no handler for (pid_namespaces(7)), but kill is for a container that waits for
 * its start too.  execve(2) takes the handlers away. */
static void mind_signals(void)
{
    static const unsigned char deadly[] = {SIGHUP, SIGINT, SIGQUIT, SIGTERM};
    const struct {
        void (*handler)(int);
        uint64_t flags;
        void (*restorer)(int); /* which nobody comes to */
        uint64_t mask;
    } action = {end_by, 0x04000000 /* SA_RESTORER */, end_by, 0};

    for (unsigned i = 0; i < sizeof deadly; i++)
        (void)sys_call4(__NR_rt_sigaction, deadly[i], &action, 0, sizeof action.mask);
}

/* From here on failures go to Python; before, they are the helper's to tell. */
static int container(struct context *ctx)
{
    const uint64_t none = 0;
    const int go = ctx->link;
    char byte;
    long r = 0;

    if (!(ctx->plan->clone_flags & CLONE_NEWUSER)) /* else a user's helper could not write the maps */
        (void)sys_prctl(PR_SET_DUMPABLE, 0, 0);
    if (keep_descriptors(ctx) < 0)
        return 125;
    mind_signals();
    if (ctx->plan->clone_flags & CLONE_NEWUSER) {
        if (sys_read(go, &byte, 1) != 1)
            return 125;
        r = sys_call3(__NR_setresgid, 0, 0, 0);
        if (r == 0)
            r = sys_call3(__NR_setresuid, 0, 0, 0);
        (void)sys_prctl(PR_SET_DUMPABLE, 0, 0);
        oci_map_by(go);
    }
    if (r < 0)
        fail(ctx, STEP_IDMAP, r);
    if ((ctx->plan->clone_flags & CLONE_NEWCGROUP) && (r = sys_call1(__NR_unshare, CLONE_NEWCGROUP)) < 0)
        fail(ctx, STEP_CLONE, r); /* by clone3 its root would be the parent's cgroup */
    (void)sys_call1(__NR_umask, 0);
    (void)sys_call4(__NR_rt_sigprocmask, SIG_SETMASK, &none, 0, sizeof none);
    (void)run_ops(ctx, run_ops(ctx, 0, OP_APP) + 1, OP_NONE);
    return 125;
}

static long join_namespace(const struct plan_op *op, int file)
{
    OWNED_FD fd = file;
    long r = sys_call2(__NR_setns, fd, op->n);

    if (r == 0 && op->n == CLONE_NEWUSER && (r = sys_call3(__NR_setresgid, 0, 0, 0)) == 0) /* the owner of what is made there */
        r = sys_call3(__NR_setresuid, 0, 0, 0);
    return r;
}

/* One of a kind.  All are opened first: a mount namespace that is joined takes the paths away. */
static long open_namespaces(struct context *ctx, uint32_t *step, int *files)
{
    int count = 0;

    for (*step = 0; before_clone(&ctx->ops[*step]); (*step)++) {
        if (ctx->ops[*step].code != OP_JOIN)
            continue;
        if (count == NAMESPACES)
            return -E2BIG;
        files[count] = (int)sys_openat(AT_FDCWD, pool_string(ctx, ctx->ops[*step].s1), O_RDONLY, 0);
        if (files[count++] < 0)
            return files[count - 1];
        ctx->inside |= (ctx->ops[*step].n & (CLONE_NEWUSER | CLONE_NEWCGROUP)) && (ctx->plan->flags & PLAN_HAS_CGROUP);
    }
    return 0;
}

static long create(struct context *ctx, uint32_t *step)
{
    const uint64_t elsewhere = CLONE_NEWTIME | CLONE_NEWCGROUP;
    int files[NAMESPACES], next = 0;
    long r;

    if ((r = oci_trees(ctx, step)) < 0)
        return r;
    *step = STEP_TIMENS;
    if ((r = new_time(ctx)) < 0)
        return r;
    if ((r = open_namespaces(ctx, step, files)) < 0)
        return r;
    for (*step = 0; before_clone(&ctx->ops[*step]); (*step)++)
        if (ctx->ops[*step].code != OP_JOIN && (r = set_limit(ctx, &ctx->ops[*step])) < 0)
            return r;
    /* While this is the host's root; who comes here ends soon, so it stays there.  Once in another user namespace nobody may clone into a
     * cgroup of the host's, nor once in another one of cgroups (cgroup2's nsdelegate), so this process goes there first. */
    if ((r = move_version_1(ctx, 1)) < 0 || (ctx->inside && (r = write_file(SLOT_CGROUP, "cgroup.procs", 0, 0, "0", 1)) < 0)) {
        *step = STEP_ENTER;
        return r;
    }
    for (*step = 0; before_clone(&ctx->ops[*step]); (*step)++)
        if (ctx->ops[*step].code == OP_JOIN && (r = join_namespace(&ctx->ops[*step], files[next++])) < 0)
            return r;
    *step = STEP_CLONE;
    if ((r = clone_child(ctx, (ctx->plan->clone_flags & ~elsewhere) | CLONE_PARENT, container)) < 0)
        return r;
    *step = STEP_IDMAP;
    if (!(ctx->plan->clone_flags & CLONE_NEWUSER))
        return 0;
    r = map_ids(ctx);
    return r < 0 ? r : sys_write(ctx->link, "G", 1) == 1 ? 0 : -EPIPE;
}

/* As in enter.c, but that the process belongs to Python. */
static int joiner(struct context *ctx)
{
    const uint64_t none = 0;
    uint32_t i;
    long r = keep_descriptors(ctx);

    if (r == 0 && (r = move_version_1(ctx, 1)) < 0)
        fail(ctx, STEP_ENTER, r);
    for (i = 0; r == 0 && ctx->ops[i].code != OP_APP; i++) { /* by the runtime's /proc and paths, not the container's */
        if (ctx->ops[i].code == OP_LABEL)
            r = op_oci_label(ctx, &ctx->ops[i]);
        else if (ctx->ops[i].code == OP_OCI_LISTENER)
            r = op_oci_listener(ctx, &ctx->ops[i]);
        else if (ctx->ops[i].code == OP_PIVOT && ctx->ops[i].n == 3)
            r = oci_hold_root(ctx, &ctx->ops[i]);
        if (r < 0)
            fail(ctx, i, r);
    }
    if (r == 0) {
        inherit(ctx);
        r = join_namespaces(ctx);
    }
    if (r >= 0)
        r = oci_enter_root(ctx);
    if (r >= 0)
        sys_close(ctx->link); /* a copy of OCI_LINK, which is above what the limits of init allow to make */
    ctx->link = OCI_LINK;
    if (r < 0)
        fail(ctx, STEP_JOIN, r);
    i = run_ops(ctx, run_ops(ctx, 0, OP_APP) + 1, OP_SESSION);
    sys_close(ctx->root);
    sys_close(OCI_LABEL); /* of the host's procfs; absent without a label */
    (void)sys_prctl(PR_SET_DUMPABLE, 0, 0); /* a change of ids may have set it */
    r = sys_call5(__NR_clone, CLONE_PARENT | CLONE_PARENT_SETTID | SIGCHLD, 0, &ctx->shared->entered, 0, 0);
    if (r < 0)
        fail(ctx, STEP_JOIN, r);
    if (r > 0)
        return 0;
    (void)sys_call4(__NR_rt_sigprocmask, SIG_SETMASK, &none, 0, sizeof none);
    (void)run_ops(ctx, i, OP_NONE);
    return 125;
}

static long enter_container(struct context *ctx, uint32_t *step)
{
    static const struct __kernel_timespec limit = {JOIN_SECONDS, 0};
    struct pollfd end = {-1, POLLIN, 0};
    long n, r;

    if ((r = oci_trees(ctx, step)) < 0) /* of `mounts add` */
        return r;
    *step = STEP_ENTER;
    if ((r = clone_child(ctx, CLONE_PARENT, joiner)) < 0)
        return r;
    end.fd = ctx->pidfd;
    n = sys_call5(__NR_ppoll, &end, 1, &limit, 0, 8);
    ctx->init_pid = (int32_t)ctx->shared->entered;
    *step = STEP_JOIN;
    return n == 0 ? -ETIMEDOUT : ctx->init_pid != 0 || ctx->shared->failed ? 0 : -ESRCH;
}

int oci_main(struct context *ctx)
{
    struct plan_report what = {.kind = PLAN_FAILED};
    long r = ctx->plan->flags & PLAN_ENTER ? enter_container(ctx, &what.op) : create(ctx, &what.op);

    if (r < 0) {
        what.error = (int32_t)-r;
        what.detail = ctx->detail;
        if (ctx->pidfd >= 0)
            (void)sys_call4(__NR_pidfd_send_signal, ctx->pidfd, SIGKILL, 0, 0);
    } else {
        what.kind = PLAN_RUNNING;
        what.pid = ctx->init_pid;
    }
    what.time = now_ns();
    if (r < 0 || ctx->init_pid != 0)
        send_report(&what);
    if (r >= 0 && (ctx->plan->clone_flags & CLONE_NEWUSER) && !(ctx->plan->flags & PLAN_ENTER))
        oci_map(ctx);
    return r < 0 ? 125 : 0;
}

/* The state as the specification's hooks want it, with the pid as this process knows it. */
static long hook_input(const struct context *ctx, const struct plan_op *op)
{
    const char *head = pool_string(ctx, (uint32_t)op->b), *tail = pool_string(ctx, op->b >> 32);
    char number[24];
    int ends[2];
    long fd = sys_call2(__NR_memfd_create, "state", MFD_CLOEXEC), into = fd, size;

    (void)str_add_number(number, number + sizeof number, (uint64_t)sys_call0(__NR_getpid));
    if (fd < 0 && sys_call2(__NR_pipe2, ends, O_CLOEXEC | O_NONBLOCK) == 0) { /* a filter may refuse the first; a pipe holds 64 KiB */
        fd = ends[0];
        into = ends[1];
    }
    size = sys_write(into, head, str_len(head)) + sys_write(into, number, str_len(number)) + sys_write(into, tail, str_len(tail));
    (void)(into == fd ? sys_call3(__NR_lseek, fd, 0, 0) : sys_call1(__NR_close, into));
    return size == (long)(str_len(head) + str_len(number) + str_len(tail)) ? fd : -EIO;
}

static void become_hook(const struct context *ctx, const struct plan_op *op, int input)
{
    char **argv = (char **)(void *)arena, **envp = pool_pointers(ctx, op->s1, op->n, argv);

    (void)pool_pointers(ctx, op->s2, (uint32_t)op->a, envp);
    if (ctx->root >= 0 && (op->flags & OPF_KEEP)) /* where the bundle is out of sight */
        (void)sys_call1(__NR_fchdir, ctx->root);
    (void)sys_call3(__NR_dup3, input, 0, 0);
    (void)sys_call3(__NR_close_range, 3, ~0U, 0);
    (void)sys_call3(__NR_execve, argv[0], argv + 1, envp);
    sys_exit(127);
}

static long op_hook(struct context *ctx, const struct plan_op *op)
{
    const struct __kernel_timespec limit = {(long)(op->a >> 32), 0};
    struct clone_args args = {.flags = CLONE_PIDFD, .exit_signal = SIGCHLD};
    OWNED_FD input = (int)hook_input(ctx, op), pidfd = -1;
    struct pollfd end = {-1, POLLIN, 0};
    int status = 0;
    long pid, r;

    if (input < 0)
        return input;
    if ((op->n + (uint32_t)op->a + 8) * sizeof(char *) > ARENA_SIZE)
        return -E2BIG;
    args.pidfd = (uintptr_t)&pidfd;
    pid = sys_call2(__NR_clone3, &args, sizeof args);
    if (pid == -ENOSYS || pid == -EPERM) /* many filters refuse clone3, whose flags they cannot see */
        pid = sys_call5(__NR_clone, CLONE_PIDFD | SIGCHLD, 0, &pidfd, 0, 0);
    if (pid < 0)
        return pid;
    if (pid == 0)
        become_hook(ctx, op, input);
    end.fd = pidfd;
    if (op->a >> 32 != 0 && (r = sys_call5(__NR_ppoll, &end, 1, &limit, 0, 8)) <= 0 && r != -EINTR) {
        (void)sys_call2(__NR_kill, pid, SIGKILL);
        (void)sys_call4(__NR_wait4, pid, &status, __WALL, 0);
        return r == 0 ? -ETIMEDOUT : r;
    }
    if ((r = sys_call4(__NR_wait4, pid, &status, __WALL, 0)) < 0) /* the container's filter may refuse it */
        return r;
    return status == 0 ? 0 : with_detail(ctx, DETAIL_STATUS + (uint32_t)status, -ECANCELED);
}

static void wait_for_byte(int fd)
{
    char byte;

    while (sys_read(fd, &byte, 1) != 1)
        sys_exit(125);
}

static long op_park(struct context *ctx)
{
    sys_close(OCI_LABEL); /* of the host's procfs, and written by now */
    tell(ctx, &(struct plan_report){.kind = PLAN_PARKED});
    wait_for_byte(OCI_LINK);
    sys_close(OCI_LINK);
    ctx->link = OCI_START;
    wait_for_byte(OCI_START);
    return 0;
}

long run_oci_op(struct context *ctx, const struct plan_op *op)
{
    switch (op->code) {
    case OP_CHECKPOINT:
        oci_map_by(0);
        tell(ctx, &(struct plan_report){.kind = PLAN_CHECKPOINT});
        wait_for_byte(OCI_LINK);
        return 0;
    case OP_HOOK:
        return op_hook(ctx, op);
    case OP_FIND:
        return oci_find(ctx, op);
    case OP_PARK:
        return op_park(ctx);
    case OP_RAISE:
        return oci_raise();
    case OP_OCI_ROOT:
        return op_oci_root(ctx, op);
    case OP_OCI_MOUNT:
        forget_parent(); /* it may be covered now */
        return op_oci_mount(ctx, op);
    case OP_OCI_COVER:
        return op_oci_cover(ctx, op);
    case OP_OCI_DEVICE:
        return op_oci_device(ctx, op);
    case OP_SYSCTL:
        return op_oci_sysctl(ctx, op);
    case OP_OCI_LISTENER:
        return op_oci_listener(ctx, op);
    case OP_LABEL:
        return op_oci_label(ctx, op);
    case OP_OCI_ATTRIBUTE:
        return op_oci_attribute(ctx, op);
    default:
        return -ENOSYS;
    }
}
