/* What tree.c and parents.c share. */
#ifndef PYRUN_TREE_H
#define PYRUN_TREE_H

#include <sys/types.h>
#include <time.h>

#include "listing.h"
#include "tar.h"

#define TREE_KEPT 32 /* directories that stay open */

/* A clean path: components joined by slashes, NUL at the end. */
struct place {
    int count;
    size_t size;
    char path[UNTAR_MAX_NAME + 1];
};

/* An open directory; `used` is when. */
struct parent {
    int fd, setgid;
    uint64_t used;
    size_t size;
    char path[UNTAR_MAX_NAME];
};

struct set {
    char **slots;
    size_t room, count;
};

/* What has to be set on a directory at the end; `before`: one behind the previous one that is locked. */
struct late {
    int64_t mtime;
    size_t before;
    int mode; /* -1 unless locked */
};

struct tree {
    int root, flags;
    int64_t entries, counted, depth, free, written;
    uid_t uid;
    gid_t gid;
    char prefix[256];
    struct parent kept[TREE_KEPT];
    int kept_count;
    uint64_t clock;
    struct set implied; /* made for their children, without a member of their own so far */
    int root_implied;
    char *directories; /* of members: struct late, path and NUL, one after another */
    size_t directories_size, directories_room, locked; /* `locked`: one behind the last whose mode would lock us out */
    struct inodes *inodes; /* NULL unless there will be a listing */
    struct place at, target;
    int begun, file, setgid; /* a member is half written; its descriptor; it inherits the group of its directory */
};

/* names.c: a clean name, of a layer's without a leading slash; whether `p` is the prefix or below it, which is taken off. */
int clean_name(struct tree *tree, const char *name, size_t size, struct place *p, struct untar_fault_info *f);
int take_prefix(const struct tree *tree, struct place *p);
const char *last_component(const char *path);
size_t parent_size(const char *path);
int has_whiteout(const char *path);

/* metadata.c: fills in a fault of the member; that of a system call; UNTAR_BAD. */
int tree_fault(struct tree *tree, struct tar *t, struct untar_fault_info *f, int code, int64_t a);
int tree_system_fault(struct tree *tree, struct tar *t, struct untar_fault_info *f);
/* Owner, mode, attributes and times of what `fd` names, in the order that lets each survive the next. */
int stamp(struct tree *tree, struct tar *t, int fd, int owned, struct untar_fault_info *f);
int foreign(const struct tree *tree, const struct untar_member *m);
uid_t owner_of(const struct tree *tree, int64_t id);
int skips(const struct tree *tree, struct tar *t);
void times_of(int64_t mtime, struct timespec times[2]);

/* parents.c: a descriptor of a directory below another, which is no link; -1 with errno. */
int tree_step(int above, const char *name);
/* The directory `path`, made where it is missing, until the next call; NULL: see `fault`. */
const struct parent *tree_parent(struct tree *tree, const char *path, size_t size, struct untar_fault_info *f);
/* A new descriptor of a directory that must be there; -1 with errno. */
int tree_existing(struct tree *tree, const char *path, size_t size);
/* Takes over a descriptor; NULL without memory, and then it is closed. */
struct parent *tree_keep(struct tree *tree, const char *path, size_t size, int fd);
void tree_forget(struct tree *tree);
/* That a directory has a member of its own; whether it had none before. */
int tree_unimply(struct tree *tree, const char *path, size_t size);
/* Notes what has to be set at the end on the directory `at`; -1 without memory. */
int tree_remember_directory(struct tree *tree, int64_t mtime, int mode);

#endif
