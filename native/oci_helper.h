/* What the helper calls for a container of another engine (PLAN_OCI); see oci_start.c. */
#ifndef PYRUN_OCI_HELPER_H
#define PYRUN_OCI_HELPER_H

struct context;
struct plan_op;

/* Descriptors that outlive OP_SESSION, until the execve. */
enum { OCI_LINK = 200, OCI_START, OCI_LABEL, OCI_LISTENER, OCI_END };

int oci_main(struct context *ctx);
long run_oci_op(struct context *ctx, const struct plan_op *op);
long oci_seccomp(struct context *ctx, const struct plan_op *op); /* OP_SECCOMP with a listener */
void oci_fail(const struct context *ctx, uint32_t op, long error);
long oci_close(int first);      /* every descriptor from `first` on but those above */
long oci_chdir(const char *path);
long oci_unmount(const struct context *ctx, const struct plan_op *op); /* OP_UNMOUNT of who enters */
long oci_root(int root);        /* OP_PIVOT of a root that cannot be pivoted from */
long oci_pivot(int only_chroot);  /* OP_PIVOT where mounts are shared with others */
long map_ids(const struct context *ctx);
long new_time(const struct context *ctx);
void inherit(struct context *ctx);
long join_namespaces(struct context *ctx);

#endif
