/* init: pid 1 of the pod.  Runs the operations, starts the app, then only reaps and forwards.
 *
 * What remains for the life of the pod is as little as the kernel allows: no descriptor but the link and
 * the control socket, no plan in memory, CAP_KILL, a system call filter of a dozen entries. */
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <linux/wait.h>

#include "helper.h"

void fail(struct context *ctx, uint32_t op, long error)
{
    ctx->failed = 1;
    ctx->shared->op = op;
    ctx->shared->error = (int32_t)-error;
    ctx->shared->detail = ctx->detail;
    ctx->shared->failed = 1;
    oci_fail(ctx, op, error);
    sys_exit(125);
}

static long run_op(struct context *ctx, const struct plan_op *op)
{
    if (op->code <= OP_UNMOUNT || op->code == OP_ROOT_READONLY || op->code == OP_PIVOT) {
        forget_parent();
        return run_root_op(ctx, op);
    }
    if (op->code <= OP_READONLY || op->code == OP_TTY)
        return run_mount_op(ctx, op);
    /* the supervisor has done what comes before the clone */
    return before_clone(op) ? 0 : op->code > OP_JOIN && op->code != OP_METADATA ? run_oci_op(ctx, op) : run_process_op(ctx, op);
}

/* Straight line from `i` up to the operation `stop` or, in the app's process, for ever: OP_EXEC does not come back. */
uint32_t run_ops(struct context *ctx, uint32_t i, int stop)
{
    for (; i < ctx->plan->op_count && ctx->ops[i].code != stop; i++) {
        long r;

        ctx->detail = DETAIL_NONE;
        r = run_op(ctx, &ctx->ops[i]);
        if (r < 0 && !(r == -ENOENT && (ctx->ops[i].flags & OPF_OPTIONAL)) && !(ctx->ops[i].flags & OPF_ELSE))
            fail(ctx, i, r);
        if (r >= 0 && (ctx->ops[i].flags & OPF_ELSE))
            i++;
    }
    return i;
}

enum { ALLOWED = 10, FILTER = 2 * ALLOWED + 5 };

/* Only what the loops below need; everything else is a reason to die. */
SELDOM static long prepare_filter(struct sock_filter code[FILTER])
{
    static const uint16_t allowed[ALLOWED] = {__NR_wait4,  __NR_rt_sigtimedwait, __NR_kill,       __NR_close,  __NR_madvise,
                                              __NR_sendto, __NR_clock_gettime,   __NR_exit_group, __NR_getpid, __NR_waitid};
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2] = {{1U << CAP_KILL, 1U << CAP_KILL, 0}, {0, 0, 0}};
    long r = sys_prctl(PR_SET_NO_NEW_PRIVS, 1, 0);

    *code++ = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch));
    *code++ = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0);
    *code++ = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
    *code++ = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    for (unsigned i = 0; i < ALLOWED; i++) {
        *code++ = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, allowed[i], 0, 1);
        *code++ = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    }
    *code = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
    return r < 0 ? r : sys_call2(__NR_capset, &header, data);
}

/* And from then on no memory but the stack, and the code that waits. */
WAITING static void confine(void)
{
    extern char __bss_start[], _end[];
    struct sock_filter code[FILTER];
    struct sock_fprog program = {FILTER, code};

    if (prepare_filter(code) < 0)
        sys_exit(125);
    settle();
    (void)sys_call3(__NR_madvise, __bss_start, _end - __bss_start, MADV_DONTNEED); /* arrays of whole pages come first there */
    if (sys_call3(__NR_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) < 0)
        sys_exit(125);
}

/* What init knows while it waits.  With `told` whoever has the other end of the control socket is told of the app's end at once;
 * with `stays` there is a handler for it. */
struct attending {
    unsigned long top;
    struct shared *shared;
    long app; /* -1 where it did not start, or has ended */
    int link, told, stays;
};

/* The app has ended. */
WAITING static void reap(struct attending *init, int status)
{
    struct shared *shared = init->shared;

    shared->status = status;
    shared->exited = 1;
    if (init->stays) {
        (void)sys_call4(__NR_wait4, init->app, 0, __WALL, 0);
        init->app = -1;
        return;
    }
    if (init->told && status != SIGKILL) { /* without the detour by the supervisor, which would have to wake up first */
        send_report(&(struct plan_report){.kind = PLAN_EXITED, .status = status, .time = now_ns()});
        shared->reported = 1;
    }
    sys_close(init->link); /* tells the supervisor; by exit alone the kernel would do it after leaving the namespaces */
    sys_exit(0);           /* the kernel ends what is left of the pod (pid_namespaces(7)) */
}

