/* The plan of one more process in a container, operation by operation that of pyrun.oci.planner.enter_plan. */
#include "handover.h"
#include "oci_exec.h"
#include "oci_plan.h"

#define MOST_OPS 48
#define LISTENER 8 /* SECCOMP_FILTER_FLAG_NEW_LISTENER */
#define ALL_CAPABILITIES ((1ULL << 41) - 1)
#define PATH "PATH="
#define HOME "HOME="
#define DEFAULT_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

enum { BOUNDING, EFFECTIVE, PERMITTED, INHERITABLE, AMBIENT };

struct composing {
    const struct exec *exec;
    const struct plan_op *created, *created_end, *filter; /* of the plan by which the container was made */
    const char *created_pool;
    struct plan_op ops[MOST_OPS];
    unsigned count;
    int users; /* it is in a user namespace */
    char *pool, *at, *end;
    int full;
};

static void add(struct composing *made, struct plan_op op)
{
    made->full |= made->count == MOST_OPS;
    if (!made->full)
        made->ops[made->count++] = op;
}

static uint32_t put(struct composing *made, const void *data, size_t size)
{
    char *at = made->at;

    made->full |= size > (size_t)(made->end - at);
    if (made->full)
        return 0;
    memcpy(at, data, size);
    made->at += size;
    return (uint32_t)(at - made->pool);
}

static uint32_t put_string(struct composing *made, const char *text)
{
    return put(made, text, str_len(text) + 1);
}

static uint32_t put_blob(struct composing *made, const void *data, size_t size)
{
    static const char zeros[8] = "";
    uint32_t at;

    (void)put(made, zeros, -(size_t)(made->at - made->pool) % sizeof zeros);
    at = put(made, data, size);
    (void)put(made, zeros, 1);
    return at;
}

static int same_name(const char *one, const char *other)
{
    while (*one == *other && *one != '=' && *one != '\0')
        one++, other++;
    return (*one == '=' || *one == '\0') && (*other == '=' || *other == '\0');
}

/* Whether one of the same name follows in `count` words from *word on, or is added. */
static int is_replaced(const struct exec *exec, const char *name, const char *word, unsigned count)
{
    for (; count > 0; count--, word += str_len(word) + 1)
        if (same_name(word, name))
            return 1;
    for (unsigned i = 0; i < exec->added_count; i++)
        if (same_name(exec->added[i], name))
            return 1;
    return 0;
}

static int is_added_again(const struct exec *exec, unsigned at)
{
    for (unsigned i = at + 1; i < exec->added_count; i++)
        if (same_name(exec->added[i], exec->added[at]))
            return 1;
    return 0;
}

static void put_variable(struct composing *made, const char *word, uint64_t *count, int *home)
{
    if (memcmp(word, HOME, sizeof HOME - 1) == 0) {
        if (word[sizeof HOME - 1] == '\0')
            return;
        *home = 1;
    }
    (void)put_string(made, word);
    (*count)++;
}

/* As pyrun.oci.process.environment: of two of a name the last, and always a HOME. */
static uint32_t put_environment(struct composing *made, uint64_t *count)
{
    const struct exec *exec = made->exec;
    const char *word = exec->process.env.start;
    const uint32_t start = (uint32_t)(made->at - made->pool);
    int home = 0;

    for (unsigned left = exec->process.env.count; left > 0; left--) {
        const char *next = word + str_len(word) + 1;

        if (!is_replaced(exec, word, next, left - 1))
            put_variable(made, word, count, &home);
        word = next;
    }
    for (unsigned i = 0; i < exec->added_count; i++)
        if (!is_added_again(exec, i))
            put_variable(made, exec->added[i], count, &home);
    if (!home) {
        word = user_home(exec->container->pid, exec->process.uid);
        (void)put(made, HOME, sizeof HOME - 1);
        (void)put_string(made, word != 0 ? word : "");
        made->full |= word == 0;
        (*count)++;
    }
    return start;
}

