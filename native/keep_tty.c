/* The terminal of a pod in the background, and whoever looks at it (`pyrun attach`).
 *
 * The helper believes that it runs on a terminal, as in the foreground: a pseudo-terminal whose master is here.  What
 * the app writes goes to the log and to every client; what clients type goes to the app.  A client is a connection to the
 * socket `attach` in the pod's directory, a message a packet, its kind in the first byte:
 *
 *     to the keeper      d BYTES    typed                    w ROWS COLUMNS    the client's size, 16 bits each
 *     to the client      d BYTES    written by the app       x STATUS WORDS    the end, wait(2) encoding, 32 bits; and as JSON,
 *                        f          there are too many                         members of an object
 *
 * There may be as many as the process may have open files, but for those that the keeper itself needs.  A client whose socket is full has a second to read from it, then it is let go: nobody may hold up the app or the others
 * for longer.  Of several apps one may have it. */
#include <linux/eventpoll.h>
#include <linux/poll.h>
#include <linux/resource.h>

#include "keep.h"

#define CHUNK 4096
#define MOST_FILES (1 << 20) /* as many descriptors as Linux gives unless fs.nr_open is raised */
#define OWN_FILES 32         /* are left to start the app again, to write a record, to check its health: so many, */
#define APP_FILES 4          /* and for each app so many */
#define AT_ONCE 16
#define SEND_FLAGS 0x4040 /* MSG_NOSIGNAL, MSG_DONTWAIT */
#define PATIENCE 1000000000ULL

enum { SLOT_MASTER, SLOT_LISTENER, SLOT_CLIENTS, SLOT_END };
_Static_assert(SLOT_END == TTY_SLOTS, "clients are watched by one descriptor, of epoll(7)");

static int master, listener, sink, watcher; /* where there is an `owner` */
static int deaf; /* nobody can be let in at the moment: not asked again before something else has happened */
static uint64_t clients[MOST_FILES / 64] __attribute__((aligned(PAGE_SIZE))); /* a bit for each descriptor; only pages with a client are memory */
static int top; /* no client is that high */
static struct app *owner;
static char shown[2 * CHUNK] __attribute__((aligned(PAGE_SIZE))), typed[CHUNK] __attribute__((aligned(PAGE_SIZE))); /* `typed` waits for the app to take it */
static long typed_size;

