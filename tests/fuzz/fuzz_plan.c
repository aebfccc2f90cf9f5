/* Fuzz target of the plan decoder, and its promise: after plan_check() returned 0 the helper may follow every offset
 * without looking again.  So whatever it accepts is then read through, as the helper would, under the sanitizers. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "decode.h"
#include "oci_plan.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile size_t seen; /* keeps the compiler from leaving the reading out */

static void follow_string(const char *pool, uint64_t offset)
{
    seen += strlen(pool + offset);
}

static void follow_list(const char *pool, uint64_t offset, uint64_t count)
{
    for (; count > 0; count--) {
        seen += strlen(pool + offset);
        offset += strlen(pool + offset) + 1;
    }
}

static void follow_blob(const char *pool, uint64_t offset, size_t size)
{
    for (size_t i = 0; i < size; i++)
        seen += (unsigned char)pool[offset + i];
}

static void follow(const struct plan_op *op, const char *pool)
{
    switch (op->code) {
    case OP_OCI_MOUNT:
        follow_list(pool, op->s1, op->n);
        follow_blob(pool, op->s2, sizeof(struct plan_oci_mount));
        if (op->n < 5 || op->b >= OCI_TREES)
            abort();
        break;
    case OP_HOOK:
        follow_list(pool, op->s1, op->n);
        follow_list(pool, op->s2, (uint32_t)op->a);
        follow_string(pool, (uint32_t)op->b);
        follow_string(pool, op->b >> 32);
        break;
    case OP_FIND:
        follow_list(pool, (uint32_t)op->b, op->b >> 32);
        break;
    case OP_OCI_ATTRIBUTE:
        follow_blob(pool, op->s1, op->b * (op->n == OCI_MEMORY_POLICY ? 8 : 1));
        break;
    case OP_IDS:
        follow_blob(pool, op->s1, op->n * sizeof(uint32_t));
        break;
    case OP_CAPS:
        follow_blob(pool, op->s1, sizeof(struct plan_caps));
        break;
    case OP_SECCOMP:
        follow_blob(pool, op->s1, op->n);
        follow_list(pool, op->s2, op->a & 8 ? 3 : 0);
        break;
    case OP_RLIMIT:
        break;
    case OP_EXEC:
        follow_list(pool, op->s1, op->n);
        follow_list(pool, op->s2, op->a);
        follow_list(pool, (uint32_t)op->b, op->b >> 32);
        break;
    case OP_OVERLAY:
        follow_string(pool, op->s1);
        follow_list(pool, op->s2, op->n);
        follow_string(pool, op->a);
        follow_string(pool, op->b);
        break;
    case OP_MOUNT:
        follow_string(pool, op->n);
        __attribute__((fallthrough));
    default:
        follow_string(pool, op->s1);
        follow_string(pool, op->s2);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    /* a block of exactly this size: one byte too far is seen */
    void *plan = malloc(size);

    if (plan == NULL)
        return 0;
    memcpy(plan, data, size);
    if (plan_check(plan, size) == 0) {
        const struct plan_header *h = plan;
        const struct plan_op *ops = (const struct plan_op *)(h + 1);
        const char *pool = (const char *)plan + h->pool;

        follow_string(pool, h->uid_map);
        follow_string(pool, h->gid_map);
        follow_string(pool, h->pod_name);
        follow_string(pool, h->cgroup_name);
        follow_string(pool, h->timens);
        if (h->flags & PLAN_HAS_EXPLAIN)
            follow_list(pool, h->explain, h->explain_count);
        for (uint32_t i = 0; i < h->op_count; i++)
            follow(&ops[i], pool);
    }
    free(plan);
    return 0;
}
