/* Validation of a plan before its first operation: every offset, count and terminator.
 *
 * Pure: no system call, no allocation, so that it runs under a fuzzer unchanged.  After plan_check()
 * returned 0 the rest of the helper may follow any offset of the plan without looking again. */
#include "decode.h"

#define NEW_NETWORK 0x40000000 /* CLONE_NEWNET */

static int string_ok(const struct plan_header *h, uint32_t offset)
{
    return offset < h->pool_size; /* the last byte of the pool is NUL */
}

static int blob_ok(const struct plan_header *h, uint32_t offset, uint64_t size)
{
    return offset <= h->pool_size && size <= h->pool_size - offset;
}

static int list_ok(const struct plan_header *h, const char *pool, uint32_t offset, uint64_t count)
{
    if (count > PLAN_MAX_LIST)
        return 0;
    for (; count > 0; count--) {
        if (!string_ok(h, offset))
            return 0;
        while (pool[offset] != '\0')
            offset++;
        offset++;
    }
    return 1;
}

static int has_slash(const char *name)
{
    while (*name != '\0' && *name != '/')
        name++;
    return *name == '/';
}

#include "oci_decode.h"

static int op_ok(const struct plan_header *h, const char *pool, const struct plan_op *op)
{
    switch (op->code) {
    case OP_OVERLAY:
        return string_ok(h, op->s1) && op->n >= 1 && op->n <= PLAN_MAX_LOWERS && list_ok(h, pool, op->s2, op->n) &&
               op->a < h->pool_size && op->b < h->pool_size && !op->a == !op->b;
    case OP_MOUNT:
        return string_ok(h, op->s1) && string_ok(h, op->s2) && string_ok(h, op->n);
    case OP_IDS:
        return op->n <= PLAN_MAX_LIST && blob_ok(h, op->s1, (uint64_t)op->n * sizeof(uint32_t)) && op->a <= 0x7fffffff &&
               op->b <= 0x7fffffff;
    case OP_CAPS:
        return blob_ok(h, op->s1, sizeof(struct plan_caps));
    case OP_DEVICES:
    case OP_SECCOMP:
        return op->n >= 8 && op->n % 8 == 0 && op->n / 8 <= 4096 && blob_ok(h, op->s1, op->n) && string_ok(h, op->s2) &&
               list_ok(h, pool, op->s2, op->a & 8 /* NEW_LISTENER */ ? 3 : 0);
    case OP_RLIMIT:
        return op->n < 16 && op->a <= op->b;
    case OP_EXEC:
        return op->n >= 1 && list_ok(h, pool, op->s1, op->n) && list_ok(h, pool, op->s2, op->a) && op->b >> 32 >= 1 &&
               list_ok(h, pool, (uint32_t)op->b, op->b >> 32);
    case OP_METADATA:
        return string_ok(h, op->s1) && op->n >= 1 && op->n <= 64 && list_ok(h, pool, op->s2, op->n) && op->b < h->pool_size;
    case OP_HANDLER:
        return string_ok(h, op->s1) && (op->n == HANDLER_PRE_START || op->n == HANDLER_POST_STOP) && op->a >= 1 && op->a <= 86400;
    case OP_LIMIT: /* a name, not a path: it may not lead out of the cgroup */
        return string_ok(h, op->s1) && string_ok(h, op->s2) && pool[op->s1] != '\0' && !has_slash(pool + op->s1) &&
               op->a < h->pool_size;
    case OP_FIND:
        return op->b >> 32 >= 1 && list_ok(h, pool, (uint32_t)op->b, op->b >> 32);
    case OP_HOOK:
        return op->n >= 2 && list_ok(h, pool, op->s1, op->n) && list_ok(h, pool, op->s2, (uint32_t)op->a) &&
               string_ok(h, (uint32_t)op->b) && string_ok(h, (uint32_t)(op->b >> 32));
    case OP_OCI_ROOT ... OP_OCI_ATTRIBUTE:
        return oci_op_ok(h, pool, op);
    default:
        return op->code > OP_NONE && op->code <= OP_LAST && string_ok(h, op->s1) && string_ok(h, op->s2);
    }
}

