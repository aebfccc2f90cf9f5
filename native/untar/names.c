/* Names of members: their components, what is above them, and whether they are below the prefix. */
#include <string.h>

#include "tree.h"

#define MAX_COMPONENT 255

int path_clean(const char *path, size_t size, char *out, size_t *out_size, struct untar_fault_info *f)
{
    size_t used = 0, start = 0;
    int count = 0;

    if (size > 0 && path[0] == '/')
        return untar_fault(f, FAULT_ABSOLUTE, 0, path, size), -1;
    while (start < size) {
        const char *slash = memchr(path + start, '/', size - start);
        size_t n = slash == NULL ? size - start : (size_t)(slash - path) - start;

        if (n == 2 && memcmp(path + start, "..", 2) == 0)
            return untar_fault(f, FAULT_DOTDOT, 0, path, size), -1;
        if (n > MAX_COMPONENT)
            return untar_fault(f, FAULT_COMPONENT, (int64_t)n, path, size), -1;
        if (n > 0 && !(n == 1 && path[start] == '.')) {
            if (count++ > 0)
                out[used++] = '/';
            memcpy(out + used, path + start, n);
            used += n;
        }
        start += n + 1;
    }
    *out_size = used;
    return count;
}

int clean_name(struct tree *tree, const char *name, size_t size, struct place *p, struct untar_fault_info *f)
{
    if (tree->flags & TREE_LAYER)
        for (; size > 0 && *name == '/'; size--)
            name++;
    p->count = path_clean(name, size, p->path, &p->size, f);
    p->path[p->size * (p->count >= 0)] = 0;
    return p->count;
}

int take_prefix(const struct tree *tree, struct place *p)
{
    size_t n = strlen(tree->prefix);

    if (n == 0)
        return 1;
    if (p->size < n || memcmp(p->path, tree->prefix, n) != 0 || (p->size > n && p->path[n] != '/'))
        return 0;
    n += p->size > n;
    memmove(p->path, p->path + n, p->size - n + 1);
    p->size -= n;
    p->count--;
    return 1;
}

const char *last_component(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash == NULL ? path : slash + 1;
}

size_t parent_size(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash == NULL ? 0 : (size_t)(slash - path);
}

int has_whiteout(const char *path)
{
    return strncmp(path, ".wh.", 4) == 0 || strstr(path, "/.wh.") != NULL;
}
