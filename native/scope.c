/* A scope of systemd's for this process, org.freedesktop.systemd1(5), as pyrun.engine.placement has it made.
 *
 *     launcher                                        bus                       systemd
 *       |--- NUL, AUTH EXTERNAL, BEGIN, Hello, ------->|                          |
 *       |    StartTransientUnit                        |--- StartTransientUnit -->|
 *       |<-- OK, and the answer to each ---------------|<-- the job, or an error --|
 *       |                                              |         moves the launcher into its new cgroup
 *
 * The two messages stand in the file `scope` of the pod's directory, as pyrun.plan.dbus wrote them when it was prepared, or in its recipe, behind a
 * uint32_t that says where in them the number of the process goes and, BUS_ROOM bytes, the path of the bus: root's, or that of a user's systemd.  What is read is taken for anybody's: of a message nothing counts but how
 * long it is, its kind and what it answers.  Whatever is not plain, and an error, is the end of it. */
#include <linux/poll.h>

#include "handover.h"
#include "prepared.h"
#include "say.h"

#define BUS_ROOM 108 /* bytes of a socket's path, as unix(7) has it, padded with NUL */
#define PATIENCE 10000000000 /* ns */
#define CALLS 16384          /* bytes */
#define ROOM 65536
#define HEADER 16 /* bytes of a message before its fields: order, kind, flags, version, size of the body, serial, size of the fields */

enum { METHOD_RETURN = 2, ERROR = 3, REPLY_SERIAL = 5, START = 2 /* the call's serial */ };

struct talk {
    int fd;
    uint64_t end;
    size_t size, at; /* what has come, what of it is done with */
    unsigned char data[ROOM];
};

