/* Device nodes of a container in a user namespace (config-linux.md, "Devices"). */
#include <linux/wait.h>

#include "oci_ops.h"

/* What is called `name` in a detached tree, by itself and in place of the tree.  Only what is mounted somewhere can be copied (before
 * Linux 6.15), so it is mounted where nobody sees it, in a namespace that ends with the process which does so. */
static long cut_out(int tree, const char *name)
{
    long r, pid = sys_call5(__NR_clone, CLONE_NEWNS | CLONE_FILES | SIGCHLD, 0, 0, 0, 0);
    int status = 0;

    if (pid == 0) {
        r = sys_mount("", "/", "", MS_REC | MS_PRIVATE, 0);
        if (r == 0)
            r = sys_call5(__NR_move_mount, tree, "", AT_FDCWD, "/", MOVE_MOUNT_F_EMPTY_PATH);
        if (r == 0)
            r = sys_call3(__NR_open_tree, tree, name, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_SYMLINK_NOFOLLOW);
        if (r >= 0)
            r = sys_call3(__NR_dup3, r, tree, O_CLOEXEC);
        sys_exit(r < 0 ? -r : 0);
    }
    r = pid < 0 ? pid : sys_call4(__NR_wait4, pid, &status, __WALL, 0);
    return r < 0 ? r : status & 0x7f ? -EINTR : -(status >> 8 & 0xff);
}

/* A device node for a user namespace, in which nobody may make one: on a file system of the host's root. */
long node_tree(const struct plan_op *op)
{
    OWNED_FD fs = (int)sys_call2(__NR_fsopen, "tmpfs", FSOPEN_CLOEXEC);
    long tree, r = fs < 0 ? fs : sys_call5(__NR_fsconfig, fs, FSCONFIG_CMD_CREATE, 0, 0, 0);

    if (r < 0 || (tree = sys_call3(__NR_fsmount, fs, FSMOUNT_CLOEXEC, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC)) < 0)
        return r < 0 ? r : tree;
    r = sys_call4(__NR_mknodat, tree, "node", op->n & 0xffff, op->a);
    if (r == 0)
        r = sys_call5(__NR_fchownat, tree, "node", (uint32_t)op->b, op->b >> 32, AT_SYMLINK_NOFOLLOW);
    if (r == 0)
        r = sys_call3(__NR_fchmodat, tree, "node", op->n & 07777); /* whatever the caller's umask */
    if (r == 0)
        r = cut_out((int)tree, "node");
    if (r < 0)
        sys_close(tree);
    return r < 0 ? r : tree;
}
