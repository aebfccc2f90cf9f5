/* What waits in a shell of a pool (pyrun.pool): a pod that is complete but for its app.
 *
 * It stands where the app will: limits, user, capabilities and filter are the app's already, and all that is left is to become it.
 * Standard input is a socket.  One message comes: how many words there are, arguments and variables, the words, and the three standard
 * descriptors (unix(7), SCM_RIGHTS).  A byte goes back by the socket: the order was taken.  Nothing but execve(2) follows; what it says
 * if it fails, an errno, goes back too. */
#include "link.h"
#include "sys.h"

enum { SOCKET = 10, MOST_BYTES = 131072, MOST_WORDS = 8192, NO_STDIN = 1 };

struct order {
    uint32_t argc, envc, flags, unused;
    char words[MOST_BYTES]; /* directory, or nothing; arguments; variables that are added to this process's own, or replace them */
};

static struct order order;
static char *vector[MOST_WORDS];
static char path[PATH_SIZE];

__attribute__((noreturn)) static void fail(long error)
{
    const uint32_t code = (uint32_t)-error;

    (void)sys_call6(__NR_sendto, SOCKET, &code, sizeof code, 0x4000 /* MSG_NOSIGNAL */, 0, 0);
    sys_exit(127);
}

/* Waits for the order; the process ends when nobody can give one any more. */
static void receive(void)
{
    struct link_message message;
    long n;

    if (sys_call3(__NR_fcntl, 0, F_DUPFD_CLOEXEC, SOCKET) != SOCKET)
        sys_exit(125);
    link_message_init(&message, 0, 3);
    message.vector.base = (char *)&order;
    message.vector.length = sizeof order - 1;
    n = sys_call3(__NR_recvmsg, SOCKET, &message.header, 0x40000000 /* MSG_CMSG_CLOEXEC */);
    if (n <= 0)
        sys_exit(0);
    if (n < 16 || message.header.control_length < offsetof(struct link_message, control.fds) - offsetof(struct link_message, control) + 12)
        fail(-EINVAL);
    (void)sys_call6(__NR_sendto, SOCKET, "", 1, 0x4000 /* MSG_NOSIGNAL */, 0, 0); /* it was taken: nobody else will do it */
    for (int fd = 0; fd < 3; fd++) {
        int from = fd == 0 && (order.flags & NO_STDIN) ? (int)sys_openat(AT_FDCWD, "/dev/null", O_RDONLY, 0) : message.control.fds[fd];

        if (sys_call3(__NR_dup3, from, fd, 0) < 0)
            fail(-EBADF);
    }
}

static char **words(char **at, char **text, uint32_t count)
{
    for (; count > 0; count--, *text += str_len(*text) + 1) {
        if (at >= vector + MOST_WORDS - 2 || *text >= order.words + MOST_BYTES)
            fail(-E2BIG);
        *at++ = *text;
    }
    return at;
}

/* Whether one of the words says something else of the variable. */
static int replaced(const char *variable, char *const *from, char *const *end)
{
    size_t name = 0;

    while (variable[name] != '\0' && variable[name] != '=')
        name++;
    for (; from < end; from++)
        if (memcmp(*from, variable, name + 1) == 0)
            return 1;
    return 0;
}

/* execvp(3), by the PATH that the program itself will have. */
static long execute(char **argv, char **envp)
{
    const char *search = from_environment(envp, "PATH"), *end = path + sizeof path;
    long r = -ENOENT, denied = 0;

    for (const char *c = argv[0]; *c != '\0'; c++)
        if (*c == '/')
            return sys_call3(__NR_execve, argv[0], argv, envp);
    while (*search != '\0') {
        char *at = path;

        while (*search != '\0' && *search != ':' && at < end - 1)
            *at++ = *search++;
        *at = '\0';
        search += *search == ':';
        if (str_add(str_add(at, end, "/"), end, argv[0]) == 0)
            continue;
        r = sys_call3(__NR_execve, path, argv, envp);
        denied = r == -EACCES ? r : denied;
        if (r != -ENOENT && r != -ENOTDIR && r != -EACCES)
            return r;
    }
    return denied != 0 ? denied : r;
}

int program(int argc, char **argv, char **envp)
{
    char *text = order.words, *directory = order.words, **arguments = vector, **variables, **end;
    long r;

    (void)argc, (void)argv;
    receive();
    text += str_len(directory) + 1;
    variables = words(arguments, &text, order.argc) + 1;
    end = words(variables, &text, order.envc);
    if (order.argc == 0)
        fail(-EINVAL);
    for (char **own = envp, **added = end; *own != 0; own++)
        if (!replaced(*own, variables, added)) {
            if (end >= vector + MOST_WORDS - 1)
                fail(-E2BIG);
            *end++ = *own;
        }
    if (*directory != '\0' && (r = sys_call1(__NR_chdir, directory)) < 0)
        fail(r);
    fail(execute(arguments, variables));
}
