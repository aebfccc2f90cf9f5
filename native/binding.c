/* What Python calls: thin wrappers that return a value or minus an errno.
 *
 * cffi drops the GIL around each of them.  A threaded, two-gigabyte interpreter may be calling, so nothing here forks:
 * the helper's process shares the memory (CLONE_VM), has a stack of its own and makes raw system calls only (pod.c)
 * until it is gone into execveat(2). */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <net/if.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/bpf.h>
#include <linux/netlink.h>
#include <linux/openat2.h>

#include "oci_plan.h"
#include "pod.h"

struct spawn {
    int helper;
    char *const *argv;
    char *const *envp;
    int slots[SLOT_COUNT];
    int pid, pidfd;
    volatile int sharing; /* 1 until the process has left this memory by exec or exit (CLONE_CHILD_CLEARTID) */
    volatile long error;
    char stack[16384] __attribute__((aligned(16)));
};

struct pyrun_started {
    int pid;
    int pidfd;
    int control;
    char uuid[37];
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

static int pyrun_bind(const char *from, const char *to)
{
    return mount(from, to, NULL, MS_BIND, NULL) < 0 ? -errno : 0;
}

static int pyrun_unmount(const char *path)
{
    return umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW) < 0 ? -errno : 0;
}

static int pyrun_syncfs(int fd)
{
    return syncfs(fd) < 0 ? -errno : 0;
}

static int bpf(int command, union bpf_attr *what)
{
    long r = syscall(SYS_bpf, command, what, sizeof *what);

    return r < 0 ? -errno : (int)r;
}

/* The program (BPF_PROG_TYPE_CGROUP_DEVICE) in place of the one that this very cgroup has, at one stroke; with size 0 none at all. */
static int pyrun_device_program(int cgroup, const char *code, int size)
{
    uint32_t ids[64] = {0};
    union bpf_attr query = {.query = {.target_fd = (uint32_t)cgroup, .attach_type = BPF_CGROUP_DEVICE, .prog_ids = (uintptr_t)ids, .prog_cnt = 64}};
    union bpf_attr load = {.prog_type = BPF_PROG_TYPE_CGROUP_DEVICE, .insn_cnt = (uint32_t)size / 8, .insns = (uintptr_t)code, .license = (uintptr_t)""};
    union bpf_attr put = {.target_fd = (uint32_t)cgroup, .attach_type = BPF_CGROUP_DEVICE};
    int old = -1, made = -1, r = bpf(BPF_PROG_QUERY, &query);

    if (r == 0 && query.query.prog_cnt > 0) {
        union bpf_attr get = {.prog_id = ids[query.query.prog_cnt - 1]};
        r = old = bpf(BPF_PROG_GET_FD_BY_ID, &get);
    }
    if (r >= 0 && size > 0)
        r = made = bpf(BPF_PROG_LOAD, &load);
    if (r >= 0 && (made >= 0 || old >= 0)) {
        put.attach_bpf_fd = (uint32_t)(made >= 0 ? made : old);
        if (made >= 0) {
            put.attach_flags = BPF_F_ALLOW_MULTI | (old >= 0 ? BPF_F_REPLACE : 0);
            put.replace_bpf_fd = old >= 0 ? (uint32_t)old : 0;
        }
        r = bpf(made >= 0 ? BPF_PROG_ATTACH : BPF_PROG_DETACH, &put);
    }
    if (old >= 0)
        close(old);
    if (made >= 0)
        close(made);
    return r < 0 ? r : 0;
}

static int pyrun_shut_down(int fd)
{
    return shutdown(fd, SHUT_RDWR) < 0 ? -errno : 0;
}

static int spawn_main(void *argument)
{
    struct spawn *s = argument;

    s->error = enter_helper(s->helper, s->slots, 0, s->argv, s->envp);
    _exit(127);
}

/* Returns while the process may still be on its way into the helper: every one of these needs its spawn_end. */
static int spawn_begin(struct spawn *s)
{
    static const int flags = CLONE_VM | CLONE_PIDFD | CLONE_CHILD_CLEARTID | SIGCHLD;
    sigset_t all, saved;

    s->sharing = 1;
    s->error = 0;
    sigfillset(&all); /* no handler of the caller may run in the process that shares its memory */
    pthread_sigmask(SIG_SETMASK, &all, &saved);
    s->pid = clone(spawn_main, s->stack + sizeof s->stack, flags, s, &s->pidfd, NULL, &s->sharing);
    if (s->pid < 0)
        s->pid = -errno;
    pthread_sigmask(SIG_SETMASK, &saved, NULL);
    return s->pid;
}

