/* The directories of a tree: found by the kernel, kept open for the next members, finished at the end.
 *
 * Only the unpacker writes there, so that a descriptor stays right until something is removed and tree_forget() called. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <linux/openat2.h>

#include "tree.h"

static int open_beneath(int dir, const char *path)
{
    struct open_how how = {
        .flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC,
        .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS,
    };

    return (int)syscall(SYS_openat2, dir, *path == 0 ? "." : path, &how, sizeof how);
}

int tree_step(int above, const char *name)
{
    return open_beneath(above, name);
}

struct tree *tree_new(int root, int flags, int64_t entries, int64_t depth, int64_t free_bytes, const char *prefix)
{
    struct tree *tree = calloc(1, sizeof *tree);

    if (tree == NULL || strlen(prefix) >= sizeof tree->prefix) {
        free(tree);
        return NULL;
    }
    strcpy(tree->prefix, prefix);
    tree->root = root;
    tree->flags = flags;
    tree->entries = entries;
    tree->depth = depth;
    tree->free = free_bytes;
    tree->uid = geteuid();
    tree->gid = getegid();
    tree->root_implied = 1;
    tree->file = -1;
    if (!(flags & TREE_DIGESTS) || (tree->inodes = inodes_new()) != NULL)
        return tree;
    free(tree);
    return NULL;
}

void tree_free(struct tree *tree)
{
    if (tree == NULL)
        return;
    if (tree->file >= 0)
        close(tree->file);
    tree_forget(tree);
    for (size_t i = 0; i < tree->implied.room; i++)
        free(tree->implied.slots[i]);
    free(tree->implied.slots);
    free(tree->directories);
    inodes_free(tree->inodes);
    free(tree);
}

const char *tree_path(const struct tree *tree, size_t *size)
{
    *size = tree->at.size;
    return tree->at.path;
}

int tree_count(struct tree *tree, const char *path, size_t size, struct untar_fault_info *f)
{
    if (++tree->counted <= tree->entries)
        return 0;
    untar_fault(f, FAULT_ENTRIES, tree->entries, path, size);
    return -1;
}

/* A set of paths, by open addressing; a removed one leaves its slot to an empty string. */

static size_t slot_of(const struct set *set, const char *path, size_t size)
{
    uint64_t hash = 14695981039346656037ULL;
    size_t at;

    for (size_t i = 0; i < size; i++)
        hash = (hash ^ (unsigned char)path[i]) * 1099511628211ULL;
    at = (size_t)(hash ^ hash >> 32) & (set->room - 1);
    while (set->slots[at] != NULL && (strlen(set->slots[at]) != size || memcmp(set->slots[at], path, size) != 0))
        at = (at + 1) & (set->room - 1);
    return at;
}

static int set_grow(struct set *set)
{
    struct set more = {NULL, set->room > 0 ? set->room * 2 : 64, 0};

    more.slots = calloc(more.room, sizeof *more.slots);
    if (more.slots == NULL)
        return -1;
    for (size_t i = 0; i < set->room; i++) {
        char *path = set->slots[i];

        if (path != NULL && *path != 0) {
            more.slots[slot_of(&more, path, strlen(path))] = path;
            more.count++;
        } else
            free(path);
    }
    free(set->slots);
    *set = more;
    return 0;
}

static int set_add(struct set *set, const char *path, size_t size)
{
    size_t at;

    if (set->count * 2 >= set->room && set_grow(set) < 0)
        return -1;
    at = slot_of(set, path, size);
    if (set->slots[at] != NULL)
        return 0;
    set->slots[at] = strndup(path, size);
    set->count++;
    return set->slots[at] == NULL ? -1 : 0;
}

int tree_unimply(struct tree *tree, const char *path, size_t size)
{
    size_t at;
    int was = tree->root_implied;

    if (size == 0) {
        tree->root_implied = 0;
        return was;
    }
    if (tree->implied.count == 0)
        return 0;
    at = slot_of(&tree->implied, path, size);
    if (tree->implied.slots[at] == NULL)
        return 0;
    *tree->implied.slots[at] = 0; /* still counted, so that there is always an end to a search */
    return 1;
}

