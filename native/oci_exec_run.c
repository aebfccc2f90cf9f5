/* Starts what oci_exec_plan.c composed, as pyrun.oci.launch does, and waits for it as pyrun.oci.attend does. */
#include <linux/poll.h>
#include <linux/signalfd.h>

#include "handover.h"
#include "link.h"
#include "oci_exec.h"
#include "pod.h"

#define KIND(mode) ((mode) & S_IFMT)
#define CLOSE_ON_EXEC 0x40000000 /* MSG_CMSG_CLOEXEC */
#define ALL_CHILDREN 0x40000000 /* __WALL */
#define BIT(signal) (1ULL << ((signal) - 1))
/* left alone, whoever gets them: see pyrun.oci.attend */
#define KEPT (BIT(SIGKILL) | BIT(SIGPIPE) | BIT(SIGCHLD) | BIT(SIGSTOP) | BIT(SIGTSTP) | BIT(SIGTTIN) | BIT(SIGTTOU) | BIT(SIGWINCH))
static const uint64_t forwarded = ((1ULL << 31) - 1) & ~KEPT;

static char *of_process(char path[64], uint64_t pid, const char *what)
{
    (void)str_add(str_add_number(str_add(path, path + 64, "/proc/"), path + 64, pid), path + 64, what);
    return path;
}

/* Whether two files are one; minus an errno. */
static long same_file(const char *one, const char *other)
{
    struct stat a, b;
    long r = sys_call4(__NR_newfstatat, AT_FDCWD, one, &a, 0);

    if (r == 0)
        r = sys_call4(__NR_newfstatat, AT_FDCWD, other, &b, 0);
    return r < 0 ? r : a.st_ino == b.st_ino && a.st_dev == b.st_dev;
}

/* The namespaces of the container's process that are not this one's (setns(2)); minus an errno. */
static long other_namespaces(uint64_t pid)
{
    static const char names[] = "/ns/cgroup\0/ns/ipc\0/ns/mnt\0/ns/net\0/ns/pid\0/ns/time\0/ns/user\0/ns/uts\0";
    static const uint64_t flags[] = {CLONE_NEWCGROUP, CLONE_NEWIPC,  CLONE_NEWNS,   CLONE_NEWNET,
                                     CLONE_NEWPID,    CLONE_NEWTIME, CLONE_NEWUSER, CLONE_NEWUTS};
    uint64_t found = 0;
    const char *name = names;

    for (size_t i = 0; *name != '\0'; i++, name += str_len(name) + 1) {
        char own[PATH_SIZE], its[64];
        const long r = same_file(join(own, "/proc/self", name, ""), of_process(its, pid, name));

        if (r < 0 && r != -ENOENT) /* a kernel without them */
            return r;
        found |= r == 0 ? flags[i] : 0;
    }
    return (long)found;
}

/* Reads a small file as a string; its length, or minus an errno. */
static long read_text(const char *path, char *text, size_t size)
{
    OWNED_FD fd = (int)sys_openat(AT_FDCWD, path, O_RDONLY, 0);
    const long n = fd < 0 ? fd : sys_read(fd, text, size - 1);

    text[n > 0 ? n : 0] = '\0';
    return n;
}

/* The container's own cgroup.  Where its process is now if that is gone, or takes nobody since it has controllers for others below it
 * (cgroups(7)). */
