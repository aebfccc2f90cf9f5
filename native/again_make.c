/* From a plan to a container that waits, and for `run` to its end: pyrun.oci.create, pyrun.oci.start and pyrun.oci.attend. */
#include <linux/poll.h>
#include <linux/wait.h>

#include "again.h"
#include "handover.h"
#include "oci_verbs.h"
#include "plan.h"
#include "pod.h"
#include "shared.h"

struct making {
    struct again *a;
    struct container *container;
    int group, above, made_group, socket;
    long pid, helper;
};

/* 1 unless processes are in it, whoever's, which removing the container would kill, or it is frozen. */
static int is_free(int group)
{
    char text[256];
    OWNED_FD procs = (int)sys_openat(group, "cgroup.procs", O_RDONLY, 0), events = (int)sys_openat(group, "cgroup.events", O_RDONLY, 0);
    long n = sys_read(events, text, sizeof text - 1);

    if (procs < 0 || sys_read(procs, text + 200, 1) != 0)
        return 0;
    for (; n >= 11; n--)
        if (memcmp(text + n - 11, "populated 1", 11) == 0 || memcmp(text + n - 8, "frozen 1", 8) == 0)
            return 0;
    return events >= 0;
}

/* Whether something can be read from a file of a cgroup. */
static int has_any(int group, const char *file)
{
    OWNED_FD fd = (int)sys_openat(group, file, O_RDONLY, 0);
    char byte;

    return fd >= 0 && sys_read(fd, &byte, 1) == 1 && byte != '\n';
}

/* Whether enable_all() of pyrun.oci.cgroups has something to do there; in a cgroup that is new it has in any case. */
static int lacks_controllers(int group)
{
    return !has_any(group, "cgroup.subtree_control") && has_any(group, "cgroup.controllers") && !has_any(group, "cgroup.procs");
}

/* linux.cgroupsPath below the tree's root, or the cgroup of this process; without one the container's id below the root. */
static int name_group(struct again *a)
{
    OWNED_FD fd = (int)sys_openat(AT_FDCWD, "/proc/self/cgroup", O_RDONLY, 0);
    const char *end = a->group + sizeof a->group - 2, *from = a->cgroups.size > 0 ? a->text + a->cgroups.at : a->id;
    const char *stop = from + (a->cgroups.size > 0 ? a->cgroups.size : str_len(a->id));
    char text[8192], *at = a->group, *line = text;
    long n = fd < 0 ? fd : sys_read(fd, text, sizeof text - 1);

    if (a->base[0] == '\0')
        return 1;
    text[n > 0 ? n : 0] = '\0';
    at = str_add(at, end, a->base);
    while (*line != '\0' && memcmp(line, "0::/", 4) != 0) {
        while (*line != '\0' && *line++ != '\n')
            ;
    }
    if (*line == '\0' || at == 0)
        return 0;
    for (line += 3; a->cgroups.size > 0 && from[0] != '/' && *line != '\n' && *line != '\0' && at < end; line++)
        *at++ = *line;
    while (at > a->group && at[-1] == '/')
        at--;
    for (; from < stop; from++) {
        const char *part = from;

        while (from < stop && *from != '/')
            from++;
        if (from == part || (from - part == 1 && *part == '.'))
            continue;
        if ((from - part == 2 && part[0] == '.' && part[1] == '.') || end - at < from - part + 2)
            return 0;
        *at++ = '/';
        memcpy(at, part, (size_t)(from - part));
        at += from - part;
    }
    *at = '\0';
    return at < end;
}

/* Plain characters only: what goes into JSON and lines as it is. */
static int is_plain(const char *text)
{
    for (; *text != '\0'; text++)
        if (*text < 0x20 || *text == 0x7f || *text == '"' || *text == '\\')
            return 0;
    return 1;
}

/* The innermost first, down to the one whose name ends at `first`. */
static void remove_groups(char *group, const char *first)
{
    for (char *at = group + str_len(group); at >= first; at--)
        if (*at == '/' || *at == '\0') {
            *at = '\0';
            (void)sys_call1(__NR_rmdir, group);
        }
}