char *tree_implied(const struct tree *tree, size_t *size)
{
    char *all, *end;

    *size = 0;
    for (size_t i = 0; i < tree->implied.room; i++)
        if (tree->implied.slots[i] != NULL && *tree->implied.slots[i] != 0)
            *size += strlen(tree->implied.slots[i]) + 1;
    all = end = malloc(*size + 1);
    for (size_t i = 0; all != NULL && i < tree->implied.room; i++)
        if (tree->implied.slots[i] != NULL && *tree->implied.slots[i] != 0)
            end = stpcpy(end, tree->implied.slots[i]) + 1;
    return all;
}

/* Directories that stay open */

void tree_forget(struct tree *tree)
{
    for (int i = 0; i < tree->kept_count; i++)
        close(tree->kept[i].fd);
    tree->kept_count = 0;
}

static struct parent *find(struct tree *tree, const char *path, size_t size)
{
    for (int i = 0; i < tree->kept_count; i++) {
        struct parent *p = &tree->kept[i];

        if (p->size == size && memcmp(p->path, path, size) == 0) {
            p->used = ++tree->clock;
            return p;
        }
    }
    return NULL;
}

/* A free slot, the one that was not used for longest if there is none. */
static struct parent *slot(struct tree *tree)
{
    struct parent *oldest = &tree->kept[0];

    if (tree->kept_count < TREE_KEPT)
        return &tree->kept[tree->kept_count++];
    for (int i = 1; i < TREE_KEPT; i++)
        if (tree->kept[i].used < oldest->used)
            oldest = &tree->kept[i];
    close(oldest->fd);
    return oldest;
}

struct parent *tree_keep(struct tree *tree, const char *path, size_t size, int fd)
{
    struct parent *p = find(tree, path, size);
    struct stat info;

    if (fstat(fd, &info) < 0) {
        close(fd);
        return NULL;
    }
    if (p != NULL)
        close(p->fd);
    else
        p = slot(tree);
    p->fd = fd;
    p->setgid = (info.st_mode & S_ISGID) != 0;
    p->used = ++tree->clock;
    p->size = size;
    memmove(p->path, path, size);
    return p;
}

/* The directory `path`[:size] below `above`, made if it is missing. */
static struct parent *make(struct tree *tree, const struct parent *above, const char *path, size_t size, struct untar_fault_info *f)
{
    char name[256];
    size_t start = size;
    struct parent *p;
    int fd, made, setgid = above->setgid;

    while (start > 0 && path[start - 1] != '/')
        start--;
    memcpy(name, path + start, size - start); /* path_clean() let no longer one pass */
    name[size - start] = 0;
    made = mkdirat(above->fd, name, 0700) == 0;
    fd = made || errno == EEXIST ? tree_step(above->fd, name) : -1;
    if (fd < 0)
        goto failed;
    p = tree_keep(tree, path, size, fd);
    if (p == NULL || (made && set_add(&tree->implied, path, size) < 0)) {
        untar_fault(f, FAULT_MEMORY, 0, path, size);
        return NULL;
    }
    if (!made)
        return p;
    if (tree_count(tree, path, size, f) < 0)
        return NULL;
    if ((setgid && fchown(fd, tree->uid, tree->gid) < 0) || fchmod(fd, tree->flags & TREE_PRIVATE ? 0700 : 0755) < 0)
        goto failed;
    p->setgid = 0;
    return p;
failed:
    f->error = errno;
    untar_fault(f, FAULT_SYSTEM, 0, path, size);
    return NULL;
}

/* Opens a directory that may be missing: NULL with FAULT_SYSTEM and errno. */
static struct parent *open_parent(struct tree *tree, const char *path, size_t size, struct untar_fault_info *f)
{
    struct parent *p = find(tree, path, size);
    char whole[UNTAR_MAX_NAME + 1];
    int fd;

