/* Creates what an archive says beneath one directory, by descriptor only.
 *
 * The kernel, not string handling, keeps writes inside: every parent is opened with openat2(2) RESOLVE_BENEATH and
 * RESOLVE_NO_SYMLINKS, the last component is created with O_EXCL or its equal, and owner, mode, times and extended
 * attributes go to the descriptor of what was just created.  No member can therefore touch a file that the archive did
 * not make, whatever links it plants first. */
#define _GNU_SOURCE
#include "tree.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#define FREE_EVERY (64 << 20)
#define MAX_ID 4294967294LL /* chown(2): (uid_t) -1 leaves an id unchanged */
#define MAX_MAJOR 0xfff
#define MAX_MINOR 0xfffff

/* One function for each kind: DONE, OCCUPIED, BAD, or MORE for a file whose data come next */

static int occupied(struct tree *tree, struct tar *t, struct untar_fault_info *f)
{
    if (!(tree->flags & TREE_REPLACE))
        return tree_fault(tree, t, f, FAULT_TWICE, 0);
    tree_forget(tree); /* some of these may be about to go */
    return UNTAR_OCCUPIED;
}

/* Whether a file is hashed as it is written: not one with holes, which are written as nothing. */
static int digests(const struct tree *tree, const struct tar *t)
{
    return tree->inodes != NULL && !tar_member(t)->sparse;
}

/* Notes what is known of the file that was just written. */
static int note_file(struct tree *tree, struct tar *t, struct untar_fault_info *f)
{
    struct inode *inode;
    struct stat info;

    if (tree->inodes == NULL)
        return UNTAR_DONE;
    if (fstat(tree->file, &info) < 0)
        return tree_system_fault(tree, t, f);
    inode = inodes_at(tree->inodes, info.st_ino);
    if (inode == NULL || (digests(tree, t) && inodes_end(tree->inodes, inode->digest) < 0))
        return tree_fault(tree, t, f, FAULT_MEMORY, 0);
    /* of a file that was there before nothing stays known */
    inode->knows = (digests(tree, t) ? INODE_DIGEST : 0) | (flistxattr(tree->file, NULL, 0) == 0 ? INODE_NO_XATTRS : 0);
    return UNTAR_DONE;
}

