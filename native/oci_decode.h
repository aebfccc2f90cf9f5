/* The part of decode.c for the operations of oci_plan.h; included there. */
#include "oci_plan.h"

static int oci_op_ok(const struct plan_header *h, const char *pool, const struct plan_op *op)
{
    if (op->code == OP_OCI_MOUNT)
        return op->n >= 5 && list_ok(h, pool, op->s1, op->n) && blob_ok(h, op->s2, sizeof(struct plan_oci_mount)) &&
               (op->a & ~(uint64_t)OCIM_ALL) == 0 && op->b < OCI_TREES && (op->b == 0 || (op->a & OCIM_BIND)) &&
               (op->n > 5 || !(op->a & OCIM_LABEL));
    if (op->code != OP_OCI_ATTRIBUTE)
        return string_ok(h, op->s1) && string_ok(h, op->s2) && (op->code != OP_OCI_ROOT || op->b < OCI_TREES) &&
               (op->code != OP_OCI_DEVICE || op->n >> OCI_DEVICE_TREE < OCI_TREES);
    /* of struct sched_attr the kernel reads as much as its own first word says */
    return op->b <= 4096 && blob_ok(h, op->s1, op->b * (op->n == OCI_MEMORY_POLICY ? 8 : 1)) &&
           (op->n != OCI_SCHEDULER || (op->b >= 64 && pool[op->s1] == 48 && pool[op->s1 + 1] == 0));
}

static int oci_before_pivot(const struct plan_op *op)
{
    return (op->code >= OP_OCI_ROOT && op->code <= OP_OCI_LISTENER) || (op->code == OP_LABEL && op->n == 0);
}

/* Of the operations behind OP_JOIN those that plans of pods may have as well. */
static int of_pods(const struct plan_op *op)
{
    return op->code == OP_METADATA || op->code == OP_SYSCTL || (op->code == OP_LABEL && op->n == 2);
}
