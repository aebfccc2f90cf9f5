/* Owner, mode, times and extended attributes of what was just created, by descriptor. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "tree.h"

int tree_fault(struct tree *tree, struct tar *t, struct untar_fault_info *f, int code, int64_t a)
{
    const struct untar_member *m = tar_member(t);

    (void)tree;
    return untar_fault(f, code, a, m->path, m->path_size);
}

int tree_system_fault(struct tree *tree, struct tar *t, struct untar_fault_info *f)
{
    f->error = errno;
    return tree_fault(tree, t, f, FAULT_SYSTEM, 0);
}

static int keeps(const struct tree *tree, const char *name)
{
    if (strncmp(name, "user.", 5) == 0) /* overlay's and the host's own labels are never applied (B08, B09) */
        return strncmp(name, "user.overlay.", 13) != 0;
    return strcmp(name, "security.capability") == 0 && !(tree->flags & TREE_NO_CAPS);
}

static int set_attributes(struct tree *tree, struct tar *t, int fd, struct untar_fault_info *f)
{
    const struct untar_member *m = tar_member(t);

    for (size_t i = 0; i < m->xattrs; i++) {
        size_t name_size, size;
        const char *value, *name = tar_xattr(t, i, &name_size, &value, &size);

        if (strlen(name) != name_size)
            return tree_fault(tree, t, f, FAULT_XATTR_NAME, 0);
        if (keeps(tree, name) && fsetxattr(fd, name, value, size, 0) < 0)
            return tree_system_fault(tree, t, f);
    }
    return UNTAR_DONE;
}

void times_of(int64_t mtime, struct timespec times[2])
{
    times[0].tv_sec = mtime / 1000000000 - (mtime % 1000000000 < 0);
    times[0].tv_nsec = mtime % 1000000000 + (mtime % 1000000000 < 0 ? 1000000000 : 0);
    times[1] = times[0];
}

int foreign(const struct tree *tree, const struct untar_member *m)
{
    return !(tree->flags & TREE_ONE_OWNER) && ((uid_t)m->uid != tree->uid || (gid_t)m->gid != tree->gid);
}

/* As chown(2) takes it: -1 leaves the owner that there is. */
uid_t owner_of(const struct tree *tree, int64_t id)
{
    return tree->flags & TREE_ONE_OWNER ? (uid_t)-1 : (uid_t)id;
}

int skips(const struct tree *tree, struct tar *t)
{
    const struct untar_member *m = tar_member(t);

    return (tree->flags & TREE_SKIP_NODES) && (m->kind == '3' || m->kind == '4');
}

int stamp(struct tree *tree, struct tar *t, int fd, int owned, struct untar_fault_info *f)
{
    const struct untar_member *m = tar_member(t);
    struct timespec times[2];
    int private = tree->flags & TREE_PRIVATE;

    if (!private && (owned || foreign(tree, m)) && fchown(fd, owner_of(tree, m->uid), owner_of(tree, m->gid)) < 0)
        return tree_system_fault(tree, t, f);
    /* while the mode still lets the owner write, which user.* needs */
    if (!private && m->xattrs > 0 && set_attributes(tree, t, fd, f) != UNTAR_DONE)
        return UNTAR_BAD;
    if (!private && fchmod(fd, m->mode) < 0)
        return tree_system_fault(tree, t, f);
    times_of(m->mtime, times);
    if (m->kind != '5' && futimens(fd, times) < 0)
        return tree_system_fault(tree, t, f);
    return UNTAR_DONE;
}
