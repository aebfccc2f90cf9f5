/* Operations on the process itself and on its namespaces: names, limits, identity, filter, exec. */
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>

#include "helper.h"

#define CAP_WORDS 2

static long op_oom_score(const struct plan_op *op)
{
    char text[16];
    int32_t score = (int32_t)op->n;
    char *at = text;

    if (score < 0)
        *at++ = '-';
    at = str_add_number(at, text + sizeof text, (uint64_t)(score < 0 ? -score : score));
    return write_file(AT_FDCWD, "/proc/self/oom_score_adj", 0, 0, text, (size_t)(at - text));
}

static long op_session(const struct context *ctx)
{
    const unsigned sockets = ctx->handler ? 0 : ctx->plan->flags >> PLAN_LISTEN_SHIFT;
    long r = sys_call0(__NR_setsid);

    if (r >= 0 && ctx->tty >= 0) {
        r = sys_call3(__NR_ioctl, ctx->tty, TIOCSCTTY, 0);
        for (int fd = 0; r >= 0 && fd < 3; fd++)
            r = sys_call3(__NR_dup3, ctx->tty, fd, 0);
    }
    for (unsigned i = 0; r >= 0 && i < sockets; i++) /* upwards: no copy lands on one that is still needed */
        if ((r = sys_call3(__NR_dup3, SLOT_LISTEN + i, 3 + i, 0)) == -EBADF && ctx->plan->flags & PLAN_OCI)
            r = sys_call3(__NR_close_range, 3 + i, 3 + i, 0); /* one of --preserve-fds that its caller did not have */
    /* From here on no path can lead out through /proc/self/fd. */
    if (r >= 0 && (ctx->plan->flags & PLAN_OCI))
        return oci_close((int)(3 + sockets));
    return r < 0 ? r : sys_call3(__NR_close_range, 3 + sockets, ~0U, 0);
}

static long op_stdin_null(void)
{
    long fd = sys_openat(AT_FDCWD, "/dev/null", O_RDONLY, 0);
    long r = fd < 0 ? fd : sys_call3(__NR_dup3, fd, 0, 0);

    if (fd > 0)
        sys_close(fd);
    return r < 0 ? r : 0;
}

/* setrlimit(2): a default must not need CAP_SYS_RESOURCE (OPF_CLAMP); what was asked for is set or refused. */
static long op_rlimit(const struct plan_op *op)
{
    struct {
        uint64_t soft, hard;
    } limit = {op->a, op->b}, own;

    if (op->flags & OPF_CLAMP) {
        long r = sys_call4(__NR_prlimit64, 0, op->n, 0, &own);

        if (r < 0)
            return r;
        limit.hard = limit.hard < own.hard ? limit.hard : own.hard;
        limit.soft = limit.soft < limit.hard ? limit.soft : limit.hard;
    }
    return sys_call4(__NR_prlimit64, 0, op->n, &limit, 0);
}

static long op_ids(const struct context *ctx, const struct plan_op *op)
{
    const int stay = op->n == 0 && ctx->plan->flags & (PLAN_SETGROUPS_DENY | PLAN_KEEP_GROUPS); /* user_namespaces(7): may be denied */
    long r = stay ? 0 : sys_call2(__NR_setgroups, op->n, ctx->pool + op->s1);

    if (r == 0 || (r == -EPERM && op->n == 0 && ctx->inside)) /* a joined namespace may deny it too */
        r = sys_call3(__NR_setresgid, op->b, op->b, op->b);
    if (r == 0)
        r = sys_call3(__NR_setresuid, op->a, op->a, op->a);
    if ((ctx->plan->flags & (PLAN_ENTER | PLAN_OCI)) == PLAN_ENTER)
        (void)sys_prctl(PR_SET_PDEATHSIG, SIGKILL, 0); /* which a change of ids clears, prctl(2) */
    return r;
}

static long set_capabilities(uint64_t effective, uint64_t permitted, uint64_t inheritable)
{
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[CAP_WORDS] = {
        {(uint32_t)effective, (uint32_t)permitted, (uint32_t)inheritable},
        {(uint32_t)(effective >> 32), (uint32_t)(permitted >> 32), (uint32_t)(inheritable >> 32)},
    };

    return sys_call2(__NR_capset, &header, data);
}

/* capabilities(7): the bounding set is dropped while CAP_SETPCAP is still there; PR_SET_KEEPCAPS carries
 * the permitted set over the change of uid, and the second half then cuts it to what the plan says. */
