/* Lists a tree: one line for each file, as pyrun.images.tree says and writes it too.
 *
 * Everything is asked of the kernel but the digest of what was written, which is known since then.  One directory is open
 * at a time, whatever the depth. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "listing.h"
#include "tree.h"

/* Extended attributes: of what `fd` is, or of what is at the path `at` and no link on the way to elsewhere */

static ssize_t list_xattrs(struct listing *l, int fd, const char *at)
{
    ssize_t n = at == NULL ? flistxattr(fd, l->names, sizeof l->names) : llistxattr(at, l->names, sizeof l->names);

    return n < 0 && (errno == ENOTSUP || errno == EPERM) ? 0 : n;
}

static int is_host_label(const char *name)
{
    return strcmp(name, "security.selinux") == 0 || strcmp(name, "security.ima") == 0 || strcmp(name, "security.evm") == 0;
}

static int by_bytes(const void *one, const void *other)
{
    return strcmp(*(char *const *)one, *(char *const *)other);
}

/* The names in `l->names`, sorted, without those that this host writes; NULL without memory. */
static const char **sorted_names(struct listing *l, size_t size, size_t *count)
{
    const char **names = calloc(size, sizeof *names);

    *count = 0;
    if (names == NULL)
        return NULL;
    for (size_t at = 0; at < size; at += strlen(l->names + at) + 1)
        if (!is_host_label(l->names + at))
            names[(*count)++] = l->names + at;
    if (*count > 1)
        qsort(names, *count, sizeof *names, by_bytes);
    return names;
}

static int put_names(struct listing *l, int fd, const char *at, const char **names, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        ssize_t n = at == NULL ? fgetxattr(fd, names[i], l->value, sizeof l->value)
                               : lgetxattr(at, names[i], l->value, sizeof l->value);

        if (n < 0)
            return listing_broken(l, FAULT_SYSTEM);
        if ((i > 0 && listing_put(l, ",", 1) < 0) || listing_quoted(l, names[i], strlen(names[i])) < 0 || listing_put(l, "=", 1) < 0 ||
            listing_hex(l, (const unsigned char *)l->value, (size_t)n) < 0)
            return -1;
    }
    return 0;
}

static int put_xattrs(struct listing *l, int fd, const char *at)
{
    const char **names;
    size_t count;
    ssize_t size = list_xattrs(l, fd, at);
    int r;

    if (size < 0)
        return listing_broken(l, FAULT_SYSTEM);
    if (size == 0)
        return listing_put(l, " -\n", 3);
    names = sorted_names(l, (size_t)size, &count);
    if (names == NULL)
        return listing_broken(l, FAULT_MEMORY);
    r = count == 0 ? listing_put(l, " -", 2) : listing_put(l, " ", 1);
    if (r == 0)
        r = put_names(l, fd, at, names, count);
    free(names);
    return r < 0 ? -1 : listing_put(l, "\n", 1);
}

/* Lines */

static char letter_of(mode_t mode)
{
    switch (mode & S_IFMT) {
    case S_IFDIR: return 'd';
    case S_IFREG: return 'f';
    case S_IFLNK: return 'l';
    case S_IFCHR: return 'c';
    case S_IFBLK: return 'b';
    case S_IFIFO: return 'p';
    case S_IFSOCK: return 's';
    default: return '?';
    }
}

/* The fields from path to number of links. */
static int put_head(struct listing *l, const struct stat *info)
{
    char text[160], size[48] = "-", links[24] = "-";
    const char *path = l->size == 0 ? "/" : l->path;
    int n;

    if (S_ISREG(info->st_mode))
        snprintf(size, sizeof size, "%lld", (long long)info->st_size);
    else if (S_ISCHR(info->st_mode) || S_ISBLK(info->st_mode))
        snprintf(size, sizeof size, "%u:%u", major(info->st_rdev), minor(info->st_rdev));
    if (!S_ISDIR(info->st_mode))
        snprintf(links, sizeof links, "%llu", (unsigned long long)info->st_nlink);
    n = snprintf(text, sizeof text, " %c %04o %u %u %s %s", letter_of(info->st_mode), (unsigned)info->st_mode & 07777, info->st_uid,
                 info->st_gid, size, links);
    return listing_quoted(l, path, strlen(path)) < 0 ? -1 : listing_put(l, text, (size_t)n);
}

/* The digest of a file that was not hashed while it was written: one with holes. */
static int read_digest(struct listing *l, const char *name, struct inode *inode)
{
    int fd = openat(l->dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC), r;
    ssize_t n;

    if (fd < 0)
        return listing_broken(l, FAULT_SYSTEM);
    r = inodes_begin(l->tree->inodes);
    while ((n = read(fd, l->value, sizeof l->value)) > 0 && r == 0)
        r = inodes_add(l->tree->inodes, l->value, (size_t)n);
    if (n < 0)
        r = listing_broken(l, FAULT_SYSTEM);
    else if (r < 0 || inodes_end(l->tree->inodes, inode->digest) < 0)
        r = listing_broken(l, FAULT_MEMORY);
    else
        inode->knows |= INODE_DIGEST;
    close(fd);
    return r;
}

