/* Runs the plug-ins of networks that are theirs (cni.dev, SPEC.md), as pyrun.net.cni does.
 *
 * Which, with what configuration and what environment is in the script.  What only a start knows comes in here: the namespace, and as
 * `prevResult` what the one before has said, to the letter.  One that fails is asked no second time: what it said is left to Python, in a memfd
 * that stays open (pyrun.net.told). */
#include <linux/poll.h>

#include "handover.h"
#include "net_plugin.h"
#include "prepared.h"
#include "refuse.h"
#include "shared.h"

#define PATIENCE 60000000000ULL /* nanoseconds */
#define CLOCK_MONOTONIC 1
#define SAID "pyrun-plug-in"
#define CONFIGURATION (NET_WORDS_SIZE + NET_ANSWER)

struct answer {
    char out[NET_ANSWER + 1], err[8192];
    size_t out_size, err_size;
    int code;
};

static struct net_plugged *network_of(struct net *net, const struct net_op *op)
{
    return &net->plugged[op->word[5] >> NET_NETWORK_SHIFT];
}

static char *behind(char *word)
{
    return word + str_len(word) + 1;
}

/* The configuration with what belongs behind it, as a file: who does not read it keeps nobody waiting. */
static int input(struct net *net, const struct net_op *op, int with_result)
{
    static char text[CONFIGURATION];
    const char *end = text + sizeof text;
    const uint32_t size = op->word[4];
    char *at = text + size;
    int fd;

    if (op->word[3] >= net->pool_size || size >= net->pool_size - op->word[3] || size >= NET_WORDS_SIZE)
        return -EINVAL;
    memcpy(text, net->pool + op->word[3], size);
    if (with_result)
        at = str_add(str_add(at, end, ",\"prevResult\":"), end, network_of(net, op)->result);
    at = str_add(at, end, "}");
    fd = at == 0 ? -E2BIG : sealed("pyrun-cni", text, (size_t)(at - text), 0);
    if (fd >= 0)
        (void)sys_call3(__NR_lseek, fd, 0, 0);
    return fd;
}

/* In the child, in a group of its own, so that all that it starts ends with it where it has to. */
static void become(const struct net *net, const struct net_op *op, char *command, char *ns, const int fds[3])
{
    static char words[NET_WORDS_SIZE];
    static char *environment[NET_WORDS + 3];
    char *argv[2] = {0};
    const uint32_t size = op->word[2];
    const uint64_t none = 0;
    int copies[3];

    environment[0] = command;
    environment[1] = ns;
    (void)sys_call2(__NR_setpgid, 0, 0);
    (void)sys_prctl(PR_SET_PDEATHSIG, SIGKILL, 0);
    if (op->word[1] >= net->pool_size || size >= net->pool_size - op->word[1] || size >= sizeof words)
        sys_exit(127);
    memcpy(words, net->pool + op->word[1], size);
    (void)net_split(words, size, environment + 2);
    for (int i = 0; i < 3; i++)
        copies[i] = out_of_the_way(fds[i]);
    for (int i = 0; i < 3; i++)
        if (sys_call3(__NR_dup3, copies[i], i, 0) < 0)
            sys_exit(127);
    (void)sys_call3(__NR_close_range, 3, ~0U, 0);
    (void)sys_call4(__NR_rt_sigprocmask, SIG_SETMASK, &none, 0, sizeof none);
    for (char *path = behind(behind(net->pool + op->word[0])); *path != '\0'; path = behind(path)) {
        argv[0] = path;
        (void)sys_call3(__NR_execve, path, argv, environment);
    }
    sys_exit(127);
}

/* Takes what has come; 0 at the end.  Of errors only so much is kept, an answer that is longer is none. */
static int gather(int fd, char *to, size_t room, size_t *size)
{
    char rest[4096];
    const int full = *size == room;
    const long n = sys_read(fd, full ? rest : to + *size, full ? sizeof rest : room - *size);

    if (n > 0 && !full)
        *size += (size_t)n;
    return n > 0 || n == -EINTR;
}

