/* The network of a user's pod, as pyrun.net.user has it: pasta(1) or slirp4netns(1), a process for each pod, which outlives what starts it. */
#include <linux/poll.h>

#include "files.h"
#include "handover.h"
#include "live.h"
#include "net_script.h"
#include "prepared.h"
#include "shared.h"

#define PATIENCE 20 /* seconds */
#define PID_FILE "net.pid"

uint32_t net_split(char *words, long size, char *argv[NET_WORDS + 1])
{
    uint32_t count = 0;

    for (char *at = words; at < words + size && count < NET_WORDS; at += str_len(at) + 1)
        argv[count++] = at;
    argv[count] = 0;
    return count;
}

/* The child shares the descriptors, so what it opens in there is open here. */
long net_make_user(struct net *net)
{
    struct made {
        int32_t ns, socket;
    } made = {-1, -1};
    int pipe[2];
    long child, n;

    if (sys_call2(__NR_pipe2, pipe, O_CLOEXEC) < 0)
        return -EMFILE;
    child = sys_call5(__NR_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0);
    if (child == 0) {
        if (sys_call1(__NR_unshare, CLONE_NEWNET) == 0) {
            made.ns = (int)sys_openat(AT_FDCWD, "/proc/self/ns/net", O_RDONLY, 0);
            made.socket = net_socket(0);
            net_hear_no_advertisements();
            (void)sys_write(pipe[1], &made, sizeof made);
        }
        sys_exit(0);
    }
    if (child > 0)
        (void)sys_call4(__NR_wait4, child, 0, 0, 0);
    sys_close(pipe[1]);
    n = child < 0 ? child : sys_read(pipe[0], &made, sizeof made);
    sys_close(pipe[0]);
    if (n != (long)sizeof made)
        return -EPERM;
    net->ns = made.ns;
    net->socket[NET_INSIDE] = made.socket;
    return net->ns < 0 ? net->ns : made.socket < 0 ? made.socket : 0;
}

/* In the child.  It has the pod's directory, and with that its lock: while it is at it nobody takes the pod for dead. */
static void become_program(const struct net *net, char *words, long size, int told)
{
    static char *argv[NET_WORDS + 1];
    char *path, *env[2] = {0};
    const int null = (int)sys_openat(AT_FDCWD, "/dev/null", O_RDWR, 0);
    const int pod = out_of_the_way(net->pod), ns = out_of_the_way(net->ns), ready = told < 0 ? -1 : out_of_the_way(told);
    const uint64_t none = 0;

    env[0] = words;
    words += str_len(env[0]) + 1;
    if (net_split(words, size - (words - env[0]), argv) < 2 || sys_call0(__NR_setsid) < 0 || sys_call1(__NR_fchdir, pod) < 0)
        sys_exit(127);
    for (int fd = 0; fd < 3; fd++)
        (void)sys_call3(__NR_dup3, fd == 0 ? pod : null, fd, 0);
    (void)sys_call3(__NR_dup3, ns, NET_NS, 0);
    (void)sys_call3(__NR_close_range, NET_TOLD, NET_TOLD, 0);
    if (ready >= 0)
        (void)sys_call3(__NR_dup3, ready, NET_TOLD, 0);
    (void)sys_call3(__NR_close_range, 3, NET_NS - 1, 0);
    (void)sys_call3(__NR_close_range, NET_TOLD + 1, ~0U, 0);
    (void)sys_call4(__NR_rt_sigprocmask, SIG_SETMASK, &none, 0, sizeof none);
    path = argv[0];
    (void)sys_call3(__NR_execve, path, argv, env);
    sys_exit(127);
}

static int comes(int fd)
{
    const struct __kernel_timespec patience = {PATIENCE, 0};
    struct pollfd come = {fd, POLLIN, 0};

    return fd >= 0 && sys_call5(__NR_ppoll, &come, 1, &patience, 0, 8) == 1;
}

/* Whether it ended well; one that takes too long is ended with all that it has started. */
static int ended_well(long child)
{
    OWNED_FD held = (int)sys_call2(__NR_pidfd_open, child, 0);
    int status = -1;

    if (!comes(held))
        (void)sys_call2(__NR_kill, -child, SIGKILL);
    return sys_call4(__NR_wait4, child, &status, 0, 0) == child && status == 0;
}

long net_program(struct net *net, const struct net_op *op)
{
    static char words[NET_WORDS_SIZE];
    char text[32 + MARGIN], *at = text, ready = '\0';
    int pipe[2] = {-1, -1}, well;
    long child, n = net_text(net, op->word[0], op->word[1], words, sizeof words - 1);

    if (n <= 0 || op->word[2] + 1 >= NET_VALUES)
        return -EINVAL;
    words[n] = '\0';
    if (op->word[3] != 0 && sys_call2(__NR_pipe2, pipe, O_CLOEXEC) < 0)
        return -EMFILE;
    child = sys_call5(__NR_clone, SIGCHLD, 0, 0, 0, 0);
    if (child == 0)
        become_program(net, words, n, pipe[1]);
    if (pipe[1] >= 0)
        sys_close(pipe[1]);
    well = child > 0 && ended_well(child);
    if (read_text(net->pod, PID_FILE, text, 32))
        net->program = (int32_t)next_number(&at);
    if (pipe[0] >= 0) {
        well = well && comes(pipe[0]) && sys_read(pipe[0], &ready, 1) == 1 && ready == '1';
        sys_close(pipe[0]);
    }
    if (!well || net->program <= 0 || start_time(net->program) == 0)
        return -EIO;
    net_number(&net->value[op->word[2]], (uint32_t)net->program);
    (void)str_add_number(net->value[op->word[2] + 1].text, net->value[op->word[2] + 1].text + sizeof net->value[0].text, start_time(net->program));
    return 0;
}

static void end(int32_t pid)
{
    OWNED_FD held = pid > 0 ? (int)sys_call2(__NR_pidfd_open, pid, 0) : -1;
    struct pollfd gone = {held, POLLIN, 0};
    const struct __kernel_timespec patience = {2, 0};

    if (held >= 0 && sys_call4(__NR_pidfd_send_signal, held, SIGKILL, 0, 0) == 0)
        (void)sys_call5(__NR_ppoll, &gone, 1, &patience, 0, 8);
}

void net_end_relay(const struct net *net)
{
    end(net->relay);
}

void net_end_program(const struct net *net)
{
    end(net->program);
    if (net->program > 0)
        (void)sys_call3(__NR_unlinkat, net->pod, PID_FILE, 0);
}
