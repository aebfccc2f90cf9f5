/* Which pod a command line of `run-prepared` means, as pyrun.cli.references and pyrun.pod.names have it.
 *
 * A pod is named by its UUID, its name, or the beginning of a UUID, in a word or in a file of --uuid-file-save. */
#include <linux/poll.h>

#include "fast.h"
#include "prepared.h"
#include "recipe.h"
#include "refuse.h"
#include "say.h"

#define MOST_FOUND 65536
#define LONGEST_REFERENCE 256

int is_uuid(const char *text)
{
    size_t n = 0;

    for (; text[n] != '\0'; n++) {
        const int dash = n == 8 || n == 13 || n == 18 || n == 23;

        if (dash ? text[n] != '-' : !((text[n] >= '0' && text[n] <= '9') || (text[n] >= 'a' && text[n] <= 'f')))
            return 0;
    }
    return n == UUID_LENGTH;
}

static int wrong_file(const char *path, const char *why)
{
    refuse_usage("option --uuid-file", path, why, "name a file that --uuid-file-save wrote", "");
    return 0;
}

/* A fifo with a name that nobody has begun to write to is not waited for without end; what a shell makes of <(...) has a writer. */
static int has_writer(int fd)
{
    const struct __kernel_timespec patience = {10, 0};
    struct pollfd come = {fd, POLLIN, 0};
    char path[64], link[8];
    struct stat st;
    const long flags = sys_call3(__NR_fcntl, fd, F_GETFL, 0);

    (void)str_add_number(str_add(path, path + sizeof path, "/proc/self/fd/"), path + sizeof path, (uint64_t)fd);
    if (sys_fstat(fd, &st) == 0 && (st.st_mode & S_IFMT) == S_IFIFO &&
        !(sys_call4(__NR_readlinkat, AT_FDCWD, path, link, sizeof link) >= 5 && memcmp(link, "pipe:", 5) == 0) &&
        sys_call5(__NR_ppoll, &come, 1, &patience, 0, 8) == 0)
        return 0;
    (void)sys_call3(__NR_fcntl, fd, F_SETFL, flags & ~O_NONBLOCK);
    return 1;
}

static int is_blank(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r') || (c >= 0x1c && c <= 0x1f);
}

/* What a file says, without what is blank around it. */
static int read_file(const char *path, char text[4 * LONGEST_REFERENCE + 1])
{
    OWNED_FD fd = (int)sys_openat(AT_FDCWD, path, O_RDONLY | O_NONBLOCK | O_NOCTTY, 0);
    char data[LONGEST_REFERENCE], *start = data, *end = data;
    struct say to = {text, text + 4 * LONGEST_REFERENCE + 1};
    long n = fd;

    if (fd >= 0 && !has_writer(fd)) {
        refuse_usage("read", path, "a fifo that nobody has written to for 10 seconds", "name a file with content", "");
        return 0;
    }
    while (fd >= 0 && end < data + sizeof data && ((n = sys_read(fd, end, data + sizeof data - end)) > 0 || n == -EINTR))
        end += n > 0 ? n : 0;
    if (n < 0)
        return wrong_file(path, errno_text(n));
    for (const char *at = data; at < end; at++)
        if ((unsigned char)*at >= 0x80)
            return wrong_file(path, "not a UUID");
    while (end > start && is_blank(end[-1]))
        end--;
    while (start < end && is_blank(*start))
        start++;
    if (start == end)
        return wrong_file(path, "is empty");
    for (; start < end; start++) { /* else what comes before a NUL would be a reference */
        char letter[] = {*start, '\0'};

        say_text(&to, *start == '\0' ? "\\x00" : letter);
    }
    return 1;
}

/* The one pod that is meant, as references() of pyrun.cli.references has it. */
int choose(struct asked *asked)
{
    static char text[4 * LONGEST_REFERENCE + 1];
    const unsigned count = asked->references + asked->files;

    for (unsigned i = 0; i < asked->files && i < MOST_FILES; i++) {
        if (!read_file(asked->file[i], text))
            return 0;
        asked->reference = text;
    }
    if (count == 0)
        refuse_usage("run-prepared", "", "needs a POD", "name it by UUID, the beginning of one, its name, or --uuid-file", "");
    else if (count > 1)
        refuse_usage("run-prepared", "", "takes one pod", "`pyrun run-prepared --help` shows how", "");
    return count == 1;
}

int stands(int pods, const char *phase, const char *uuid)
{
    char path[64];

    (void)str_add(str_add(path, path + sizeof path, phase), path + sizeof path, uuid);
    return sys_call4(__NR_faccessat2, pods, path, 0, AT_SYMLINK_NOFOLLOW) == 0;
}