static int open_terminal(int app[3])
{
    struct {
        unsigned short rows, columns, x, y;
    } size = {24, 80, 0, 0};
    struct termios mode;
    int unlock = 0, slave;

    master = (int)sys_openat(AT_FDCWD, "/dev/ptmx", O_RDWR | O_NOCTTY | O_NONBLOCK, 0);
    if (master < 0 || sys_call3(__NR_ioctl, master, TIOCSPTLCK, &unlock) < 0)
        return 0;
    slave = (int)sys_call3(__NR_ioctl, master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (slave < 0 || sys_call3(__NR_ioctl, slave, TCGETS, &mode) < 0)
        return 0;
    (void)set_raw(slave, mode); /* the app's own terminal does the line editing */
    (void)sys_call3(__NR_ioctl, master, TIOCSWINSZ, &size);
    app[0] = app[1] = app[2] = slave; /* kept open here, so that the master never reports an end between two runs */
    return 1;
}

/* Bound by way of /proc, since a path of a socket has room for 107 bytes; 0600 by the keeper's umask. */
static int open_socket(const struct keeper *keeper)
{
    struct {
        unsigned short family;
        char path[108];
    } address = {1 /* AF_UNIX */, "/proc/self/fd/"};
    const char *end = address.path + sizeof address.path;

    (void)str_add(str_add_number(address.path + str_len(address.path), end, (uint64_t)keeper->pod), end, "/attach");
    (void)sys_call3(__NR_unlinkat, keeper->pod, "attach", 0);
    listener = (int)sys_call3(__NR_socket, 1, 5 | O_CLOEXEC | O_NONBLOCK /* SOCK_SEQPACKET */, 0);
    return listener >= 0 && sys_call3(__NR_bind, listener, &address, sizeof address) == 0 && sys_call2(__NR_listen, listener, 16) == 0;
}

int tty_start(const struct keeper *keeper, struct app *app)
{
    owner = app;
    sink = app->streams[1];
    watcher = (int)sys_call1(__NR_epoll_create1, O_CLOEXEC);
    return watcher >= 0 && open_terminal(app->streams) && open_socket(keeper);
}

WAITING static void watch(struct pollfd *slot, int fd, int events)
{
    slot->fd = events != 0 ? fd : -1;
    slot->events = (short)events;
    slot->revents = 0;
}

WAITING void tty_watch(struct pollfd *slots)
{
    watch(&slots[SLOT_MASTER], master, owner == 0 ? 0 : POLLIN | (typed_size > 0 ? POLLOUT : 0));
    watch(&slots[SLOT_LISTENER], listener, deaf || owner == 0 ? 0 : POLLIN);
    watch(&slots[SLOT_CLIENTS], watcher, owner == 0 || typed_size > 0 ? 0 : POLLIN);
    if (deaf) /* else the variables of this file stay as good as none, where there is no terminal */
        deaf = 0;
}

static int take_in(int client)
{
    struct epoll_event event = {.events = EPOLLIN, .data = (unsigned)client};

    if (sys_call4(__NR_epoll_ctl, watcher, EPOLL_CTL_ADD, client, &event) < 0)
        return 0;
    clients[client / 64] |= 1ULL << client % 64;
    top = client >= top ? client + 1 : top;
    return 1;
}

/* The first one from `client` on, -1 for none. */
static int next_client(int client)
{
    for (; client < top; client = (client | 63) + 1) {
        const uint64_t rest = clients[client / 64] >> client % 64;

        if (rest != 0)
            return client + __builtin_ctzll(rest);
    }
    return -1;
}

/* A process that is being started may still have it open, so closing is not enough. */
static void let_go(int client)
{
    clients[client / 64] &= ~(1ULL << client % 64);
    (void)sys_call4(__NR_epoll_ctl, watcher, EPOLL_CTL_DEL, client, 0);
    sys_close(client);
    if (next_client(0) < 0) {
        top = 0;
        give_back(clients, sizeof clients);
    }
}

static int send(int client, const char *message, size_t size, uint64_t end)
{
    for (;;) {
        const long r = sys_call6(__NR_sendto, client, message, size, SEND_FLAGS, 0, 0);
        const uint64_t now = clock_ns(CLOCK_BOOTTIME);
        struct __kernel_timespec rest = {0, (long)(end - now)};
        struct pollfd room = {client, POLLOUT, 0};

        if (r != -EAGAIN || now >= end)
            return r == (long)size;
        (void)sys_call5(__NR_ppoll, &room, 1, &rest, 0, 8);
    }
}

static void tell(const char *message, size_t size)
{
    const uint64_t end = clock_ns(CLOCK_BOOTTIME) + PATIENCE - 1;

    for (int client = next_client(0); client >= 0; client = next_client(client + 1))
        if (!send(client, message, size, end))
            let_go(client);
}

/* Some of the app's output; 0 when there is none. */
static int show(struct keeper *keeper)
{
    long n = sys_read(master, shown + 1, CHUNK);

    if (n <= 0)
        return 0;
    shown[0] = 'd';
    (void)sys_write(sink, shown + 1, n);
    while (log_source(owner, 0) >= 0 && log_take(keeper, owner, 0) > 0) /* at once: the pipe to ourselves must not fill */
        ;
    tell(shown, (size_t)n + 1);
    if (n < CHUNK) /* all that there was */
        give_back(shown, sizeof shown);
    return 1;
}

/* Descriptors are given from below, so a low one leaves enough above it. */
static int is_low(const struct keeper *keeper, int fd)
{
    struct rlimit64 limit = {0, 0};

    (void)sys_call4(__NR_prlimit64, 0, RLIMIT_NOFILE, 0, &limit);
    return fd < MOST_FILES && (uint64_t)fd + OWN_FILES + APP_FILES * keeper->count < limit.rlim_cur;
}

/* Root alone: the directory is, and a descriptor that was passed on is not enough (unix(7), SO_PEERCRED). */
static int welcome(const struct keeper *keeper)
{
    struct {
        int32_t pid;
        uint32_t uid, gid;
    } peer;
    uint32_t size = sizeof peer;
    int fd = (int)sys_call4(__NR_accept4, listener, 0, 0, O_CLOEXEC | O_NONBLOCK);

    deaf = fd < 0 && fd != -EAGAIN;
    if (fd < 0)
        return 0;
    if (sys_call5(__NR_getsockopt, fd, 1 /* SOL_SOCKET */, 17 /* SO_PEERCRED */, &peer, &size) < 0 ||
        peer.uid != (uint32_t)sys_call0(__NR_geteuid)) {
        sys_close(fd);
    } else if (!is_low(keeper, fd) || !take_in(fd)) {
        (void)sys_call6(__NR_sendto, fd, "f", 1, SEND_FLAGS, 0, 0);
        sys_close(fd);
    }
    return 1;
}

static void hear(int client)
{
    char message[1 + CHUNK];
    long n = sys_call6(__NR_recvfrom, client, message, sizeof message, 0x40 /* MSG_DONTWAIT */, 0, 0);

    if (n == -EAGAIN || n == -EINTR || n == -ECONNRESET) /* it went without reading all; what it typed before that is there */
        return;
    if (n <= 0) {
        let_go(client);
    } else if (message[0] == 'w' && n == 5) {
        unsigned short size[4] = {0, 0, 0, 0};

        memcpy(size, message + 1, 4);
        (void)sys_call3(__NR_ioctl, master, TIOCSWINSZ, size);
        if (owner->helper_pid > 0)
            (void)sys_call2(__NR_kill, owner->helper_pid, SIGWINCH);
    } else if (message[0] == 'd' && (owner->flags & PLAN_RELAY_STDIN)) {
        typed_size = n - 1;
        memcpy(typed, message + 1, (size_t)typed_size);
    }
}

static void type(void)
{
    long n = sys_write(master, typed, typed_size);

    if (n == -EAGAIN || n == -EINTR)
        return;
    typed_size = n < 0 ? 0 : typed_size - n;
    memmove(typed, typed + (n < 0 ? 0 : n), (size_t)typed_size);
    if (typed_size == 0)
        give_back(typed, sizeof typed);
}

SELDOM static void move(struct keeper *keeper, const struct pollfd *slots)
{
    struct epoll_event events[AT_ONCE];
    long n = slots[SLOT_CLIENTS].revents ? sys_call6(__NR_epoll_pwait, watcher, events, AT_ONCE, 0, 0, 8) : 0;

    for (long i = 0; i < n && typed_size == 0; i++)
        hear((int)events[i].data);
    while (slots[SLOT_LISTENER].revents && welcome(keeper))
        ;
    if (slots[SLOT_MASTER].revents & POLLIN)
        (void)show(keeper);
    if (typed_size > 0)
        type();
}

WAITING int tty_move(struct keeper *keeper, const struct pollfd *slots)
{
    const int any = slots[SLOT_CLIENTS].revents | slots[SLOT_LISTENER].revents | slots[SLOT_MASTER].revents;

    if (any)
        move(keeper, slots);
    return any;
}

void tty_rest(struct keeper *keeper)
{
    if (owner == 0)
        return;
    while (show(keeper))
        ;
    typed_size = 0;
}

void tty_end(const struct keeper *keeper)
{
    char message[512] = {'x'};
    int32_t status;
    size_t size = 1 + sizeof status;

    if (owner == 0)
        return;
    status = owner->ended ? owner->status : 125 << 8;
    memcpy(message + 1, &status, sizeof status);
    size += end_words(keeper, owner, message + size, sizeof message - size);
    tell(message, size);
    (void)sys_call3(__NR_unlinkat, keeper->pod, "attach", 0);
}