/* As execvp(3) would, by the first PATH among `count` variables: what to try, in the form of OP_EXEC.b. */
static uint64_t put_paths(struct composing *made, const char *variable, uint64_t count)
{
    const char *program = made->exec->process.args.start, *path = DEFAULT_PATH;
    uint64_t start = (uint64_t)(made->at - made->pool), paths = 0;

    for (const char *c = program; *c != '\0'; c++)
        if (*c == '/') {
            (void)put_string(made, program);
            return start | 1ULL << 32;
        }
    for (; count > 0; count--, variable += str_len(variable) + 1)
        if (memcmp(variable, PATH, sizeof PATH - 1) == 0) {
            path = variable + sizeof PATH - 1;
            break;
        }
    for (int more = 1; more && !made->full; paths++) {
        const char *from = path;

        while (*path != ':' && *path != '\0')
            path++;
        (void)(path == from ? put(made, ".", 1) : put(made, from, (size_t)(path - from)));
        (void)put(made, "/", 1);
        (void)put_string(made, program);
        more = *path++ == ':';
    }
    return start | paths << 32;
}

static uint64_t own_bounding(void)
{
    uint64_t set = 0;
    long r;

    for (unsigned i = 0; i < 64 && (r = sys_prctl(PR_CAPBSET_READ, i, 0)) >= 0; i++)
        set |= (uint64_t)(r > 0) << i;
    return set;
}

/* What cannot be granted is left out; capabilities(7) has some in a set only when they are in another. */
static uint32_t put_capabilities(struct composing *made)
{
    const uint64_t most = made->users ? ALL_CAPABILITIES : own_bounding();
    uint64_t sets[5];

    for (int i = 0; i < 5; i++)
        sets[i] = made->exec->process.sets[i] & most;
    sets[INHERITABLE] &= sets[BOUNDING];
    sets[EFFECTIVE] &= sets[PERMITTED];
    sets[AMBIENT] &= sets[PERMITTED] & sets[INHERITABLE];
    return put_blob(made, sets, sizeof sets);
}

static uint32_t own_umask(void)
{
    const long mask = sys_call1(__NR_umask, 0022);

    (void)sys_call1(__NR_umask, mask);
    return (uint32_t)mask;
}

/* 0 where the container has what an exec cannot have likewise. */
static int look_at_plan(struct composing *made)
{
    const struct plan_header *plan = made->exec->created;
    int app = 0;

    made->created_pool = (const char *)plan + plan->pool;
    made->created = (const struct plan_op *)(plan + 1);
    made->created_end = made->created + plan->op_count;
    made->users = (plan->clone_flags & CLONE_NEWUSER) != 0;
    for (const struct plan_op *op = made->created; op < made->created_end; op++) {
        app |= op->code == OP_APP;
        if (op->code == OP_JOIN && op->n == CLONE_NEWUSER) {
            made->users = 1;
            if (made->exec->process.uid != 0) /* whom the streams are given to stands in config.json alone */
                return 0;
        }
        if (app && op->code == OP_SECCOMP)
            made->filter = op;
    }
    return made->filter == 0 || !(made->filter->a & LISTENER);
}

static void add_filter(struct composing *made)
{
    struct plan_op op = *made->filter;

    op.s1 = put_blob(made, made->created_pool + op.s1, op.n);
    op.s2 = 0;
    add(made, op);
}

/* Personality and memory policy are of the container, the others of its own process. */
static void add_attributes(struct composing *made)
{
    for (const struct plan_op *op = made->created; op < made->created_end; op++)
        if (op->code == OP_OCI_ATTRIBUTE && (op->n == OCI_PERSONALITY || op->n == OCI_MEMORY_POLICY)) {
            struct plan_op copy = *op;

            copy.s1 = put_blob(made, made->created_pool + op->s1, op->b * (op->n == OCI_MEMORY_POLICY ? 8 : 1));
            add(made, copy);
        }
}