    if (p != NULL)
        return p;
    memcpy(whole, path, size);
    whole[size] = 0;
    fd = open_beneath(tree->root, whole);
    if (fd < 0) {
        f->error = errno;
        untar_fault(f, FAULT_SYSTEM, 0, path, size);
        return NULL;
    }
    p = tree_keep(tree, path, size, fd);
    if (p == NULL)
        untar_fault(f, FAULT_MEMORY, 0, path, size);
    return p;
}

const struct parent *tree_parent(struct tree *tree, const char *path, size_t size, struct untar_fault_info *f)
{
    const struct parent *p = open_parent(tree, path, size, f);
    size_t end;

    if (p != NULL || f->code != FAULT_SYSTEM || f->error != ENOENT)
        return p;
    p = open_parent(tree, "", 0, f);
    for (end = 0; p != NULL && end < size; end++) {
        const struct parent *next;

        while (end < size && path[end] != '/')
            end++;
        next = find(tree, path, end);
        p = next != NULL ? next : make(tree, p, path, end, f);
    }
    return p;
}

int tree_existing(struct tree *tree, const char *path, size_t size)
{
    struct untar_fault_info f = {0};
    const struct parent *p = open_parent(tree, path, size, &f);

    if (p != NULL)
        return fcntl(p->fd, F_DUPFD_CLOEXEC, 0);
    errno = f.code == FAULT_MEMORY ? ENOMEM : f.error;
    return -1;
}

int tree_open(struct tree *tree, const char *path, size_t size, struct untar_fault_info *f)
{
    const struct parent *p = tree_parent(tree, path, size, f);
    int fd = p == NULL ? -1 : fcntl(p->fd, F_DUPFD_CLOEXEC, 0);

    if (p != NULL && fd < 0) {
        f->error = errno;
        untar_fault(f, FAULT_SYSTEM, 0, path, size);
    }
    return fd;
}

/* What comes last */

int tree_remember_directory(struct tree *tree, int64_t mtime, int mode)
{
    struct late late = {mtime, tree->locked, mode};
    size_t size = sizeof late + tree->at.size + 1;
    char *at;

    if (tree->directories_size + size > tree->directories_room) {
        size_t room = (tree->directories_size + size) * 2;

        at = realloc(tree->directories, room);
        if (at == NULL)
            return -1;
        tree->directories = at;
        tree->directories_room = room;
    }
    at = tree->directories + tree->directories_size;
    memcpy(at, &late, sizeof late);
    memcpy(at + sizeof late, tree->at.path, tree->at.size + 1);
    if (mode >= 0)
        tree->locked = tree->directories_size + 1;
    tree->directories_size += size;
    return 0;
}

/* Sets times, or the mode unless it is -1. */
static int apply(struct tree *tree, const char *path, int64_t mtime, int mode, struct untar_fault_info *f)
{
    struct timespec times[2];
    int fd = open_beneath(tree->root, path), bad;

    if (fd < 0 && (tree->flags & TREE_REPLACE) && (errno == ENOENT || errno == ENOTDIR || errno == ELOOP))
        return 0; /* a later member took its place */
    times_of(mtime, times);
    bad = fd < 0 || (mode < 0 ? futimens(fd, times) : fchmod(fd, (mode_t)mode)) < 0;
    if (bad) {
        f->error = errno;
        untar_fault(f, FAULT_SYSTEM, 0, path, strlen(path));
    }
    if (fd >= 0)
        close(fd);
    return bad ? -1 : 0;
}

int tree_finish(struct tree *tree, struct untar_fault_info *f)
{
    struct late late;
    const char *path;
    size_t at;

    tree_forget(tree);
    for (at = 0; at < tree->directories_size; at = (size_t)(path - tree->directories) + strlen(path) + 1) {
        memcpy(&late, tree->directories + at, sizeof late);
        path = tree->directories + at + sizeof late;
        if (apply(tree, path, late.mtime, -1, f) < 0)
            return -1;
    }
    for (at = tree->locked; at > 0; at = late.before) { /* the innermost first */
        memcpy(&late, tree->directories + at - 1, sizeof late);
        if (apply(tree, tree->directories + at - 1 + sizeof late, 0, late.mode, f) < 0)
            return -1;
    }
    return 0;
}
