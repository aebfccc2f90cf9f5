/* The witness inside the container: a static program that tells what it sees, or tries one thing.
 *
 *   probe report                 everything below as one JSON object on stdout
 *   probe stay                   the same, and then sleeps for ever
 *   probe spy                    watches the processes beside it (probe_spy.c)
 *   probe trace FILE COMMAND...  writes down which programs a process becomes (probe_trace.c); this one is for outside
 *   probe exit N                 exit with N
 *   probe kill SIG               die of signal SIG
 *   probe sleep SECONDS          0 sleeps for ever; first says "ready"
 *   probe trap SIG...            says "ready", waits for one of the signals, says which, exits with its number
 *   probe tally SIG              says "ready", then how often SIG has come each time it does; exits with 0 on TERM
 *   probe orphan N               leaves N orphans behind, which exit at once; exits when init has reaped them
 *   probe fork N                 how many of N processes at a time it could start
 *   probe linger SECONDS         leaves one orphan behind, which sleeps, and exits with 0
 *   probe notify TEXT...         tells NOTIFY_SOCKET each text, then sleeps for ever
 *   probe serve                  answers one connection to descriptor 3 with its own pid and the LISTEN_ and WATCHDOG_ variables
 *   probe eat                    says "ready", waits for USR1, and takes memory until it is killed
 *   probe huge N [stay]          maps N huge pages of 2 MiB one by one and writes to each: says "page" or why not; may then sleep for ever
 *   probe rdma PATH N M          opens N contexts of a verbs device, and makes M protection domains in the first: says "handle", "pd" or why not
 *   probe sweep PATH             makes a node of each device at PATH and opens it: says which open, "c:1:3 ..."
 *   probe try CALL ARG...        one system call; says {"result": N, "errno": "NAME"}, exits with 0
 *
 * CALL is one of: write PATH, open PATH, mkfile PATH, mkdir PATH, mknod PATH TYPE MAJOR MINOR, chown PATH UID GID,
 * mount SOURCE TARGET TYPE, remount TARGET, umount TARGET, chroot PATH, unshare FLAGS, setuid UID, setgroups,
 * sethostname, socket FAMILY TYPE, tiocsti, nr NUMBER [ARG...] (numbers only).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <rdma/ib_user_verbs.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

int report(char **argv); /* probe_report.c */
int spy(void);            /* probe_spy.c */
int trace(char **words);  /* probe_trace.c */

static int try_path(const char *path, int flags)
{
    int fd = open(path, flags | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0644);

    return fd >= 0 && (flags & O_ACCMODE) != O_RDONLY && !(flags & O_CREAT) ? (int)write(fd, "1", 1) : fd;
}

static long number(char **argv, int i)
{
    for (int k = 0; k <= i; k++)
        if (argv[k] == NULL)
            return 0;
    return strtol(argv[i], NULL, 0);
}

static long try(char **argv)
{
    const char *call = argv[0];
    const char *a = argv[1] ? argv[1] : "", *b = argv[1] && argv[2] ? argv[2] : "", *c = *b && argv[3] ? argv[3] : "";
    gid_t group = 12345;

    if (!strcmp(call, "write"))
        return try_path(a, O_WRONLY);
    if (!strcmp(call, "open"))
        return try_path(a, O_RDONLY);
    if (!strcmp(call, "mkfile"))
        return try_path(a, O_WRONLY | O_CREAT | O_EXCL);
    if (!strcmp(call, "mkdir"))
        return mkdir(a, 0755);
    if (!strcmp(call, "mknod"))
        return mknod(a, (*b == 'b' ? S_IFBLK : S_IFCHR) | 0600, makedev((unsigned)number(argv, 3), (unsigned)number(argv, 4)));
    if (!strcmp(call, "chown"))
        return chown(a, (uid_t)number(argv, 2), (gid_t)number(argv, 3));
    if (!strcmp(call, "mount"))
        return mount(a, b, c, 0, NULL);
    if (!strcmp(call, "remount"))
        return mount(NULL, a, NULL, MS_REMOUNT | MS_BIND, NULL);
    if (!strcmp(call, "umount"))
        return umount2(a, MNT_DETACH);
    if (!strcmp(call, "chroot"))
        return chroot(a);
    if (!strcmp(call, "unshare"))
        return unshare((int)number(argv, 1));
    if (!strcmp(call, "setuid"))
        return setuid((uid_t)number(argv, 1));
    if (!strcmp(call, "setgroups"))
        return setgroups(1, &group);
    if (!strcmp(call, "sethostname"))
        return sethostname("other", 5);
    if (!strcmp(call, "socket"))
        return socket((int)number(argv, 1), (int)number(argv, 2), 0);
    if (!strcmp(call, "tiocsti"))
        return ioctl(0, TIOCSTI, "x");
    if (!strcmp(call, "nr"))
        return syscall(number(argv, 1), number(argv, 2), number(argv, 3), number(argv, 4), number(argv, 5), number(argv, 6));
    fprintf(stderr, "probe: what is try %s?\n", call);
    exit(2);
}

