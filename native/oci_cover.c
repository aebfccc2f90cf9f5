/* linux.maskedPaths and linux.readonlyPaths. */
#include "oci_ops.h"

/* One empty file system covers every directory, again and again. */
static long empty_tree(void)
{
    static int empty; /* 0: not made yet */
    OWNED_FD fs = -1;
    long r;

    if (empty > 0)
        return sys_call3(__NR_open_tree, empty, "", AT_EMPTY_PATH | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
    fs = (int)sys_call2(__NR_fsopen, "tmpfs", FSOPEN_CLOEXEC);
    r = fs < 0 ? fs : configure(fs, "size=4k");
    if (r >= 0)
        r = configure(fs, "mode=0555");
    if (r >= 0)
        r = sys_call5(__NR_fsconfig, fs, FSCONFIG_CMD_CREATE, 0, 0, 0);
    if (r >= 0)
        r = sys_call3(__NR_fsmount, fs, FSMOUNT_CLOEXEC, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC);
    if (r >= 0) /* a mount that is attached can be copied */
        empty = (int)sys_call3(__NR_fcntl, r, F_DUPFD_CLOEXEC, SLOT_COUNT);
    return r;
}

/* The runtime's /dev/null, since the container's may be anything (CVE-2025-31133). */
static long null_tree(void)
{
    long tree = sys_call3(__NR_open_tree, AT_FDCWD, "/dev/null", AT_SYMLINK_NOFOLLOW | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
    struct stat st;
    long r = tree < 0 ? tree : sys_fstat((int)tree, &st);

    if (r == 0 && ((st.st_mode & S_IFMT) != S_IFCHR || st.st_rdev != 0x103))
        r = -ENODEV;
    if (r < 0 && tree >= 0)
        sys_close(tree);
    return r < 0 ? r : tree;
}

static long read_only_tree(int target)
{
    struct mount_attr attr = {.attr_set = MOUNT_ATTR_RDONLY};
    long tree = sys_call3(__NR_open_tree, target, "", AT_EMPTY_PATH | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE);
    long r = tree < 0 ? tree : set_attributes((int)tree, AT_RECURSIVE, &attr);

    if (r < 0 && tree >= 0)
        sys_close(tree);
    return r < 0 ? r : tree;
}

/* linux.maskedPaths, linux.readonlyPaths: links are followed beneath the root, and what is not there needs nothing. */
long op_oci_cover(struct context *ctx, const struct plan_op *op)
{
    OWNED_FD target = (int)open_in_root(ctx, pool_string(ctx, op->s1), O_PATH, 0), tree = -1;
    struct stat st;
    long r = target;

    if (target == -ENOENT || target == -ENOTDIR)
        return 0;
    if (r >= 0)
        r = sys_fstat(target, &st);
    if (r < 0)
        return with_detail(ctx, DETAIL_TARGET, r);
    if (op->n == OCI_READONLY)
        tree = (int)read_only_tree(target);
    else
        tree = (int)((st.st_mode & S_IFMT) == S_IFDIR ? empty_tree() : null_tree());
    if (tree < 0)
        return with_detail(ctx, DETAIL_SOURCE, tree);
    return sys_call5(__NR_move_mount, tree, "", target, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
}