/* Until both pipes are closed, or whoever had them is gone and they are empty; 0 when that takes too long. */
static long listen(struct answer *answer, int child, int out, int err)
{
    const uint64_t end = clock_ns(CLOCK_MONOTONIC) + PATIENCE;
    struct pollfd come[3] = {{child, POLLIN, 0}, {out, POLLIN, 0}, {err, POLLIN, 0}};

    while (come[1].fd >= 0 || come[2].fd >= 0 || come[0].fd >= 0) {
        const uint64_t now = clock_ns(CLOCK_MONOTONIC), left = come[0].fd < 0 || now > end ? 0 : end - now;
        const struct __kernel_timespec patience = {(long)(left / 1000000000), (long)(left % 1000000000)};
        const long n = sys_call5(__NR_ppoll, come, 3, &patience, 0, 8);

        if (n == 0)
            return come[0].fd < 0;
        if (n < 0 && n != -EINTR)
            return n;
        if (n > 0 && come[1].revents != 0 && !gather(out, answer->out, sizeof answer->out, &answer->out_size))
            come[1].fd = -1;
        if (n > 0 && come[2].revents != 0 && !gather(err, answer->err, sizeof answer->err, &answer->err_size))
            come[2].fd = -1;
        if (n > 0 && come[0].revents != 0)
            come[0].fd = -1;
        if (answer->out_size == sizeof answer->out)
            return 0;
    }
    return 1;
}

/* One plug-in's turn; minus an errno where it had none. */
static long call(struct net *net, const struct net_op *op, int add, struct answer *answer)
{
    char command[2][16] = {"CNI_COMMAND=DEL", "CNI_COMMAND=ADD"}, ns[64] = "CNI_NETNS=", *end = ns + sizeof ns;
    const struct net_plugged *network = network_of(net, op);
    const int with_result = network->size > 0 && (add || (network->whole && (op->word[5] & NET_WITH_RESULT) != 0));
    OWNED_FD in = input(net, op, with_result), out = -1, err = -1, held = -1;
    int pipes[2][2], status = 0;
    long child, heard;

    answer->out_size = answer->err_size = 0;
    if (add) {
        (void)str_add_number(str_add(ns + str_len(ns), end, "/proc/"), end, (uint64_t)sys_call0(__NR_getpid));
        (void)str_add_number(str_add(ns + str_len(ns), end, "/fd/"), end, (uint64_t)net->ns);
    }
    if (in < 0 || sys_call2(__NR_pipe2, pipes[0], O_CLOEXEC) < 0)
        return in < 0 ? in : -EMFILE;
    out = pipes[0][0];
    if (sys_call2(__NR_pipe2, pipes[1], O_CLOEXEC) < 0) {
        sys_close(pipes[0][1]);
        return -EMFILE;
    }
    err = pipes[1][0];
    child = sys_call5(__NR_clone, SIGCHLD, 0, 0, 0, 0);
    if (child == 0)
        become(net, op, command[add], ns, (const int[]){in, pipes[0][1], pipes[1][1]});
    sys_close(pipes[0][1]);
    sys_close(pipes[1][1]);
    if (child < 0)
        return child;
    (void)sys_call2(__NR_setpgid, child, child); /* whoever comes first */
    held = (int)sys_call2(__NR_pidfd_open, child, 0);
    heard = held < 0 ? held : listen(answer, held, out, err);
    if (heard <= 0)
        (void)sys_call2(__NR_kill, -child, SIGKILL);
    if (sys_call4(__NR_wait4, child, &status, 0, 0) != child)
        return -ECHILD;
    answer->code = heard == 0 ? LATE : (status & 0x7f) != 0 ? -(status & 0x7f) : status >> 8 & 0xff;
    return heard < 0 ? heard : 0;
}

static void add(char **at, const char *end, const char *text)
{
    *at = str_add(*at, end, text);
    *at += *at != 0; /* with its NUL */
}

/* For pyrun.net.told: network, type, exit status ("late" where there is none), size of what was said; that, and what was said of errors. */
static long tell(const struct net *net, const struct net_op *op, struct answer *answer)
{
    static char text[sizeof *answer + 1024];
    const char *end = text + 1024;
    char *network = net->pool + op->word[0], *at = text, number[24] = "-";
    struct said said = {answer->out, answer->err, answer->out_size, answer->err_size, answer->code, 0};
    struct net_result result;
    int fd;

    answer->out[answer->out_size < NET_ANSWER ? answer->out_size : NET_ANSWER] = '\0';
    said.valid = net_read_result(&result, answer->out, answer->out_size);
    refuse_plugin("ADD", network, behind(network), &said);
    (void)str_add_number(number + (answer->code < 0), number + sizeof number, (uint64_t)(answer->code < 0 ? -answer->code : answer->code));
    add(&at, end, network);
    add(&at, end, behind(network));
    add(&at, end, answer->code == LATE ? "late" : number);
    (void)str_add_number(number, number + sizeof number, answer->out_size);
    add(&at, end, number);
    if (at == 0)
        return -EREMOTEIO;
    memcpy(at, answer->out, answer->out_size);
    memcpy(at + answer->out_size, answer->err, answer->err_size);
    at += answer->out_size + answer->err_size;
    fd = sealed(SAID, text, (size_t)(at - text), 0);
    if (fd >= 0) {
        (void)sys_call3(__NR_fcntl, fd, F_DUPFD, SLOT_LISTEN + SLOT_LISTEN_MAX); /* which an exec does not close */
        sys_close(fd);
    }
    return -EREMOTEIO;
}

