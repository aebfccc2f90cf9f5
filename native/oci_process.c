/* What an OCI configuration asks for beyond a pod's: nodes, kernel parameters, scheduling, labels, a seccomp listener. */
#include <linux/filter.h>
#include <linux/magic.h>
#include <linux/seccomp.h>

#include "oci_ops.h"

#define KIND(mode) ((mode) & S_IFMT)

/* "If a file already exists at path that does not match the requested device, the runtime MUST generate an error." */
long op_oci_device(struct context *ctx, const struct plan_op *op)
{
    const char *name;
    const int made = op->n >> OCI_DEVICE_TREE != 0, dir = made ? -1 : (int)parent_in_root(ctx, pool_string(ctx, op->s1), PARENT_MAKE, &name);
    struct stat st;
    long r = made ? oci_node(ctx, op) : dir < 0 ? dir : sys_call4(__NR_mknodat, dir, name, op->n, op->a);

    if (r == -EEXIST && !made && sys_call4(__NR_newfstatat, dir, name, &st, AT_SYMLINK_NOFOLLOW) == 0)
        return KIND(st.st_mode) == KIND(op->n) && (KIND(op->n) == S_IFIFO || st.st_rdev == op->a) ? 0 : r;
    if (r == 0 && op->b != 0 && !made)
        r = sys_call5(__NR_fchownat, dir, name, (uint32_t)op->b, op->b >> 32, AT_SYMLINK_NOFOLLOW);
    return r;
}

/* Writes s2 to the file s1 of procfs, and never to anything else: neither a mount nor a link can bend the path (CVE-2025-52881). */
static long write_proc(const struct context *ctx, const struct plan_op *op, const char *directory, uint64_t resolve)
{
    const struct open_how how = {.flags = O_WRONLY | O_CLOEXEC, .resolve = RESOLVE_BENEATH | RESOLVE_NO_XDEV | resolve};
    const char *text = pool_string(ctx, op->s2);
    OWNED_FD dir = (int)sys_openat(AT_FDCWD, directory, O_PATH | O_DIRECTORY | O_NOFOLLOW, 0);
    OWNED_FD fd = -1;
    struct { /* struct statfs of statfs(2) */
        long type, rest[32];
    } fs;
    long r = dir < 0 ? dir : sys_call2(__NR_fstatfs, dir, &fs);

    if (r == 0 && fs.type != PROC_SUPER_MAGIC)
        r = -ENODEV;
    if (r == 0)
        r = fd = (int)sys_call4(__NR_openat2, dir, pool_string(ctx, op->s1), &how, sizeof how);
    if (r >= 0)
        r = sys_write(fd, text, str_len(text));
    return r < 0 ? r : 0;
}

/* Before the pivot, by the runtime's own /proc.  The kernel shows the values of the writer's namespaces. */
long op_oci_sysctl(const struct context *ctx, const struct plan_op *op)
{
    return write_proc(ctx, op, "/proc/sys", RESOLVE_NO_SYMLINKS);
}

long op_oci_attribute(struct context *ctx, const struct plan_op *op)
{
    const char *blob = ctx->pool + op->s1;

    switch (op->n) {
    case OCI_SCHEDULER: /* sched_setattr(2) */
        return sys_call3(__NR_sched_setattr, 0, blob, 0);
    case OCI_IO_PRIORITY:
        return sys_call3(__NR_ioprio_set, 1 /* IOPRIO_WHO_PROCESS */, 0, op->a);
    case OCI_MEMORY_POLICY:
        return sys_call3(__NR_set_mempolicy, op->a, op->b != 0 ? blob : 0, op->b * 64 + 1); /* b words; the kernel leaves the last bit out */
    case OCI_PERSONALITY: {
        long r = sys_call1(__NR_personality, op->a);

        return r < 0 ? r : 0;
    }
    case OCI_AFFINITY:
        return sys_call3(__NR_sched_setaffinity, 0, op->b, blob);
    case OCI_PROPAGATION:
        return sys_mount("", "/", "", op->a, 0);
    default:
        return -ENOSYS;
    }
}

/* proc_pid_attr(5) wants the credentials of the program, hence late; by then /proc is the container's, so the runtime's
 * own is held from before the pivot.  A pod's /proc is always its own: there the path goes through `self`, a link. */
long op_oci_label(struct context *ctx, const struct plan_op *op)
{
    const char *text = pool_string(ctx, op->s2);
    static int held; /* who enters has it from before it joined */
    OWNED_FD fd = -1;
    long r;

    if (op->n == 2)
        return write_proc(ctx, op, "/proc", RESOLVE_NO_MAGICLINKS);
    if (op->n == 0) {
        fd = held ? -1 : (int)sys_openat(AT_FDCWD, "/proc/self/attr", O_PATH | O_DIRECTORY, 0);
        r = held ? 0 : fd < 0 ? fd : sys_call3(__NR_dup3, fd, OCI_LABEL, O_CLOEXEC);
        held = r >= 0;
        if (r < 0 || text[0] == '\0')
            return r < 0 ? r : 0;
        sys_close(fd);
    }
    fd = (int)sys_openat(OCI_LABEL, pool_string(ctx, op->s1), O_WRONLY, 0);
    r = fd < 0 ? fd : sys_write(fd, text, str_len(text));
    return r < 0 ? r : 0;
}

static char runtime_pid[24]; /* of this process, as the runtime knows it */

