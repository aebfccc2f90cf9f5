/* What the app writes: to files in the format of the Kubernetes CRI, to journald, to nowhere, or where the caller's goes.
 *
 *     2026-11-25T19:04:18.123456789Z stdout F a whole line
 *     2026-11-25T19:04:18.123456789Z stderr P the beginning of a line, the rest follows
 *
 * Nothing waits here for the rest of a line, so the memory is fixed and what was written is in the file at once.  A disk
 * that takes no more costs lines, which are counted, and never stops the app. */
#include "keep.h"

#define CHUNK 4096
#define PREFIX 48 /* what is before a line: the time, and its mark */
#define MARK 10
/* " stdout " as a number, since constants are on a page that a line would bring back */
#define NAME(a, b, c) ((uint64_t)' ' | (uint64_t)'s' << 8 | (uint64_t)'t' << 16 | (uint64_t)'d' << 24 | (uint64_t)(a) << 32 | (uint64_t)(b) << 40 | (uint64_t)(c) << 48 | (uint64_t)' ' << 56)
#define PIPE_FLAGS (O_CLOEXEC | O_NONBLOCK)

static uint64_t dropped;
static struct {
    char in[CHUNK], out[2 * CHUNK];
} text __attribute__((aligned(PAGE_SIZE)));

uint64_t log_dropped(void)
{
    return dropped;
}

WAITING int log_source(const struct app *app, int stream)
{
    return app->log.pipes[stream][0];
}

static int open_log(struct app *app)
{
    struct stat st;

    app->log.file = (int)sys_openat(app->dir, "log", O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW, 0600);
    app->log.size = app->log.file >= 0 && sys_fstat(app->log.file, &st) == 0 ? (uint64_t)st.st_size : 0;
    return app->log.file >= 0;
}

static void log_name(char name[32], uint32_t number)
{
    char *at = str_add(name, name + 32, "log");

    if (number > 0)
        (void)str_add_number(str_add(at, name + 32, "."), name + 32, number);
}

/* log.1 becomes log.2 and so on; the last one goes.  A reader keeps what it has open. */
static void rotate(const struct keeper *keeper, struct app *app)
{
    char from[32], to[32];

    for (uint32_t i = keeper->how.log_files; i-- > 0;) {
        log_name(from, i);
        log_name(to, i + 1);
        if (i + 1 >= keeper->how.log_files)
            (void)sys_call3(__NR_unlinkat, app->dir, from, 0);
        else
            (void)sys_call4(__NR_renameat, app->dir, from, app->dir, to);
    }
    sys_close(app->log.file);
    (void)open_log(app);
}

WAITING static char *digits(char *at, uint64_t value, int count)
{
    for (int i = count; i-- > 0; value /= 10)
        at[i] = (char)('0' + value % 10);
    return at + count;
}

/* RFC 3339 in UTC.  Days to a date: years begin in March here, so that the leap day is a year's last. */
WAITING static char *add_time(char *at, uint64_t ns)
{
    uint64_t seconds = ns / 1000000000, days = seconds / 86400 + 719468, era = days / 146097, day = days % 146097;
    uint64_t year = (day - day / 1460 + day / 36524 - day / 146096) / 365;
    uint64_t rest = day - (365 * year + year / 4 - year / 100), month = (5 * rest + 2) / 153;

    at = digits(at, year + era * 400 + (month >= 10), 4);
    *at++ = '-';
    at = digits(at, month < 10 ? month + 3 : month - 9, 2);
    *at++ = '-';
    at = digits(at, rest - (153 * month + 2) / 5 + 1, 2);
    *at++ = 'T';
    at = digits(at, seconds / 3600 % 24, 2);
    *at++ = ':';
    at = digits(at, seconds / 60 % 60, 2);
    *at++ = ':';
    at = digits(at, seconds % 60, 2);
    *at++ = '.';
    at = digits(at, ns % 1000000000, 9);
    *at++ = 'Z';
    return at;
}

/* A part that did not fit is cut off again: a reader finds whole lines only. */
WAITING static void write_out(const struct keeper *keeper, struct app *app)
{
    struct log *log = &app->log;
    uint64_t most = keeper->how.log_size;
    long n;

    if (most > 0 && log->size > 0 && log->size + log->used > most && ((!log->middle[0] && !log->middle[1]) || log->size > 2 * most))
        rotate(keeper, app);
    n = log->file < 0 || log->used == 0 ? 0 : sys_write(log->file, text.out, log->used);
    if (n == (long)log->used) {
        log->size += log->used;
    } else {
        if (n > 0)
            (void)sys_call2(__NR_ftruncate, log->file, log->size);
        dropped += log->used;
    }
    log->used = 0;
}