static int make_group(struct making *m)
{
    char *group = m->a->group;
    const size_t base = str_len(m->a->base);
    char *last = group + base, *first = 0;

    if (group[0] == '\0')
        return 1;
    if (str_len(group) <= base + 1)
        return 0;
    for (char *at = group + base + 1;; at++) {
        const char c = *at;
        long r;

        if (c != '/' && c != '\0')
            continue;
        *at = '\0';
        r = sys_call3(__NR_mkdirat, AT_FDCWD, group, 0755);
        if (r == 0 && first == 0)
            first = at;
        if (c == '\0') {
            m->group = (int)sys_openat(AT_FDCWD, group, O_RDONLY | O_DIRECTORY, 0);
            *last = '\0';
            m->above = (int)sys_openat(AT_FDCWD, group, O_RDONLY | O_DIRECTORY, 0);
            *last = '/';
            break;
        }
        *at = c;
        last = at;
        if (r < 0 && r != -EEXIST)
            return 0;
    }
    m->made_group = m->group >= 0 && m->above >= 0 && is_free(m->group) && !(first != 0 && *first == '/') && !lacks_controllers(m->above);
    if (!m->made_group && first != 0)
        remove_groups(group, first);
    return m->made_group;
}

/* A limit whose controller is not there yet has to be enabled first. */
static int has_limits(const struct making *m, const struct plan_header *plan)
{
    const struct plan_op *op = (const struct plan_op *)(plan + 1);
    const char *pool = (const char *)plan + plan->pool;

    for (uint32_t i = 0; i < plan->op_count; i++, op++)
        if (op->code == OP_LIMIT && (op->s1 >= plan->pool_size || sys_call3(__NR_faccessat, m->group, pool + op->s1, 0) != 0))
            return 0;
    return 1;
}

/* Pipes and terminals among the standard streams go to the program's user; see pyrun.oci.streams. */
static void own_streams(uint32_t owner, uint32_t group)
{
    struct stat null, st;

    if (owner == 0 || sys_call4(__NR_newfstatat, AT_FDCWD, "/dev/null", &null, 0) < 0)
        return;
    for (int fd = 0; fd <= 2; fd++)
        if (sys_fstat(fd, &st) == 0 && ((st.st_mode & S_IFMT) == S_IFIFO || (st.st_mode & S_IFMT) == S_IFSOCK ||
                                        ((st.st_mode & S_IFMT) == S_IFCHR && st.st_rdev != null.st_rdev)) &&
            sys_call3(__NR_fchown, fd, owner, (st.st_mode & S_IFMT) == S_IFCHR ? ~0U : group) < 0)
            return;
}

