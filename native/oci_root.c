/* Ways into the root of a container. */
#include "oci_ops.h"

/* Mounts that are shared become slaves before the old root is detached: their end must not go out. */
long oci_pivot(int only_chroot)
{
    if (only_chroot)
        return sys_call1(__NR_chroot, ".");
    OWNED_FD old = (int)sys_openat(AT_FDCWD, "/", O_PATH | O_DIRECTORY, 0);
    long r = old < 0 ? old : sys_call2(__NR_pivot_root, ".", ".");

    if (r == 0 && (r = sys_call1(__NR_fchdir, old)) == 0 && (r = sys_mount("", ".", "", MS_SLAVE | MS_REC, 0)) == 0)
        r = sys_call2(__NR_umount2, ".", MNT_DETACH);
    return r;
}

/* A ramfs cannot be pivoted from: the root goes over "/", and what is under it stays mounted, but out of reach.  The host's
 * file systems of the kernel go: where one is whole, who makes a user namespace may mount another (mount_namespaces(7)). */
long oci_root(int root)
{
    long r;

    while (sys_call2(__NR_umount2, "/proc", MNT_DETACH) == 0 || sys_call2(__NR_umount2, "/sys", MNT_DETACH) == 0) {
    }
    r = sys_call5(__NR_move_mount, root, "", AT_FDCWD, "/", MOVE_MOUNT_F_EMPTY_PATH);

    return r < 0 && r != -ELOOP /* it is there */ ? r : sys_call1(__NR_chroot, ".");
}

/* The root of a container without a mount namespace of its own, to be entered by chroot: opened as the runtime. */
long oci_hold_root(const struct context *ctx, const struct plan_op *op)
{
    OWNED_FD root = (int)sys_openat(AT_FDCWD, pool_string(ctx, op->s1), O_PATH | O_DIRECTORY, 0);
    long r = root < 0 ? root : sys_call3(__NR_dup3, root, OCI_START, O_CLOEXEC);

    return r < 0 ? r : sys_call4(__NR_pidfd_send_signal, SLOT_INIT, 0, 0, 0); /* it was that very process's */
}

long oci_enter_root(struct context *ctx)
{
    long r = sys_call1(__NR_fchdir, OCI_START);

    if (r == -EBADF) /* it came with the mount namespace */
        return 0;
    sys_close(OCI_START);
    sys_close(ctx->root);
    if (r == 0)
        r = sys_call1(__NR_chroot, ".");
    return r < 0 ? r : (ctx->root = (int)sys_openat(AT_FDCWD, "/", O_PATH | O_DIRECTORY, 0));
}
