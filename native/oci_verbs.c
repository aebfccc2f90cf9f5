/* The launcher's short ways for `pyrun-oci`: state, start, kill, delete and exec (oci_exec.c), when nothing is unusual.
 *
 * pyrun.oci.state describes the directory of a container; its file `fast` has what is needed here:
 *
 *     pid \n start time \n directory of the cgroup \n what is Python's: cgroups (of version 1), hooks, or nothing \n
 *     the state's JSON up to the pid \0 the rest of it behind the status \0 the helper program
 *
 * Nothing is told here but success.  Whatever is not as it should be, every option that is not known here and every
 * error is left to Python, which begins again; the steps are those of pyrun.oci.start and pyrun.oci.control. */
#include <linux/poll.h>

#include "handover.h"
#include "oci_exec.h"
#include "shared.h"

struct request {
    const char *root, *verb, *id, *signal;
    int force;
};

static struct container container;

const char *value_of(int argc, char **argv, int *i, const char *name)
{
    const size_t size = str_len(name);

    if (str_eq(argv[*i], name) && *i + 1 < argc)
        return argv[++*i];
    return memcmp(argv[*i], name, size) == 0 && argv[*i][size] == '=' ? argv[*i] + size + 1 : 0;
}

int is_log_format(const char *word)
{
    return word != 0 && (str_eq(word, "json") || str_eq(word, "text"));
}

int is_log(int argc, char **argv, int *i)
{
    const char *path = value_of(argc, argv, i, "--log");
    OWNED_FD fd = -1;

    if (path == 0)
        return 0;
    if (memcmp(path, "file:", 5) == 0)
        path += 5;
    fd = (int)sys_openat(AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_NOCTTY, 0644);
    return fd >= 0;
}

static int is_verb(const char *word)
{
    return str_eq(word, "state") || str_eq(word, "start") || str_eq(word, "kill") || str_eq(word, "delete") || str_eq(word, "exec");
}

static int is_id(const char *word)
{
    if (word[0] == '-' || word[0] == '.' || word[0] == '\0')
        return 0;
    while (*word != '/' && *word != '\0')
        word++;
    return *word == '\0';
}

static int is_called(const char *program, const char *wanted)
{
    const char *name = program + str_len(program);

    while (name > program && name[-1] != '/')
        name--;
    return str_eq(name, wanted);
}

/* 0 for what only Python knows. */
static int understand(int argc, char **argv, char **envp, struct request *request)
{
    const char *value;
    int i = 1;

    for (; i < argc && argv[i][0] == '-'; i++) {
        if (str_eq(argv[i], "--systemd-cgroup"))
            continue;
        value = value_of(argc, argv, &i, "--root");
        if (value != 0)
            request->root = value;
        else if (!is_log(argc, argv, &i) && !is_log_format(value_of(argc, argv, &i, "--log-format")) &&
                 value_of(argc, argv, &i, "--cgroup-manager") == 0)
            return 0;
    }
    if (i >= argc || !is_straight(request->root) || !is_verb(argv[i]))
        return 0;
    request->verb = argv[i++];
    if (request->verb[0] == 'e') {
        oci_exec(&container, request->root, is_called(argv[0], "crun"), argv + i, envp);
        return 0;
    }
    if (i < argc && request->verb[0] == 'd' && (str_eq(argv[i], "--force") || str_eq(argv[i], "-f"))) {
        request->force = 1;
        i++;
    }
    if (i >= argc || !is_id(argv[i]))
        return 0;
    request->id = argv[i++];
    if (i < argc && request->verb[0] == 'k')
        request->signal = argv[i++];
    return i == argc;
}

static int signal_number(const char *word)
{
    static const struct {
        char name[6];
        int number;
    } known[] = {{"TERM", SIGTERM}, {"KILL", SIGKILL}, {"INT", SIGINT}, {"HUP", SIGHUP}, {"QUIT", SIGQUIT}, {"USR1", SIGUSR1}};
    int number = 0;

    if (memcmp(word, "SIG", 3) == 0)
        word += 3;
    for (size_t n = 0; n < sizeof known / sizeof *known; n++)
        if (str_eq(word, known[n].name))
            return known[n].number;
    for (; *word >= '0' && *word <= '9' && number <= 64; word++)
        number = number * 10 + (*word - '0');
    return *word == '\0' && number <= 64 ? number : -1;
}

/* The line at *at, which is moved behind it; 0 when there is none. */
static const char *line(char **at)
{
    char *start = *at;

    while (**at != '\n' && **at != '\0')
        (*at)++;
    if (**at == '\0')
        return 0;
    *(*at)++ = '\0';
    return start;
}