static int by_name(int pods, const char *name, char uuid[UUID_LENGTH + 1])
{
    char path[LONGEST_REFERENCE + 8], target[UUID_LENGTH + 2];
    long n;

    for (const char *c = name; *c != '\0'; c++)
        if (*c == '/')
            return 0;
    if (name[0] == '.' || str_add(str_add(path, path + sizeof path, "names/"), path + sizeof path, name) == 0)
        return 0;
    n = sys_call4(__NR_readlinkat, pods, path, target, sizeof target);
    target[n == UUID_LENGTH ? n : 0] = '\0';
    if (!is_uuid(target) || !(stands(pods, "prepared/", target) || stands(pods, "running/", target) || stands(pods, "exited/", target)))
        return 0;
    memcpy(uuid, target, UUID_LENGTH + 1);
    return 1;
}

/* UUIDs that begin so: how many there are, and the first ones in order.  A pod that moves on is seen twice. */
struct found {
    unsigned count;
    size_t room;
    char (*uuid)[UUID_LENGTH + 1];
};

static void keep(struct found *found, const char *uuid)
{
    unsigned at = 0, end = found->count;

    while (at < end) {
        const unsigned half = (at + end) / 2;

        if (memcmp(found->uuid[half], uuid, UUID_LENGTH) < 0)
            at = half + 1;
        else
            end = half;
    }
    if ((at < found->count && str_eq(found->uuid[at], uuid)) || found->count == found->room)
        return;
    memmove(found->uuid[at + 1], found->uuid[at], (found->count++ - at) * sizeof *found->uuid);
    memcpy(found->uuid[at], uuid, UUID_LENGTH + 1);
}

static void look_in(int pods, const char *phase, const char *start, struct found *found)
{
    OWNED_FD dir = (int)sys_openat(pods, phase, O_RDONLY | O_DIRECTORY, 0);
    char buffer[32768] __attribute__((aligned(8)));
    const size_t size = str_len(start);
    long n = 0;

    while (dir >= 0 && (n = sys_call3(__NR_getdents64, dir, buffer, sizeof buffer)) > 0)
        for (long at = 0; at < n; at += *(unsigned short *)(buffer + at + 16)) {
            const char *name = buffer + at + 19; /* struct linux_dirent64: 8 + 8 + 2 + 1 bytes before the name */

            if (is_uuid(name) && memcmp(name, start, size) == 0)
                keep(found, name);
        }
}

static int by_beginning(int pods, const char *start, struct found *found)
{
    static const char phases[][12] = {"prepared", "running", "exited"};
    static char room[MOST_FOUND + 1][UUID_LENGTH + 1];

    *found = (struct found){0, MOST_FOUND, room};
    for (const char *c = start; *c != '\0'; c++)
        if (!((*c >= '0' && *c <= '9') || (*c >= 'a' && *c <= 'f') || *c == '-'))
            return 0;
    for (size_t i = 0; i < sizeof phases / sizeof *phases && start[0] != '\0' && str_len(start) < UUID_LENGTH; i++)
        look_in(pods, phases[i], start, found);
    return found->count == 1;
}

static void refuse_several(const char *reference, const struct found *found)
{
    char why[256];
    struct say to = {why, why + sizeof why};

    say_number(&to, found->count);
    say_text(&to, " pods begin so: ");
    for (unsigned i = 0; i < found->count && i < 4; i++) {
        found->uuid[i][13] = '\0';
        say_text(&to, i > 0 ? ", " : "");
        say_text(&to, found->uuid[i]);
    }
    refuse("find pod", reference, why, "write more of the UUID", "");
}

void refuse_none(const char *reference)
{
    refuse("find pod", reference, "there is none of that name", "see `pyrun list`", "");
}

int find_pod(int pods, const char *reference, char uuid[UUID_LENGTH + 1])
{
    char lower[LONGEST_REFERENCE + UUID_LENGTH];
    struct found found;
    size_t n = 0;

    for (; reference[n] != '\0'; n++) {
        if (n == LONGEST_REFERENCE) {
            refuse_none(reference);
            return 0;
        }
        lower[n] = (char)(reference[n] + (reference[n] >= 'A' && reference[n] <= 'Z' ? 'a' - 'A' : 0));
    }
    lower[n] = uuid[0] = '\0';
    if (!is_uuid(lower) && by_name(pods, reference, uuid))
        return 1;
    if (!is_uuid(lower) && !by_beginning(pods, lower, &found)) {
        if (found.count > 1)
            refuse_several(reference, &found);
        else
            refuse_none(reference);
        return 0;
    }
    if (!is_uuid(lower))
        memcpy(lower, found.uuid[0], UUID_LENGTH + 1);
    memcpy(uuid, lower, UUID_LENGTH + 1);
    return 1;
}
