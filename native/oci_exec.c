/* `pyrun-oci exec` without Python, as podman, containerd's shim, docker and health checks ask for it.
 *
 * What the new process gets is what pyrun.oci.enter decides from the same things: the container's config.json, or the file
 * of --process, says who it is; the plan by which the container was made has the compiled filter.  Nothing is told here but
 * success: every option, member or failure that is not plain is left to Python, which begins again. */
#include "decode.h"
#include "handover.h"
#include "oci_exec.h"

#define LARGEST_TEXT (1L << 20)
#define UMASK_OF_A_USER 022

static int identity(struct process *process, const char *text)
{
    uint64_t ids[2] = {0, 0};

    for (int i = 0; i < 2; i++) {
        const char *start = text;

        for (; *text >= '0' && *text <= '9' && ids[i] <= LARGEST_ID; text++)
            ids[i] = ids[i] * 10 + (uint64_t)(*text - '0');
        if (text == start || ids[i] > LARGEST_ID)
            return 0;
        if (*text != ':')
            break;
        text++;
    }
    process->uid = (uint32_t)ids[0];
    process->gid = (uint32_t)ids[1];
    process->group_count = 0;
    if (process->umask == CALLERS_OWN)
        process->umask = UMASK_OF_A_USER;
    return *text == '\0';
}

static unsigned small_number(const char *text, unsigned most)
{
    unsigned value = 0;

    for (; *text >= '0' && *text <= '9' && value <= most; text++)
        value = value * 10 + (unsigned)(*text - '0');
    return *text == '\0' ? value : most + 1;
}

/* Options that change one thing of the container's own process. */
struct wish {
    const char *user, *cwd;
    int tty, locked, as_crun; /* crun asks for no_new_privs anew */
};

enum { PROCESS, ENV = 2, USER = 4, CWD = 6, PID_FILE, CONSOLE, KEPT };
static const char with_value[] = "--process\0-p\0--env\0-e\0--user\0-u\0--cwd\0--pid-file\0--console-socket\0--preserve-fds\0";

static int option_with_value(struct exec *exec, struct wish *wish, int which, const char *value)
{
    if (which < ENV)
        exec->process_file = value;
    else if (which < USER && exec->added_count == MOST_ADDED)
        return 0;
    else if (which < USER)
        exec->added[exec->added_count++] = value;
    else if (which < CWD)
        wish->user = value;
    else if (which == CWD)
        wish->cwd = value;
    else if (which == PID_FILE)
        exec->pid_file = value;
    else if (which == CONSOLE)
        exec->console = value;
    else
        exec->kept = small_number(value, SLOT_LISTEN_MAX);
    return *value != '\0' && exec->kept <= SLOT_LISTEN_MAX;
}

/* Returns how many words are options; -1 for one that is not known here. */
static int options(struct exec *exec, struct wish *wish, int argc, char **argv)
{
    int i = 0;

    for (; i < argc && argv[i][0] == '-'; i++) {
        const char *name = with_value, *value = 0;
        int which = 0;

        if (str_eq(argv[i], "--detach") || str_eq(argv[i], "-d"))
            exec->detach = 1;
        else if (str_eq(argv[i], "--tty") || str_eq(argv[i], "-t"))
            wish->tty = 1;
        else if (str_eq(argv[i], "--no-new-privs"))
            wish->locked = 1;
        else {
            for (; *name != '\0' && (value = value_of(argc, argv, &i, name)) == 0; which++)
                name += str_len(name) + 1;
            if (value == 0 || !option_with_value(exec, wish, which, value))
                return -1;
        }
    }
    return i;
}

/* The whole of a regular file; 0 for anything else. */
static int whole_file(struct json *json, int dir, const char *path, int flags)
{
    OWNED_FD fd = (int)sys_openat(dir, path, O_RDONLY | O_NONBLOCK | flags, 0);
    struct stat st;
    long map;

    if (fd < 0 || sys_fstat(fd, &st) < 0 || (st.st_mode & S_IFMT) != S_IFREG || st.st_size <= 0 || st.st_size > LARGEST_TEXT)
        return 0;
    map = sys_call6(__NR_mmap, 0, st.st_size + 1, 3 /* read, write */, 0x22 /* private, anonymous */, -1, 0);
    json->at = json->out = (char *)map;
    json->end = json->at + st.st_size;
    return (unsigned long)map <= -4096UL && sys_read(fd, map, st.st_size) == st.st_size;
}