static uint64_t now(void)
{
    struct __kernel_timespec t = {0, 0};

    (void)sys_call2(__NR_clock_gettime, 1 /* CLOCK_MONOTONIC */, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static uint32_t number(const unsigned char *at)
{
    return at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

/* Waits until that many bytes are there that are not done with. */
static int have(struct talk *talk, size_t size)
{
    while (talk->size - talk->at < size) {
        const uint64_t since = now(), left = since < talk->end ? talk->end - since : 0;
        const struct __kernel_timespec wait = {(long)(left / 1000000000), (long)(left % 1000000000)};
        struct pollfd come = {talk->fd, POLLIN, 0};
        long n;

        if (size > ROOM - talk->at || sys_call5(__NR_ppoll, &come, 1, &wait, 0, 8) != 1)
            return 0;
        n = sys_read(talk->fd, talk->data + talk->size, ROOM - talk->size);
        if (n <= 0)
            return 0;
        talk->size += (size_t)n;
    }
    return 1;
}

/* "OK GUID\r\n" */
static int is_let_in(struct talk *talk)
{
    if (!have(talk, 3) || memcmp(talk->data, "OK ", 3) != 0)
        return 0;
    for (talk->at = 3; talk->at < 256 && have(talk, 2); talk->at++)
        if (talk->data[talk->at] == '\r' && talk->data[talk->at + 1] == '\n') {
            talk->at += 2;
            return 1;
        }
    return 0;
}

/* The serial that a message with these fields answers, 0 where it answers none. */
static uint32_t answered(const unsigned char *fields, size_t size)
{
    for (size_t n = 0; n + 8 <= size; n = (n + 7) & ~(size_t)7) {
        const unsigned char *field = fields + n;
        const uint32_t value = number(field + 4); /* of a u; of an s or o the size, without its NUL */

        if (field[1] != 1 || field[3] != 0 || (field[2] != 'u' && field[2] != 's' && field[2] != 'o' && field[2] != 'g'))
            return 0;
        if (field[2] == 'u' && field[0] == REPLY_SERIAL)
            return value;
        n += field[2] == 'g' ? 4 + 2 + (size_t)field[4] : field[2] == 'u' ? 8 : 8 + 1 + (size_t)value;
    }
    return 0;
}

/* What an error says: the first string of its body. */
static void hear(const unsigned char *body, size_t size, struct say *why)
{
    const uint32_t length = size > 4 ? number(body) : 0;
    char letter[] = "?";

    if (length == 0 || length > size - 4)
        return;
    for (uint32_t i = 0; i < length; i++) {
        letter[0] = (char)body[4 + i];
        say_text(why, letter);
    }
}

/* Reads one message: 1 where it is the answer to the call, 0 where it is another one, -1 where it is an error or not plain. */
static int next(struct talk *talk, struct say *why)
{
    const unsigned char *head = talk->data + talk->at;
    uint32_t body, fields;
    size_t before;

    if (!have(talk, HEADER))
        return -1;
    body = number(head + 4);
    fields = number(head + 12);
    if (head[0] != 'l' || head[3] != 1 || fields > ROOM || body > ROOM)
        return -1;
    before = (HEADER + (size_t)fields + 7) & ~(size_t)7;
    if (!have(talk, before + body))
        return -1;
    if (head[1] == ERROR) {
        hear(head + before, body, why);
        return -1;
    }
    talk->at += before + body;
    return head[1] == METHOD_RETURN && answered(head + HEADER, fields) == START;
}

static int connect_to(const char path[BUS_ROOM])
{
    struct { /* struct sockaddr_un of unix(7) */
        unsigned short family;
        char path[BUS_ROOM];
    } where = {.family = 1 /* AF_UNIX */};
    const int fd = (int)sys_call3(__NR_socket, 1, 1 | O_CLOEXEC | O_NONBLOCK /* SOCK_STREAM; a full queue is not waited for */, 0);

    memcpy(where.path, path, BUS_ROOM);
    if (fd < 0 || sys_call3(__NR_connect, fd, &where, sizeof where.family + str_len(path) + 1) == 0)
        return fd;
    sys_close(fd);
    return -1;
}

/* What the other side knows this user by, root of a user namespace too: the second number of uid_map, user_namespaces(7). */
static int read_own_id(char digits[24])
{
    OWNED_FD file = (int)sys_openat(AT_FDCWD, "/proc/self/uid_map", O_RDONLY, 0);
    char text[64], *at = text;
    const long n = file < 0 ? file : sys_read(file, text, sizeof text - 1);
    size_t size = 0;

    text[n > 0 ? n : 0] = '\0';
    for (int words = 0; words < 2; words++) {
        while (*at == ' ')
            at++;
        for (size = 0; *at >= '0' && *at <= '9' && size < 23; at++)
            digits[size++] = *at;
        digits[size] = '\0';
        if (words == 0 && !str_eq(digits, "0"))
            return 0;
    }
    return size > 0;
}

/* EXTERNAL wants the digits in hexadecimal. */
static size_t begin(char *text, const char *end)
{
    char digits[24], pair[] = "30";
    char *at = str_add(text + 1, end, "AUTH EXTERNAL ");

    text[0] = '\0';
    if (!read_own_id(digits))
        return 0;
    for (const char *digit = digits; *digit != '\0'; digit++) {
        pair[1] = *digit;
        at = str_add(at, end, pair);
    }
    at = str_add(at, end, "\r\nBEGIN\r\n");
    return at == 0 ? 0 : (size_t)(at - text);
}

static long read_calls(const struct scope *scope, void *file, size_t size)
{
    OWNED_FD from = -1;

    if (scope->pod < 0) {
        memcpy(file, scope->calls, scope->size < size ? scope->size : size);
        return (long)(scope->size < size ? scope->size : size);
    }
    from = (int)sys_openat(scope->pod, "scope", O_RDONLY | O_NOFOLLOW, 0);
    return from < 0 ? from : sys_read(from, file, size);
}

/* The bus that was asked for the scope, or -1. */
static int ask(const struct scope *scope)
{
    static unsigned char file[sizeof(uint32_t) + BUS_ROOM + CALLS];
    static char text[128 + CALLS];
    OWNED_FD to = -1;
    const unsigned char *bus = file + sizeof(uint32_t), *calls = bus + BUS_ROOM;
    const long n = read_calls(scope, file, sizeof file);
    const uint32_t own = (uint32_t)sys_call0(__NR_getpid);
    const size_t size = n > calls - file ? (size_t)(n - (calls - file)) : 0, first = begin(text, text + 128);

    if (size < sizeof own || n == (long)sizeof file || number(file) > size - sizeof own || bus[BUS_ROOM - 1] != '\0' || first == 0)
        return -1;
    memcpy(text + first, calls, size);
    memcpy(text + first + number(file), &own, sizeof own);
    to = connect_to((const char *)bus);
    if (to < 0 || sys_call6(__NR_sendto, to, text, first + size, 0x4000 /* MSG_NOSIGNAL */, 0, 0) != (long)(first + size))
        return -1;
    return (int)sys_call3(__NR_fcntl, to, F_DUPFD_CLOEXEC, 0);
}

static int is_made(struct talk *talk, const char *name, char path[PATH_SIZE], struct say *why)
{
    static const struct __kernel_timespec step = {0, 1000000};
    int found = 0;

    while (found == 0)
        found = next(talk, why);
    while (found > 0 && now() < talk->end) {
        if (find_cgroup(path) && ends_with(path, name))
            return 1;
        (void)sys_call5(__NR_ppoll, 0, 0, &step, 0, 8);
    }
    if (found > 0)
        refuse("make scope", name + 1, "systemd did not make it in time", "see `systemctl list-jobs`", "");
    return 0;
}

int take_scope(const struct scope *scope, char path[PATH_SIZE])
{
    static struct talk talk;
    static char why[4096];
    char name[64];
    const char *end = name + sizeof name;
    struct say to = {why, why + sizeof why};
    OWNED_FD fd = ask(scope);

    talk.fd = fd;
    talk.end = now() + PATIENCE;
    (void)str_add(str_add(str_add(name, end, "/pyrun-"), end, scope->uuid), end, ".scope");
    if (fd >= 0 && is_let_in(&talk) && is_made(&talk, name, path, &to))
        return 1;
    if (!is_refused())
        refuse("ask systemd for", name + 1, why[0] != '\0' ? why : fd < 0 ? "nobody answers on its bus" : "its answer is none",
               fd < 0 ? "is D-Bus there, and does this user have a systemd of its own (`loginctl enable-linger`)?" : "see `journalctl -b`", "");
    return 0;
}
