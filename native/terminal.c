/* Relay between the caller's terminal and the app's: raw mode, sizes, bytes both ways. */
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

/* cfmakeraw(3): keys reach the app's terminal unread, which does the line editing and makes the signals. */
void terminal_start(struct context *ctx)
{
    struct termios mode;

    terminal_copy_size(ctx);
    if (!(ctx->plan->flags & PLAN_RELAY_STDIN) || sys_call3(__NR_ioctl, 0, TCGETS, &saved) < 0)
        return;
    mode = saved;
    mode.c_iflag &= ~(tcflag_t)(IGNBRK | BRKINT | PARMRK | ISTRIP | INLCR | IGNCR | ICRNL | IXON);
    mode.c_oflag &= ~(tcflag_t)OPOST;
    mode.c_lflag &= ~(tcflag_t)(ECHO | ECHONL | ICANON | ISIG | IEXTEN);
    mode.c_cflag = (mode.c_cflag & ~(tcflag_t)(CSIZE | PARENB)) | CS8;
    mode.c_cc[VMIN] = 1;
    mode.c_cc[VTIME] = 0;
    raw = sys_call3(__NR_ioctl, 0, TCSETS, &mode) == 0;
}

void terminal_stop(void)
{
    if (raw)
        (void)sys_call3(__NR_ioctl, 0, TCSETS, &saved);
    raw = 0;
}

static int write_all(int fd, const char *data, long size)
{
    while (size > 0) {
        long n = sys_write(fd, data, size);

        if (n <= 0 && n != -EINTR && n != -EAGAIN)
            return 0;
        if (n > 0) {
            data += n;
            size -= n;
        }
    }
    return 1;
}

/* One buffer's worth; 0 when this direction is at its end (EIO: no process has the app's side open). */
int terminal_relay(struct context *ctx, int from_stdin)
{
    long n = sys_read(from_stdin ? 0 : ctx->tty, arena, 16384);

    if (n == -EINTR || n == -EAGAIN)
        return 1;
    if (n > 0)
        return write_all(from_stdin ? ctx->tty : 1, arena, n);
    if (from_stdin && n == 0) { /* a pipe or file ended: what a person would type, ^D */
        struct termios mode;

        if (sys_call3(__NR_ioctl, ctx->tty, TCGETS, &mode) == 0)
            (void)write_all(ctx->tty, (const char *)&mode.c_cc[VEOF], 1);
    }
    return 0;
}