static int make_directory(struct making *m)
{
    struct container *c = m->container;
    struct stat st;

    if (join(c->path, m->a->root, "/", m->a->id) == 0 || sys_call3(__NR_mkdirat, AT_FDCWD, c->path, 0700) < 0)
        return 0;
    c->dir = (int)sys_openat(AT_FDCWD, c->path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
    return c->dir >= 0 && sys_call2(__NR_flock, c->dir, LOCK_EX) == 0 && sys_fstat(c->dir, &st) == 0 && st.st_nlink > 0 &&
           sys_call3(__NR_faccessat, c->dir, "state", 0) == -ENOENT;
}

static void undo(struct making *m)
{
    static const char halves[][10] = {"group.new", "state.new", "fast.new"};
    struct container *c = m->container;

    if (m->socket >= 0)
        sys_close(m->socket);
    if (m->helper > 0)
        (void)sys_call4(__NR_wait4, m->helper, 0, 0, 0);
    if (m->pid > 0) {
        (void)sys_call2(__NR_kill, m->pid, SIGKILL);
        (void)sys_call4(__NR_wait4, m->pid, 0, __WALL, 0);
    }
    c->group = m->made_group ? m->a->group : "";
    for (size_t n = 0; n < sizeof halves / sizeof *halves; n++)
        (void)sys_call3(__NR_unlinkat, c->dir, halves[n], 0);
    (void)remove_container(c);
}

/* What waits may be gone, which is no reason for this process to be ended by SIGPIPE. */
static int go_on(const struct making *m)
{
    return sys_call6(__NR_sendto, m->socket, "G", 1, 0x4000 /* MSG_NOSIGNAL */, 0, 0) == 1;
}

/* Until the container's process is parked. */
static int follow(struct making *m)
{
    struct plan_report report;
    int waits = 0, parked = 0;

    while (!parked || m->pid <= 0) {
        if (!comes_first(m->socket, POLLIN) || sys_read(m->socket, &report, sizeof report) != sizeof report || report.kind == PLAN_FAILED)
            return 0;
        m->pid = report.kind == PLAN_RUNNING ? report.pid : m->pid;
        waits |= report.kind == PLAN_CHECKPOINT;
        parked |= report.kind == PLAN_PARKED;
        if (waits && m->pid > 0) {
            waits = 0;
            if (!go_on(m))
                return 0;
        }
    }
    return 1;
}

/* Borrows the memory of this process until it has become the helper. */
__attribute__((noinline)) static long spawn(int helper, int slots[SLOT_COUNT])
{
    char title[] = "pyrun-oci: container", *argv[2] = {title, 0}, *envp[1] = {0};
    const long pid = sys_call5(__NR_clone, CLONE_VM | CLONE_VFORK | SIGCHLD, 0, 0, 0, 0);

    if (pid == 0) {
        (void)enter_helper(helper, slots, SLOT_PLAN, argv, envp);
        sys_exit(127);
    }
    return pid;
}

static int launch(struct making *m, const char *plan, size_t size, const char *program)
{
    const int dir = m->container->dir;
    OWNED_FD block = sealed("pyrun-plan", plan, size, 0), helper = sealed_program(program), fifo = -1, theirs = -1;
    int pair[2] = {-1, -1};

    if (block < 0 || helper < 0 || sys_call4(__NR_mknodat, dir, "exec.fifo", S_IFIFO | 0600, 0) < 0 ||
        sys_call4(__NR_socketpair, 1 /* AF_UNIX */, 5 | O_CLOEXEC /* SOCK_SEQPACKET */, 0, pair) < 0)
        return 0;
    m->socket = pair[0];
    theirs = pair[1];
    fifo = (int)sys_openat(dir, "exec.fifo", O_RDWR, 0);
    if (fifo < 0)
        return 0;
    m->helper = spawn(helper, (int[SLOT_COUNT]){0, 1, 2, block, theirs, fifo, -1, m->group, m->group < 0 ? -1 : m->above, -1});
    if (m->helper < 0)
        return 0;
    sys_close(theirs);
    theirs = -1;
    return follow(m);
}

/* Not SIGKILL, SIGPIPE, SIGCHLD; SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU; SIGWINCH. */
static const uint64_t forwarded = 0x7fffffff & ~(1U << 8 | 1U << 12 | 1U << 16 | 15U << 18 | 1U << 27);

/* Signals go to the program until it ends, as in pyrun.oci.attend; returns its exit code. */
static int attend(const struct making *m)
{
    unsigned char info[128]; /* struct signalfd_siginfo; its first member is the number */
    OWNED_FD file = (int)sys_call4(__NR_signalfd4, -1, &forwarded, sizeof forwarded, O_CLOEXEC | O_NONBLOCK);
    OWNED_FD pidfd = (int)sys_call2(__NR_pidfd_open, m->pid, 0);
    struct pollfd both[2] = {{pidfd, POLLIN, 0}, {file, POLLIN, 0}};
    uint32_t number;
    int status = 0;

    while (pidfd >= 0 && (both[0].revents & POLLIN) == 0) {
        if (sys_call5(__NR_ppoll, both, 2, 0, 0, 8) < 0)
            continue;
        if (both[1].revents != 0 && sys_read(file, info, sizeof info) == sizeof info) {
            memcpy(&number, info, sizeof number);
            (void)sys_call4(__NR_pidfd_send_signal, pidfd, number, 0, 0);
        }
    }
    while (sys_call4(__NR_wait4, m->pid, &status, __WALL, 0) == -EINTR)
        ;
    return (status & 0x7f) != 0 ? 128 + (status & 0x7f) : status >> 8 & 0xff;
}

/* What is not to be removed here, cgroups of the container's own for one, or is locked, is for Python. */
static void end(const struct making *m, char **envp)
{
    char name[] = "pyrun-oci", root[] = "--root", verb[] = "delete", force[] = "--force";
    char *argv[] = {name, root, (char *)(uintptr_t)m->a->root, verb, force, (char *)(uintptr_t)m->a->id, 0};
    struct stat st;
    long pid;

    if (sys_call2(__NR_flock, m->container->dir, LOCK_EX | LOCK_NB) == 0 &&
        (sys_fstat(m->container->dir, &st) < 0 || st.st_nlink == 0 || remove_container(m->container)))
        return;
    sys_close(m->container->dir);
    pid = sys_call5(__NR_clone, SIGCHLD, 0, 0, 0, 0);
    if (pid == 0) {
        const uint64_t none = 0;

        (void)sys_call4(__NR_rt_sigprocmask, SIG_SETMASK, &none, 0, sizeof none);
        (void)sys_call3(__NR_execve, "/proc/self/exe", argv, envp);
        sys_exit(127);
    }
    if (pid > 0)
        (void)sys_call4(__NR_wait4, pid, 0, 0, 0);
}

/* Comes back only when the program could not be started. */
static void run(struct making *m, char **envp)
{
    int code;

    if (!start_container(m->container))
        return;
    (void)again_publish(m->container->dir); /* for who looks there; the program runs, whatever becomes of this */
    if (m->a->detach)
        sys_exit(0);
    (void)sys_call2(__NR_flock, m->container->dir, LOCK_UN);
    code = attend(m);
    if (!m->a->keep)
        end(m, envp);
    sys_exit(code);
}

/* Comes back only when that is to be undone. */
static void make(struct making *m, const struct again_recipe *recipe, char *data, char **envp)
{
    struct again *a = m->a;
    const int dir = m->container->dir;
    const char *plan = data + recipe->start.plan, *helper = data + recipe->helper;
    const size_t size = recipe->start.plan_size;

    if ((a->group[0] != '\0' && (write_file(dir, "group.new", O_CREAT | O_TRUNC, 0600, a->group, str_len(a->group)) < 0 ||
                                 sys_call4(__NR_renameat, dir, "group.new", dir, "group") < 0)) ||
        !make_group(m) || !has_limits(m, (const struct plan_header *)(const void *)plan))
        return;
    own_streams(recipe->owner, recipe->group);
    if (!launch(m, plan, size, helper) || !again_settle(a, dir, (int32_t)m->pid, plan, size, helper) || !go_on(m))
        return;
    sys_close(m->socket);
    m->socket = -1;
    (void)sys_call4(__NR_wait4, m->helper, 0, 0, 0);
    m->helper = 0;
    m->container->group = a->group;
    if (!a->run)
        sys_exit(0);
    run(m, envp);
}

void again_make(struct again *a, const struct again_recipe *recipe, char *data, char **envp)
{
    struct making m = {a, new_container(), -1, -1, 0, -1, 0, 0};
    uint64_t before = 0;
    struct stat st;

    a->group[0] = '\0';
    if (!name_group(a) || !is_plain(a->group) || !is_plain(a->bundle) || !is_plain(a->rootfs) || !again_plan(a, recipe, data) ||
        sys_call4(__NR_newfstatat, AT_FDCWD, a->rootfs, &st, 0) < 0 || (st.st_mode & S_IFMT) != S_IFDIR)
        return;
    (void)sys_call4(__NR_rt_sigprocmask, SIG_BLOCK, &forwarded, &before, sizeof before); /* until all is made, or nothing is left */
    if (make_directory(&m)) {
        make(&m, recipe, data, envp);
        undo(&m);
    }
    (void)sys_call4(__NR_rt_sigprocmask, SIG_SETMASK, &before, 0, sizeof before);
}
