/* tmpcopyup: what the image has at a mount point becomes the first content of the tmpfs that is mounted there.
 *
 * The target is a detached mount that nobody else can reach; the source is the image's and read without following links. */
#include "oci_ops.h"

#define DEPTH 64
#define KIND(st) ((st)->st_mode & S_IFMT)

struct dirent64 {
    uint64_t ino;
    int64_t off;
    unsigned short length;
    unsigned char type;
    char name[];
};

static long copy_directory(int from, int to, int depth);

static long copy_file(int from, int to, const char *name)
{
    OWNED_FD in = (int)sys_openat(from, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0), out = -1;
    long n = in;

    if (in >= 0)
        n = out = (int)sys_openat(to, name, O_WRONLY | O_CREAT | O_EXCL, 0600);
    while (n >= 0 && (n = sys_call4(__NR_sendfile, out, in, 0, 0x7ffff000)) > 0)
        ;
    return n;
}

static long copy_link(int from, int to, const char *name)
{
    char text[PATH_SIZE];
    long n = sys_call4(__NR_readlinkat, from, name, text, sizeof text - 1);

    if (n < 0)
        return n;
    text[n] = '\0';
    return sys_call3(__NR_symlinkat, text, to, name);
}

static long copy_below(int from, int to, const char *name, int depth)
{
    OWNED_FD in = -1, out = -1;
    long r = sys_call3(__NR_mkdirat, to, name, 0700);

    if (r < 0)
        return r;
    in = (int)sys_openat(from, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
    out = (int)sys_openat(to, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
    return in < 0 ? in : out < 0 ? out : copy_directory(in, out, depth + 1);
}

static long copy_owner(const struct stat *st, int to, const char *name)
{
    const uint64_t times[4] = {st->st_atime, st->st_atime_nsec, st->st_mtime, st->st_mtime_nsec};
    long r = sys_call5(__NR_fchownat, to, name, st->st_uid, st->st_gid, AT_SYMLINK_NOFOLLOW);

    if (r == 0 && KIND(st) != S_IFLNK) /* made right here: no link */
        r = sys_call3(__NR_fchmodat, to, name, st->st_mode & 07777);
    return r < 0 ? r : sys_call4(__NR_utimensat, to, name, times, AT_SYMLINK_NOFOLLOW);
}

static long copy_entry(int from, int to, const char *name, int depth)
{
    struct stat st;
    long r = sys_call4(__NR_newfstatat, from, name, &st, AT_SYMLINK_NOFOLLOW);

    if (r < 0)
        return r;
    if (KIND(&st) == S_IFDIR)
        r = depth + 1 == DEPTH ? -ENAMETOOLONG : copy_below(from, to, name, depth);
    else if (KIND(&st) == S_IFREG)
        r = copy_file(from, to, name);
    else if (KIND(&st) == S_IFLNK)
        r = copy_link(from, to, name);
    else
        r = sys_call4(__NR_mknodat, to, name, st.st_mode, st.st_rdev);
    return r < 0 ? r : copy_owner(&st, to, name);
}

static long copy_directory(int from, int to, int depth)
{
    static char buffers[DEPTH][2048] __attribute__((aligned(PAGE_SIZE)));
    long n, r = 0;

    while (r == 0 && (n = sys_call3(__NR_getdents64, from, buffers[depth], sizeof buffers[depth])) != 0) {
        if (n < 0)
            return n;
        for (long at = 0; r == 0 && at < n;) {
            const struct dirent64 *entry = (const void *)(buffers[depth] + at);

            at += entry->length;
            if (!str_eq(entry->name, ".") && !str_eq(entry->name, ".."))
                r = copy_entry(from, to, entry->name, depth);
        }
    }
    return r;
}

long copy_up(int from, int to)
{
    char path[32];
    struct stat st;
    long r = sys_fstat(from, &st);

    fd_path(path, to);
    if (r == 0)
        r = copy_directory(from, to, 0);
    if (r == 0)
        r = sys_call5(__NR_fchownat, to, "", st.st_uid, st.st_gid, AT_EMPTY_PATH);
    return r < 0 ? r : sys_call3(__NR_fchmodat, AT_FDCWD, path, st.st_mode & 07777);
}