/* The container's own process, as config.json had it at create. */
static int configured(struct exec *exec)
{
    struct json json = {.known = 1};
    unsigned count = 0;

    if (!whole_file(&json, exec->container->dir, "config", O_NOFOLLOW))
        return 0;
    for (json_open(&json, '{'); json_more(&json, '}', &count); json_skip(&json)) {
        size_t size;
        const char *name = json_name(&json, &size);

        if (size == 7 && memcmp(name, "process", 7) == 0)
            return read_process(&json, &exec->process);
    }
    return 0;
}

static int from_file(struct exec *exec)
{
    struct json json = {0};

    return whole_file(&json, AT_FDCWD, exec->process_file, 0) && read_process(&json, &exec->process) && json_ended(&json);
}

static int from_words(struct exec *exec, const struct wish *wish, char **argv)
{
    struct process *process = &exec->process;

    if (!configured(exec) || argv[0][0] == '\0' || (wish->cwd != 0 && wish->cwd[0] != '/'))
        return 0;
    process->args = (struct words){argv[0], argv[0], 0};
    for (; *argv != 0; argv++, process->args.count++) { /* the kernel puts them one behind the other (execve(2)) */
        if (*argv != process->args.end)
            return 0;
        process->args.end += str_len(*argv) + 1;
    }
    process->terminal = wish->tty;
    process->height = process->width = 0;
    process->cwd = wish->cwd != 0 ? wish->cwd : process->cwd;
    process->locked = wish->locked || (process->locked && !wish->as_crun);
    return wish->user == 0 || identity(process, wish->user);
}

/* The plan of create: its operations are already known to be good. */
static int load_plan(struct exec *exec)
{
    OWNED_FD fd = (int)sys_openat(exec->container->dir, "plan", O_RDONLY | O_NOFOLLOW, 0);
    struct stat st;
    long map;

    if (fd < 0 || sys_fstat(fd, &st) < 0 || st.st_size <= 0)
        return 0;
    map = sys_call6(__NR_mmap, 0, st.st_size, 1 /* read */, 2 /* private */, fd, 0);
    if ((unsigned long)map > -4096UL || plan_check((const void *)map, (size_t)st.st_size) != 0)
        return 0;
    exec->created = (const struct plan_header *)map;
    return (exec->created->flags & (PLAN_OCI | PLAN_ENTER)) == PLAN_OCI;
}

/* Before anything is opened: moves what the program shall have as 3, 4, ... to where the helper looks. */
static int keep_descriptors(const struct exec *exec, char **envp)
{
    for (unsigned i = 0; i < exec->kept; i++)
        if (sys_call3(__NR_dup3, 3 + i, SLOT_LISTEN + i, 0) < 0)
            return 0;
    return from_environment(envp, "LISTEN_FDS")[0] == '\0';
}

void oci_exec(struct container *container, const char *root, int as_crun, char **argv, char **envp)
{
    static struct exec exec;
    struct wish wish = {.as_crun = as_crun};
    int argc = 0, i;

    while (argv[argc] != 0)
        argc++;
    exec.container = container;
    i = options(&exec, &wish, argc, argv);
    if (i < 0 || i == argc || (argc == i + 1) != (exec.process_file != 0) ||
        (exec.process_file != 0 && (exec.added_count > 0 || wish.user != 0 || wish.cwd != 0 || wish.locked)))
        return;
    if (!keep_descriptors(&exec, envp) || !find_container(container, root, argv[i], 0) || container->hooks[0] == 'c' ||
        (container->status != CREATED && container->status != RUNNING))
        return;
    if (!(exec.process_file != 0 ? from_file(&exec) : from_words(&exec, &wish, argv + i + 1)))
        return;
    if (exec.process.terminal == (exec.console != 0) && load_plan(&exec))
        run_exec(&exec);
}
