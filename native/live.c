/* The processes of a running pod, found as pyrun.pod.live does: a pid from a file may be somebody else's by now, so it counts only
 * together with a fact that another process cannot have. */
#include "live.h"
#include "handover.h"
#include "shared.h"

#define CANDIDATES 8 /* processes of the pod's cgroup that are looked at; init is mostly the first */

int read_text(int dir, const char *path, char *text, size_t size)
{
    OWNED_FD fd = (int)sys_openat(dir, path, O_RDONLY | O_NOFOLLOW, 0);
    long n = fd < 0 ? fd : sys_read(fd, text, size - 1);

    text[n > 0 ? n : 0] = '\0';
    return n > 0;
}

static char *after(char *text, const char *what)
{
    const size_t n = str_len(what);

    for (; *text != '\0'; text++)
        if (memcmp(text, what, n) == 0) /* may look beyond the end of a text, not of its buffer: see MARGIN */
            return text + n;
    return 0;
}

uint64_t next_number(char **at)
{
    uint64_t value = 0;

    while (**at == ' ' || **at == '\t' || **at == '\n')
        (*at)++;
    for (; **at >= '0' && **at <= '9'; (*at)++)
        value = value * 10 + (uint64_t)(**at - '0');
    return value;
}

char *process_path(char path[64], uint64_t pid, const char *what)
{
    (void)str_add(str_add_number(str_add(path, path + 64, "/proc/"), path + 64, pid), path + 64, what);
    return path;
}

/* The supervisor holds the pod's directory where supervisors do. */
int supervises(const struct live *live, uint64_t pid)
{
    struct stat own, held;
    char path[64];

    return sys_fstat(live->pod, &own) == 0 &&
           sys_call4(__NR_newfstatat, AT_FDCWD, process_path(path, pid, "/fd/5"), &held, 0) == 0 && own.st_dev == held.st_dev &&
           own.st_ino == held.st_ino;
}

/* Holds a process, if it is the child of the pod's own supervisor; that is asked last, so its number was not another's meanwhile.
 * `began` is when it started, 0: it is to be number 1 somewhere below. */
static int hold(struct live *live, uint64_t pid, uint64_t began)
{
    char path[64], text[TEXT + MARGIN] = "", *at, *parent;
    uint64_t last = 0;

    live->init = pid == 0 || pid > 0x7fffffff ? -1 : (int)sys_call2(__NR_pidfd_open, pid, 0);
    if (live->init < 0)
        return 0;
    parent = read_text(AT_FDCWD, process_path(path, pid, "/status"), text, TEXT) ? after(text, "\nPPid:") : 0;
    at = parent == 0 ? 0 : after(text, "\nNSpid:");
    while (at != 0 && *at == '\t')
        last = next_number(&at);
    live->pid = pid;
    live->supervisor = parent == 0 ? 0 : next_number(&parent);
    if (live->supervisor != 0 && (began != 0 ? start_time((int32_t)pid) == began : last == 1) && supervises(live, live->supervisor))
        return 1;
    sys_close(live->init);
    live->init = -1;
    return 0;
}

/* Where the pod's cgroup is, and the keeper's own word about init; 0 where the record is not plain, or of several apps. */
static int read_records(struct live *live, uint64_t *pid, uint64_t *began)
{
    char text[TEXT + MARGIN] = "", *where = 0, *at, *end;

    for (int i = 0; where == 0 && i < 2; i++) {
        if (!read_text(live->pod, i == 0 ? "run" : "pod", text, TEXT))
            continue;
        if (after(text, "\"apps\":[") != 0)
            return 0;
        if (i == 0 && (at = after(text, ",\"pid\":")) != 0)
            *pid = next_number(&at);
        if (i == 0 && (at = after(text, ",\"start\":")) != 0)
            *began = next_number(&at);
        where = after(text, "\"cgroup\":\"");
    }
    for (end = where; end != 0 && *end != '"'; end++)
        if (*end == '\0' || *end == '\\')
            return 0;
    if (end != 0)
        *end = '\0';
    live->cgroup = where == 0 || *where == '\0' ? -1 : (int)sys_openat(AT_FDCWD, where, O_RDONLY | O_DIRECTORY, 0);
    return 1;
}

static int by_cgroup(struct live *live)
{
    char text[TEXT + MARGIN] = "", *at = text;
    uint64_t pid;

    if (live->cgroup < 0 || !read_text(live->cgroup, "cgroup.procs", text, TEXT))
        return 0;
    for (int i = 0; i < CANDIDATES && (pid = next_number(&at)) != 0; i++)
        if (hold(live, pid, 0))
            return 1;
    return 0;
}

/* One that may be the supervisor, by its argument; its children. */
static int by_children(struct live *live, const char *name)
{
    char path[64], text[TEXT + MARGIN] = "", title[64], *at = text;
    const char *digits = name;
    uint64_t pid = 0;

    for (; *digits >= '0' && *digits <= '9' && pid < 1000000000; digits++)
        pid = pid * 10 + (uint64_t)(*digits - '0');
    (void)str_add(str_add(title, title + sizeof title, "pyrun: pod "), title + sizeof title, live->uuid);
    if (*digits != '\0' || pid == 0 || !read_text(AT_FDCWD, process_path(path, pid, "/cmdline"), text, TEXT) || !str_eq(text, title) ||
        !supervises(live, pid))
        return 0;
    (void)str_add(str_add(title, title + sizeof title, "/task/"), title + sizeof title, name);
    (void)process_path(path, pid, title);
    (void)str_add(path + str_len(path), path + 64, "/children");
    (void)read_text(AT_FDCWD, path, text, TEXT);
    for (pid = next_number(&at); pid != 0; pid = next_number(&at))
        if (hold(live, pid, 0))
            return 1;
    return 0;
}

/* Where there is no cgroup, and no keeper. */
static int by_title(struct live *live)
{
    OWNED_FD proc = (int)sys_openat(AT_FDCWD, "/proc", O_RDONLY | O_DIRECTORY, 0);
    char buffer[8192] __attribute__((aligned(8)));
    long n;

    while (proc >= 0 && (n = sys_call3(__NR_getdents64, proc, buffer, sizeof buffer)) > 0)
        for (long at = 0; at < n; at += *(unsigned short *)(buffer + at + 16))
            if (by_children(live, buffer + at + 19)) /* struct linux_dirent64: 8 + 8 + 2 + 1 bytes before the name */
                return 1;
    return 0;
}

int find_live(struct live *live, int pods, const char *uuid)
{
    char path[64];
    uint64_t pid = 0, began = 0;

    live->uuid = uuid;
    live->init = live->cgroup = -1;
    (void)str_add(str_add(path, path + sizeof path, "running/"), path + sizeof path, uuid);
    live->pod = (int)sys_openat(pods, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
    return live->pod >= 0 && sys_call2(__NR_flock, live->pod, LOCK_SH | LOCK_NB) == -EAGAIN && read_records(live, &pid, &began) &&
           ((pid != 0 && began != 0 && hold(live, pid, began)) || by_cgroup(live) || by_title(live));
}

void close_live(struct live *live)
{
    close_at_exit(&live->pod);
    close_at_exit(&live->init);
    close_at_exit(&live->cgroup);
}
