/* What the OCI half of the helper (PLAN_OCI) shares among its files. */
#ifndef PYRUN_OCI_OPS_H
#define PYRUN_OCI_OPS_H

#include "helper.h"
#include "oci_plan.h"

struct names { /* the list at s1 of OP_OCI_MOUNT */
    const char *type, *source, *target, *uid_map, *gid_map, *options;
    uint32_t count;
};


/* oci_mounts.c */
long oci_trees(struct context *ctx, uint32_t *at); /* before the clone; *at is the operation that failed */
struct names names_of(const struct context *ctx, const struct plan_op *op);
long set_attributes(int tree, unsigned deep, const struct mount_attr *attr);
long configure(int fs, const char *option); /* one option of a file system */
long op_oci_mount(struct context *ctx, const struct plan_op *op);
long oci_node(struct context *ctx, const struct plan_op *op);
long op_oci_root(struct context *ctx, const struct plan_op *op);

/* oci_nodes.c: a detached tree that is nothing but the node, made before the clone */
long node_tree(const struct plan_op *op);

/* oci_map.c */
long oci_map_tree(struct context *ctx, const struct plan_op *op, int tree);
void oci_map(struct context *ctx); /* the helper's part, until the process asks no more */
void oci_map_by(int link);         /* the process's: the link to the helper, 0 to end that */

/* oci_cover.c */
long op_oci_cover(struct context *ctx, const struct plan_op *op);

/* oci_root.c */
long oci_hold_root(const struct context *ctx, const struct plan_op *op); /* of who is entered, for OP_PIVOT with n 3 */
long oci_enter_root(struct context *ctx);

/* oci_copy.c */
long copy_up(int from, int to);

/* oci_process.c */
long op_oci_device(struct context *ctx, const struct plan_op *op);
long op_oci_sysctl(const struct context *ctx, const struct plan_op *op);
long op_oci_attribute(struct context *ctx, const struct plan_op *op);
long op_oci_label(struct context *ctx, const struct plan_op *op);
long op_oci_listener(struct context *ctx, const struct plan_op *op);

/* The text of the first link of `path` that leads to nothing in place of it: 1, to be resolved beneath the root as any other path
 * is; 0 when there is no such link, or minus an errno. */
long behind_link(const struct context *ctx, char path[PATH_SIZE]);

/* oci_rights.c: OP_FIND, OP_RAISE */
long oci_find(const struct context *ctx, const struct plan_op *op);
long oci_raise(void);

#endif