/* With a handler for the app's end: everything else in the pod ends and this process stays, so that the namespaces do, until the
 * supervisor kills it. */
WAITING static void stay(struct attending *init)
{
    if (sys_call0(__NR_getpid) == 1) /* else others of the pod are in this pid namespace */
        for ((void)sys_call2(__NR_kill, -1, SIGKILL); sys_call4(__NR_wait4, -1, 0, __WALL, 0) > 0;)
            ; /* only then are they gone */
    init->shared->stays = 1;
    sys_close(init->link);
    init->link = -1;
}

/* All signals are blocked, hence queued and never lost, even for pid 1 (signal(7) ignores unblocked ones
 * without a handler there).  Those that are not about children go to the app. */
WAITING static void on_signal(struct attending *init, long signal)
{
    int status;
    long pid = 0;

    if (init->app > 0 && signal > 0 && signal != SIGCHLD)
        (void)sys_call2(__NR_kill, init->app, signal == SIGNAL_LAST && init->stays ? SIGKILL : signal);
    while (signal != 0 && (pid = ended_child(init->shared, init->link, init->app, &status)) > 0)
        if (pid == init->app)
            reap(init, status);
    if (pid == -ECHILD && !init->stays)
        sys_exit(125);
    if (init->app < 0 && init->link >= 0)
        stay(init);
}

__attribute__((noreturn)) WAITING static void attend(struct kept *kept, long signal)
{
    struct attending *init = (struct attending *)kept;

    for (;;) {
        on_signal(init, signal);
        if (init->top != 0)
            doze(kept, attend, __NR_rt_sigtimedwait, (long)&all_signals, 0, 0, sizeof all_signals);
        signal = sys_call4(__NR_rt_sigtimedwait, &all_signals, 0, 0, sizeof all_signals);
    }
}

__attribute__((noreturn)) WAITING static void begin(struct kept *kept)
{
    confine();
    attend(kept, 0);
}

struct app {
    struct context *ctx;
    uint32_t op;
};

__attribute__((noreturn, used)) static void app_main(const struct app *app)
{
    const uint64_t none = 0;

    (void)sys_call4(__NR_rt_sigprocmask, SIG_SETMASK, &none, 0, sizeof none);
    (void)run_ops(app->ctx, app->op + 1, OP_NONE);
    sys_exit(125);
}

/* vfork(2) onto a stack of its own: init waits until the app's execve has succeeded or failed, in the same memory, so
 * that none has to be copied.  Descriptors, limits, identity and filter are the new process's own all the same. */
__attribute__((noinline)) static long vfork_app(const struct app *app)
{
    static char stack[32768] __attribute__((aligned(PAGE_SIZE)));
    register const struct app *argument __asm__("r12") = app;
    register long none1 __asm__("r10") = 0;
    register long none2 __asm__("r8") = 0;
    long pid;

    __asm__ volatile("syscall\n\t"
                     "test %%eax, %%eax\n\t"
                     "jnz 1f\n\t"
                     "xor %%ebp, %%ebp\n\t"
                     "mov %%r12, %%rdi\n\t"
                     "call app_main\n\t"
                     "1:"
                     : "=a"(pid)
                     : "a"(__NR_clone), "D"(CLONE_VM | CLONE_VFORK | SIGCHLD), "S"(stack + sizeof stack), "d"(0), "r"(none1),
                       "r"(none2), "r"(argument)
                     : "rcx", "r11", "memory");
    (void)sys_prctl(PR_SET_DUMPABLE, 0, 0); /* a change of ids in the same memory sets it to fs.suid_dumpable */
    return pid;
}

/* The supervisor was killed before PR_SET_PDEATHSIG: its end of the link is closed, and nobody will ever kill this pod. */
int alone(const struct context *ctx)
{
    char byte;

    return sys_call6(__NR_recvfrom, ctx->link, &byte, 1, 0x40 /* MSG_DONTWAIT */, 0, 0) != -EAGAIN;
}

/* Closes the descriptors from `first` up to the one before `end`. */
static void close_between(int first, int end)
{
    if (first < end)
        (void)sys_call3(__NR_close_range, first, end - 1, 0);
}

long start_program(struct context *ctx, uint32_t op)
{
    return vfork_app(&(struct app){ctx, op});
}

