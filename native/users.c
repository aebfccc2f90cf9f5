/* Brings a user's command to where Python would bring it first: it becomes root of a user namespace (pyrun.engine.userns).
 *
 * The file `users` in the state directory says how that was mapped the last time, and how the files were then that decide it:
 *
 *     UID GID | words of newuidmap(1) | words of newgidmap(1) | its path, "": there is one id | path of the other | /etc/subuid | /etc/subgid
 *
 * a line each.  A child makes the namespace and waits, this process has it mapped and goes there last, so that whatever fails before
 * has changed nothing, and is Python's to do and to explain. */
#include "fast.h"
#include "files.h"
#include "handover.h"

#define LONGEST 16384
#define WORDS 256

enum { IDS, UIDS, GIDS, UID_TOOL, GID_TOOL, SUBUID, SUBGID, LINES };

struct users {
    char text[LONGEST];
    char *line[LINES];
};

static int read_record(struct users *users, const char *root)
{
    char path[PATH_SIZE];
    OWNED_FD file = join(path, root, "/users", "") == 0 ? -1 : (int)sys_openat(AT_FDCWD, path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0);
    struct stat st;
    const long n = file < 0 ? file : sys_read(file, users->text, sizeof users->text);
    int lines = 0;

    if (n <= 0 || n == (long)sizeof users->text || sys_fstat(file, &st) < 0 || st.st_uid != (uint32_t)sys_call0(__NR_geteuid) ||
        (st.st_mode & 022) != 0)
        return 0;
    for (char *at = users->text, *start = at; at < users->text + n && lines < LINES; at++)
        if (*at == '\n') {
            *at = '\0';
            users->line[lines++] = start;
            start = at + 1;
        }
    return lines == LINES;
}

/* Whether the file that gives out ids is as it was. */
static int is_as_it_was(const char *path, const char *then)
{
    char now[128], *at = now;
    const char *end = now + sizeof now;
    struct stat st;

    if (sys_call4(__NR_newfstatat, AT_FDCWD, path, &st, 0) < 0)
        return str_eq(then, "-");
    at = str_add(str_add_number(at, end, st.st_dev), end, " ");
    at = str_add(str_add_number(at, end, st.st_ino), end, " ");
    at = str_add(str_add_number(at, end, (uint64_t)st.st_size), end, " ");
    at = str_add(str_add_number(at, end, st.st_mtime * 1000000000 + st.st_mtime_nsec), end, " ");
    at = str_add_number(at, end, st.st_ctime * 1000000000 + st.st_ctime_nsec);
    return at != 0 && str_eq(then, now);
}

static int is_theirs(const char *ids)
{
    char now[48];
    const char *end = now + sizeof now;

    if (sys_call0(__NR_getuid) != sys_call0(__NR_geteuid) || sys_call0(__NR_getgid) != sys_call0(__NR_getegid))
        return 0;
    return str_add_number(str_add(str_add_number(now, end, (uint64_t)sys_call0(__NR_geteuid)), end, " "), end,
                          (uint64_t)sys_call0(__NR_getegid)) != 0 &&
           str_eq(ids, now);
}

static long write_self(const char *path, const char *text)
{
    return write_file(AT_FDCWD, path, 0, 0, text, str_len(text));
}

/* In the child: the namespace lasts until somebody has gone there, or this process would be the last to have it. */
static void hold(const struct users *users, int told, int held)
{
    long r = sys_call1(__NR_unshare, CLONE_NEWUSER);
    char word = '+';

    if (r == 0 && users->line[UID_TOOL][0] == '\0')
        r = write_self("/proc/self/setgroups", "deny") < 0 || write_self("/proc/self/uid_map", users->line[UIDS]) < 0 ||
            write_self("/proc/self/gid_map", users->line[GIDS]) < 0;
    if (r != 0)
        word = '-';
    if (sys_write(told, &word, 1) == 1)
        (void)sys_read(held, &word, 1); /* until this is closed, by whatever end of that process */
    sys_exit(0);
}

static long wait_for(long child)
{
    int status = -1;
    long r;

    do
        r = sys_call4(__NR_wait4, child, &status, 0, 0);
    while (r == -EINTR);
    return r == child ? status : -1;
}

/* newuidmap(1) or newgidmap(1): whether it ended well.  It says nothing here; Python has it say what is wrong. */
static int map(char *tool, char *pid, char *words)
{
    char *argv[WORDS + 1] = {tool, pid}, *none = 0;
    const long child = sys_call5(__NR_clone, SIGCHLD, 0, 0, 0, 0);
    int count = 2;

    if (child != 0)
        return child > 0 && wait_for(child) == 0;
    for (char *at = words; *at != '\0' && count < WORDS; at++) {
        argv[count++] = at;
        while (*at != ' ' && *at != '\0')
            at++;
        if (*at == '\0')
            break;
        *at = '\0';
    }
    for (int fd = (int)sys_openat(AT_FDCWD, "/dev/null", O_RDWR, 0), i = 0; i < 3; i++)
        (void)sys_call3(__NR_dup3, fd, i, 0);
    if (count < WORDS)
        (void)sys_call3(__NR_execve, tool, argv, &none);
    sys_exit(127);
}

static int go_to(struct users *users, long child)
{
    char pid[24], path[64];
    OWNED_FD there = -1;

    (void)str_add_number(pid, pid + sizeof pid, (uint64_t)child);
    if (users->line[UID_TOOL][0] != '\0' && !(map(users->line[UID_TOOL], pid, users->line[UIDS]) && map(users->line[GID_TOOL], pid, users->line[GIDS])))
        return 0;
    (void)str_add(str_add(str_add(path, path + sizeof path, "/proc/"), path + sizeof path, pid), path + sizeof path, "/ns/user");
    there = (int)sys_openat(AT_FDCWD, path, O_RDONLY, 0);
    return there >= 0 && sys_call2(__NR_setns, there, CLONE_NEWUSER) == 0;
}

int become_users_root(const char *root)
{
    static struct users users;
    int told[2], held[2], there = 0;
    char word = '-';
    long child;

    if (sys_call0(__NR_geteuid) == 0 || !read_record(&users, root) || !is_theirs(users.line[IDS]) || !is_as_it_was("/etc/subuid", users.line[SUBUID]) ||
        !is_as_it_was("/etc/subgid", users.line[SUBGID]) || sys_call2(__NR_pipe2, told, O_CLOEXEC) < 0)
        return 0;
    if (sys_call2(__NR_pipe2, held, O_CLOEXEC) < 0) {
        sys_close(told[1]);
    } else {
        child = sys_call5(__NR_clone, SIGCHLD, 0, 0, 0, 0);
        if (child == 0) {
            sys_close(held[1]);
            hold(&users, told[1], held[0]);
        }
        sys_close(told[1]);
        there = child > 0 && sys_read(told[0], &word, 1) == 1 && word == '+' && go_to(&users, child);
        sys_close(held[0]);
        sys_close(held[1]);
        if (child > 0)
            (void)wait_for(child);
    }
    sys_close(told[0]);
    return there;
}
