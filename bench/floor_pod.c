/* What a container costs when nobody decides anything: the namespaces, mounts and drops of pyrun's default plan, straight from C.
 *
 *     floor_pod ROOTFS DIRECTORY CGROUP COUNT WIDTH PROGRAM    (CGROUP "-": none)
 *
 * Starts PROGRAM in COUNT containers, WIDTH at a time, over the read-only ROOTFS, with changes in DIRECTORY.  Prints the nanoseconds from
 * start to known exit of each, a line each, and at last those of all together, until nothing was left.  No supervisor, no process 1 of its
 * own, no exit record, no error but an exit status: less than any runtime can do.  No system call filter either. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SAFE (MS_NOSUID | MS_NODEV | MS_NOEXEC)
#define NAMESPACES (CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP | CLONE_NEWNET)

static const char *rootfs, *directory, *cgroup, *program;

static long now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000L + t.tv_nsec;
}

static void need(int result, const char *what)
{
    if (result >= 0)
        return;
    perror(what);
    _exit(99);
}

static void put(const char *kind, const char *target, unsigned long flags, const char *data)
{
    (void)mkdir(target, 0755);
    need(mount(kind, target, kind, flags, data), target);
}

static void devices(void)
{
    static const struct {
        const char *path;
        int major, minor;
    } nodes[] = {{"dev/null", 1, 3}, {"dev/zero", 1, 5}, {"dev/full", 1, 7}, {"dev/random", 1, 8}, {"dev/urandom", 1, 9}, {"dev/tty", 5, 0}};
    static const char *const links[][2] = {{"/proc/self/fd", "dev/fd"}, {"/proc/self/fd/0", "dev/stdin"}, {"/proc/self/fd/1", "dev/stdout"},
                                           {"/proc/self/fd/2", "dev/stderr"}, {"pts/ptmx", "dev/ptmx"}, {"/proc/kcore", "dev/core"}};

    put("tmpfs", "dev", MS_NOSUID | MS_NOEXEC, "mode=0755,size=64k,nr_inodes=128");
    for (unsigned i = 0; i < sizeof nodes / sizeof *nodes; i++)
        need(mknod(nodes[i].path, S_IFCHR | 0666, makedev(nodes[i].major, nodes[i].minor)), nodes[i].path);
    put("devpts", "dev/pts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5");
    put("tmpfs", "dev/shm", SAFE, "mode=1777,size=65536k");
    put("mqueue", "dev/mqueue", SAFE, 0);
    for (unsigned i = 0; i < sizeof links / sizeof *links; i++)
        need(symlink(links[i][0], links[i][1]), links[i][1]);
}

static void masks(void)
{
    static const char *const readonly[] = {"proc/bus", "proc/fs", "proc/irq", "proc/sys", "proc/sysrq-trigger"};
    static const char *const masked[] = {"proc/acpi", "proc/kcore", "proc/keys", "proc/timer_list", "proc/scsi", "sys/firmware"};

    for (unsigned i = 0; i < sizeof readonly / sizeof *readonly; i++)
        if (mount(readonly[i], readonly[i], 0, MS_BIND, 0) == 0)
            need(mount(0, readonly[i], 0, MS_BIND | MS_REMOUNT | MS_RDONLY | SAFE, 0), readonly[i]);
    for (unsigned i = 0; i < sizeof masked / sizeof *masked; i++) {
        struct stat info;

        if (stat(masked[i], &info) < 0)
            continue;
        if (S_ISDIR(info.st_mode))
            need(mount("tmpfs", masked[i], "tmpfs", MS_RDONLY | SAFE, "size=0"), masked[i]);
        else
            need(mount("dev/null", masked[i], 0, MS_BIND, 0), masked[i]);
    }
}

static void child(const char *upper, const char *work, const char *stage)
{
    char data[8192];
    char *const argv[] = {(char *)(uintptr_t)program, 0}, *const envp[] = {0};
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);

    need(mount(0, "/", 0, MS_PRIVATE | MS_REC, 0), "private");
    snprintf(data, sizeof data, "lowerdir=%s,upperdir=%s,workdir=%s,volatile", rootfs, upper, work);
    need(mount("overlay", stage, "overlay", MS_NOSUID | MS_NODEV, data), "overlay");
    need(chdir(stage), stage);
    put("proc", "proc", SAFE, 0);
    devices();
    put("sysfs", "sys", MS_RDONLY | SAFE, 0);
    if (*cgroup != '-')
        need(mount("cgroup2", "sys/fs/cgroup", "cgroup2", MS_RDONLY | SAFE, 0), "cgroup2");
    masks();
    need(sethostname("floor", 5), "host name");
    need((int)syscall(SYS_pivot_root, ".", "."), "pivot_root");
    need(umount2(".", MNT_DETACH), "old root");
    need(chdir("/"), "/");
    for (int cap = 0; cap < 41; cap++)
        if (cap != 0 && cap != 1 && cap != 3 && cap != 4 && cap != 5 && cap != 6 && cap != 7 && cap != 10)
            (void)prctl(PR_CAPBSET_DROP, cap, 0, 0, 0);
    need(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no new privileges");
    (void)setsid();
    need(dup2(null, 0), "null");
    (void)syscall(SYS_close_range, 3, ~0U, 0);
    execve(program, argv, envp);
    _exit(127);
}

/* One container; the nanoseconds until its exit was known. */
static long once(int number)
{
    char base[2048], upper[2100], work[2100], stage[2100], inner[2200], group[4096];
    struct clone_args args = {.flags = NAMESPACES, .exit_signal = SIGCHLD};
    long start = now(), took;
    int status, fd = -1;
    pid_t pid;

    snprintf(base, sizeof base, "%s/floor-%d-%d", directory, getpid(), number);
    snprintf(upper, sizeof upper, "%s/upper", base);
    snprintf(work, sizeof work, "%s/work", base);
    snprintf(inner, sizeof inner, "%s/work", work);
    snprintf(stage, sizeof stage, "%s/stage", base);
    if (mkdir(base, 0700) < 0 || mkdir(upper, 0755) < 0 || mkdir(work, 0700) < 0 || mkdir(stage, 0700) < 0)
        return -1;
    if (*cgroup != '-') {
        snprintf(group, sizeof group, "%s/floor-%d-%d", cgroup, getpid(), number);
        if (mkdir(group, 0755) < 0 || (fd = open(group, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0)
            return -1;
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = (uint64_t)fd;
    }
    pid = (pid_t)syscall(SYS_clone3, &args, sizeof args);
    if (pid == 0)
        child(upper, work, stage);
    if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 0)
        return -1;
    took = now() - start;
    if (fd >= 0) {
        close(fd);
        for (int i = 0; rmdir(group) < 0 && errno == EBUSY && i < 1000; i++)
            usleep(100);
    }
    /* what the mount points left in the upper directory is removed by one tool for all: bench/library.py, off the clock */
    (void)rmdir(inner);
    return took;
}

int main(int argc, char **argv)
{
    int count, width, status, failed = 0;
    long start;

    if (argc != 7)
        return 2;
    rootfs = argv[1], directory = argv[2], cgroup = argv[3], program = argv[6];
    count = atoi(argv[4]), width = atoi(argv[5]);
    setvbuf(stdout, 0, _IOLBF, 0);
    start = now();
    for (int worker = 0; worker < width; worker++) {
        if (fork() != 0)
            continue;
        for (int i = worker; i < count; i += width) {
            long took = once(i);

            if (took < 0)
                _exit(1);
            printf("%ld\n", took);
        }
        _exit(0);
    }
    while (wait(&status) > 0)
        failed |= status;
    printf("%ld\n", now() - start);
    return failed != 0;
}