static int open_group(const struct container *c)
{
    static const char roots[] = "/sys/fs/cgroup\0/sys/fs/cgroup/unified\0";
    char path[PATH_SIZE], text[8192], file[64], *line = text;
    const char *root = roots;
    int fd = -1;

    if (join(path, c->group, "/cgroup.subtree_control", "") != 0 && read_text(path, text, sizeof text) >= 0 && text[0] <= '\n')
        return (int)sys_openat(AT_FDCWD, c->group, O_RDONLY | O_DIRECTORY, 0);
    while (*root != '\0' && sys_call3(__NR_faccessat, AT_FDCWD, join(path, root, "/cgroup.controllers", ""), 0) < 0)
        root += str_len(root) + 1;
    (void)read_text(of_process(file, (uint64_t)c->pid, "/cgroup"), text, sizeof text);
    while (*root != '\0' && *line != '\0') {
        char *end = line;

        while (*end != '\n' && *end != '\0')
            end++;
        if (*end == '\n')
            *end++ = '\0';
        if (memcmp(line, "0::/", 4) == 0 && join(path, root, line + 3, "") != 0 &&
            (fd = (int)sys_openat(AT_FDCWD, path, O_RDONLY | O_DIRECTORY, 0)) >= 0)
            return fd;
        line = end;
    }
    return (int)sys_openat(AT_FDCWD, c->group, O_RDONLY | O_DIRECTORY, 0);
}

/* A user or group as the host knows it, by one of the maps. */
static uint64_t on_host(const struct exec *exec, uint32_t map, uint32_t id)
{
    const char *row = (const char *)exec->created + exec->created->pool + map;

    while (*row != '\0') {
        uint64_t numbers[3] = {0, 0, 0};

        for (int i = 0; i < 3; i++) {
            for (; *row >= '0' && *row <= '9'; row++)
                numbers[i] = numbers[i] * 10 + (uint64_t)(*row - '0');
            row += *row != '\0';
        }
        if (id >= numbers[0] && id - numbers[0] < numbers[2])
            return numbers[1] + id - numbers[0];
    }
    return id;
}

/* As pyrun.oci.streams.own_streams. */
static void own_streams(const struct exec *exec)
{
    struct stat st, null;

    if (exec->process.uid == 0 || exec->process.terminal || sys_call4(__NR_newfstatat, AT_FDCWD, "/dev/null", &null, 0) < 0)
        return;
    for (int fd = 0; fd < 3; fd++)
        if (sys_fstat(fd, &st) == 0 && (KIND(st.st_mode) == S_IFIFO || KIND(st.st_mode) == S_IFSOCK ||
                                        (KIND(st.st_mode) == S_IFCHR && st.st_rdev != null.st_rdev)))
            if (sys_call3(__NR_fchown, fd, on_host(exec, exec->created->uid_map, exec->process.uid),
                          KIND(st.st_mode) == S_IFCHR ? ~0U : on_host(exec, exec->created->gid_map, exec->process.gid)) < 0)
                return;
}

/* The name beside it under which a pid file is written; 0 where none can be. */
static int beside(char other[PATH_SIZE], const char *path)
{
    const char *name = path + str_len(path), *end = other + PATH_SIZE;
    struct stat st;
    char *at = other;

    while (name > path && name[-1] != '/')
        name--;
    if (*name == '\0' || name - path >= PATH_SIZE ||
        (sys_call4(__NR_newfstatat, AT_FDCWD, path, &st, AT_SYMLINK_NOFOLLOW) == 0 && KIND(st.st_mode) == S_IFDIR))
        return 0;
    memcpy(other, path, (size_t)(name - path));
    at = str_add(str_add(at + (name - path), end, "."), end, name);
    at = str_add(at, end, ".");
    return at != 0 && str_add_number(at, end, (uint64_t)sys_call0(__NR_getpid)) != 0;
}

struct address { /* struct sockaddr_un of unix(7) */
    unsigned short family;
    char path[108];
};

static int console_address(struct address *to, const char *path)
{
    struct stat st;

    to->family = 1; /* AF_UNIX */
    return str_add(to->path, to->path + sizeof to->path, path) != 0 && sys_call4(__NR_newfstatat, AT_FDCWD, path, &st, 0) == 0 &&
           KIND(st.st_mode) == S_IFSOCK;
}

