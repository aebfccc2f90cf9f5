/* Paths beneath the new root.
 *
 * Nothing outside may be reached however the image arranges its symbolic links, so every path is
 * resolved by the kernel with RESOLVE_IN_ROOT against a held descriptor (openat2(2)), and used as a
 * descriptor afterwards: there is no second look-up that a link could bend. */
#include "helper.h"

#define RESOLVE_ROOTED (RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)

static long open_how(int dir, const char *path, uint64_t flags, uint64_t resolve)
{
    struct open_how how = {.flags = flags | O_CLOEXEC, .resolve = resolve};

    return sys_call4(__NR_openat2, dir, path, &how, sizeof how);
}

/* With nofollow no component may be a symbolic link (ELOOP): for mount points that are the runtime's own. */
long open_in_root(const struct context *ctx, const char *path, uint64_t flags, int nofollow)
{
    return open_how(ctx->root, path, flags, RESOLVE_ROOTED | (nofollow ? (uint64_t)RESOLVE_NO_SYMLINKS : 0));
}

void fd_path(char path[32], int fd)
{
    char *at = str_add(path, path + 32, "/proc/self/fd/");

    (void)str_add_number(at, path + 32, (uint64_t)fd);
}

/* O_PATH descriptor of a directory that is made there (0755 root). */
long make_beneath(int dir, const char *name)
{
    long r = sys_call3(__NR_mkdirat, dir, name, 0755);

    return r < 0 ? r : open_how(dir, name, O_PATH | O_DIRECTORY | O_NOFOLLOW, RESOLVE_BENEATH);
}

/* O_PATH descriptor of an in-root directory, made with its parents (0755 root) where missing. */
long make_in_root(const struct context *ctx, const char *path, int nofollow)
{
    char prefix[4096];
    size_t length = str_len(path), i, start = 0;
    long dir = open_in_root(ctx, path, O_PATH | O_DIRECTORY, nofollow);

    if (dir != -ENOENT)
        return dir;
    if (length >= sizeof prefix)
        return -ENAMETOOLONG;
    dir = open_in_root(ctx, "/", O_PATH | O_DIRECTORY, 0);
    for (i = 0; dir >= 0 && i <= length; i++) {
        prefix[i] = path[i];
        if (path[i] != '/' && path[i] != '\0')
            continue;
        prefix[i] = '\0';
        if (i > start) { /* one more component: prefix is rooted, prefix + start is its last name */
            long next = open_in_root(ctx, prefix, O_PATH | O_DIRECTORY, nofollow);

            if (next == -ENOENT)
                next = make_beneath((int)dir, prefix + start);
            sys_close(dir);
            dir = next;
        }
        prefix[i] = '/';
        start = i + 1;
    }
    return dir;
}

/* The directory of the path before: what fills /dev names it a dozen times.  No descriptor is 0: that is the app's input. */
static struct {
    char path[256];
    int fd, nofollow;
} last;

void forget_parent(void)
{
    last.path[0] = '\0';
    if (last.fd > 0)
        sys_close(last.fd);
    last.fd = 0;
}

/* Whether an in-root path without links leads beneath the directory that was used last. */
int is_beneath_last(const char *path)
{
    const char *prefix = last.path;

    while (*prefix != '\0' && *prefix == *path) {
        prefix++;
        path++;
    }
    return prefix > last.path && *prefix == '\0' && *path != '\0';
}

/* Descriptor of the directory that holds an in-root path, with PARENT_MAKE made where missing; *name is the last component.
 * It stays this file's own, until the next call. */
long parent_in_root(const struct context *ctx, const char *path, unsigned how, const char **name)
{
    const int nofollow = (how & PARENT_NOFOLLOW) != 0;
    char parent[PATH_SIZE];
    size_t length = str_len(path), slash = length;

    while (slash > 0 && path[slash - 1] != '/')
        slash--;
    *name = path + slash;
    if (slash >= sizeof parent)
        return -ENAMETOOLONG;
    if (**name == '\0' || str_eq(*name, ".") || str_eq(*name, ".."))
        return -EINVAL;
    memcpy(parent, path, slash);
    parent[slash] = '\0';
    if (slash == 0)
        (void)str_add(parent, parent + 2, "/");
    if (last.fd > 0 && last.nofollow == nofollow && str_eq(last.path, parent))
        return last.fd;
    forget_parent();
    last.fd = (int)(how & PARENT_MAKE ? make_in_root(ctx, parent, nofollow) : open_in_root(ctx, parent, O_PATH | O_DIRECTORY, nofollow));
    last.nofollow = nofollow;
    if (last.fd > 0 && slash < sizeof last.path)
        memcpy(last.path, parent, slash + 1);
    return last.fd;
}