static int header_ok(const struct plan_header *h, size_t size)
{
    uint64_t ops_end = sizeof *h + (uint64_t)h->op_count * sizeof(struct plan_op);

    return h->magic == PLAN_MAGIC && h->version == PLAN_VERSION && h->size == size && h->op_count >= 1 &&
           h->op_count <= PLAN_MAX_OPS && h->pool == ops_end && h->pool_size >= 1 && h->pool <= size &&
           h->pool_size <= size - h->pool && (h->flags & 0xffffffU & ~(uint32_t)PLAN_ALL_FLAGS) == 0 &&
           h->flags >> PLAN_LISTEN_SHIFT <= SLOT_LISTEN_MAX;
}

/* The app's half must be there, once, in the right place, and end in OP_EXEC, and so must each handler behind it: nothing
 * may run with privileges because an operation was lost.  An alternative needs an operation to belong to. */
static int order_ok(const struct plan_header *h, const struct plan_op *ops)
{
    uint32_t app = 0, pivot = 0, network = 0, service = 0, i;

    for (i = 0; i < h->op_count; i++) {
        if ((ops[i].flags & OPF_ELSE) && (i + 2 >= h->op_count || (ops[i + 1].flags & OPF_ELSE)))
            return 0;
        if (ops[i].code == OP_NETWORK && (!(h->clone_flags & NEW_NETWORK) || network++ > 0))
            return 0;
        if (ops[i].code >= OP_JOIN && !of_pods(&ops[i]) && !(h->flags & PLAN_OCI))
            return 0;
        if (before_clone(&ops[i])) {
            if (i > 0 && !before_clone(&ops[i - 1]))
                return 0;
        } else if (ops[i].code == OP_CHECKPOINT || ops[i].code == OP_HOOK) {
            if (pivot && !app)
                return 0;
        } else if (ops[i].code == OP_PIVOT || oci_before_pivot(&ops[i])) {
            if (pivot || app)
                return 0;
            pivot = ops[i].code == OP_PIVOT ? i + 1 : 0;
        } else if (ops[i].code == OP_METADATA) {
            if (pivot || app || service++ > 0)
                return 0;
        } else if (ops[i].code == OP_APP) {
            if (app)
                return 0;
            app = i + 1;
        } else if (ops[i].code > OP_APP ? !app : app != 0) {
            return 0;
        } else if (ops[i].code == OP_HANDLER ? ops[i - 1].code != OP_EXEC
                                              : ops[i].code == OP_EXEC && i + 1 != h->op_count && ops[i + 1].code != OP_HANDLER) {
            return 0;
        } else if (pivot && !app && ops[i].code != OP_KEYRING) {
            return 0; /* the staged root is gone: nothing that names it may follow */
        }
    }
    if ((h->clone_flags & NEW_NETWORK) && network == 0 && !(h->flags & PLAN_ENTER))
        return 0; /* the app would have the host's */
    return app != 0 && pivot != 0 && ops[h->op_count - 1].code == OP_EXEC;
}

int plan_check(const void *data, size_t size)
{
    const struct plan_header *h = data;
    const struct plan_op *ops;
    const char *pool;
    uint32_t i;

    if (size < sizeof *h || size > PLAN_MAX_SIZE || !header_ok(h, size))
        return -1;
    ops = (const struct plan_op *)(h + 1);
    pool = (const char *)data + h->pool;
    if (pool[0] != '\0' || pool[h->pool_size - 1] != '\0')
        return -1;
    if (!string_ok(h, h->uid_map) || !string_ok(h, h->gid_map) || !string_ok(h, h->pod_name) || !string_ok(h, h->cgroup_name) ||
        !string_ok(h, h->timens))
        return -1;
    if ((h->flags & PLAN_HAS_EXPLAIN) && (h->explain_count < 1 || !list_ok(h, pool, h->explain, h->explain_count)))
        return -1;
    for (i = 0; i < h->op_count; i++)
        if (!op_ok(h, pool, &ops[i]))
            return (int)i + 1;
    return order_ok(h, ops) ? 0 : -1;
}