/* The master goes out with the name of its terminal; minus an errno. */
static long hand_over(const struct address *to, int master)
{
    OWNED_FD fd = (int)sys_call3(__NR_socket, 1 /* AF_UNIX */, 1 | O_CLOEXEC /* SOCK_STREAM */, 0);
    struct link_message message;
    char name[32] = "/dev/pts/";
    unsigned number = 0;
    long r = fd < 0 ? fd : sys_call3(__NR_connect, fd, to, sizeof *to);

    if (r < 0 || (r = sys_call3(__NR_ioctl, master, TIOCGPTN, &number)) < 0)
        return r;
    (void)str_add_number(name + str_len(name), name + sizeof name, number);
    link_message_init(&message, 0, 1);
    message.control.fds[0] = master;
    message.vector.base = name;
    message.vector.length = str_len(name);
    return sys_call3(__NR_sendmsg, fd, &message.header, 0x4000 /* MSG_NOSIGNAL */);
}

/* Becomes the helper; descriptors that the caller leaked go with the execve. */
static void helper_main(const struct exec *exec, int helper, int link, int group)
{
    int slots[SLOT_COUNT] = {0, 1, 2, exec->plan, link, -1, exec->container->pidfd, group, -1, -1};
    char title[] = "pyrun-oci: container", pid[24], *argv[] = {title, pid, 0}, *envp[] = {0};

    (void)str_add_number(pid, pid + sizeof pid, (uint64_t)exec->container->pid);
    (void)sys_call3(__NR_close_range, SLOT_COUNT, SLOT_LISTEN - 1, CLOSE_RANGE_CLOEXEC);
    (void)sys_call3(__NR_close_range, SLOT_LISTEN + exec->kept, ~0U, CLOSE_RANGE_CLOEXEC);
    (void)enter_helper(helper, slots, SLOT_PLAN, argv, envp);
    sys_exit(127);
}

struct started {
    int32_t pid;
    int master;
};

/* Until the process has executed its program, as pyrun.oci.launch.Launch.run; 0 for a failure, which the process tells itself
 * and perhaps before the helper has told its pid, and for a signal that comes first. */
static int follow(const struct exec *exec, int link, struct started *started)
{
    int failed = 0;

    while (comes_first(link, POLLIN)) {
        struct plan_report report = {0};
        struct link_message message;
        long n;

        link_message_init(&message, 0, 1);
        message.vector.base = (char *)&report;
        message.vector.length = sizeof report;
        n = sys_call3(__NR_recvmsg, link, &message.header, CLOSE_ON_EXEC);
        if (n == 1 && message.header.control_length != 0) {
            const uint16_t size[4] = {exec->process.height, exec->process.width, 0, 0};

            started->master = message.control.fds[0];
            if (size[0] != 0 || size[1] != 0)
                (void)sys_call3(__NR_ioctl, started->master, TIOCSWINSZ, size);
        } else if (n == sizeof report && report.kind == PLAN_RUNNING)
            started->pid = report.pid;
        else if (n == sizeof report && report.kind == PLAN_FAILED)
            failed = 1;
        else
            return n == 0 && started->pid > 0 && !failed;
    }
    return 0;
}

/* A child that nobody has reaped. */
static void end_process(int32_t pid)
{
    (void)sys_call2(__NR_kill, pid, SIGKILL);
    (void)sys_call4(__NR_wait4, pid, 0, ALL_CHILDREN, 0);
}

static int launch(const struct exec *exec, int group, struct started *started)
{
    OWNED_FD helper = sealed_program(exec->container->helper), ours = -1;
    int links[2], good;
    long pid;

    if (helper < 0 || sys_call4(__NR_socketpair, 1 /* AF_UNIX */, 5 | O_CLOEXEC /* SOCK_SEQPACKET */, 0, links) < 0)
        return 0;
    ours = links[0];
    pid = sys_call5(__NR_clone, SIGCHLD, 0, 0, 0, 0);
    if (pid == 0)
        helper_main(exec, helper, links[1], group);
    sys_close(links[1]);
    if (pid < 0)
        return 0;
    good = follow(exec, ours, started);
    if (!good && started->pid > 0)
        end_process(started->pid);
    sys_close(ours);
    ours = -1;
    (void)sys_call4(__NR_wait4, pid, 0, 0, 0);
    return good;
}

