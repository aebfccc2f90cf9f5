/* Operations that make, enter and leave the root file system. */
#include <linux/magic.h>

#include "helper.h"

#define ROOT_ATTRS(op) (MOUNT_ATTR_NODEV | ((op)->flags & OPF_NOSUID ? MOUNT_ATTR_NOSUID : 0))
#define ROOT_FLAGS(op) (MS_NODEV | ((op)->flags & OPF_NOSUID ? MS_NOSUID : 0))

static long set_root(struct context *ctx, const char *path)
{
    long fd = sys_openat(AT_FDCWD, path, O_PATH | O_DIRECTORY | O_NOFOLLOW, 0);

    if (fd < 0)
        return fd;
    if (ctx->root >= 0)
        sys_close(ctx->root);
    ctx->root = (int)fd;
    return 0;
}

static long config(int fs, unsigned command, const char *key, const char *value)
{
    return sys_call5(__NR_fsconfig, fs, command, key, value, 0);
}

static long overlay_options(const struct context *ctx, const struct plan_op *op, int fs)
{
    const char *lower = pool_string(ctx, op->s2);
    long r = 0;

    for (uint32_t i = 0; r >= 0 && i < op->n; i++, lower += str_len(lower) + 1)
        r = config(fs, FSCONFIG_SET_STRING, "lowerdir+", lower);
    if (r >= 0 && op->a != 0) {
        r = config(fs, FSCONFIG_SET_STRING, "upperdir", pool_string(ctx, op->a));
        if (r >= 0)
            r = config(fs, FSCONFIG_SET_STRING, "workdir", pool_string(ctx, op->b));
        if (r >= 0 && (op->flags & OPF_VOLATILE))
            r = config(fs, FSCONFIG_SET_FLAG, "volatile", 0);
    }
    /* An image may carry overlay's own attributes: never let them redirect a look-up (SEC-07). */
    if (r >= 0)
        r = op->flags & OPF_USERXATTR ? config(fs, FSCONFIG_SET_FLAG, "userxattr", 0)
                                      : config(fs, FSCONFIG_SET_STRING, "redirect_dir", "nofollow");
    if (r >= 0)
        r = config(fs, FSCONFIG_SET_STRING, "metacopy", "off");
    return r;
}

/* The mount API of Linux 6.8 takes lower directories one by one, each up to 255 bytes and free of escapes. */
static long overlay_new(struct context *ctx, const struct plan_op *op, const char *target)
{
    OWNED_FD fs = (int)sys_call2(__NR_fsopen, "overlay", FSOPEN_CLOEXEC);
    OWNED_FD tree = -1;
    long r = fs;

    if (r < 0 || (r = overlay_options(ctx, op, fs)) < 0 || (r = config(fs, FSCONFIG_CMD_CREATE, 0, 0)) < 0)
        return r;
    tree = (int)sys_call3(__NR_fsmount, fs, FSMOUNT_CLOEXEC, ROOT_ATTRS(op));
    if (tree < 0)
        return tree;
    return sys_call5(__NR_move_mount, tree, "", AT_FDCWD, target, MOVE_MOUNT_F_EMPTY_PATH);
}

/* mount(2) takes one page of options, where ',' ':' and '\' have a meaning.  Directories are named by
 * short links on a tmpfs, which the overlay then covers: any path, any count up to PLAN_MAX_LOWERS. */
static long overlay_links(const struct context *ctx, const struct plan_op *op, char *text, const char *end)
{
    const char *lower = pool_string(ctx, op->s2);
    char name[16];
    long r = 0;

    text = str_add(text, end, op->flags & OPF_USERXATTR ? "userxattr,metacopy=off" : "redirect_dir=nofollow,metacopy=off");
    if (op->a != 0) {
        text = str_add(text, end, op->flags & OPF_VOLATILE ? ",volatile,upperdir=u,workdir=w" : ",upperdir=u,workdir=w");
        r = sys_call3(__NR_symlinkat, pool_string(ctx, op->a), AT_FDCWD, "u");
        if (r == 0)
            r = sys_call3(__NR_symlinkat, pool_string(ctx, op->b), AT_FDCWD, "w");
    }
    for (uint32_t i = 0; r == 0 && i < op->n; i++, lower += str_len(lower) + 1) {
        (void)str_add_number(name, name + sizeof name, i);
        text = str_add(text, end, i == 0 ? ",lowerdir=" : ":");
        text = str_add(text, end, name);
        r = sys_call3(__NR_symlinkat, lower, AT_FDCWD, name);
    }
    return r < 0 ? r : text == 0 ? -E2BIG : 0;
}

