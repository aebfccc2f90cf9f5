/* The plan of a recipe becomes that of another container: its root, its id, the sources of its mounts, the order of both lists. */
#include "again.h"
#include "plan.h"

static int is_hex(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
}

/* As in again_key.c: digits that stand alone. */
static void replace_id(char *pool, uint32_t size, const char *old, const char *id)
{
    for (uint32_t at = 0, end; at < size; at = end + 1) {
        for (end = at; end < size && is_hex(pool[end]); end++)
            ;
        if ((end - at == 64 || end - at == 12) && memcmp(pool + at, old, end - at) == 0)
            memcpy(pool + at, id, end - at);
    }
}

/* The second string of a mount's list is the source that it had, of the same length. */
static int replace_source(const struct again *a, char *pool, const struct plan_header *head, uint32_t at, struct span source)
{
    const size_t kind = at < head->pool_size ? str_len(pool + at) : head->pool_size;
    char *old = pool + at + kind + 1;

    if (at + kind + 1 >= head->pool_size || str_len(old) != source.size)
        return 0;
    memcpy(old, a->text + source.at, source.size);
    return 1;
}

static int mounts(const struct again *a, const struct again_recipe *recipe, const uint16_t *was, struct plan_op *ops, char *pool,
                  const struct plan_header *head)
{
    struct plan_op old[AGAIN_ITEMS];

    if (recipe->mount > head->op_count || recipe->mounts > head->op_count - recipe->mount)
        return 0;
    ops += recipe->mount;
    memcpy(old, ops, recipe->mounts * sizeof *old);
    for (uint32_t i = 0; i < recipe->mounts; i++) {
        const uint16_t here = a->order[i];

        if (was[i] >= recipe->mounts || old[was[i]].code != OP_OCI_MOUNT)
            return 0;
        ops[here] = old[was[i]];
        if (a->sources[here].size > 0 && !replace_source(a, pool, head, ops[here].s1, a->sources[here]))
            return 0;
    }
    return 1;
}

/* The variables of OP_EXEC, with one of Python's own behind those of the configuration, perhaps. */
static int variables(const struct again *a, const struct again_recipe *recipe, const uint16_t *was, const struct plan_op *exec, char *pool,
                     const struct plan_header *head)
{
    static char copy[AGAIN_TEXT];
    const char *old[AGAIN_ITEMS], *words[AGAIN_ITEMS];
    uint32_t at = exec->s2;

    if (exec->code != OP_EXEC || exec->a < recipe->variables)
        return 0;
    for (uint32_t i = 0; i < recipe->variables; i++) {
        if (at >= head->pool_size)
            return 0;
        old[i] = copy + (at - exec->s2);
        at += (uint32_t)str_len(pool + at) + 1;
    }
    if (at - exec->s2 > sizeof copy)
        return 0;
    memcpy(copy, pool + exec->s2, at - exec->s2);
    for (uint32_t i = 0; i < recipe->variables; i++) {
        if (was[i] >= recipe->variables)
            return 0;
        words[a->order[recipe->mounts + i]] = old[was[i]];
    }
    at = exec->s2;
    for (uint32_t i = 0; i < recipe->variables; i++) {
        const uint32_t size = (uint32_t)str_len(words[i]) + 1;

        memcpy(pool + at, words[i], size);
        at += size;
    }
    return 1;
}

/* Paths of namespaces.  What a parameter of the kernel would change there is the host's, if they are this process's own. */
static int joins(const struct again *a, const struct plan_header *head, const struct plan_op *ops, char *pool)
{
    static const char names[][8] = {"pid", "net", "ipc", "uts", "cgroup", "time"};
    static const uint64_t kinds[] = {CLONE_NEWPID, CLONE_NEWNET, CLONE_NEWIPC, CLONE_NEWUTS, CLONE_NEWCGROUP, CLONE_NEWTIME};

    for (uint32_t i = 0; i < a->join_count; i++) {
        const struct plan_op *op = ops, *end = ops + head->op_count;
        char path[AGAIN_JOIN] = "", own[32] = "/proc/self/ns/";
        struct stat there, here;

        while (op < end && !(op->code == OP_JOIN && op->n == a->join_kinds[i]))
            op++;
        for (unsigned k = 0; k < sizeof kinds / sizeof *kinds; k++)
            if (kinds[k] == a->join_kinds[i])
                (void)str_add(own + str_len(own), own + sizeof own, names[k]);
        memcpy(path, a->text + a->joins[i].at, a->joins[i].size);
        if (op == end || op->s1 >= head->pool_size || head->pool_size - op->s1 < sizeof path ||
            sys_call4(__NR_newfstatat, AT_FDCWD, path, &there, 0) < 0 || sys_call4(__NR_newfstatat, AT_FDCWD, own, &here, 0) < 0 ||
            (there.st_dev == here.st_dev && there.st_ino == here.st_ino))
            return 0;
        memcpy(pool + op->s1, path, sizeof path);
    }
    return 1;
}

int again_plan(const struct again *a, const struct again_recipe *recipe, char *data)
{
    struct plan_header *head = (struct plan_header *)(void *)(data + recipe->start.plan);
    struct plan_op *ops = (struct plan_op *)(head + 1);
    const uint16_t *order = (const uint16_t *)(const void *)(data + recipe->order);
    char *pool = (char *)head + head->pool;

    if (head->op_count == 0 || head->op_count > PLAN_MAX_OPS || head->pool != sizeof *head + head->op_count * sizeof *ops ||
        head->pool > recipe->start.plan_size || head->pool_size > recipe->start.plan_size - head->pool || head->pool_size == 0 ||
        pool[head->pool_size - 1] != '\0' || recipe->root < head->pool || recipe->root + PATH_SIZE > head->pool + head->pool_size)
        return 0;
    if (recipe->id != 0)
        replace_id(pool, head->pool_size, data + recipe->id, a->id);
    memcpy((char *)head + recipe->root, a->rootfs, str_len(a->rootfs) + 1);
    head->flags |= a->group[0] != '\0' ? PLAN_HAS_CGROUP : 0;
    return mounts(a, recipe, order, ops, pool, head) && joins(a, head, ops, pool) &&
           variables(a, recipe, order + recipe->mounts, &ops[head->op_count - 1], pool, head);
}