WAITING static void add_line(const struct keeper *keeper, struct app *app, int stream, uint64_t now, const char *words, size_t length, int whole)
{
    const uint64_t name = stream == 0 ? NAME('o', 'u', 't') : NAME('e', 'r', 'r');
    char *at;

    if (app->log.used + PREFIX + length > sizeof text.out)
        write_out(keeper, app);
    at = add_time(text.out + app->log.used, now);
    memcpy(at, &name, sizeof name);
    at[MARK - 2] = whole ? 'F' : 'P';
    at[MARK - 1] = ' ';
    memcpy(at + MARK, words, length);
    at[MARK + length] = '\n';
    app->log.used = (size_t)(at - text.out) + MARK + length + 1;
    app->log.middle[stream] = !whole;
}

WAITING long log_take(const struct keeper *keeper, struct app *app, int stream)
{
    long n = sys_read(app->log.pipes[stream][0], text.in, sizeof text.in);
    uint64_t now = clock_ns(0);
    long from = 0;

    for (long i = 0; i < n; i++)
        if (text.in[i] == '\n') {
            add_line(keeper, app, stream, now, text.in + from, (size_t)(i - from), 1);
            from = i + 1;
        }
    if (from < n)
        add_line(keeper, app, stream, now, text.in + from, (size_t)(n - from), 0);
    write_out(keeper, app);
    if (n < CHUNK) /* all that there was */
        give_back(&text, sizeof text);
    return n;
}

void log_end(const struct keeper *keeper, struct app *app)
{
    for (int stream = 0; stream < 2; stream++) {
        while (log_source(app, stream) >= 0 && log_take(keeper, app, stream) > 0)
            ;
        if (app->log.middle[stream])
            add_line(keeper, app, stream, clock_ns(0), "", 0, 1);
    }
    write_out(keeper, app);
}

/* sd_journal_stream_fd(3): a stream that begins with who it is from; lines follow, and journald needs nobody in between. */
static int journal(const struct app *app, int level)
{
    struct {
        unsigned short family;
        char path[108];
    } address = {1 /* AF_UNIX */, "/run/systemd/journal/stdout"};
    char header[160];
    const char *end = header + sizeof header;
    OWNED_FD guard = -1;
    int fd = (int)sys_call3(__NR_socket, 1, 1 | O_CLOEXEC /* SOCK_STREAM */, 0);
    char *at = str_add(str_add(header, end, app->how.identifier), end, "\n\n");

    at = str_add(str_add_number(at, end, (uint64_t)level), end, "\n0\n0\n0\n0\n"); /* no prefix parsing, no forwarding */
    guard = fd;
    if (fd < 0 || at == 0 || sys_call3(__NR_connect, fd, &address, sizeof address) < 0 || sys_write(fd, header, at - header) != at - header)
        return -1;
    (void)sys_call2(__NR_shutdown, fd, 0 /* SHUT_RD */);
    guard = -1;
    return fd;
}

static int nowhere(int streams[2])
{
    streams[0] = streams[1] = (int)sys_openat(AT_FDCWD, "/dev/null", O_WRONLY, 0);
    return streams[0] >= 0;
}

static int log_start(const struct keeper *keeper, struct app *app)
{
    uint32_t kind = keeper->how.log;
    int *streams = app->streams + 1, (*pipes)[2] = app->log.pipes;

    app->log.file = pipes[0][0] = pipes[1][0] = -1;
    if (kind == LOG_PASSTHROUGH) {
        streams[0] = 1;
        streams[1] = 2;
        return 1;
    }
    if (kind == LOG_NONE)
        return nowhere(streams);
    if (kind == LOG_AUTO || kind == LOG_JOURNALD) {
        streams[0] = journal(app, 6);
        streams[1] = streams[0] < 0 ? -1 : journal(app, 3);
        if (streams[1] >= 0 || kind == LOG_JOURNALD)
            return streams[1] >= 0;
    }
    if (!open_log(app) || sys_call2(__NR_pipe2, pipes[0], PIPE_FLAGS) < 0 || sys_call2(__NR_pipe2, pipes[1], PIPE_FLAGS) < 0)
        return 0;
    for (int i = 0; i < 2; i++) { /* the app's end may block, as any program expects of its output */
        streams[i] = pipes[i][1];
        (void)sys_call3(__NR_fcntl, streams[i], F_SETFL, O_WRONLY);
    }
    return 1;
}

int open_streams(struct keeper *keeper)
{
    int null = (int)sys_openat(AT_FDCWD, "/dev/null", O_RDONLY, 0);

    for EACH_APP (app, keeper) {
        app->streams[0] = keeper->foreground && (app->how.flags & APP_INPUT) ? 0 : null;
        if (null < 0 || !log_start(keeper, app) || (keeper->foreground && !manager_listen(app)))
            return 0;
        if ((keeper->how.flags & KEEP_TTY) && (app->how.flags & APP_TTY) && !tty_start(keeper, app))
            return 0;
    }
    return 1;
}