static void start_app(struct context *ctx, uint32_t app_op)
{
    const int stays = find_handler(ctx, HANDLER_POST_STOP) != 0;
    long app = -1;

    if (alone(ctx))
        sys_exit(125);
    if (pre_start(ctx) < 0)
        ctx->failed = 1;
    else if ((app = start_program(ctx, app_op)) < 0)
        fail(ctx, app_op, app);
    if (ctx->failed && !stays)
        sys_exit(125);
    if (!ctx->failed && ((ctx->plan->flags & PLAN_TELL_RUNNING) || notify_wanted(ctx)))
        (void)sys_write(ctx->link, "R", 1);
    /* The app alone decides when its streams are at an end.  The link stays: its EOF tells the supervisor of the
     * app's end before the kernel has taken the namespaces apart. */
    struct shared *shared = ctx->shared;
    union {
        struct attending one;
        struct kept kept;
    } init;
    int link = ctx->link;
    if (app != FIRST_CHILD)
        shared->app = (int32_t)app;
    /* A keeper, or whoever wants figures, also wants to know whether memory ran out, which the supervisor can see; a
     * terminal's last words come first. */
    const uint32_t wanted = PLAN_HAS_CONTROL | PLAN_HAS_POD;
    int told = (ctx->plan->flags & (wanted | PLAN_ACCOUNT)) == wanted && ctx->tty < 0 && !stays;
    int low = told && SLOT_CONTROL < link ? SLOT_CONTROL : link, high = told && SLOT_CONTROL > link ? SLOT_CONTROL : link;
    close_between(0, low);
    close_between(low + 1, high);
    close_between(high + 1, INT32_MAX);
    (void)sys_call2(__NR_munmap, ctx->plan, ctx->plan->size);
    init.one = (struct attending){ctx->top, shared, app, link, told, stays};
    begin(&init.kept);
}

/* An empty root, so that nobody finds the host's in /proc/PID/root of this process. */
static long leave_host(void)
{
    long r = sys_mount("", "/", "", MS_PRIVATE | MS_REC, 0);

    if (r == 0)
        r = sys_mount("tmpfs", "/dev", "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, "size=4k,nr_inodes=2");
    if (r == 0)
        r = sys_call1(__NR_chdir, "/dev");
    if (r == 0)
        r = sys_call2(__NR_pivot_root, ".", ".");
    if (r == 0)
        r = sys_call2(__NR_umount2, ".", MNT_DETACH);
    return r < 0 ? r : sys_call1(__NR_chdir, "/");
}

__attribute__((noreturn)) WAITING static void hold(void)
{
    confine();
    for (;;) {
        (void)sys_call4(__NR_rt_sigtimedwait, &all_signals, 0, 0, sizeof all_signals);
        while (sys_call4(__NR_wait4, -1, 0, WNOHANG | __WALL, 0) > 0)
            ;
    }
}

/* The holder of what the apps of a pod share, see keep_pod.c: it has been cloned into the namespaces, says one byte on
 * SLOT_CONTROL once they can be joined, and then only reaps, for it may be their pid 1. */
int hold_main(struct context *ctx)
{
    long r;

    (void)sys_prctl(PR_SET_PDEATHSIG, SIGKILL, 0);
    ctx->link = SLOT_CONTROL;
    r = ctx->argv[2] != 0 ? loopback_up() : 0;
    if (r < 0 || leave_host() < 0 || alone(ctx) || sys_write(SLOT_CONTROL, "R", 1) != 1)
        return 125;
    (void)sys_call0(__NR_setsid);
    (void)sys_call3(__NR_close_range, 0, ~0U, 0);
    hold();
}

int init_main(struct context *ctx)
{
    char byte;
    long r;

    /* The life-line for a supervisor that is killed; see alone() for one that was killed before this line. */
    (void)sys_prctl(PR_SET_PDEATHSIG, SIGKILL, 0);
    default_signals(ALL_SIGNALS_OF_LINUX);
    if (ctx->plan->clone_flags & CLONE_NEWUSER) {
        if (sys_read(ctx->link, &byte, 1) != 1)
            return 125;
        r = sys_call3(__NR_setresgid, 0, 0, 0);
        if (r == 0)
            r = sys_call3(__NR_setresuid, 0, 0, 0);
        if (r < 0)
            fail(ctx, STEP_IDMAP, r);
        (void)sys_prctl(PR_SET_PDEATHSIG, SIGKILL, 0); /* a change of ids clears it, prctl(2) */
    }
    (void)sys_prctl(PR_SET_DUMPABLE, 0, 0);
    r = ctx->plan->flags & PLAN_SHARED ? sys_call2(__NR_setns, SLOT_INIT, CLONE_NEWIPC | CLONE_NEWUTS | JOINED_NETWORK(ctx)) : 0;
    if (r < 0)
        fail(ctx, STEP_JOIN, r);
    (void)sys_call1(__NR_umask, 0);
    start_app(ctx, run_ops(ctx, 0, OP_APP));
    return 125;
}