/* Until it ends; signals go to it meanwhile.  Returns its exit code. */
static int wait_for(int32_t pid)
{
    const int signals = (int)sys_call4(__NR_signalfd4, -1, &forwarded, sizeof forwarded, SFD_CLOEXEC);
    const int process = (int)sys_call2(__NR_pidfd_open, pid, 0);
    struct pollfd slots[2] = {{process, POLLIN, 0}, {signals, POLLIN, 0}};
    struct signalfd_siginfo info;
    int status = 0;

    while (process >= 0 && signals >= 0) {
        if (sys_call5(__NR_ppoll, slots, 2, 0, 0, 8) <= 0)
            continue;
        if (slots[0].revents != 0)
            break;
        if (slots[1].revents != 0 && sys_read(signals, &info, sizeof info) == sizeof info)
            (void)sys_call4(__NR_pidfd_send_signal, process, info.ssi_signo, 0, 0);
    }
    (void)sys_call4(__NR_wait4, pid, &status, ALL_CHILDREN, 0);
    return (status & 0x7f) != 0 ? 128 + (status & 0x7f) : status >> 8 & 0xff;
}

/* What is left to do fails when nobody listens, or others take files away meanwhile: then the process goes, and Python tells. */
static int settle(const struct exec *exec, const struct started *started, const struct address *to, int pid_file, const char *other)
{
    char number[24];
    const long size = str_add_number(number, number + sizeof number, (uint64_t)started->pid) - number;
    struct container *c = exec->container;
    long r = exec->process.terminal ? hand_over(to, started->master) : 0;

    c->failed = "--console-socket";
    if (r >= 0 && exec->pid_file != 0) {
        c->failed = "--pid-file";
        r = sys_write(pid_file, number, size) != size ? -EIO : sys_call4(__NR_renameat, AT_FDCWD, other, AT_FDCWD, exec->pid_file);
    }
    if (r >= 0)
        return 1;
    c->error = (int)-r;
    end_process(started->pid);
    return 0;
}

void run_exec(struct exec *exec)
{
    const struct container *c = exec->container;
    const long namespaces = other_namespaces((uint64_t)c->pid);
    struct started started = {0, -1};
    char path[64], text[16], other[PATH_SIZE];
    struct address to;
    OWNED_FD group = -1, pid_file = -1;
    uint32_t flags = exec->created->flags & (PLAN_SETGROUPS_DENY | PLAN_KEEP_GROUPS);
    uint64_t before;

    if (namespaces < 0 || c->helper[0] != '/' || (exec->console != 0 && !console_address(&to, exec->console)))
        return;
    if (read_text(of_process(path, (uint64_t)c->pid, "/setgroups"), text, sizeof text) > 0 && str_eq(text, "deny\n"))
        flags |= PLAN_SETGROUPS_DENY;
    if (c->group[0] != '\0') { /* else it lives where its starter did */
        group = open_group(c);
        flags |= PLAN_HAS_CGROUP;
        if (group < 0)
            return;
    }
    if (!make_exec_plan(exec, (uint64_t)namespaces, flags))
        return;
    if (exec->pid_file != 0) {
        pid_file = beside(other, exec->pid_file)
                       ? (int)sys_openat(AT_FDCWD, other, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, 0644)
                       : -1;
        if (pid_file < 0)
            return;
    }
    own_streams(exec);
    if (!exec->detach) /* one that comes from now on waits until there is a process that it can go to */
        (void)sys_call4(__NR_rt_sigprocmask, SIG_BLOCK, &forwarded, &before, sizeof before);
    if (launch(exec, group, &started) && settle(exec, &started, &to, pid_file, other)) {
        (void)sys_call3(__NR_close_range, 3, ~0U, 0);
        sys_exit(exec->detach ? 0 : wait_for(started.pid));
    }
    if (exec->pid_file != 0)
        (void)sys_call3(__NR_unlinkat, AT_FDCWD, other, 0);
    if (!exec->detach)
        (void)sys_call4(__NR_rt_sigprocmask, SIG_SETMASK, &before, 0, sizeof before);
    if (started.master >= 0)
        sys_close(started.master);
}