static int file(struct tree *tree, struct tar *t, const struct parent *parent, struct untar_fault_info *f)
{
    tree->setgid = parent->setgid;
    tree->file = openat(parent->fd, last_component(tree->at.path), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (tree->file >= 0)
        return digests(tree, t) && inodes_begin(tree->inodes) < 0 ? tree_fault(tree, t, f, FAULT_MEMORY, 0) : UNTAR_MORE;
    return errno == EEXIST ? occupied(tree, t, f) : tree_system_fault(tree, t, f);
}

static int check_free(struct tree *tree, struct tar *t, size_t n, struct untar_fault_info *f)
{
    struct statvfs room;

    tree->written += (int64_t)n;
    if (tree->written < FREE_EVERY)
        return UNTAR_DONE;
    tree->written = 0;
    if (fstatvfs(tree->file, &room) < 0)
        return tree_system_fault(tree, t, f);
    if ((int64_t)(room.f_bavail * room.f_frsize) < tree->free)
        return tree_fault(tree, t, f, FAULT_FREE, tree->free >> 20);
    return UNTAR_DONE;
}

static int write_data(struct tree *tree, struct tar *t, struct untar_fault_info *f)
{
    const char *data;
    int64_t offset;
    size_t n;

    while ((n = tar_data(t, SIZE_MAX, &data, &offset)) > 0) {
        if (check_free(tree, t, n, f) != UNTAR_DONE)
            return UNTAR_BAD;
        if (digests(tree, t) && inodes_add(tree->inodes, data, n) < 0)
            return tree_fault(tree, t, f, FAULT_MEMORY, 0);
        while (n > 0) {
            ssize_t done = pwrite(tree->file, data, n, offset);

            if (done < 0)
                return tree_system_fault(tree, t, f);
            data += done;
            offset += done;
            n -= (size_t)done;
        }
    }
    if (tar_left(t) > 0)
        return UNTAR_MORE;
    if (tar_member(t)->sparse && ftruncate(tree->file, tar_member(t)->size) < 0)
        return tree_system_fault(tree, t, f);
    return stamp(tree, t, tree->file, tree->setgid, f) == UNTAR_DONE ? note_file(tree, t, f) : UNTAR_BAD;
}

static int dress(struct tree *tree, struct tar *t, int fd, struct untar_fault_info *f)
{
    const struct untar_member *m = tar_member(t);
    int unread = 0;

    if (stamp(tree, t, fd, 1, f) != UNTAR_DONE)
        return UNTAR_BAD;
    if ((m->mode & 0700) != 0700 && tree->uid != 0 && !(tree->flags & TREE_PRIVATE)) {
        if (fchmod(fd, m->mode | 0700) < 0)
            return tree_system_fault(tree, t, f);
        unread = 1; /* its final mode would lock us out */
    }
    if (tree_remember_directory(tree, m->mtime, unread ? (int)m->mode : -1) < 0)
        return tree_fault(tree, t, f, FAULT_MEMORY, 0);
    return UNTAR_DONE;
}

static int directory(struct tree *tree, struct tar *t, const struct parent *parent, struct untar_fault_info *f)
{
    const char *name = last_component(tree->at.path);
    struct stat info;
    int fd, implied = tree_unimply(tree, tree->at.path, tree->at.size);

    if (mkdirat(parent->fd, name, 0700) < 0) {
        if (errno != EEXIST || fstatat(parent->fd, name, &info, AT_SYMLINK_NOFOLLOW) < 0)
            return tree_system_fault(tree, t, f);
        /* fine when it is a directory that only its children implied, or when a later member adds to it */
        if (!S_ISDIR(info.st_mode) || (!implied && !(tree->flags & TREE_REPLACE)))
            return occupied(tree, t, f);
    }
    fd = tree_step(parent->fd, name);
    if (fd < 0)
        return tree_system_fault(tree, t, f);
    if (dress(tree, t, fd, f) != UNTAR_DONE) {
        close(fd);
        return UNTAR_BAD;
    }
    return tree_keep(tree, tree->at.path, tree->at.size, fd) == NULL ? tree_fault(tree, t, f, FAULT_MEMORY, 0) : UNTAR_DONE;
}

static int root_directory(struct tree *tree, struct tar *t, struct untar_fault_info *f)
{
    const struct untar_member *m = tar_member(t);

    if (m->kind != '5')
        return tree_fault(tree, t, f, FAULT_ROOT, m->kind);
    if (!tree_unimply(tree, "", 0) && !(tree->flags & TREE_REPLACE))
        return tree_fault(tree, t, f, FAULT_TWICE, 0);
    tree_forget(tree); /* the root's set-group-id bit may change */
    return dress(tree, t, tree->root, f);
}

static int set_link_owner(struct tree *tree, struct tar *t, const struct parent *parent, struct untar_fault_info *f)
{
    const struct untar_member *m = tar_member(t);
    const char *name = last_component(tree->at.path);
    struct timespec times[2];

    if (!(tree->flags & TREE_PRIVATE) && (parent->setgid || foreign(tree, m)) &&
        fchownat(parent->fd, name, owner_of(tree, m->uid), owner_of(tree, m->gid), AT_SYMLINK_NOFOLLOW) < 0)
        return tree_system_fault(tree, t, f);
    times_of(m->mtime, times);
    if (utimensat(parent->fd, name, times, AT_SYMLINK_NOFOLLOW) < 0)
        return tree_system_fault(tree, t, f);
    return UNTAR_DONE;
}

static int symbolic(struct tree *tree, struct tar *t, const struct parent *parent, struct untar_fault_info *f)
{
    if (symlinkat(tar_member(t)->link, parent->fd, last_component(tree->at.path)) < 0)
        return errno == EEXIST ? occupied(tree, t, f) : tree_system_fault(tree, t, f);
    return set_link_owner(tree, t, parent, f);
}

/* The fault of a hard link, whose hint mentions the prefix. */
static int link_fault(struct tree *tree, struct tar *t, struct untar_fault_info *f, int code)
{
    const struct untar_member *m = tar_member(t);

    untar_detail(f, m->link, m->link_size);
    return tree_fault(tree, t, f, code, 0);
}

/* Of a layer the target may be a file of a layer below, which only the caller can know. */
static int link_missing(struct tree *tree, struct tar *t, struct untar_fault_info *f)
{
    return tree->flags & TREE_LAYER ? UNTAR_MEMBER : link_fault(tree, t, f, FAULT_LINK_MISSING);
}

static int make_link(struct tree *tree, struct tar *t, int source, const char *target, struct untar_fault_info *f)
{
    const struct parent *parent;
    struct stat info;

    if (fstatat(source, target, &info, AT_SYMLINK_NOFOLLOW) < 0)
        return errno == ENOENT ? link_missing(tree, t, f) : tree_system_fault(tree, t, f);
    if (!S_ISREG(info.st_mode) && !S_ISLNK(info.st_mode))
        return link_fault(tree, t, f, FAULT_LINK_KIND);
    parent = tree_parent(tree, tree->at.path, parent_size(tree->at.path), f);
    if (parent == NULL)
        return f->code == FAULT_SYSTEM ? tree_fault(tree, t, f, FAULT_SYSTEM, 0) : UNTAR_BAD;
    if (linkat(source, target, parent->fd, last_component(tree->at.path), 0) == 0)
        return UNTAR_DONE;
    return errno == EEXIST ? occupied(tree, t, f) : errno == ENOENT ? link_missing(tree, t, f) : tree_system_fault(tree, t, f);
}

static int hard_link(struct tree *tree, struct tar *t, struct untar_fault_info *f)
{
    const struct untar_member *m = tar_member(t);
    struct place *target = &tree->target;
    int source, r;

    if (clean_name(tree, m->link, m->link_size, target, f) < 0)
        return UNTAR_BAD;
    if (!take_prefix(tree, target) || target->count == 0)
        return link_fault(tree, t, f, FAULT_LINK_OUTSIDE);
    if (target->size == tree->at.size && memcmp(target->path, tree->at.path, target->size) == 0)
        return tree_fault(tree, t, f, FAULT_LINK_ITSELF, 0);
    source = tree_existing(tree, target->path, parent_size(target->path));
    if (source < 0)
        return errno == ENOENT ? link_missing(tree, t, f) : tree_system_fault(tree, t, f);
    r = make_link(tree, t, source, last_component(target->path), f);
    close(source);
    return r;
}

static int check_device(struct tree *tree, struct tar *t, struct untar_fault_info *f)
{
    const struct untar_member *m = tar_member(t);

    if (tree->flags & TREE_NO_NODES)
        return tree_fault(tree, t, f, FAULT_NODE_POLICY, m->kind);
    if (m->devmajor < 0 || m->devmajor > MAX_MAJOR || m->devminor < 0 || m->devminor > MAX_MINOR) {
        f->b = m->devminor;
        return tree_fault(tree, t, f, FAULT_NODE_NUMBER, m->devmajor);
    }
    if (m->kind == '3' && m->devmajor == 0 && m->devminor == 0)
        return tree_fault(tree, t, f, FAULT_NODE_WHITEOUT, 0);
    return UNTAR_DONE;
}

static int node(struct tree *tree, struct tar *t, const struct parent *parent, struct untar_fault_info *f)
{
    const struct untar_member *m = tar_member(t);
    mode_t type = m->kind == '3' ? S_IFCHR : m->kind == '4' ? S_IFBLK : S_IFIFO;
    dev_t device = m->kind == '6' ? 0 : makedev((unsigned)m->devmajor, (unsigned)m->devminor);
    const char *name = last_component(tree->at.path);
    struct timespec times[2];
    char path[32];
    int fd, bad;

    if (m->kind != '6' && check_device(tree, t, f) != UNTAR_DONE)
        return UNTAR_BAD;
    if (mknodat(parent->fd, name, type | 0600, device) < 0)
        return errno == EEXIST ? occupied(tree, t, f) : tree_system_fault(tree, t, f);
    /* Opening a device can wake its driver; O_PATH does not, but only a path accepts its descriptor for chmod. */
    fd = openat(parent->fd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return tree_system_fault(tree, t, f);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    times_of(m->mtime, times);
    bad = chown(path, owner_of(tree, m->uid), owner_of(tree, m->gid)) < 0 || chmod(path, m->mode) < 0 || utimensat(AT_FDCWD, path, times, 0) < 0;
    if (bad)
        tree_system_fault(tree, t, f);
    close(fd);
    return bad ? UNTAR_BAD : UNTAR_DONE;
}

/* Members */

/* Whether the member is for the tree; fills in `at`. */
static int mine(struct tree *tree, struct tar *t, struct untar_fault_info *f)
{
    const struct untar_member *m = tar_member(t);

    if (clean_name(tree, m->path, m->path_size, &tree->at, f) < 0)
        return -1;
    if ((tree->flags & TREE_LAYER) && has_whiteout(tree->at.path))
        return 0;
    return take_prefix(tree, &tree->at) && (tree->prefix[0] == 0 || tree->at.count > 0);
}

static int check(struct tree *tree, struct tar *t, struct untar_fault_info *f)
{
    const struct untar_member *m = tar_member(t);

    if (tree->at.count > tree->depth) {
        f->b = tree->depth;
        return tree_fault(tree, t, f, FAULT_DEPTH, tree->at.count);
    }
    if ((tree->flags & TREE_PRIVATE) && m->kind != '0' && m->kind != '1' && m->kind != '2' && m->kind != '5')
        return tree_fault(tree, t, f, FAULT_PRIVATE_KIND, m->kind);
    if (!(tree->flags & TREE_PRIVATE) && (m->uid < 0 || m->uid > MAX_ID || m->gid < 0 || m->gid > MAX_ID)) {
        f->b = m->gid;
        return tree_fault(tree, t, f, FAULT_OWNER, m->uid);
    }
    return tree_count(tree, m->path, m->path_size, f) < 0 ? UNTAR_BAD : UNTAR_DONE;
}

static int create(struct tree *tree, struct tar *t, struct untar_fault_info *f)
{
    const struct parent *parent;

    if (tree->at.count == 0)
        return root_directory(tree, t, f);
    if (tar_member(t)->kind == '1')
        return tree_parent(tree, tree->at.path, parent_size(tree->at.path), f) == NULL
                   ? (f->code == FAULT_SYSTEM ? tree_fault(tree, t, f, FAULT_SYSTEM, 0) : UNTAR_BAD)
                   : hard_link(tree, t, f);
    parent = tree_parent(tree, tree->at.path, parent_size(tree->at.path), f);
    if (parent == NULL)
        return f->code == FAULT_SYSTEM ? tree_fault(tree, t, f, FAULT_SYSTEM, 0) : UNTAR_BAD;
    switch (tar_member(t)->kind) {
    case '0': return file(tree, t, parent, f);
    case '2': return symbolic(tree, t, parent, f);
    case '5': return directory(tree, t, parent, f);
    default: return skips(tree, t) ? UNTAR_DONE : node(tree, t, parent, f);
    }
}

static int go_on(struct tree *tree, struct tar *t, struct untar_fault_info *f)
{
    int r;

    if (tree->file < 0) {
        r = create(tree, t, f);
        if (r == UNTAR_DONE || r == UNTAR_BAD || r == UNTAR_MEMBER)
            tree->begun = 0;
        if (r != UNTAR_MORE)
            return r;
    }
    r = write_data(tree, t, f);
    if (r != UNTAR_MORE) {
        close(tree->file);
        tree->file = -1;
        tree->begun = 0;
    }
    return r;
}

static int begin(struct tree *tree, struct tar *t, struct untar_fault_info *f)
{
    if (check(tree, t, f) != UNTAR_DONE)
        return UNTAR_BAD;
    tree->begun = 1;
    return go_on(tree, t, f);
}

int tree_add(struct tree *tree, struct tar *t, struct untar_fault_info *f)
{
    const struct untar_member *m = tar_member(t);

    int r;

    if (tree->begun)
        r = go_on(tree, t, f);
    else {
        if (clean_name(tree, m->path, m->path_size, &tree->at, f) < 0)
            return UNTAR_BAD;
        take_prefix(tree, &tree->at);
        r = begin(tree, t, f);
    }
    return r == UNTAR_MORE ? tar_cut(t, f) : r;
}

int tree_pump(struct tree *tree, struct tar *t, struct untar_fault_info *f)
{
    for (;;) {
        int r = UNTAR_DONE;

        if (tree->begun)
            r = go_on(tree, t, f);
        else {
            r = tar_next(t, f);
            if (r == UNTAR_MEMBER) {
                int wanted = mine(tree, t, f);

                if (wanted == 0)
                    return UNTAR_MEMBER;
                r = wanted < 0 ? UNTAR_BAD : begin(tree, t, f);
            }
        }
        if (r == UNTAR_MORE && tree->begun)
            return tar_cut(t, f);
        if (r != UNTAR_DONE)
            return r;
    }
}