/* The fields of content, target and first path; of a file with a path before this one the content stands there. */
static int put_body(struct listing *l, const char *name, const struct stat *info, struct inode *inode)
{
    const char *first = inode->first != NULL ? inode->first : "";
    ssize_t n = 0;

    if (S_ISREG(info->st_mode) && *first == 0) {
        if (!(inode->knows & INODE_DIGEST) && read_digest(l, name, inode) < 0)
            return -1;
        if (listing_put(l, " ", 1) < 0 || listing_hex(l, inode->digest, sizeof inode->digest) < 0)
            return -1;
    } else if (listing_put(l, " -", 2) < 0)
        return -1;
    if (S_ISLNK(info->st_mode) && (n = readlinkat(l->dir, name, l->value, sizeof l->value)) < 0)
        return listing_broken(l, FAULT_SYSTEM);
    return listing_field(l, l->value, (size_t)n) < 0 ? -1 : listing_field(l, first, strlen(first));
}

static int put_leaf(struct listing *l, const char *name, const struct stat *info)
{
    struct inode *inode = inodes_at(l->tree->inodes, info->st_ino);
    char at[sizeof "/proc/self/fd/4294967295/" + NAME_MAX];
    int r;

    if (inode == NULL)
        return listing_broken(l, FAULT_MEMORY);
    if (put_head(l, info) < 0 || put_body(l, name, info, inode) < 0)
        return -1;
    if (S_ISREG(info->st_mode) && (inode->knows & INODE_NO_XATTRS))
        r = listing_put(l, " -\n", 3);
    else {
        snprintf(at, sizeof at, "/proc/self/fd/%d/%s", l->dir, name);
        r = put_xattrs(l, -1, at);
    }
    if (r == 0 && info->st_nlink > 1 && inode->first == NULL) {
        inode->first = strdup(l->path);
        if (inode->first == NULL)
            return listing_broken(l, FAULT_MEMORY);
    }
    return r;
}

static int put_directory(struct listing *l, const struct stat *info)
{
    return put_head(l, info) < 0 || listing_put(l, " - - -", 6) < 0 ? -1 : put_xattrs(l, l->dir, NULL);
}

/* The walk */

static int no_dots(const struct dirent *entry)
{
    return strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
}

static int in_bytes(const struct dirent **one, const struct dirent **other)
{
    return strcmp((*one)->d_name, (*other)->d_name);
}

static void leave(struct listing *l)
{
    struct level *level = &l->levels[--l->depth];

    while (level->next < level->count)
        free(level->names[level->next++]);
    free(level->names);
    if (l->dir >= 0)
        close(l->dir);
    l->dir = -1;
}

/* Goes into the directory that is open now, and writes its line. */
static int enter(struct listing *l)
{
    struct level *level;
    struct stat info;

    if (l->depth == l->levels_room) {
        size_t room = l->levels_room > 0 ? l->levels_room * 2 : 16;
        struct level *levels = reallocarray(l->levels, room, sizeof *levels);

        if (levels == NULL)
            return listing_broken(l, FAULT_MEMORY);
        l->levels = levels;
        l->levels_room = room;
    }
    if (fstat(l->dir, &info) < 0)
        return listing_broken(l, FAULT_SYSTEM);
    level = &l->levels[l->depth];
    level->next = 0;
    level->size = l->size;
    level->count = scandirat(l->dir, ".", &level->names, no_dots, in_bytes);
    if (level->count < 0)
        return listing_broken(l, FAULT_SYSTEM);
    l->depth++;
    return put_directory(l, &info);
}

static int go_to(struct listing *l, const char *name)
{
    int fd = tree_step(l->dir, name);

    if (fd < 0)
        return listing_broken(l, FAULT_SYSTEM);
    close(l->dir);
    l->dir = fd;
    return enter(l);
}

/* One entry of the innermost directory. */
static int entry(struct listing *l, const char *name)
{
    struct stat info;
    int n;

    if (l->dir < 0 && (l->dir = tree_existing(l->tree, l->path + (l->size > 0), l->size - (l->size > 0))) < 0)
        return listing_broken(l, FAULT_SYSTEM);
    n = snprintf(l->path + l->size, sizeof l->path - l->size, "/%s", name);
    if ((size_t)n >= sizeof l->path - l->size) {
        errno = ENAMETOOLONG;
        return listing_broken(l, FAULT_SYSTEM);
    }
    l->size += (size_t)n;
    if (fstatat(l->dir, name, &info, AT_SYMLINK_NOFOLLOW) < 0)
        return listing_broken(l, FAULT_SYSTEM);
    return S_ISDIR(info.st_mode) ? go_to(l, name) : put_leaf(l, name, &info);
}

static int walk(struct listing *l)
{
    int r = enter(l);

    while (r == 0 && l->depth > 0) {
        struct level *level = &l->levels[l->depth - 1];
        struct dirent *next;

        l->size = level->size;
        l->path[l->size] = 0;
        if (level->next == level->count) {
            leave(l);
            continue;
        }
        next = level->names[level->next++];
        r = entry(l, next->d_name);
        free(next);
    }
    return r < 0 ? -1 : listing_flush(l);
}

int tree_list(struct tree *tree, int out, int64_t most, struct untar_fault_info *f)
{
    struct listing *l = tree->inodes == NULL ? NULL : calloc(1, sizeof *l);
    int r;

    if (l == NULL) {
        untar_fault(f, FAULT_MEMORY, 0, "", 0);
        return -1;
    }
    tree_forget(tree);
    *l = (struct listing){.tree = tree, .fault = f, .out = out, .most = most, .room = most};
    l->dir = fcntl(tree->root, F_DUPFD_CLOEXEC, 0);
    r = l->dir < 0 ? listing_broken(l, FAULT_SYSTEM) : walk(l);
    while (l->depth > 0)
        leave(l);
    if (l->dir >= 0)
        close(l->dir);
    free(l->levels);
    free(l);
    return r;
}