static long op_caps(const struct context *ctx, const struct plan_op *op)
{
    struct plan_caps caps;
    long r;

    memcpy(&caps, ctx->pool + op->s1, sizeof caps);
    if (op->n == 0) {
        for (unsigned cap = 0; cap <= 63; cap++) {
            if (caps.bounding >> cap & 1)
                continue;
            r = sys_prctl(PR_CAPBSET_DROP, cap, 0);
            if (r == -EINVAL)
                break; /* past the last one that this kernel knows */
            if (r < 0)
                return r;
        }
        return caps.permitted != 0 || (ctx->plan->flags & PLAN_OCI) ? sys_prctl(PR_SET_KEEPCAPS, 1, 0) : 0;
    }
    r = set_capabilities(caps.effective, caps.permitted, caps.inheritable);
    for (unsigned cap = 0; r >= 0 && cap <= 63; cap++)
        if (caps.ambient >> cap & 1)
            r = sys_prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, cap);
    return r;
}

/* chdir(2) into a directory that is not below the root any more would hand out the host (CVE-2024-21626):
 * the kernel's getcwd then does not start with '/'. */
static long op_chdir(struct context *ctx, const struct plan_op *op)
{
    char path[4096];
    const char *directory = pool_string(ctx, op->s1);
    long r = ctx->plan->flags & PLAN_OCI ? oci_chdir(directory) : sys_call1(__NR_chdir, directory);

    if (r < 0)
        return r;
    r = sys_call2(__NR_getcwd, path, sizeof path);
    if (r < 0)
        return r;
    return path[0] == '/' ? 0 : with_detail(ctx, DETAIL_OUTSIDE, -ENOENT);
}

static long op_seccomp(struct context *ctx, const struct plan_op *op)
{
    struct sock_fprog program = {(unsigned short)(op->n / 8), (struct sock_filter *)(uintptr_t)(ctx->pool + op->s1)};

    if (op->a & SECCOMP_FILTER_FLAG_NEW_LISTENER)
        return oci_seccomp(ctx, op);
    return sys_call3(__NR_seccomp, SECCOMP_SET_MODE_FILTER, op->a, &program);
}

char **pool_pointers(const struct context *ctx, uint64_t offset, uint64_t count, char **at)
{
    const char *s = pool_string(ctx, offset);

    for (; count > 0; count--, s += str_len(s) + 1)
        *at++ = (char *)(uintptr_t)s;
    *at++ = 0;
    return at;
}

/* execve(2) of the first path that is there; OP_SESSION has closed every descriptor above 2. */
static long op_exec(struct context *ctx, const struct plan_op *op)
{
    char **argv = (char **)(void *)arena, **envp, **at;
    const char *path = pool_string(ctx, (uint32_t)op->b);
    long r = -ENOENT, denied = 0;

    if ((op->n + op->a + 8) * sizeof(char *) > ARENA_SIZE)
        return -E2BIG;
    at = pool_pointers(ctx, op->s1, op->n, argv);
    envp = at;
    (void)notify_environment(ctx, pool_pointers(ctx, op->s2, op->a, at) - 1);
    for (uint64_t count = op->b >> 32; count > 0; count--, path += str_len(path) + 1) {
        r = sys_call3(__NR_execve, path, argv, envp);
        if ((r == -ENOENT || r == -ENOTDIR) && sys_call3(__NR_faccessat, AT_FDCWD, path, 1 /* X_OK */) == 0)
            return with_detail(ctx, DETAIL_INTERPRETER, r);
        if (r == -EACCES)
            denied = r;
        else if (r != -ENOENT && r != -ENOTDIR)
            return r;
    }
    return denied != 0 ? denied : r;
}

long run_process_op(struct context *ctx, const struct plan_op *op)
{
    const char *s1 = pool_string(ctx, op->s1);

    switch (op->code) {
    case OP_METADATA:
        return metadata_listen(ctx, op);
    case OP_HOSTNAME:
        return sys_call2(__NR_sethostname, s1, str_len(s1));
    case OP_DOMAINNAME:
        return sys_call2(__NR_setdomainname, s1, str_len(s1));
    case OP_NETWORK:
        return join_network(ctx);
    case OP_OOM_SCORE:
        return op_oom_score(op);
    case OP_KEYRING: { /* keyctl(2): an unnamed new session keyring; a kernel without keys has none to leak */
        long r = sys_call2(__NR_keyctl, 1 /* KEYCTL_JOIN_SESSION_KEYRING */, 0);

        return r == -ENOSYS || r > 0 ? 0 : r;
    }
    case OP_SESSION:
        return op_session(ctx);
    case OP_STDIN_NULL:
        return op_stdin_null();
    case OP_UMASK:
        (void)sys_call1(__NR_umask, op->n);
        return 0;
    case OP_RLIMIT:
        return op_rlimit(op);
    case OP_IDS:
        return op_ids(ctx, op);
    case OP_CAPS:
        return op_caps(ctx, op);
    case OP_CHDIR:
        return op_chdir(ctx, op);
    case OP_NO_NEW_PRIVS:
        return sys_prctl(PR_SET_NO_NEW_PRIVS, 1, 0);
    case OP_SECCOMP:
        return op_seccomp(ctx, op);
    case OP_EXEC:
        return op_exec(ctx, op);
    default:
        return -ENOSYS;
    }
}
