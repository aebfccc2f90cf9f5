/* What the operations of an OCI plan (PLAN_OCI) have in their fields; the rest of the wire is plan.h.
 *
 * C includes this file, and cffi's cdef reads it behind plan.h. */
#ifndef PYRUN_OCI_PLAN_H
#define PYRUN_OCI_PLAN_H

/* OP_OCI_MOUNT.a */
#define OCIM_BIND 1
#define OCIM_DEEP 2            /* with the mounts below the source */
#define OCIM_MAP_DEEP 4        /* the id mapping too */
#define OCIM_COPY_UP 8
#define OCIM_AGAIN 16          /* remount */
#define OCIM_CLASSIC 32        /* by mount(2) */
#define OCIM_IN_PROC 64        /* may cover a file of procfs */
#define OCIM_SOURCE_NOFOLLOW 128
#define OCIM_LABEL 256         /* the last option is the context of its root */
#define OCIM_INSIDE 512        /* the source is a path of the root, where earlier mounts may be */
#define OCIM_ALL 1023
#define OCI_TREES 256          /* OP_OCI_MOUNT.b is below */
#define OCI_DEVICE_TREE 16     /* OP_OCI_DEVICE.n: the tree from this bit on */

struct plan_oci_mount {
    uint64_t set, clear;           /* MOUNT_ATTR_... of the mount */
    uint64_t deep_set, deep_clear; /* and of all below it */
    uint32_t propagation[2];       /* MS_..., in their order; 0 none */
    uint32_t superblock;           /* MS_... of the file system */
    uint32_t flags;                /* all of it as MS_..., for mount(2) */
};

#define OCI_MASKED 0
#define OCI_READONLY 1

/* OP_OCI_ATTRIBUTE.n */
#define OCI_SCHEDULER 1      /* struct sched_attr */
#define OCI_IO_PRIORITY 2    /* ioprio_set(2) */
#define OCI_MEMORY_POLICY 3  /* mode and flags a, node mask */
#define OCI_PERSONALITY 4
#define OCI_AFFINITY 5       /* cpu mask */
#define OCI_PROPAGATION 6    /* of the root: mount flags a */

/* detail of a failure; see plan.h for the others */
#define DETAIL_IDMAP 9      /* OP_OCI_MOUNT: the id mapping */
#define DETAIL_OPTION 10    /* OP_OCI_MOUNT: an option of the file system */
#define DETAIL_IN_PROC 11   /* OP_OCI_MOUNT: it would hide a part of procfs */

#endif