static uint64_t number(const char *text)
{
    uint64_t value = 0;

    for (; *text >= '0' && *text <= '9'; text++)
        value = value * 10 + (uint64_t)(*text - '0');
    return value;
}

/* proc(5): a process that is dead and not yet reaped has ended. */
static int alive(const struct container *c)
{
    char path[32], text[512];
    OWNED_FD fd = -1;
    long n;

    (void)str_add(str_add_number(str_add(path, path + sizeof path, "/proc/"), path + sizeof path, (uint64_t)c->pid), path + sizeof path,
                  "/stat");
    fd = (int)sys_openat(AT_FDCWD, path, O_RDONLY, 0);
    n = fd < 0 ? 0 : sys_read(fd, text, sizeof text - 1);
    while (n > 0 && text[n - 1] != ')')
        n--;
    return n > 0 && text[n + 1] != 'Z' && text[n + 1] != 'X' && start_time(c->pid) == c->started;
}

static int frozen(const char *group)
{
    char path[PATH_SIZE], text[256];
    OWNED_FD fd = group[0] == '\0' || join(path, group, "/cgroup.events", "") == 0 ? -1 : (int)sys_openat(AT_FDCWD, path, O_RDONLY, 0);
    long n = fd < 0 ? 0 : sys_read(fd, text, sizeof text - 1);

    for (text[n > 0 ? n : 0] = '\0'; n >= 8; n--)
        if (memcmp(text + n - 8, "frozen 1", 8) == 0)
            return 1;
    return 0;
}