/* A device that is not to be used answers EPERM, its file system EACCES; anything else came from the driver, or there is none. */
static int sweep(const char *path)
{
    static const unsigned more[] = {64, 128, 183, 200, 223, 229, 232, 235, 237, 238, 255};

    for (unsigned block = 0; block < 2; block++)
        for (unsigned major = 0; major < 512; major++)
            for (unsigned i = 0; i < 16 + sizeof more / sizeof *more; i++) {
                const unsigned minor = i < 16 ? i : more[i - 16];
                int fd = -1, made = mknod(path, (block ? S_IFBLK : S_IFCHR) | 0600, makedev(major, minor));

                if (made == 0)
                    fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
                if (major + minor != 0 && (fd >= 0 || (errno != EPERM && errno != EACCES))) /* 0:0 is no device, but overlay's whiteout */
                    printf("%c:%u:%u ", block ? 'b' : 'c', major, minor);
                if (fd >= 0)
                    close(fd);
                if (made == 0)
                    unlink(path);
            }
    puts("");
    return 0;
}

static int say_try(char **argv)
{
    errno = 0;
    long result = try(argv);

    printf("{\"result\": %ld, \"errno\": \"%s\"}\n", result, result < 0 ? strerrorname_np(errno) : "");
    return 0;
}

static int orphan(long count, unsigned seconds, int wait_for_them)
{
    int ends[2];
    char byte;

    if (pipe(ends) < 0)
        return 1;
    for (long i = 0; i < count; i++) {
        pid_t child = fork();
        if (child == 0) {
            if (fork() == 0)
                sleep(seconds);
            _exit(0);
        }
        waitpid(child, NULL, 0);
    }
    close(ends[1]);
    while (wait_for_them && read(ends[0], &byte, 1) > 0)
        ;
    return 0;
}

static int fork_many(long count)
{
    long started = 0;

    for (long i = 0; i < count; i++) {
        pid_t child = fork();
        if (child == 0)
            return pause();
        started += child > 0;
    }
    printf("%ld\n", started);
    return 0; /* init ends them with the pod */
}

static int trap(char **signals)
{
    sigset_t set;
    int got;

    sigemptyset(&set);
    for (; *signals; signals++)
        sigaddset(&set, atoi(*signals));
    sigprocmask(SIG_BLOCK, &set, NULL);
    puts("ready");
    fflush(stdout);
    sigwait(&set, &got);
    printf("%d\n", got);
    return got;
}

static int tally(int number)
{
    sigset_t set;
    int got;

    sigemptyset(&set);
    sigaddset(&set, number);
    sigaddset(&set, SIGTERM);
    sigprocmask(SIG_BLOCK, &set, NULL);
    puts("ready");
    for (int count = 0; fflush(stdout), sigwait(&set, &got), got != SIGTERM;)
        printf("%d\n", ++count);
    return 0;
}

static int notify(char **texts)
{
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_DGRAM, 0);

    snprintf(to.sun_path, sizeof to.sun_path, "%s", path ? path : "");
    for (; *texts; texts++)
        if (sendto(fd, *texts, strlen(*texts), 0, (struct sockaddr *)&to, sizeof to) < 0) {
            perror(to.sun_path);
            return 1;
        }
    puts("ready");
    fflush(stdout);
    return pause();
}

static int serve(void)
{
    int fd = accept(3, NULL, NULL);

    dprintf(fd, "%d\n", getpid());
    for (char **variable = environ; *variable; variable++)
        if (!strncmp(*variable, "LISTEN_", 7) || !strncmp(*variable, "WATCHDOG_", 9))
            dprintf(fd, "%s\n", *variable);
    return fd < 0;
}

