/* Links of the image that lead to nothing yet, on the way to a mount point. */
#include "oci_ops.h"

long behind_link(const struct context *ctx, char path[PATH_SIZE])
{
    char text[PATH_SIZE], rest[PATH_SIZE], *end = path;
    const char *name;
    long dir, n;

    for (;;) {
        OWNED_FD there = -1;

        while (*end == '/')
            end++;
        while (*end != '/' && *end != '\0')
            end++;
        (void)str_add(rest, rest + sizeof rest, end);
        *end = '\0';
        there = (int)open_in_root(ctx, path, O_PATH, 0);
        if (there == -ENOENT)
            break;
        if (there < 0 || rest[0] == '\0')
            return there < 0 ? there : 0;
        *end = '/';
    }
    dir = parent_in_root(ctx, path, 0, &name);
    n = dir < 0 ? dir : sys_call4(__NR_readlinkat, dir, name, text, sizeof text - 1);
    text[n > 0 ? n : 0] = '\0';
    if (n > 0) {
        while (end > path && end[-1] != '/')
            end--;
        *(text[0] == '/' ? path : end) = '\0';
        end = path;
    }
    if (str_add(str_add(path + str_len(path), path + PATH_SIZE, text), path + PATH_SIZE, rest) == 0)
        return -ENAMETOOLONG;
    return n < 0 && n != -ENOENT && n != -EINVAL ? n : n > 0;
}
