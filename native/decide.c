/* A command line that nobody has decided before: Python decides, in a child, and leaves a recipe, which this process then carries out
 * as it would any other.  So the interpreter's memory is given back, and the helper loaded, on another processor, and the process that
 * becomes the helper is small.  See docs/design/first-run.md. */
#include <linux/poll.h>

#include "fast.h"

/* Options that neither read what can be read once only, as a pipe, nor need a whole interpreter. */
static const char names[][20] = {
    "--caps-remove", "--caps-retain", "--cgroup-set", "--cpu-burst", "--cpu-idle", "--cpu-weight", "--cpus", "--cpuset-cpus",
    "--cpuset-mems", "--dir", "--env", "--exec", "--group", "--hostname", "--hugetlb", "--interactive", "--io-weight", "--keep",
    "--memory", "--memory-high", "--memory-low", "--memory-min", "--misc", "--mount", "--name", "--net", "--network", "--no-handlers",
    "--oom-group", "--oom-score-adj", "--pids-limit", "--rdma", "--read-only", "--readonly-rootfs", "--rlimit", "--rm", "--root",
    "--set-env", "--supplementary-gids", "--swap", "--sysctl", "--tty", "--ulimit", "--umask", "--upper", "--user", "--volume",
    "--workdir", "--working-dir", "-e", "-i", "-m", "-t", "-it", "-u", "-v", "-w",
};

static int is_name(const char *word)
{
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        const size_t size = str_len(names[i]);

        if (memcmp(word, names[i], size) == 0 && (word[size] == '\0' || (word[size] == '=' && size > 2)))
            return 1;
    }
    return 0;
}

int decides_early(int argc, char **argv, int verb)
{
    for (int i = 1; i < argc && !str_eq(argv[i], "--"); i++)
        if (i != verb && argv[i][0] == '-' && !is_name(argv[i]))
            return 0;
    return 1;
}

/* Between the clone and the child's execve this process is suspended: they share their memory. */
static long spawn(const char *python, char **args, char **envp, int told, int *pidfd)
{
    const long self = sys_call0(__NR_getpid);
    const long pid = sys_call5(__NR_clone, CLONE_VM | CLONE_VFORK | CLONE_PIDFD | SIGCHLD, 0, pidfd, 0, 0);

    if (pid == 0) {
        (void)sys_prctl(PR_SET_PDEATHSIG, SIGKILL, 0); /* who kills this process means the command */
        (void)sys_call3(__NR_fcntl, told, F_SETFD, 0);
        if (sys_call0(__NR_getppid) == self)
            (void)sys_call3(__NR_execve, python, args, envp);
        sys_exit(127);
    }
    return pid;
}

/* The environment with a locale and a time zone for which nothing has to be looked up: no decision depends on them, and text is UTF-8
 * anyway (-X utf8). */
static char **with_locale(char **environment, char **envp)
{
    static const char locale[] = "LC_ALL=", zone[] = "TZ=";
    size_t n = 0;

    for (; *envp != 0; envp++)
        if (memcmp(*envp, locale, sizeof locale - 1) != 0 && memcmp(*envp, zone, sizeof zone - 1) != 0)
            environment[n++] = *envp;
    environment[n++] = (char *)(uintptr_t)"LC_ALL=C";
    environment[n++] = (char *)(uintptr_t)"TZ=UTC0";
    environment[n] = 0;
    return environment;
}

/* An eventfd, since who writes to a pipe is expected to sleep soon: the kernel would let its reader wait for this processor, on
 * which the child gives its memory back. */
long decide(const char *python, char **args, char **word, char **envp, const char *helper, const struct recipe_stamps *stamps)
{
    OWNED_FD told = (int)sys_call2(__NR_eventfd2, 0, O_CLOEXEC), pidfd = -1;
    char *bundle = *word, text[64];
    const char *end = text + sizeof text;
    size_t variables = 0;
    long pid;

    while (envp[variables] != 0)
        variables++;
    char **environment = with_locale(__builtin_alloca(sizeof *envp * (variables + 3)), envp);
    if (told < 0)
        return 0;
    (void)str_add_number(str_add(str_add(text, end, bundle), end, "!"), end, (uint64_t)told);
    *word = text;
    pid = spawn(python, args, environment, told, &pidfd);
    *word = bundle;
    if (pid < 0)
        return 0;
    prepare_ahead(helper, stamps);
    struct pollfd polls[] = {{told, POLLIN, 0}, {pidfd, POLLIN, 0}};
    while (sys_call5(__NR_ppoll, polls, 2, 0, 0, 8) < 0)
        ;
    if (polls[0].revents == 0)
        (void)sys_call4(__NR_wait4, pid, 0, 0, 0);
    return polls[0].revents != 0 ? pid : 0;
}