static void spawn_reap(struct spawn *s)
{
    while (waitpid(s->pid, NULL, __WALL) < 0 && errno == EINTR)
        ;
    close(s->pidfd);
}

static int spawn_end(struct spawn *s)
{
    while (s->sharing != 0)
        syscall(SYS_futex, &s->sharing, FUTEX_WAIT, 1, NULL, NULL, 0);
    if (s->error != 0)
        spawn_reap(s);
    return (int)s->error;
}

/* Starts the helper as a child with slots[i] on descriptor i (-1: closed); returns its pid and a pidfd. */
static int pyrun_spawn(int helper, char *const argv[], char *const envp[], const int *slots, int count, int *pidfd)
{
    struct spawn s = {.helper = helper, .argv = argv, .envp = envp};
    int r;

    if (count != SLOT_COUNT)
        return -EINVAL;
    memcpy(s.slots, slots, sizeof s.slots);
    r = spawn_begin(&s);
    if (r < 0 || (r = spawn_end(&s)) < 0)
        return r;
    *pidfd = s.pidfd;
    return s.pid;
}

/* The slots of a pod that has been made; its plan is what `plan` is, with the pod's UUID and `flags`. */
static int hand_over(struct pod *pod, int control, const int *stdio, char *plan, size_t size, unsigned flags)
{
    int fd = (int)pod_plan(pod, plan, size, flags);
    const int slots[SLOT_COUNT] = {
        stdio[0], stdio[1], stdio[2], fd, -1, pod->dir, pod->pods, pod->own, pod->own < 0 ? -1 : pod->parent, -1,
    };
    int r = fd < 0 ? fd : (int)send_slots(control, slots);

    if (fd >= 0)
        close(fd);
    return r;
}

static void close_pod(const struct pod *pod)
{
    close(pod->dir);
    if (pod->own >= 0)
        close(pod->own);
    if (pod->parent >= 0)
        close(pod->parent);
}

struct start {
    struct spawn spawn;
    struct pod pod;
    char title[64];
    char *argv[2], *envp[1];
    char data[]; /* plan and record, to be filled in */
};

static int start_helper(struct start *s, int helper, int control)
{
    for (int i = 0; i < SLOT_COUNT; i++)
        s->spawn.slots[i] = i == SLOT_CONTROL ? control : -1;
    snprintf(s->title, sizeof s->title, "pyrun: pod %s", s->pod.uuid);
    s->argv[0] = s->title;
    s->argv[1] = s->envp[0] = NULL;
    s->spawn.helper = helper;
    s->spawn.argv = s->argv;
    s->spawn.envp = s->envp;
    return spawn_begin(&s->spawn);
}

/* Makes a pod below `pods` from a recipe and starts it: what runtime/pod/create.py and engine/launch.py do step by step,
 * but while the helper is being loaded.  When it fails nothing is left. */
static int pyrun_start(int helper, int pods, const int *stdio, const char *record, int record_size, const char *plan, int plan_size,
                       unsigned flags, struct pyrun_started *started)
{
    struct start *s = malloc(sizeof *s + (size_t)record_size + (size_t)plan_size);
    int ends[2] = {-1, -1}, r, ended;

    if (s == NULL)
        return -ENOMEM;
    memcpy(s->data, plan, (size_t)plan_size);
    memcpy(s->data + plan_size, record, (size_t)record_size);
    r = (int)pod_begin(&s->pod, pods);
    if (r == 0 && socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
        r = -errno;
    if (r == 0 && (r = start_helper(s, helper, ends[1])) > 0) {
        r = (int)pod_make(&s->pod, s->data + plan_size, (size_t)record_size);
        if (r == 0 && (r = hand_over(&s->pod, ends[0], stdio, s->data, (size_t)plan_size, flags)) < 0)
            pod_undo(&s->pod);
        ended = spawn_end(&s->spawn);
        if (r == 0 && ended < 0) {
            r = ended;
            pod_undo(&s->pod);
        } else if (r == 0) {
            close_pod(&s->pod);
        } else if (ended == 0) {
            shutdown(ends[0], SHUT_RDWR); /* the helper ends when it finds that there is nothing for it */
            spawn_reap(&s->spawn);
        }
    }
    if (ends[1] >= 0)
        close(ends[1]);
    if (r < 0 && ends[0] >= 0)
        close(ends[0]);
    if (r == 0) {
        memcpy(started->uuid, s->pod.uuid, sizeof started->uuid);
        started->pid = s->spawn.pid;
        started->pidfd = s->spawn.pidfd;
        started->control = ends[0];
    }
    free(s);
    return r;
}

struct netns {
    int from, family; /* an open namespace, or -1 for a new one; of netlink(7) */
    int ns, socket;
    char stack[16384] __attribute__((aligned(16)));
};

/* lo, as loopback_up() of the helper has it. */
static int netns_loopback(void)
{
    struct ifreq request = {.ifr_name = "lo"};
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0), r;

    if (fd < 0)
        return -1;
    r = ioctl(fd, SIOCGIFFLAGS, &request);
    request.ifr_flags |= IFF_UP;
    if (r == 0)
        r = ioctl(fd, SIOCSIFFLAGS, &request);
    close(fd);
    return r;
}