int find_container(struct container *c, const char *root, const char *id, int lock)
{
    const char *pid, *started;
    char *at = c->text;
    OWNED_FD fd = -1;
    long n;

    c->pidfd = c->dir = -1;
    if (!is_id(id) || join(c->path, root, "/", id) == 0)
        return 0;
    c->dir = (int)sys_openat(AT_FDCWD, c->path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
    if (c->dir < 0 || (lock && sys_call2(__NR_flock, c->dir, LOCK_EX | LOCK_NB) < 0))
        return 0;
    fd = (int)sys_openat(c->dir, "fast", O_RDONLY | O_NOFOLLOW, 0);
    n = fd < 0 ? fd : sys_read(fd, c->text, sizeof c->text - 1);
    if (n <= 0 || n == sizeof c->text - 1)
        return 0;
    c->text[n] = '\0';
    if ((pid = line(&at)) == 0 || (started = line(&at)) == 0 || (c->group = line(&at)) == 0 || (c->hooks = line(&at)) == 0)
        return 0;
    c->pid = (int32_t)number(pid);
    c->started = number(started);
    c->head = at;
    c->tail = at + str_len(at) + 1;
    if (c->pid <= 0 || c->tail >= c->text + n)
        return 0;
    c->helper = c->tail + str_len(c->tail);
    c->helper += c->helper < c->text + n;
    c->pidfd = (int)sys_call2(__NR_pidfd_open, c->pid, 0); /* before the look: it is of that very process then */
    if (c->pidfd < 0 || !alive(c))
        c->status = STOPPED;
    else if (sys_call3(__NR_faccessat, c->dir, "exec.fifo", 0) == 0)
        c->status = CREATED;
    else
        c->status = frozen(c->group) ? PAUSED : RUNNING;
    return 1;
}

static int put(const char *text)
{
    const long size = (long)str_len(text);

    return sys_write(1, text, size) == size;
}

static int show(const struct container *c)
{
    static const char names[][8] = {"", "created", "running", "paused", "stopped"};
    char text[64];
    const char *end = text + sizeof text;
    char *at = str_add_number(text, end, c->status == STOPPED ? 0 : (uint64_t)c->pid);

    at = str_add(at, end, ",\n  \"status\": \"");
    (void)str_add(str_add(at, end, names[c->status]), end, "\"");
    return put(c->head) && put(text) && put(c->tail);
}

/* The process has closed its end of the fifo once its program runs, else it has left there why not: for Python to tell. */
int start_container(const struct container *c)
{
    OWNED_FD fifo = (int)sys_openat(c->dir, "exec.fifo", O_WRONLY | O_NONBLOCK | O_NOFOLLOW, 0), other = -1;
    char text[256];
    long n;

    if (fifo < 0 || sys_write(fifo, "S", 1) != 1)
        return 0;
    if (!comes_first(fifo, 0))
        return 0;
    other = (int)sys_openat(c->dir, "exec.fifo", O_RDONLY | O_NONBLOCK | O_NOFOLLOW, 0);
    if ((n = sys_read(other, text, sizeof text)) >= 0) {
        (void)write_file(c->dir, "failure", O_CREAT | O_TRUNC, 0600, text, (size_t)n);
        return 0;
    }
    (void)sys_call3(__NR_unlinkat, c->dir, "exec.fifo", 0); /* the program runs, whatever becomes of this: it must not be started again */
    return 1;
}

/* As in pyrun.oci.control: the first process of a pid namespace does, by the last number of its line NSpid in proc_pid_status(5). */
static int ends_others(int32_t pid)
{
    char path[32], text[4096];
    OWNED_FD fd = -1;
    long n, at = 0;

    (void)str_add(str_add_number(str_add(path, path + sizeof path, "/proc/"), path + sizeof path, (uint64_t)pid), path + sizeof path,
                  "/status");
    fd = (int)sys_openat(AT_FDCWD, path, O_RDONLY, 0);
    n = fd < 0 ? fd : sys_read(fd, text, sizeof text - 8);
    while (at < n && memcmp(text + at, "\nNSpid:", 7) != 0)
        at++;
    for (at += 7; at < n && text[at] != '\n';)
        at++;
    return at < n && text[at - 1] == '1' && text[at - 2] == '\t';
}

static int end_process(const struct container *c)
{
    static const struct __kernel_timespec limit = {2, 0}; /* Python knows what could hold it */
    struct pollfd end = {c->pidfd, POLLIN, 0};

    return sys_call4(__NR_pidfd_send_signal, c->pidfd, SIGKILL, 0, 0) == 0 && sys_call5(__NR_ppoll, &end, 1, &limit, 0, 8) == 1;
}

int remove_container(struct container *c)
{
    static const char files[][11] = {"exec.fifo", "failure", "config", "group", "plan", "fast", "status.new", "status", "state"};
    char above[PATH_SIZE];
    const char *name = c->group + str_len(c->group);
    struct stat st;

    if (c->group[0] != '\0') {
        OWNED_FD parent = -1;

        while (name > c->group && name[-1] != '/')
            name--;
        memcpy(above, c->group, (size_t)(name - c->group));
        above[name - c->group] = '\0';
        parent = (int)sys_openat(AT_FDCWD, above, O_RDONLY | O_DIRECTORY, 0);
        remove_group(parent, name);
        if (sys_call4(__NR_newfstatat, AT_FDCWD, c->group, &st, 0) != -ENOENT)
            return 0; /* others are below it */
    }
    for (size_t n = 0; n < sizeof files / sizeof *files; n++)
        (void)sys_call3(__NR_unlinkat, c->dir, files[n], 0);
    return sys_call3(__NR_unlinkat, AT_FDCWD, c->path, AT_REMOVEDIR) == 0;
}

struct container *new_container(void)
{
    return &container;
}

/* Root of a user namespace is a user, whose containers are elsewhere: see pyrun.oci.create. */
static int is_host_root(void)
{
    OWNED_FD fd = (int)sys_openat(AT_FDCWD, "/proc/self/uid_map", O_RDONLY, 0);
    char text[64] = "";

    return sys_call0(__NR_geteuid) == 0 && sys_read(fd, text, sizeof text - 1) > 0 && str_eq(text, "         0          0 4294967295\n");
}

int oci_verb(int argc, char **argv, char **envp)
{
    struct request request = {.root = is_host_root() ? "/run/pyrun-oci" : 0, .signal = "TERM"};
    struct container *c = &container;
    int kill;

    if (!understand(argc, argv, envp, &request) || (kill = signal_number(request.signal)) < 0)
        return 0;
    if (!find_container(c, request.root, request.id, request.verb[0] != 'k' && !str_eq(request.verb, "state")))
        return c->dir == -ENOENT && request.force; /* clients delete twice */
    if (str_eq(request.verb, "state"))
        return show(c);
    if (str_eq(request.verb, "kill"))
        return c->status != STOPPED && (kill != SIGKILL || ends_others(c->pid)) &&
               sys_call4(__NR_pidfd_send_signal, c->pidfd, kill, 0, 0) == 0;
    if (str_eq(request.verb, "start"))
        return (c->hooks[0] == '\0' || str_eq(c->hooks, "cgroups")) && c->status == CREATED && start_container(c);
    if (c->hooks[0] != '\0')
        return 0;
    if (c->status != STOPPED && !((request.force || c->status == CREATED) && end_process(c)))
        return 0;
    return remove_container(c);
}
