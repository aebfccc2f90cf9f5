/* Relay between the caller's terminal and the app's: raw mode, sizes, bytes both ways. */
#include <linux/poll.h>

#include "helper.h"

static struct termios saved;
static int raw;

void terminal_copy_size(struct context *ctx)
{
    struct {
        unsigned short rows, cols, x, y;
    } size;

    for (int fd = 0; fd < 3; fd++)
        if (sys_call3(__NR_ioctl, fd, TIOCGWINSZ, &size) == 0) {
            (void)sys_call3(__NR_ioctl, ctx->tty, TIOCSWINSZ, &size);
            return;
        }
}

/* One direction of the relay.  Bytes wait here until poll(2) says that the other side takes some: neither a caller
 * who stops reading nor an app that does may keep the supervisor from passing signals on. */
struct relay {
    char *data;
    long at, size; /* what waits is data[at..size) */
    int over;      /* nothing more will be read */
};

#define CHUNK 4096 /* PIPE_BUF: what a writable pipe takes without blocking */

static struct relay shown, typed;
static int screen; /* where output goes */
static char last_typed;

/* A description of our own of the caller's terminal or pipe, which can be non-blocking without anybody else noticing. */
static int own_output(void)
{
    char path[32];
    struct stat st;
    long fd;

    if (sys_fstat(1, &st) < 0 || ((st.st_mode & S_IFMT) != S_IFCHR && (st.st_mode & S_IFMT) != S_IFIFO))
        return 1; /* a file has its offset in the description */
    fd_path(path, 1);
    fd = sys_openat(AT_FDCWD, path, O_WRONLY | O_NONBLOCK | O_NOCTTY, 0);
    return fd < 0 ? 1 : (int)fd;
}

/* The supervisor keeps the app's side open too: while it does, the master never reports an end, not even for an app
 * that closes its terminal and opens /dev/tty again. */
static void relay_start(const struct context *ctx)
{
    (void)sys_call3(__NR_ioctl, ctx->tty, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
    (void)sys_call3(__NR_fcntl, ctx->tty, F_SETFL, O_RDWR | O_NONBLOCK);
    shown.data = arena; /* set here: nobody relocates pointers in a program without libc */
    typed.data = arena + CHUNK;
    typed.over = !(ctx->plan->flags & PLAN_RELAY_STDIN);
    screen = own_output();
    last_typed = '\n';
}

/* Keys reach the app's terminal unread, which does the line editing and makes the signals. */
void terminal_start(struct context *ctx)
{
    terminal_copy_size(ctx);
    relay_start(ctx);
    if (!(ctx->plan->flags & PLAN_RELAY_STDIN) || sys_call3(__NR_ioctl, 0, TCGETS, &saved) < 0)
        return;
    raw = set_raw(0, saved);
}

void terminal_stop(void)
{
    if (raw)
        (void)sys_call3(__NR_ioctl, 0, TCSETS, &saved);
    raw = 0;
}

WAITING void watch(struct pollfd *slot, int fd, short events)
{
    slot->fd = events != 0 ? fd : -1;
    slot->events = events;
    slot->revents = 0;
}

/* Fills three slots; once the app has ended nothing more is typed. */
WAITING void terminal_watch(const struct context *ctx, struct pollfd *slots, int ended)
{
    int on = ctx->tty >= 0;

    watch(&slots[0], ctx->tty, (short)(!on ? 0 : (shown.size == 0 && !shown.over ? POLLIN : 0) | (typed.size > 0 ? POLLOUT : 0)));
    watch(&slots[1], 0, on && !ended && typed.size == 0 && !typed.over ? POLLIN : 0);
    watch(&slots[2], screen, on && shown.size > 0 ? POLLOUT : 0);
}

WAITING int terminal_waits(void)
{
    return shown.size > 0;
}

/* Returns 0 when the other side is gone. */
WAITING static int pass_on(struct relay *relay, int fd)
{
    long n = sys_write(fd, relay->data + relay->at, relay->size - relay->at);

    if (n == -EINTR || n == -EAGAIN)
        return 1;
    relay->at += n < 0 ? 0 : n;
    if (n < 0 || relay->at == relay->size) {
        if (relay->size < CHUNK) /* all that there was */
            give_back(relay->data, CHUNK);
        relay->at = relay->size = 0;
    }
    return n >= 0;
}

/* A pipe or file that ends is what a person says by ^D; within a line the first one only sends off what was typed. */
static void type_end(const struct context *ctx)
{
    struct termios mode;

    typed.over = 1;
    if (sys_call3(__NR_ioctl, ctx->tty, TCGETS, &mode) < 0)
        return;
    typed.data[0] = typed.data[1] = (char)mode.c_cc[VEOF];
    typed.size = last_typed == '\n' ? 1 : 2;
}

WAITING static void take(struct relay *relay, int fd, const struct context *ctx)
{
    long n = sys_read(fd, relay->data, CHUNK);

    if (n == -EINTR || n == -EAGAIN)
        return;
    if (n > 0) {
        relay->size = n;
        if (relay == &typed)
            last_typed = relay->data[n - 1];
    } else if (relay == &typed && n == 0) {
        type_end(ctx);
    } else {
        relay->over = 1;
    }
}

/* Moves what the slots say can be moved.  A reader who went away is a line that hangs up: the app gets SIGHUP (tty(4)). */
WAITING void terminal_move(struct context *ctx, const struct pollfd *slots)
{
    if (ctx->tty < 0)
        return;
    if (slots[2].revents != 0 && !pass_on(&shown, screen)) {
        sys_close(ctx->tty);
        ctx->tty = -1;
        return;
    }
    if ((slots[0].revents & POLLOUT) != 0 && !pass_on(&typed, ctx->tty))
        typed.over = 1;
    if ((slots[0].revents & ~POLLOUT) != 0 && shown.size == 0)
        take(&shown, ctx->tty, ctx);
    if (slots[1].revents != 0)
        take(&typed, 0, ctx);
}
