/* The launcher's short way into a running pod: `pyrun enter POD COMMAND...` and `pyrun exec [-i] POD COMMAND...`, with the
 * pod's whole UUID, without a terminal, and with nothing else asked for.
 *
 * Whatever has to be looked up or said, every error included, is left to Python, which begins again (pyrun.cli.enter).
 * The pod is found by live.c.  Its plan and the helper are its supervisor's own: sealed memory. */
#include "decode.h"
#include "fast.h"
#include "handover.h"
#include "live.h"
#include "pod.h"

#define FREEZE_OFF '0'

struct quick {
    const char *uuid;
    char **command;
    int interactive;
    int helper, plan;
    struct live live;
    const struct plan_header *pod_plan;
    char *block; /* the new plan, and where it grows */
    char *at;
};

static int is_terminal(int fd)
{
    struct termios mode;

    return sys_call3(__NR_ioctl, fd, TCGETS, &mode) == 0;
}

static int is_uuid(const char *word)
{
    for (int i = 0; i < UUID_LENGTH; i++)
        if (!((word[i] >= '0' && word[i] <= '9') || (word[i] >= 'a' && word[i] <= 'f') || word[i] == '-'))
            return 0;
    return word[UUID_LENGTH] == '\0';
}

static int understood(struct quick *quick, int argc, char **argv, int i)
{
    const int enter = str_eq(argv[i], "enter");

    if (!enter && !str_eq(argv[i], "exec"))
        return 0;
    quick->interactive = enter;
    i++;
    if (i < argc && (str_eq(argv[i], "-i") || str_eq(argv[i], "--interactive"))) {
        quick->interactive = 1;
        i++;
    }
    if (i >= argc || !is_uuid(argv[i]))
        return 0;
    quick->uuid = argv[i++];
    if (i < argc && str_eq(argv[i], "--"))
        i++;
    quick->command = argv + i;
    return i < argc && !(enter && is_terminal(0) && is_terminal(1));
}

/* The pod, whose processes are not frozen. */
static int open_pod(struct quick *quick, const char *root)
{
    char path[PATH_SIZE], text[TEXT];
    OWNED_FD pods = join(path, root, "/pods", "") == 0 ? -1 : (int)sys_openat(AT_FDCWD, path, O_PATH | O_DIRECTORY, 0);

    return pods >= 0 && find_live(&quick->live, pods, quick->uuid) && quick->live.cgroup >= 0 &&
           read_text(quick->live.cgroup, "cgroup.freeze", text, TEXT) && text[0] == FREEZE_OFF;
}

/* What the supervisor has: process 1 was its child, and is held. */
static int open_plan(struct quick *quick)
{
    char path[64];
    OWNED_FD plan = (int)sys_openat(AT_FDCWD, process_path(path, quick->live.supervisor, "/fd/3"), O_RDONLY, 0);
    struct stat st;
    long map;

    quick->helper = (int)sys_openat(AT_FDCWD, process_path(path, quick->live.supervisor, "/exe"), O_PATH, 0);
    if (plan < 0 || quick->helper < 0 || !supervises(&quick->live, quick->live.supervisor) || sys_fstat(plan, &st) < 0 || st.st_size <= 0)
        return 0;
    map = sys_call6(__NR_mmap, 0, st.st_size, 1 /* read */, 2 /* private */, plan, 0);
    if ((unsigned long)map > -4096UL || plan_check((const void *)map, (size_t)st.st_size) != 0)
        return 0;
    quick->pod_plan = (const struct plan_header *)map;
    return (quick->pod_plan->flags & (PLAN_HAS_EXPLAIN | PLAN_ENTER)) == PLAN_HAS_EXPLAIN &&
           !(quick->pod_plan->clone_flags & CLONE_NEWUSER);
}

static void put(struct quick *quick, const void *data, size_t size)
{
    memcpy(quick->at, data, size);
    quick->at += size;
}

/* Adds the operations, in the order of enter.c; returns the last one, or 0 where the filter would go in too early. */
static struct plan_op *put_ops(struct quick *quick, struct plan_header *header)
{
    const struct plan_op *op = (const struct plan_op *)(quick->pod_plan + 1), *end = op + quick->pod_plan->op_count;
    const struct plan_op session = {.code = OP_SESSION}, null = {.code = OP_STDIN_NULL};
    int identity = 0, visible = 0;

    for (; op->code != OP_PIVOT; op++)
        if (op->code == OP_LIMIT && op->a != 0) /* the process has to enter that too */
            put(quick, op, sizeof *op);
    for (; op < end; op++) {
        if (op->code == OP_SECCOMP && !identity)
            return 0;
        identity |= op->code == OP_IDS;
        if (!visible && (op->code == OP_LABEL || op->code == OP_NO_NEW_PRIVS || op->code == OP_SECCOMP || op->code == OP_EXEC)) {
            put(quick, &session, sizeof session);
            if (!quick->interactive)
                put(quick, &null, sizeof null);
            visible = 1;
        }
        if (op->code != OP_SESSION && op->code != OP_STDIN_NULL)
            put(quick, op, sizeof *op);
        if (op->code == OP_EXEC) /* behind it are event handlers */
            break;
    }
    header->op_count = (uint32_t)((quick->at - (char *)(header + 1)) / (long)sizeof *op);
    return (struct plan_op *)(void *)quick->at - 1;
}