static int eat(void)
{
    const size_t bite = 1 << 20;
    sigset_t wanted;
    int got;

    sigemptyset(&wanted);
    sigaddset(&wanted, SIGUSR1);
    sigprocmask(SIG_BLOCK, &wanted, NULL);
    puts("ready");
    fflush(stdout);
    sigwait(&wanted, &got);
    for (;;) {
        char *more = malloc(bite);

        if (!more)
            return 1;
        memset(more, 1, bite);
    }
}

static int huge(long count, int stay)
{
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | 21 << MAP_HUGE_SHIFT;

    for (char *page = NULL; count > 0 && page != MAP_FAILED; count--) {
        page = mmap(NULL, 2 << 20, PROT_READ | PROT_WRITE, flags, -1, 0);
        if (page != MAP_FAILED)
            *page = 1;
        puts(page != MAP_FAILED ? "page" : strerrorname_np(errno));
        fflush(stdout); /* before the next write, which may kill */
    }
    return stay ? pause() : 0;
}

/* One command of a verbs device: the parts that have no room for more than where to write the answer. */
static const char *ask(int fd, unsigned command, const char *done)
{
    union {
        struct ib_uverbs_get_context_resp context;
        struct ib_uverbs_alloc_pd_resp domain;
    } answer;
    const size_t room = command == IB_USER_VERBS_CMD_GET_CONTEXT ? sizeof answer.context : sizeof answer.domain;
    struct {
        struct ib_uverbs_cmd_hdr head;
        __u64 response;
    } asked = {{command, sizeof asked / 4, (__u16)(room / 4)}, (uintptr_t)&answer};

    return write(fd, &asked, sizeof asked) == sizeof asked ? done : strerrorname_np(errno);
}

static int rdma(const char *path, long handles, long domains)
{
    int first = -1;

    while (handles-- > 0) {
        int fd = open(path, O_RDWR | O_CLOEXEC);

        puts(fd < 0 ? strerrorname_np(errno) : ask(fd, IB_USER_VERBS_CMD_GET_CONTEXT, "handle"));
        first = first < 0 ? fd : first;
    }
    while (domains-- > 0)
        puts(ask(first, IB_USER_VERBS_CMD_ALLOC_PD, "pd"));
    return 0;
}

int main(int argc, char **argv)
{
    const char *verb = argc > 1 ? argv[1] : "report";
    long n = argc > 2 ? strtol(argv[2], NULL, 0) : 0;

    if (!strcmp(verb, "report"))
        return report(argv);
    if (!strcmp(verb, "stay")) {
        (void)report(argv);
        fflush(stdout);
        return pause();
    }
    if (!strcmp(verb, "spy"))
        return spy();
    if (!strcmp(verb, "exit"))
        return (int)n;
    if (!strcmp(verb, "kill")) {
        signal((int)n, SIG_DFL);
        return raise((int)n);
    }
    if (!strcmp(verb, "sleep")) {
        puts("ready");
        fflush(stdout);
        return n ? (int)sleep((unsigned)n) : pause();
    }
    if (!strcmp(verb, "trap"))
        return trap(argv + 2);
    if (!strcmp(verb, "tally"))
        return tally((int)n);
    if (!strcmp(verb, "orphan"))
        return orphan(n, 0, 1);
    if (!strcmp(verb, "fork"))
        return fork_many(n);
    if (!strcmp(verb, "linger"))
        return orphan(1, (unsigned)n, 0);
    if (!strcmp(verb, "notify"))
        return notify(argv + 2);
    if (!strcmp(verb, "serve"))
        return serve();
    if (!strcmp(verb, "eat"))
        return eat();
    if (!strcmp(verb, "huge"))
        return huge(n, argc > 3);
    if (!strcmp(verb, "rdma") && argc > 4)
        return rdma(argv[2], strtol(argv[3], NULL, 0), strtol(argv[4], NULL, 0));
    if (!strcmp(verb, "sweep") && argc > 2)
        return sweep(argv[2]);
    if (!strcmp(verb, "trace") && argc > 3)
        return trace(argv + 2);
    if (!strcmp(verb, "try") && argc > 2)
        return say_try(argv + 2);
    fprintf(stderr, "probe: what is %s?\n", verb);
    return 2;
}