static void add_ops(struct composing *made)
{
    const struct process *process = &made->exec->process;
    const uint32_t sets = put_capabilities(made);
    struct plan_op exec = {.code = OP_EXEC, .n = process->args.count};

    exec.s2 = put_environment(made, &exec.a);
    exec.b = put_paths(made, made->pool + exec.s2, exec.a);
    exec.s1 = put(made, process->args.start, (size_t)(process->args.end - process->args.start));
    if (process->terminal)
        add(made, (struct plan_op){.code = OP_TTY, .a = process->uid});
    add(made, (struct plan_op){.code = OP_PIVOT});
    add(made, (struct plan_op){.code = OP_KEYRING});
    add(made, (struct plan_op){.code = OP_APP});
    add(made, (struct plan_op){.code = OP_UMASK, .n = process->umask == CALLERS_OWN ? own_umask() : process->umask});
    add_attributes(made);
    for (unsigned i = 0; i < process->limit_count; i++)
        add(made, (struct plan_op){.code = OP_RLIMIT, .n = process->limits[i].kind, .a = process->limits[i].soft, .b = process->limits[i].hard});
    add(made, (struct plan_op){.code = OP_CAPS, .s1 = sets, .n = 0});
    add(made, (struct plan_op){.code = OP_IDS, .n = process->group_count, .a = process->uid, .b = process->gid,
                               .s1 = put_blob(made, process->groups, process->group_count * sizeof *process->groups)});
    add(made, (struct plan_op){.code = OP_CHDIR, .s1 = put_string(made, process->cwd)});
    add(made, (struct plan_op){.code = OP_FIND, .b = exec.b});
    if (made->filter != 0 && !process->locked) {
        add(made, (struct plan_op){.code = OP_RAISE});
        add_filter(made);
    }
    add(made, (struct plan_op){.code = OP_CAPS, .s1 = sets, .n = 1});
    add(made, (struct plan_op){.code = OP_SESSION});
    if (process->locked)
        add(made, (struct plan_op){.code = OP_NO_NEW_PRIVS});
    if (made->filter != 0 && process->locked)
        add_filter(made);
    add(made, exec);
}

/* The operations end where the pool begins. */
static struct plan_header *close_plan(struct composing *made, uint64_t namespaces, uint32_t flags)
{
    const size_t size = made->count * sizeof *made->ops;
    struct plan_header *header = (struct plan_header *)(void *)(made->pool - size) - 1;

    memcpy(header + 1, made->ops, size);
    *header = (struct plan_header){.magic = PLAN_MAGIC, .version = PLAN_VERSION, .op_count = made->count, .clone_flags = namespaces};
    header->pool = (uint32_t)(sizeof *header + size);
    header->pool_size = (uint32_t)(made->at - made->pool);
    header->size = header->pool + header->pool_size;
    header->flags = PLAN_OCI | PLAN_ENTER | flags | made->exec->kept << PLAN_LISTEN_SHIFT;
    return header;
}

int make_exec_plan(struct exec *exec, uint64_t namespaces, uint32_t flags)
{
    static struct composing made;
    struct plan_header *header;
    const long map = sys_call6(__NR_mmap, 0, PLAN_MAX_SIZE, 3 /* read, write */, 0x22 /* private, anonymous */, -1, 0);

    made.exec = exec;
    if ((unsigned long)map > -4096UL || !look_at_plan(&made))
        return 0;
    made.pool = (char *)map + sizeof *header + sizeof made.ops;
    made.at = made.pool + 1; /* offset 0 is the empty string */
    made.end = (char *)map + PLAN_MAX_SIZE;
    add_ops(&made);
    (void)put(&made, "", 1);
    if (made.full)
        return 0;
    header = close_plan(&made, namespaces, flags);
    exec->plan = sealed("pyrun-plan", (const char *)header, header->size, 0);
    return exec->plan >= 0;
}
