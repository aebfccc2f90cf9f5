/* Operations that fill the root: directories, files, nodes, mounts.
 *
 * Targets are descriptors of openat2(2).  mount(2) reaches one through /proc/self/fd, which names
 * the very object that was resolved; detached trees go there with move_mount(2). */
#include <linux/magic.h>

#include "helper.h"

#define MAKEDEV(major, minor) (((uint64_t)(major) << 8) | (minor))
#define KIND(st) ((st).st_mode & S_IFMT)

static long op_mkdir(const struct context *ctx, const struct plan_op *op)
{
    const char *name, *path = pool_string(ctx, op->s1);
    OWNED_FD dir = (int)open_in_root(ctx, path, O_PATH | O_DIRECTORY, op->flags & OPF_NOFOLLOW);
    char self[32];
    long r;

    if (dir != -ENOENT) /* what the image has keeps its mode and owner */
        return dir < 0 ? dir : 0;
    r = parent_in_root(ctx, path, PARENT_MAKE | (op->flags & OPF_NOFOLLOW ? PARENT_NOFOLLOW : 0U), &name);
    dir = r < 0 ? (int)r : (int)make_beneath((int)r, name);
    if (dir < 0)
        return dir;
    fd_path(self, dir);
    r = op->a != 0 || op->b != 0 ? sys_call5(__NR_fchownat, AT_FDCWD, self, op->a, op->b, 0) : 0;
    return r < 0 || op->n == 0755 ? r : sys_call3(__NR_fchmodat, AT_FDCWD, self, op->n);
}

static long op_mkfile(const struct context *ctx, const struct plan_op *op)
{
    const char *name, *path = pool_string(ctx, op->s1);
    OWNED_FD found = (int)open_in_root(ctx, path, O_PATH, 0);
    long dir;

    if (found != -ENOENT)
        return found < 0 ? found : 0;
    dir = parent_in_root(ctx, path, PARENT_MAKE, &name);
    return dir < 0 ? dir : write_file((int)dir, name, O_CREAT | O_EXCL, op->n, "", 0);
}

/* Generated files never replace what the image ships as a special file, nor (OPF_KEEP) its content, be it behind a link.  A link
 * that leads nowhere, as to what systemd-resolved makes at run time, is no content. */
static long op_write(const struct context *ctx, const struct plan_op *op)
{
    const char *name, *path = pool_string(ctx, op->s1), *text = pool_string(ctx, op->s2);
    OWNED_FD found = (int)open_in_root(ctx, path, O_PATH, 0);
    const int dir = (int)parent_in_root(ctx, path, PARENT_MAKE, &name);
    struct stat st;
    long r;

    if (dir < 0)
        return dir;
    r = sys_call4(__NR_newfstatat, dir, name, &st, AT_SYMLINK_NOFOLLOW);
    if (r == 0 && KIND(st) == S_IFLNK && (found < 0 || !(op->flags & OPF_KEEP)))
        r = sys_call3(__NR_unlinkat, dir, name, 0) ?: -ENOENT;
    if (r == 0 && (KIND(st) != S_IFREG || ((op->flags & OPF_KEEP) && st.st_size > 0)))
        return 0;
    if (r < 0 && r != -ENOENT)
        return r;
    return write_file(dir, name, r == 0 ? O_TRUNC : O_CREAT | O_EXCL, op->n, text, str_len(text));
}

static long op_symlink(const struct context *ctx, const struct plan_op *op)
{
    const char *name;
    const int dir = (int)parent_in_root(ctx, pool_string(ctx, op->s1), PARENT_MAKE, &name);
    long r = dir < 0 ? dir : sys_call3(__NR_symlinkat, pool_string(ctx, op->s2), dir, name);

    return r == -EEXIST ? 0 : r;
}

static long op_mknod(const struct context *ctx, const struct plan_op *op)
{
    const char *name;
    const int dir = (int)parent_in_root(ctx, pool_string(ctx, op->s1), PARENT_MAKE, &name);

    long r = dir < 0 ? dir : sys_call4(__NR_mknodat, dir, name, op->n, op->a);

    return r < 0 || op->b == 0 ? r : sys_call5(__NR_fchownat, dir, name, (uint32_t)op->b, op->b >> 32, AT_SYMLINK_NOFOLLOW);
}

