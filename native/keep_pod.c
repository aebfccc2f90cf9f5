/* What a pod of several apps has besides them: namespaces that all of them join, memory that they share, one cgroup above
 * theirs.
 *
 *     keeper (a mount namespace of its own, for /dev/shm)
 *       |-- holder           made into new net, ipc and uts namespaces, and a pid namespace if that is shared; init.c
 *       |-- helper of app 1  joins them by the holder's pidfd, SLOT_INIT of plan.h
 *       |-- helper of app 2  likewise
 *
 * The holder is there for one run: apps that start again find nothing of the last one. */
#include <linux/wait.h>

#include "keep.h"
#include "pod.h"

#define HOLDER_GROUP ".pod" /* no app can be called that */

/* Names come from pyrun.pod.several, which has checked them; whatever else stands there is not from this version. */
static int read_app(const struct keeper *keeper, struct app *app)
{
    char path[96];

    if (app->how.name[sizeof app->how.name - 1] != '\0' || app->how.identifier[sizeof app->how.identifier - 1] != '\0' || app->how.stop > 64)
        return 0;
    (void)str_add(str_add(path, path + sizeof path, "apps/"), path + sizeof path, app->how.name);
    app->dir = (int)sys_openat(keeper->pod, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
    return app->dir >= 0;
}

int read_apps(struct keeper *keeper)
{
    OWNED_FD fd = (int)sys_openat(keeper->pod, "apps.keep", O_RDONLY | O_NOFOLLOW, 0);
    struct keep_apps head;

    if (fd < 0 || sys_read(fd, &head, sizeof head) != sizeof head || head.count == 0 || head.count > KEEP_APPS || head.exit > EXIT_MAIN)
        return 0;
    keeper->count = head.count;
    keeper->exit = head.exit;
    for (unsigned i = 0; i < head.count; i++)
        if (sys_read(fd, &keeper->apps[i].how, sizeof keeper->apps[i].how) != sizeof keeper->apps[i].how || !read_app(keeper, &keeper->apps[i]))
            return 0;
    return 1;
}

/* What the apps have as /dev/shm. */
static char *memory_of(const struct keeper *keeper, char path[PATH_SIZE])
{
    char above[PATH_SIZE];

    return join(above, keeper->root, "/pods/running/", keeper->uuid) == 0 ? 0 : join(path, above, "/shm", "");
}

/* What is mounted here no other process of the host sees.  A slave, so that what the host unmounts goes here as well. */
int share_memory(const struct keeper *keeper)
{
    char path[PATH_SIZE];

    return memory_of(keeper, path) != 0 && sys_call1(__NR_unshare, CLONE_NEWNS) == 0 && sys_mount("", "/", "", MS_SLAVE | MS_REC, 0) == 0;
}

static void make_group(struct keeper *keeper)
{
    if (keeper->parent < 0)
        return;
    (void)sys_call3(__NR_mkdirat, keeper->parent, cgroup_name(keeper), 0755);
    keeper->group = (int)sys_openat(keeper->parent, cgroup_name(keeper), O_RDONLY | O_DIRECTORY, 0);
}

static void become_holder(const struct keeper *keeper, int control)
{
    char title[64], hold[] = "hold", net[] = "net", *words[] = {title, hold, keeper->how.flags & KEEP_SHARE_NET ? net : 0, 0};
    char *no_environment[1] = {0};
    int null = keeper->apps[0].streams[0];
    int slots[SLOT_COUNT] = {null, null, null, -1, control, -1, -1, -1, -1, -1};

    (void)str_add(str_add(title, title + sizeof title, "pyrun: pod "), title + sizeof title, keeper->uuid);
    if (!(keeper->apps[0].flags & PLAN_NETWORK) || sys_call2(__NR_setns, SLOT_NETWORK, CLONE_NEWNET) == 0)
        (void)enter_helper(keeper->helper, slots, 0, words, no_environment);
}

static long start_holder(struct keeper *keeper, int control, int own)
{
    const uint64_t always = CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_PIDFD | CLONE_VFORK;
    struct clone_args args = {.flags = always, .pidfd = (uintptr_t)&keeper->holder, .exit_signal = SIGCHLD};
    long r;

    if (keeper->how.flags & KEEP_SHARE_NET)
        args.flags |= CLONE_NEWNET;
    if (keeper->how.flags & KEEP_SHARE_PID)
        args.flags |= CLONE_NEWPID;
    if (own >= 0) {
        args.flags |= (uint64_t)CLONE_INTO_CGROUP;
        args.cgroup = (unsigned)own;
    }
    r = sys_call2(__NR_clone3, &args, sizeof args);
    if (r == 0) {
        become_holder(keeper, control);
        sys_exit(125);
    }
    return r;
}

/* Before the first helper of a run; minus an errno. */
long share_begin(struct keeper *keeper)
{
    OWNED_FD control = -1, own = -1;
    char path[PATH_SIZE], byte;
    int links[2];
    long r;

    if (!(keeper->how.flags & KEEP_SEVERAL))
        return 0;
    r = sys_mount("tmpfs", memory_of(keeper, path), "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=1777,size=64m");
    if (r == 0)
        r = sys_call4(__NR_socketpair, 1 /* AF_UNIX */, 5 | O_CLOEXEC /* SOCK_SEQPACKET */, 0, links);
    if (r < 0)
        return r;
    make_group(keeper);
    if (keeper->group >= 0) {
        (void)sys_call3(__NR_mkdirat, keeper->group, HOLDER_GROUP, 0755);
        own = (int)sys_openat(keeper->group, HOLDER_GROUP, O_RDONLY | O_DIRECTORY, 0);
    }
    control = links[0];
    r = start_holder(keeper, links[1], own);
    sys_close(links[1]);
    if (r > 0 && sys_read(control, &byte, 1) != 1)
        r = -ECHILD;
    return r < 0 ? r : 0;
}

static void remove_old_group(const char *path)
{
    static const struct __kernel_timespec pause = {0, 10000000};

    for (int tries = 0; tries < 100 && sys_call3(__NR_unlinkat, AT_FDCWD, path, AT_REMOVEDIR) == -EBUSY; tries++)
        (void)sys_call2(__NR_nanosleep, &pause, 0); /* what died just now is in there for a moment */
}

/* The file `groups` names the pod's in hierarchies of version 1, NUL after each.  Helpers have removed their apps', unless they were killed. */
static void remove_old_groups(const struct keeper *keeper)
{
    char text[PATH_SIZE], path[PATH_SIZE];
    OWNED_FD fd = (int)sys_openat(keeper->pod, "groups", O_RDONLY | O_NOFOLLOW, 0);
    const long n = fd < 0 ? fd : sys_read(fd, text, sizeof text - 1);

    text[n > 0 ? n : 0] = '\0';
    for (const char *at = text; at < text + n; at += str_len(at) + 1) {
        for (unsigned i = 0; i < keeper->count && (keeper->how.flags & KEEP_SEVERAL); i++)
            if (join(path, at, "/", keeper->apps[i].how.name) != 0)
                remove_old_group(path);
        remove_old_group(at);
    }
}

/* After the last one: whatever still shares a namespace goes with it. */
void share_end(struct keeper *keeper)
{
    char path[PATH_SIZE];

    if (keeper->holder >= 0) {
        (void)sys_call4(__NR_pidfd_send_signal, keeper->holder, SIGKILL, 0, 0);
        (void)sys_call5(__NR_waitid, 3 /* P_PIDFD */, keeper->holder, 0, WEXITED | __WALL, 0);
        sys_close(keeper->holder);
    }
    keeper->holder = -1;
    if (keeper->group >= 0) {
        for (const struct app *app = keeper->apps; app < keeper->apps + keeper->count; app++)
            remove_group(keeper->group, app->how.name);
        remove_group(keeper->group, HOLDER_GROUP);
        sys_close(keeper->group);
        remove_group(keeper->parent, cgroup_name(keeper));
    }
    keeper->group = -1;
    if (keeper->how.flags & KEEP_SEVERAL)
        (void)sys_call2(__NR_umount2, memory_of(keeper, path), MNT_DETACH);
    remove_old_groups(keeper);
}