/* Nobody on a pod's network is its router but the host, which says so without advertisements (CVE-2020-10749). */
static void netns_no_advertisements(void)
{
    int fd = open("/proc/sys/net/ipv6/conf/default/accept_ra", O_WRONLY | O_CLOEXEC);

    if (fd >= 0) {
        if (write(fd, "0", 1) < 0)
            errno = 0; /* without IPv6 there is nothing to be told */
        close(fd);
    }
}

static int netns_main(void *argument)
{
    struct netns *n = argument;

    if (n->from >= 0 ? setns(n->from, CLONE_NEWNET) < 0 : unshare(CLONE_NEWNET) < 0 || netns_loopback() < 0)
        n->ns = -errno;
    else
        n->ns = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
    if (n->from < 0)
        netns_no_advertisements();
    /* to the kernel the same as SOCK_RAW; asyncio, and so pyroute2, takes no other */
    if (n->ns >= 0 && (n->socket = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, n->family)) < 0)
        n->socket = -errno;
    _exit(0);
}

/* A namespace belongs to a task: one that shares memory and descriptors goes there, opens what is wanted, and ends. */
static int aside(int (*run)(void *), void *argument, char *stack_end)
{
    static const int flags = CLONE_VM | CLONE_VFORK | CLONE_FILES;
    sigset_t all, saved;
    int pid, r;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &saved);
    pid = clone(run, stack_end, flags, argument);
    r = pid < 0 ? -errno : 0;
    pthread_sigmask(SIG_SETMASK, &saved, NULL);
    while (pid > 0 && waitpid(pid, NULL, __WALL) < 0 && errno == EINTR)
        ;
    return r;
}

/* A network namespace, and a netlink(7) socket in it: what is sent there acts there, and this process stays where it is. */
static int pyrun_netns(int from, int family, int *socket)
{
    struct netns *n = calloc(1, sizeof *n);
    int r;

    if (n == NULL)
        return -ENOMEM;
    n->from = from;
    n->family = family;
    n->ns = n->socket = -1;
    r = aside(netns_main, n, n->stack + sizeof n->stack);
    if (r == 0 && n->ns >= 0 && n->socket < 0) {
        close(n->ns);
        n->ns = n->socket;
    }
    r = r < 0 ? r : n->ns;
    *socket = n->socket;
    free(n);
    return r;
}

struct mounts {
    int ns, root;
    char stack[16384] __attribute__((aligned(16)));
};

static int mounts_main(void *argument)
{
    struct mounts *m = argument;

    m->root = setns(m->ns, CLONE_NEWNS) < 0 ? -1 : open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (m->root < 0)
        m->root = -errno;
    _exit(0);
}

/* The root directory of a mount namespace, which the caller never enters: nothing of it is loaded or executed. */
static int pyrun_root_of(int mounts)
{
    struct mounts *m = calloc(1, sizeof *m);
    int r;

    if (m == NULL)
        return -ENOMEM;
    m->ns = mounts;
    m->root = -ESRCH;
    r = aside(mounts_main, m, m->stack + sizeof m->stack);
    r = r < 0 ? r : m->root;
    free(m);
    return r;
}

/* A user namespace for this process: a new one, or the open one `fd`.  It may have no other thread (setns(2)). */
static int pyrun_user_namespace(int fd)
{
    return (fd < 0 ? unshare(CLONE_NEWUSER) : setns(fd, CLONE_NEWUSER)) < 0 ? -errno : 0;
}