static long keep(struct net_plugged *network, struct answer *answer)
{
    struct net_result result;
    size_t first = 0;

    answer->out[answer->out_size] = '\0';
    while (answer->out[first] == ' ' || (answer->out[first] >= '\t' && answer->out[first] <= '\r'))
        first++;
    if (first == answer->out_size)
        return 0;
    if (!net_read_result(&result, answer->out, answer->out_size))
        return -EBADMSG;
    if (result.members == 0)
        return 0;
    network->result = net_room(answer->out_size + 1);
    if (network->result == 0)
        return -ENOMEM;
    memcpy(network->result, answer->out, answer->out_size + 1);
    network->size = (uint32_t)answer->out_size;
    return 0;
}

/* `words`: network, type, and where that may be. */
static void refuse_missing(char *words)
{
    char why[1024], *type = behind(words), *end = why + sizeof why, *at;

    at = str_add(str_add(str_add(why, end, "plug-in "), end, type), end, " is not in ");
    for (char *path = behind(type); *path != '\0' && at != 0; path = behind(path)) {
        at = str_add(str_add(at, end, path == behind(type) ? "" : ", "), end, path);
        if (at != 0)
            *(at -= str_len(type) + 1) = '\0';
    }
    if (at != 0)
        refuse("join network", words, why, "install it: Debian has the package containernetworking-plugins", "");
}

/* Whether all are there: else Python says which one is not, and nothing has to be taken back. */
static int all_there(struct net *net)
{
    for (uint32_t i = 0; i < net->op_count; i++) {
        char *path;

        if (net->ops[i].what != NET_PLUGIN)
            continue;
        if (net->ops[i].word[0] >= net->pool_size)
            return 0;
        for (path = behind(behind(net->pool + net->ops[i].word[0])); *path != '\0'; path = behind(path))
            if (sys_call3(__NR_faccessat, AT_FDCWD, path, 1 /* X_OK */) == 0)
                break;
        if (*path == '\0') {
            refuse_missing(net->pool + net->ops[i].word[0]);
            return 0;
        }
    }
    return 1;
}

long net_plugin(struct net *net, const struct net_op *op)
{
    static struct answer answer;
    struct net_result result = {0};
    struct net_plugged *network = network_of(net, op);
    long r;

    if (op->word[5] >> NET_NETWORK_SHIFT >= NET_PLUGGED || op->word[6] + NET_OF_RESULT > NET_VALUES)
        return -EINVAL;
    if (!network->asked && !all_there(net))
        return -EREMOTEIO;
    network->asked = 1;
    r = call(net, op, 1, &answer);
    if (r < 0)
        return r;
    if (answer.out_size == sizeof answer.out) {
        answer.code = LONG;
        return tell(net, op, &answer);
    }
    if (answer.code == 127 && answer.out_size + answer.err_size == 0) { /* nothing was executed */
        refuse_missing(net->pool + op->word[0]);
        return -EREMOTEIO;
    }
    if (answer.code != 0 || keep(network, &answer) < 0)
        return tell(net, op, &answer);
    if ((op->word[5] & NET_LAST) == 0)
        return 0;
    network->whole = 1;
    if (network->size > 0 && !net_read_result(&result, network->result, network->size))
        return -EBADMSG;
    network->address_count = result.address_count;
    if (net_take_result(&net->value[op->word[6]], network->address, &result) == 0)
        return 0;
    refuse("join network", net->pool + op->word[0], "the answer of its plug-ins is no result of CNI", "", "--net");
    return -EREMOTEIO;
}

static void refuse_removal(char *network, struct answer *answer)
{
    struct said said = {answer->out, answer->err, answer->out_size, answer->err_size, answer->code, 1};

    if (answer->code == 127 && answer->out_size + answer->err_size == 0)
        refuse_missing(network);
    else
        refuse_plugin("DEL", network, behind(network), &said);
}

int net_take_back(struct net *net)
{
    static struct answer answer;
    int done = 1;

    for (uint32_t number = 0; number < NET_PLUGGED; number++) {
        if (!net->plugged[number].asked)
            continue;
        for (uint32_t i = net->op_count; i-- > 0;) {
            const struct net_op *op = net->ops + i;

            if (op->what == NET_PLUGIN && op->word[5] >> NET_NETWORK_SHIFT == number && (call(net, op, 0, &answer) != 0 || answer.code != 0)) {
                done = 0;
                if (!is_refused()) /* the first one is told */
                    refuse_removal(net->pool + op->word[0], &answer);
            }
        }
    }
    return done;
}
