/* The process that relays to a pod's ports, as pyrun.net.relay starts it, which says why there is one. */
#include "handover.h"
#include "net_script.h"
#include "prepared.h"
#include "shared.h"

/* In the child: the relay says what became of it on descriptor 1.  Of a user's network it gets the program, a pidfd, and the namespace. */
static void become_relay(char *words, long size, int told, int program, int ns)
{
    static char *argv[NET_WORDS + 1];
    const int null = (int)sys_openat(AT_FDCWD, "/dev/null", O_RDWR, 0), first = program < 0 ? 3 : 5;
    const uint32_t count = net_split(words, size, argv);

    if (program >= 0 && (sys_call3(__NR_dup3, program, 3, 0) < 0 || sys_call3(__NR_dup3, ns, 4, 0) < 0))
        sys_exit(127);
    if (count > 1 && sys_call3(__NR_dup3, null, 0, 0) >= 0 && sys_call3(__NR_dup3, told, 1, 0) >= 0 && sys_call3(__NR_dup3, null, 2, 0) >= 0) {
        char *path = argv[0], name[] = "relay";
        const uint64_t none = 0;

        argv[0] = name;
        (void)sys_call4(__NR_rt_sigprocmask, SIG_SETMASK, &none, 0, sizeof none);
        (void)sys_call3(__NR_close_range, first, ~0U, 0);
        (void)sys_call3(__NR_execve, path, argv, argv + count);
    }
    sys_exit(127);
}

/* What it failed at, a word, an errno and a port, as _failed() of pyrun.net.relay says it. */
static long refuse_relay(const char *said)
{
    char number[24] = "";
    uint64_t words[2] = {0, 0};

    for (int i = 0; i < 2; i++) {
        while (*said != ' ' && *said != '\0')
            said++;
        while (*said == ' ')
            said++;
        for (; *said >= '0' && *said <= '9'; said++)
            words[i] = words[i] * 10 + (uint64_t)(*said - '0');
    }
    if (words[1] != 0)
        (void)str_add_number(number, number + sizeof number, words[1]);
    if (words[0] == EADDRINUSE)
        refuse("forward port", number, "a program of the host uses it", "choose another port of the host", "--port");
    else if (words[0] == E2BIG)
        refuse("forward port", number, "more than 8192 ports",
               "forward fewer; from the host's 127.0.0.1 alone, as in 127.0.0.1:80:80, root's pods have any number", "--port");
    else
        refuse("forward port", number, words[0] != 0 ? errno_text((long)words[0]) : "the relay ended", "name another address or port of the host", "");
    return -EADDRINUSE;
}

/* As pyrun.net.relay starts it: it says one number, its own, or what it failed at. */
long net_relay(struct net *net, const struct net_op *op)
{
    static char words[NET_WORDS_SIZE];
    char said[64];
    int pipe[2];
    uint64_t pid = 0;
    OWNED_FD held = op->word[3] != 0 ? (int)sys_call2(__NR_pidfd_open, net->program, 0) : -1, program = -1, ns = -1;
    long child, n = net_text(net, op->word[0], op->word[1], words, sizeof words - 1);

    if (n <= 0 || op->word[2] + 1 >= NET_VALUES || (op->word[3] != 0 && held < 0))
        return -EINVAL;
    words[n] = '\0';
    program = held < 0 ? -1 : out_of_the_way(held);
    ns = held < 0 ? -1 : out_of_the_way(net->ns);
    if (sys_call2(__NR_pipe2, pipe, O_CLOEXEC) < 0)
        return -EMFILE;
    child = sys_call5(__NR_clone, SIGCHLD, 0, 0, 0, 0);
    if (child == 0)
        become_relay(words, n, out_of_the_way(pipe[1]), program, ns);
    sys_close(pipe[1]);
    n = child < 0 ? child : sys_read(pipe[0], said, sizeof said - 1);
    sys_close(pipe[0]);
    if (child > 0)
        (void)sys_call4(__NR_wait4, child, 0, 0, 0);
    said[n > 0 ? n : 0] = '\0';
    for (long i = 0; i < n && said[i] != '\n'; i++) {
        if (said[i] < '0' || said[i] > '9')
            return refuse_relay(said);
        pid = pid * 10 + (uint64_t)(said[i] - '0');
    }
    if (pid == 0)
        return refuse_relay("");
    net->relay = (int32_t)pid;
    net_number(&net->value[op->word[2]], (uint32_t)pid);
    (void)str_add_number(net->value[op->word[2] + 1].text, net->value[op->word[2] + 1].text + sizeof net->value[0].text, start_time(net->relay));
    return 0;
}
