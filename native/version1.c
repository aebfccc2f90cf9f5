/* Hybrid hosts: controllers in hierarchies of cgroup version 1 (cgroups(7)), apart from the tree of version 2.
 *
 * There is no CLONE_INTO_CGROUP for those: who starts a process of the pod goes in first, so no process of the pod has ever
 * been elsewhere, and comes back.  An OP_LIMIT names the pod's directory there. */
#include "helper.h"

long set_version_1(const struct context *ctx, const struct plan_op *op)
{
    const char *text = pool_string(ctx, op->s2), *where = pool_string(ctx, op->a);
    OWNED_FD group = -1;
    long r = sys_call3(__NR_mkdirat, AT_FDCWD, where, 0755);

    if (r == 0 || r == -EEXIST)
        r = group = (int)sys_openat(AT_FDCWD, where, O_RDONLY | O_DIRECTORY, 0);
    return r < 0 ? r : write_file(group, pool_string(ctx, op->s1), 0, 0, text, str_len(text));
}

/* Of several apps the group of all comes before the app's below it: that is the way in, and backwards the way out. */
long move_version_1(const struct context *ctx, int in)
{
    char path[PATH_SIZE];
    uint32_t count = 0;
    long r = 0;

    while (before_clone(&ctx->ops[count]))
        count++;
    for (uint32_t i = 0; r == 0 && i < count; i++) {
        const struct plan_op *op = &ctx->ops[in ? i : count - 1 - i];

        if (op->code == OP_LIMIT && op->a != 0)
            r = join(path, pool_string(ctx, op->a), in ? "/" : "/../", "cgroup.procs") == 0 ? -ENAMETOOLONG
                                                                                          : write_file(AT_FDCWD, path, 0, 0, "0", 1);
    }
    return r;
}

/* The group of several apps the keeper removes. */
void remove_version_1(const struct context *ctx)
{
    static const struct __kernel_timespec pause = {0, 10000000};

    for (const struct plan_op *op = ctx->ops; before_clone(op); op++)
        for (int tries = 0; op->code == OP_LIMIT && op->a != 0 && !(op->flags & OPF_POD) && tries < 100; tries++) {
            if (sys_call3(__NR_unlinkat, AT_FDCWD, pool_string(ctx, op->a), AT_REMOVEDIR) != -EBUSY)
                break;
            (void)sys_call2(__NR_nanosleep, &pause, 0); /* who entered it has not been reaped yet */
        }
}

/* The pod's group there that accounts its memory, 0 where that is not of version 1.  Kills are counted where the process
 * was, not above. */
const char *memory_1(const struct context *ctx)
{
    for (const struct plan_op *op = ctx->ops; before_clone(op); op++)
        if (op->code == OP_LIMIT && op->a != 0 && !(op->flags & OPF_POD) && memcmp(pool_string(ctx, op->s1), "memory.", 7) == 0)
            return pool_string(ctx, op->a);
    return 0;
}
