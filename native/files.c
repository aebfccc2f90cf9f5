/* Files of a pod's directory: written whole, removed with all below. */
#include "files.h"

#define DEPTH 64 /* what is deeper goes on from the top */

struct dirent64 {
    uint64_t ino;
    int64_t off;
    unsigned short length;
    unsigned char type;
    char name[];
};

long write_file(int dir, const char *path, int flags, unsigned mode, const char *text, size_t size)
{
    long fd = sys_openat(dir, path, O_WRONLY | O_NOFOLLOW | flags, mode);
    long n;

    if (fd < 0)
        return fd;
    while (size > 0) {
        n = sys_write(fd, text, size);
        if (n == -EINTR)
            continue;
        if (n <= 0) {
            sys_close(fd);
            return n < 0 ? n : -EIO;
        }
        text += n;
        size -= (size_t)n;
    }
    sys_close(fd);
    return 0;
}

long replace_file(int dir, const char *name, const char *text, size_t size, int safe)
{
    char other[64];
    long r;

    if (str_add(str_add(other, other + sizeof other, name), other + sizeof other, ".new") == 0)
        return -ENAMETOOLONG;
    r = write_file(dir, other, O_CREAT | O_TRUNC, 0600, text, size);
    if (r == 0 && safe) {
        OWNED_FD fd = (int)sys_openat(dir, other, O_RDONLY | O_NOFOLLOW, 0);

        r = fd < 0 ? fd : sys_call1(__NR_fsync, fd);
    }
    if (r == 0)
        r = sys_call4(__NR_renameat, dir, other, dir, name);
    if (r == 0 && safe)
        r = sys_call1(__NR_fsync, dir);
    return r;
}

static struct {
    int dir;
    uint64_t moved;
} top;

static int remove_entry(int dir, const struct dirent64 *entry, uint64_t device, int depth);

/* Empties the directory `dir`, whose device is `device`: mounts are never crossed.  Descriptors are the stack. */
static int empty_directory(int dir, uint64_t device, int depth)
{
    static char buffers[DEPTH][2048] __attribute__((aligned(PAGE_SIZE)));
    int failed = 0, removed = 0;
    long n;

    while ((n = sys_call3(__NR_getdents64, dir, buffers[depth], sizeof buffers[depth])) != 0) {
        if (n < 0)
            return 0;
        for (long at = 0; at < n;) {
            const struct dirent64 *entry = (const void *)(buffers[depth] + at);

            at += entry->length;
            if (str_eq(entry->name, ".") || str_eq(entry->name, ".."))
                continue;
            if (remove_entry(dir, entry, device, depth))
                removed++;
            else
                failed++;
        }
        if (removed > 0 && failed == 0 && sys_call3(__NR_lseek, dir, 0, 0) < 0) /* names move while some are removed */
            return 0;
        removed = 0;
    }
    return failed == 0;
}

static int remove_entry(int dir, const struct dirent64 *entry, uint64_t device, int depth)
{
    OWNED_FD child = -1;
    char name[32];
    struct stat st;

    if (entry->type != 4 /* DT_DIR */)
        return sys_call3(__NR_unlinkat, dir, entry->name, 0) == 0;
    if (sys_call0(__NR_geteuid) != 0) /* its owner is kept out by its mode: overlayfs makes work/work with none at all */
        (void)sys_call3(__NR_fchmodat, dir, entry->name, 0700);
    if (depth + 1 == DEPTH) {
        (void)str_add_number(str_add(name, name + sizeof name, "deep-"), name + sizeof name, top.moved++);
        return sys_call4(__NR_renameat, dir, entry->name, top.dir, name) == 0;
    }
    child = (int)sys_openat(dir, entry->name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
    if (child < 0 || sys_fstat(child, &st) < 0 || st.st_dev != device)
        return 0;
    (void)empty_directory(child, device, depth + 1); /* but for the files of a cgroup, which go with it */
    return sys_call3(__NR_unlinkat, dir, entry->name, AT_REMOVEDIR) == 0;
}

int remove_below(int dir)
{
    struct stat st;

    top.dir = dir;
    return sys_fstat(dir, &st) == 0 && empty_directory(dir, st.st_dev, 0);
}