static long overlay_classic(struct context *ctx, const struct plan_op *op, const char *target)
{
    char text[4096];
    long r = sys_mount("tmpfs", target, "tmpfs", MS_NODEV | MS_NOSUID | MS_NOEXEC, "mode=0700,size=1m");

    if (r < 0 || (r = sys_call1(__NR_chdir, target)) < 0)
        return r;
    r = overlay_links(ctx, op, text, text + sizeof text);
    if (r == 0)
        r = sys_mount("overlay", ".", "overlay", ROOT_FLAGS(op), text);
    (void)sys_call1(__NR_chdir, "/");
    if (r < 0)
        (void)sys_call2(__NR_umount2, target, MNT_DETACH);
    return r;
}

static long op_overlay(struct context *ctx, const struct plan_op *op)
{
    const char *target = pool_string(ctx, op->s1);
    long r = overlay_new(ctx, op, target);

    if (r < 0) { /* an older kernel, a sandbox without fsopen, or a path too long for it */
        long classic = overlay_classic(ctx, op, target);

        if (classic < 0)
            return with_detail(ctx, DETAIL_OVERLAY, classic);
    }
    return set_root(ctx, target);
}

static long op_root_bind(struct context *ctx, const struct plan_op *op)
{
    const char *target = pool_string(ctx, op->s1);
    long r = sys_mount(pool_string(ctx, op->s2), target, "", MS_BIND | MS_REC, 0);

    if (r == 0 && !(op->flags & OPF_KEEP))
        r = sys_mount("", target, "", MS_REMOUNT | MS_BIND | ROOT_FLAGS(op), 0);
    return r < 0 ? r : set_root(ctx, target);
}

static long op_host_dir(const struct context *ctx, const struct plan_op *op)
{
    const char *path = pool_string(ctx, op->s1);
    long r = sys_call3(__NR_mkdirat, AT_FDCWD, path, op->n);

    if (r == -EEXIST) /* of the pod's first run */
        return 0;
    if (r == 0 && (op->a != 0 || op->b != 0))
        r = sys_call5(__NR_fchownat, AT_FDCWD, path, op->a, op->b, AT_SYMLINK_NOFOLLOW);
    return r;
}

/* pivot_root(2), "pivot_root(".", ".")": the old root is stacked on the new one and detached at once. */
static long op_pivot(struct context *ctx, const struct plan_op *op)
{
    long r = sys_call1(__NR_fchdir, ctx->root);

    if (r == 0)
        r = op->n == 0 ? sys_call2(__NR_pivot_root, ".", ".") : op->n == 1 ? oci_root(ctx->root) : oci_pivot(op->n == 3);
    if (r == 0 && op->n == 0)
        r = sys_call2(__NR_umount2, ".", MNT_DETACH);
    if (r == 0)
        r = sys_call1(__NR_chdir, "/");
    sys_close(ctx->root);
    ctx->root = -1;
    return r;
}

long run_root_op(struct context *ctx, const struct plan_op *op)
{
    const char *s1 = pool_string(ctx, op->s1);
    char path[32];

    switch (op->code) {
    case OP_PROPAGATION:
        return sys_mount("", "/", "", op->n, 0);
    case OP_SCRATCH:
        return sys_mount("tmpfs", s1, "tmpfs", MS_NODEV | MS_NOSUID, pool_string(ctx, op->s2));
    case OP_HOST_DIR:
        return op_host_dir(ctx, op);
    case OP_OVERLAY:
        return op_overlay(ctx, op);
    case OP_ROOT_BIND:
        return op_root_bind(ctx, op);
    case OP_UNMOUNT:
        if (ctx->plan->flags & PLAN_ENTER)
            return oci_unmount(ctx, op);
        if (ctx->root >= 0)
            sys_close(ctx->root);
        ctx->root = -1;
        return sys_call2(__NR_umount2, s1, MNT_DETACH);
    case OP_ROOT_READONLY:
        fd_path(path, ctx->root);
        return sys_mount("", path, "", MS_REMOUNT | MS_BIND | MS_RDONLY | (op->flags & OPF_KEEP ? 0 : ROOT_FLAGS(op)), 0);
    case OP_PIVOT:
        return ctx->plan->flags & PLAN_ENTER ? 0 : op_pivot(ctx, op); /* that was done by init */
    default:
        return -ENOSYS;
    }
}