/* seccomp_unotify(2): the socket's path is the runtime's, so it is connected before the pivot. */
long op_oci_listener(struct context *ctx, const struct plan_op *op)
{
    struct { /* struct sockaddr_un of unix(7) */
        unsigned short family;
        char path[108];
    } to = {1, ""};
    OWNED_FD fd = -1;
    long r;

    if (runtime_pid[0] != '\0') /* who enters has it from before it joined */
        return 0;
    fd = (int)sys_call3(__NR_socket, 1 /* AF_UNIX */, 1 | O_CLOEXEC /* SOCK_STREAM */, 0);
    r = fd < 0 ? fd : sys_call4(__NR_readlinkat, AT_FDCWD, "/proc/self", runtime_pid, sizeof runtime_pid - 1);
    if (r >= 0 && str_add(to.path, to.path + sizeof to.path, pool_string(ctx, op->s1)) == 0)
        r = -ENAMETOOLONG;
    if (r >= 0)
        r = sys_call3(__NR_connect, fd, &to, sizeof to);
    if (r >= 0)
        r = sys_call3(__NR_dup3, fd, OCI_LISTENER, O_CLOEXEC);
    return r < 0 && !(op->flags & OPF_OPTIONAL) ? r : 0; /* of a filter that asks nobody */
}

#define UNKNOWN (-1)
#define PENDING 1

struct notice {
    const struct context *ctx;
    const struct plan_op *op;
    volatile long fd, sent;
};

/* One message, the descriptor with its first byte (runtime-spec config-linux.md, "Container process state"). */
static long send_listener(const struct notice *notice)
{
    const char *head = pool_string(notice->ctx, notice->op->s2), *middle = head + str_len(head) + 1;
    const char *tail = middle + str_len(middle) + 1;
    const int enters = notice->ctx->plan->flags & PLAN_ENTER;
    const char *words[] = {head, runtime_pid, middle, enters ? notice->ctx->argv[1] : runtime_pid, tail};
    struct link_message message;
    struct {
        const void *base;
        size_t length;
    } parts[5];

    if (enters) /* one process of the container, which has another as its own */
        (void)str_add_number(runtime_pid, runtime_pid + sizeof runtime_pid, notice->ctx->shared->entered);
    link_message_init(&message, 0, 1);
    message.control.fds[0] = (int)notice->fd;
    for (int i = 0; i < 5; i++) {
        parts[i].base = words[i];
        parts[i].length = str_len(words[i]);
    }
    message.header.vector = parts;
    message.header.vectors = 5;
    return sys_call3(__NR_sendmsg, OCI_LISTENER, &message.header, 0x4000 /* MSG_NOSIGNAL */);
}

__attribute__((noreturn, used)) static void notice_main(struct notice *notice)
{
    static const struct __kernel_timespec moment = {0, 20000};

    while (notice->fd == UNKNOWN)
        (void)sys_call2(__NR_nanosleep, &moment, 0);
    if (notice->fd >= 0) {
        long r = send_listener(notice);

        sys_close(notice->fd);
        sys_close(OCI_LISTENER);
        notice->sent = r < 0 ? r : 0;
    }
    for (;;)
        (void)sys_call1(__NR_exit, 0);
}

/* A thread, which ends with the execve at the latest. */
__attribute__((noinline)) static long start_thread(struct notice *notice)
{
    enum { FLAGS = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM };
    static char stack[16384] __attribute__((aligned(PAGE_SIZE)));
    register struct notice *argument __asm__("r12") = notice;
    register long none1 __asm__("r10") = 0;
    register long none2 __asm__("r8") = 0;
    long pid;

    __asm__ volatile("syscall\n\t"
                     "test %%eax, %%eax\n\t"
                     "jnz 1f\n\t"
                     "xor %%ebp, %%ebp\n\t"
                     "mov %%r12, %%rdi\n\t"
                     "call notice_main\n\t"
                     "1:"
                     : "=a"(pid)
                     : "a"(__NR_clone), "D"(FLAGS), "S"(stack + sizeof stack), "d"(0), "r"(none1), "r"(none2), "r"(argument)
                     : "rcx", "r11", "memory");
    return pid;
}

/* Who sends the descriptor must not be under the filter, which may stop any call until the listener answers: even execve.
 * A thread without it does, and both look at memory instead of calling the kernel.  TSYNC, which would put the thread
 * under the filter too, has nothing else to do here: the execve leaves one thread. */
long oci_seccomp(struct context *ctx, const struct plan_op *op)
{
    const struct sock_fprog program = {(unsigned short)(op->n / 8), (struct sock_filter *)(uintptr_t)(ctx->pool + op->s1)};
    const uint64_t listener = SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
    const int asks = !(op->flags & OPF_KEEP);
    static struct notice notice;
    long r;

    if (!asks && sys_call3(__NR_fcntl, OCI_LISTENER, F_GETFD, 0) < 0) /* and nobody listens: others may want the one listener there can be */
        return sys_call3(__NR_seccomp, SECCOMP_SET_MODE_FILTER, op->a & ~listener, &program);
    notice = (struct notice){ctx, op, UNKNOWN, PENDING};
    r = start_thread(&notice);
    if (r < 0)
        return r;
    r = sys_call3(__NR_seccomp, SECCOMP_SET_MODE_FILTER, op->a & ~(uint64_t)SECCOMP_FILTER_FLAG_TSYNC, &program);
    notice.fd = r < 0 ? r - 1 : r; /* never UNKNOWN */
    if (r < 0)
        return r;
    while (notice.sent == PENDING)
        __builtin_ia32_pause();
    return notice.sent < 0 && asks ? with_detail(ctx, DETAIL_TARGET, notice.sent) : 0;
}