/* As execvp(3) would, by the app's own PATH: the paths to try, behind each other; returns how many. */
static uint64_t put_paths(struct quick *quick, const char *pool, const struct plan_op *exec)
{
    const char *word = pool + exec->s2;
    uint64_t count = 0;

    for (uint64_t i = 0; i < exec->a; i++, word += str_len(word) + 1) {
        if (memcmp(word, "PATH=", 5) != 0)
            continue;
        for (word += 4; *word != '\0'; count++) { /* at the = or a colon */
            char *start = quick->at;

            for (word++; *word != '\0' && *word != ':'; word++)
                *quick->at++ = *word;
            if (quick->at == start)
                *quick->at++ = '.';
            *quick->at++ = '/';
            put(quick, quick->command[0], str_len(quick->command[0]) + 1);
        }
        return count;
    }
    return 0;
}

static size_t room(const struct quick *quick)
{
    size_t size = quick->pod_plan->size + 4 * sizeof(struct plan_op), words = 0;

    for (char **word = quick->command; *word != 0; word++)
        words += str_len(*word) + 1;
    /* a PATH has no more parts than the pool has bytes; each makes a path of its own length, the name's, and three more */
    return size + words + (quick->pod_plan->pool_size + 2) * (str_len(quick->command[0]) + 4);
}

static int compose(struct quick *quick)
{
    const struct plan_header *pod = quick->pod_plan;
    const char *pool = (const char *)pod + pod->pool;
    const size_t size = room(quick);
    struct plan_header *header;
    struct plan_op *exec;
    uint32_t count = 0;
    char *start;
    long map = size > PLAN_MAX_SIZE * 8UL ? -ENOMEM : sys_call6(__NR_mmap, 0, size, 3, 0x22 /* private, anonymous */, -1, 0);

    if ((unsigned long)map > -4096UL)
        return 0;
    quick->block = quick->at = (char *)map;
    header = (struct plan_header *)map;
    put(quick, pod, sizeof *pod);
    exec = put_ops(quick, header);
    if (exec == 0)
        return 0;
    start = quick->at;
    put(quick, pool, pod->pool_size);
    exec->s1 = (uint32_t)(quick->at - start);
    for (; quick->command[count] != 0; count++)
        put(quick, quick->command[count], str_len(quick->command[count]) + 1);
    exec->n = count;
    exec->b = 1ULL << 32 | exec->s1; /* the program as it stands */
    for (const char *c = quick->command[0]; *c != '/'; c++)
        if (*c == '\0') {
            exec->b = (uint64_t)(quick->at - start);
            exec->b |= put_paths(quick, pool, exec) << 32;
            break;
        }
    header->pool = (uint32_t)(start - quick->block);
    header->pool_size = (uint32_t)(quick->at - start);
    put(quick, pool + pod->pool_size, pod->size - pod->pool - pod->pool_size); /* the notes */
    header->size = (uint32_t)(quick->at - quick->block);
    header->flags = (pod->flags & (PLAN_SETGROUPS_DENY | PLAN_HAS_EXPLAIN)) | PLAN_HAS_CGROUP | PLAN_ENTER |
                    (quick->interactive ? PLAN_RELAY_STDIN : 0);
    header->clone_flags &= CLONE_NEWTIME;
    if (plan_check(quick->block, header->size) != 0)
        return 0;
    quick->plan = sealed("pyrun-plan", quick->block, header->size, 0);
    return quick->plan >= 0;
}

/* Comes back only when Python has to do it. */
void enter_pod(int argc, char **argv, char **envp)
{
    static struct quick quick;
    char title[64], pid[24], *words[] = {title, pid, 0};
    int verb;
    const char *root = root_of(argc, argv, envp, &verb);

    quick.helper = quick.plan = -1;
    if (root == 0 || !is_root() || !is_own(root) || !understood(&quick, argc, argv, verb) || from_environment(envp, "PYRUN_DEBUG")[0] != '\0')
        return;
    if (open_pod(&quick, root) && open_plan(&quick) && compose(&quick)) {
        int slots[SLOT_COUNT] = {0, 1, 2, quick.plan, -1, -1, quick.live.init, quick.live.cgroup, -1, -1};

        (void)str_add(str_add(title, title + sizeof title, "pyrun: enter "), title + sizeof title, quick.uuid);
        (void)str_add_number(pid, pid + sizeof pid, quick.live.pid);
        (void)enter_helper(quick.helper, slots, 3, words, envp);
        (void)sys_call3(__NR_close_range, 3, SLOT_COUNT - 1, 0); /* the copies */
    }
}