static long op_mount(struct context *ctx, const struct plan_op *op)
{
    const char *type = pool_string(ctx, op->s1);
    OWNED_FD target = (int)open_in_root(ctx, pool_string(ctx, op->s2), O_PATH, op->flags & OPF_NOFOLLOW);
    char path[32];

    if (target < 0)
        return with_detail(ctx, DETAIL_TARGET, target);
    fd_path(path, target);
    return with_detail(ctx, DETAIL_SOURCE, sys_mount(type, path, type, op->a, pool_string(ctx, op->n)));
}

/* A name in a directory; with "" the descriptor itself. */
struct place {
    int dir;
    const char *name;
};

static long clone_tree(struct place source, unsigned deep)
{
    return sys_call3(__NR_open_tree, source.dir, source.name,
                     AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | deep);
}

static long put_tree(int tree, struct place target)
{
    return sys_call5(__NR_move_mount, tree, "", target.dir, target.name, MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
}

/* Moves a copy of the tree at `source` onto `target`, with more attributes.  The attributes are set while the
 * copy is still detached, on every mount of it: there is no moment and no submount where it is writable. */
static long attach(struct place source, struct place target, int recursive, uint64_t attrs)
{
    struct mount_attr attr = {.attr_set = attrs};
    unsigned deep = recursive ? AT_RECURSIVE : 0;
    OWNED_FD tree = (int)clone_tree(source, deep);
    long r;

    if (tree < 0)
        return tree;
    r = attrs == 0 ? 0 : sys_call5(__NR_mount_setattr, tree, "", AT_EMPTY_PATH | deep, &attr, sizeof attr);
    return r < 0 ? r : put_tree(tree, target);
}

static long op_bind(struct context *ctx, const struct plan_op *op)
{
    struct open_how how = {.flags = O_PATH | O_CLOEXEC,
                           .resolve = RESOLVE_NO_MAGICLINKS | (op->flags & OPF_NOFOLLOW ? RESOLVE_NO_SYMLINKS : 0)};
    OWNED_FD source = (int)sys_call4(__NR_openat2, AT_FDCWD, pool_string(ctx, op->s1), &how, sizeof how);
    OWNED_FD target = -1;

    if (source < 0)
        return with_detail(ctx, DETAIL_SOURCE, source);
    target = (int)open_in_root(ctx, pool_string(ctx, op->s2), O_PATH, 0);
    if (target < 0)
        return with_detail(ctx, DETAIL_TARGET, target);
    return attach((struct place){source, ""}, (struct place){target, ""}, op->flags & OPF_RECURSIVE, op->a);
}

/* The /dev/null that hides files must be the one that we made, whatever the image put in its place. */
static long null_device(const struct context *ctx)
{
    static int null;
    struct stat st;
    int fd;

    if (null > 0)
        return null;
    fd = (int)open_in_root(ctx, "/dev/null", O_PATH, 1);
    if (fd >= 0 && (sys_fstat(fd, &st) < 0 || KIND(st) != S_IFCHR || st.st_rdev != MAKEDEV(1, 3))) {
        sys_close(fd);
        return -ENODEV;
    }
    return fd < 0 ? fd : (null = fd);
}

/* One empty read-only tmpfs hides every directory: the first mask mounts it, the others show it again. */
static long mask_directory(struct place target)
{
    static int empty;
    OWNED_FD dir = -1;
    char path[32];
    long r;

    if (empty > 0)
        return attach((struct place){empty, ""}, target, 0, 0);
    dir = (int)sys_openat(target.dir, target.name, O_PATH | O_DIRECTORY | O_NOFOLLOW, 0);
    if (dir < 0)
        return dir;
    fd_path(path, dir);
    r = sys_mount("tmpfs", path, "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, "size=4k,nr_inodes=2,mode=0555");
    if (r == 0)
        empty = (int)sys_openat(target.dir, target.name, O_PATH | O_DIRECTORY | O_NOFOLLOW, 0);
    return r;
}

/* A mount of /dev/null waits until there is a file to hide: what is not there, or a directory, leaves it for the next. */
static long op_mask(struct context *ctx, const struct plan_op *op)
{
    static int cover;
    struct place target;
    long r;

    target.dir = (int)parent_in_root(ctx, pool_string(ctx, op->s1), PARENT_NOFOLLOW, &target.name);
    if (target.dir < 0)
        return target.dir == -ENOENT || target.dir == -ENOTDIR ? 0 : target.dir;
    if (cover <= 0) {
        r = null_device(ctx);
        if (r >= 0)
            r = cover = (int)clone_tree((struct place){(int)r, ""}, 0);
        if (r < 0)
            return with_detail(ctx, DETAIL_SOURCE, r);
    }
    r = put_tree(cover, target);
    if (r == 0) {
        sys_close(cover);
        cover = 0;
        return 0;
    }
    if (r == -EINVAL) /* a file cannot cover a directory */
        r = mask_directory(target);
    return r == -ENOENT ? 0 : r;
}

static long op_readonly(struct context *ctx, const struct plan_op *op)
{
    struct place target;
    long r;

    target.dir = (int)parent_in_root(ctx, pool_string(ctx, op->s1), PARENT_NOFOLLOW, &target.name);
    r = target.dir < 0 ? target.dir : attach(target, target, 1, MOUNT_ATTR_RDONLY);
    return r == -ENOENT ? 0 : r;
}

static long send_master(const struct context *ctx, int master)
{
    struct link_message message;

    link_message_init(&message, 'T', 1);
    message.control.fds[0] = master;
    return sys_call3(__NR_sendmsg, ctx->link, &message.header, 0x4000 /* MSG_NOSIGNAL */);
}

/* pts(4); TIOCGPTPEER opens the other end by descriptor, so that no planted /dev/pts/N is followed (CVE-2025-52565). */
static long op_tty(struct context *ctx, const struct plan_op *op)
{
    OWNED_FD master = (int)open_in_root(ctx, "/dev/pts/ptmx", O_RDWR | O_NOCTTY, 1);
    const int entering = (ctx->plan->flags & PLAN_ENTER) != 0; /* the console is the app's */
    OWNED_FD console = entering ? -1 : (int)open_in_root(ctx, "/dev/console", O_PATH, 1);
    struct stat st;
    int unlock = 0;
    long r;

    if (master < 0)
        return master;
    if (console < 0 && !entering)
        return console;
    if (sys_fstat(master, &st) < 0 || KIND(st) != S_IFCHR || st.st_rdev != MAKEDEV(5, 2)) /* who enters meets what the app made */
        return -ENODEV;
    r = sys_call3(__NR_ioctl, master, TIOCSPTLCK, &unlock);
    if (r == 0)
        r = sys_call3(__NR_ioctl, master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (r < 0)
        return r;
    ctx->tty = (int)r;
    r = sys_call3(__NR_fchown, ctx->tty, op->a, -1);
    if (r == 0)
        r = sys_call2(__NR_fchmod, ctx->tty, 0620);
    if (r == 0 && !entering)
        r = attach((struct place){ctx->tty, ""}, (struct place){console, ""}, 0, 0);
    if (r == 0)
        r = send_master(ctx, master);
    return r < 0 ? r : 0;
}

/* Whether the directory that was used last may be another one afterwards: not by a mount in it, its path without links. */
static int covers(const struct context *ctx, const struct plan_op *op)
{
    if (op->code == OP_MASK || op->code == OP_READONLY)
        return !is_beneath_last(pool_string(ctx, op->s1));
    return op->code > OP_MKNOD && !(op->code == OP_MOUNT && (op->flags & OPF_NOFOLLOW) && is_beneath_last(pool_string(ctx, op->s2)));
}

long run_mount_op(struct context *ctx, const struct plan_op *op)
{
    if (covers(ctx, op))
        forget_parent();
    switch (op->code) {
    case OP_MKDIR:
        return op_mkdir(ctx, op);
    case OP_MKFILE:
        return op_mkfile(ctx, op);
    case OP_WRITE:
        return op_write(ctx, op);
    case OP_SYMLINK:
        return op_symlink(ctx, op);
    case OP_MKNOD:
        return op_mknod(ctx, op);
    case OP_MOUNT:
        return op_mount(ctx, op);
    case OP_BIND:
        return op_bind(ctx, op);
    case OP_MASK:
        return op_mask(ctx, op);
    case OP_READONLY:
        return op_readonly(ctx, op);
    case OP_TTY:
        return op_tty(ctx, op);
    default:
        return -ENOSYS;
    }
}
