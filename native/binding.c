/* What Python calls: thin wrappers that return a value or minus an errno.
 *
 * cffi drops the GIL around each of them.  A threaded, two-gigabyte interpreter may be calling, so
 * nothing here forks: the child of spawn shares the memory (CLONE_VM | CLONE_VFORK), runs on its own
 * stack, makes system calls only, and is gone into execveat(2) before the caller goes on. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <sys/inotify.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/openat2.h>

#include "plan.h"

struct spawn {
    int helper;
    char *const *argv;
    char *const *envp;
    const int *slots;
    int count;
    volatile int error;
};

static int pyrun_openat2(int dir, const char *path, uint64_t flags, uint64_t mode, uint64_t resolve)
{
    struct open_how how = {.flags = flags | O_CLOEXEC, .mode = mode, .resolve = resolve};
    long fd = syscall(SYS_openat2, dir, path, &how, sizeof how);

    return fd < 0 ? -errno : (int)fd;
}

/* inotify(7), close-on-exec; its descriptor is waited for with poll(2). */
static int pyrun_inotify(void)
{
    int fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);

    return fd < 0 ? -errno : fd;
}

static int pyrun_inotify_add(int fd, const char *path, uint32_t mask)
{
    int watch = inotify_add_watch(fd, path, mask);

    return watch < 0 ? -errno : watch;
}

static int pyrun_syncfs(int fd)
{
    return syncfs(fd) < 0 ? -errno : 0;
}

/* Puts slots[i] on descriptor i, for all i at once: every source is first copied out of the way, so that no
 * copy lands on a source that is still needed.  The program's own descriptor moves up too, close-on-exec. */
static int place(struct spawn *s)
{
    int high[SLOT_COUNT], i;

    s->helper = fcntl(s->helper, F_DUPFD_CLOEXEC, SLOT_COUNT);
    if (s->helper < 0)
        return -errno;
    for (i = 0; i < s->count; i++) {
        high[i] = s->slots[i] < 0 ? -1 : fcntl(s->slots[i], F_DUPFD_CLOEXEC, SLOT_COUNT);
        if (s->slots[i] >= 0 && high[i] < 0)
            return -errno;
    }
    for (i = 0; i < s->count; i++) {
        if (high[i] < 0)
            close(i);
        else if (dup2(high[i], i) < 0)
            return -errno;
    }
    return 0;
}

static int enter_helper(struct spawn *s)
{
    int r = place(s);

    if (r < 0)
        return r;
    syscall(SYS_execveat, s->helper, "", s->argv, s->envp, AT_EMPTY_PATH);
    return -errno;
}

static int child(void *argument)
{
    struct spawn *s = argument;

    s->error = enter_helper(s);
    _exit(127);
}

/* Starts the helper as a child with slots[i] on descriptor i (-1: closed); returns its pid and a pidfd. */
static int pyrun_spawn(int helper, char *const argv[], char *const envp[], const int *slots, int count, int *pidfd)
{
    static const int flags = CLONE_VM | CLONE_VFORK | CLONE_PIDFD | SIGCHLD;
    struct spawn s = {helper, argv, envp, slots, count, 0};
    char stack[16384] __attribute__((aligned(16)));
    sigset_t all, saved;
    int pid;

    if (count < 0 || count > SLOT_COUNT)
        return -EINVAL;
    sigfillset(&all); /* no handler of the caller may run in the child, which shares its memory */
    pthread_sigmask(SIG_SETMASK, &all, &saved);
    pid = clone(child, stack + sizeof stack, flags, &s, pidfd);
    if (pid < 0)
        pid = -errno;
    pthread_sigmask(SIG_SETMASK, &saved, NULL);
    if (pid > 0 && s.error != 0) {
        waitpid(pid, NULL, __WALL);
        close(*pidfd);
        return s.error;
    }
    return pid;
}

/* Turns this process into the helper; comes back only to report minus an errno. */
static int pyrun_become(int helper, char *const argv[], char *const envp[], const int *slots, int count)
{
    struct spawn s = {helper, argv, envp, slots, count, 0};

    return count < 0 || count > SLOT_COUNT ? -EINVAL : enter_helper(&s);
}
