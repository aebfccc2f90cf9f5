/* The last steps before the helper: its cgroup, its program in memory that nobody can change, its descriptors. */
#include <linux/memfd.h>
#include <linux/poll.h>

#include "handover.h"
#include "pod.h"

#define ADD_SEALS 1033
#define ALL_SEALS 15
#define ABOVE_SLOTS 16

static void cut_end(char *text, const char *end)
{
    const size_t length = str_len(text), size = str_len(end);

    if (length >= size && str_eq(text + length - size, end))
        text[length - size] = '\0';
}

int find_cgroup(char path[PATH_SIZE])
{
    OWNED_FD fd = (int)sys_openat(AT_FDCWD, "/proc/self/cgroup", O_RDONLY, 0);
    char text[8192], *line = text, *next;
    long n = fd < 0 ? fd : sys_read(fd, text, sizeof text - 1);

    for (text[n > 0 ? n : 0] = '\0'; *line != '\0'; line = next) {
        for (next = line; *next != '\0' && *next != '\n'; next++)
            ;
        if (*next != '\0')
            *next++ = '\0';
        if (memcmp(line, "0::/", 4) != 0)
            continue;
        cut_end(line, "/" CGROUP_LEAF);
        for (int hybrid = 0; hybrid < 2; hybrid++) {
            char procs[PATH_SIZE];

            if (join(path, "/sys/fs/cgroup", hybrid ? "/unified" : "", line[4] == '\0' ? "" : line + 3) != 0 &&
                join(procs, path, "/cgroup.procs", "") != 0 && sys_call3(__NR_faccessat, AT_FDCWD, procs, 2 /* W_OK */) == 0)
                return 1;
        }
    }
    return 0;
}

int sealed(const char *name, const char *data, size_t size, unsigned flags)
{
    OWNED_FD guard = -1;
    int fd = (int)sys_call2(__NR_memfd_create, name, MFD_CLOEXEC | MFD_ALLOW_SEALING | flags);

    if (fd == -EINVAL && flags != 0) /* Linux before 6.3: every memfd may be executed */
        fd = (int)sys_call2(__NR_memfd_create, name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    guard = fd;
    while (fd >= 0 && size > 0) {
        long n = sys_write(fd, data, size);

        if (n <= 0)
            return -EIO;
        data += n;
        size -= (size_t)n;
    }
    if (fd >= 0 && sys_call3(__NR_fcntl, fd, ADD_SEALS, ALL_SEALS) < 0)
        return -EPERM;
    guard = -1;
    return fd;
}

int sealed_program(const char *path)
{
    OWNED_FD file = (int)sys_openat(AT_FDCWD, path, O_RDONLY, 0);
    struct stat st;
    long map;
    int fd;

    if (file < 0 || sys_fstat(file, &st) < 0 || st.st_size <= 0)
        return -ENOENT;
    map = sys_call6(__NR_mmap, 0, st.st_size, 1 /* read */, 2 /* private */, file, 0);
    if ((unsigned long)map > -4096UL)
        return (int)map;
    fd = sealed("pyrun-helper", (const char *)map, (size_t)st.st_size, 0x10 /* MFD_EXEC */);
    (void)sys_call2(__NR_munmap, map, st.st_size);
    return fd;
}

unsigned long signal_action(int number)
{
    unsigned long action[4] = {0, 0, 0, 0}; /* struct sigaction of the kernel's: the handler comes first */
    const long r = sys_call4(__NR_rt_sigaction, number, 0, action, sizeof(uint64_t));

    return r < 0 ? ACTION_DEFAULT : action[0];
}

/* Signals that are ignored are pending as well while they are blocked. */
static int is_to_end(void)
{
    static const int deadly[] = {SIGHUP, SIGINT, SIGQUIT, SIGTERM};
    uint64_t pending = 0;

    (void)sys_call2(__NR_rt_sigpending, &pending, sizeof pending);
    for (size_t i = 0; i < sizeof deadly / sizeof *deadly; i++)
        if ((pending >> (deadly[i] - 1) & 1) != 0 && signal_action(deadly[i]) == ACTION_DEFAULT)
            return 1;
    return 0;
}

int comes_first(int fd, short events)
{
    static const struct __kernel_timespec step = {0, 100000000}, none = {0, 0};
    struct pollfd awaited = {fd, events, 0};

    while (sys_call5(__NR_ppoll, &awaited, 1, &step, 0, 8) <= 0)
        if (is_to_end() && sys_call5(__NR_ppoll, &awaited, 1, &none, 0, 8) <= 0)
            return 0;
    return 1;
}

int is_straight(const char *path)
{
    if (path == 0 || *path != '/')
        return 0;
    for (; *path != '\0'; path++)
        if (memcmp(path, "/..", 3) == 0 && (path[3] == '/' || path[3] == '\0'))
            return 0;
    return 1;
}

void hold_signals(uint64_t *before)
{
    const uint64_t all = ~(1ULL << (SIGSEGV - 1) | 1ULL << (SIGBUS - 1) | 1ULL << (SIGILL - 1) | 1ULL << (SIGFPE - 1));

    (void)sys_call4(__NR_rt_sigprocmask, SIG_SETMASK, &all, before, sizeof all);
}

void let_signals(const uint64_t *before)
{
    (void)sys_call4(__NR_rt_sigprocmask, SIG_SETMASK, before, 0, sizeof *before);
}

/* Every descriptor is copied out of the way first, so that no copy lands on one still needed. */
static long change(int helper, int slots[SLOT_COUNT], int first, char *const *argv, char *const *envp)
{
    long r;

    helper = (int)sys_call3(__NR_fcntl, helper, F_DUPFD_CLOEXEC, ABOVE_SLOTS);
    if (helper < 0)
        return helper;
    for (int i = first; i < SLOT_COUNT; i++)
        if (slots[i] >= 0 && (slots[i] = (int)sys_call3(__NR_fcntl, slots[i], F_DUPFD_CLOEXEC, ABOVE_SLOTS)) < 0)
            return slots[i];
    for (int i = first; i < SLOT_COUNT; i++)
        if (slots[i] < 0)
            sys_close(i);
        else if ((r = sys_call3(__NR_dup3, slots[i], i, 0)) < 0)
            return r;
    return sys_call5(__NR_execveat, helper, "", argv, envp, AT_EMPTY_PATH);
}

/* A signal that comes before the helper waits for signals would end it as any program, and leave the pod to whoever sweeps. */
long enter_helper(int helper, int slots[SLOT_COUNT], int first, char *const *argv, char *const *envp)
{
    uint64_t before = 0;
    long r;

    hold_signals(&before);
    r = change(helper, slots, first, argv, envp);
    let_signals(&before);
    return r;
}

long become_helper(int helper, int slots[SLOT_COUNT], int first, const char *uuid, char **envp)
{
    char title[64], *argv[2] = {title, 0};

    (void)str_add(str_add(title, title + sizeof title, "pyrun: pod "), title + sizeof title, uuid);
    return enter_helper(helper, slots, first, argv, envp);
}
