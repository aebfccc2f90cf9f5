/* Reading tar archives that nobody vouches for, and writing their members beneath one directory.
 *
 * tar.c is a parser that is fed piece by piece, tree.c creates what it finds.  Neither keeps more than one extended
 * header, one sparse map and the names of directories in memory.  Python's cffi reads this file too (unpack_build.py);
 * the words for each fault stand in pyrun.images.faults. */
#ifndef PYRUN_UNTAR_H
#define PYRUN_UNTAR_H

#include <stddef.h>
#include <stdint.h>

#define UNTAR_MAX_NAME 4096
#define UNTAR_MAX_PAX 1048576
#define UNTAR_MAX_MAP 131072

enum untar_result { UNTAR_BAD, UNTAR_MORE, UNTAR_MEMBER, UNTAR_DONE, UNTAR_END, UNTAR_OCCUPIED };

enum untar_flag {
    TREE_REPLACE = 1,      /* the last member of a path counts; else a second one is refused */
    TREE_NO_NODES = 2,     /* refuse devices */
    TREE_NO_CAPS = 4,      /* leave security.capability out */
    TREE_LAYER = 8,        /* absolute names mean the root; whiteouts, and links to what is not there, are for the caller */
    TREE_PRIVATE = 16,     /* files and directories that are the caller's own, whatever the archive says */
    TREE_ONE_OWNER = 64,   /* all is the caller's own, since there are no other users in its user namespace */
    TREE_SKIP_NODES = 128, /* leave devices out, which nobody but root can make (mknod(2)) */
    TREE_DIGESTS = 32,     /* hash files while they are written, for tree_list */
};

enum untar_fault {
    FAULT_NONE,
    FAULT_CUT, FAULT_GARBAGE, FAULT_LONE_ZERO, FAULT_AFTER_END, FAULT_DANGLING, FAULT_CHECKSUM, FAULT_NUMBER,
    FAULT_MEMBERS, FAULT_EXTENDED_SIZE, FAULT_NAMED_TWICE, FAULT_EMPTY_NAME, FAULT_GLOBAL, FAULT_SECOND,
    FAULT_NO_LENGTH, FAULT_LENGTH, FAULT_PAX_NUMBER, FAULT_STAR_SPARSE,
    FAULT_TYPE, FAULT_SLASH, FAULT_NAME, FAULT_LONG_NAME, FAULT_LINK, FAULT_DATA, FAULT_SIZE, FAULT_SPARSE,
    FAULT_ABSOLUTE, FAULT_DOTDOT, FAULT_COMPONENT, FAULT_DEPTH, FAULT_OWNER, FAULT_ENTRIES, FAULT_TWICE,
    FAULT_ROOT, FAULT_LINK_OUTSIDE, FAULT_LINK_ITSELF, FAULT_LINK_KIND, FAULT_LINK_MISSING, FAULT_NODE_POLICY,
    FAULT_NODE_NUMBER, FAULT_NODE_WHITEOUT, FAULT_PRIVATE_KIND, FAULT_XATTR_NAME, FAULT_LISTING, FAULT_FREE, FAULT_SYSTEM,
    FAULT_MEMORY,
};

/* What is wrong: `subject` names the member, `detail` another name; `a` and `b` are numbers that the words mention. */
struct untar_fault_info {
    int code;
    int error; /* errno of FAULT_SYSTEM */
    int64_t a, b;
    size_t subject_size, detail_size;
    char subject[UNTAR_MAX_NAME], detail[UNTAR_MAX_NAME];
};

/* One member; `kind` is the digit of its type, '0' to '6'; `mtime` in nanoseconds; names end in NUL. */
struct untar_member {
    int kind;
    uint32_t mode;
    int64_t uid, gid, size, mtime, devmajor, devminor;
    size_t path_size, link_size;
    const char *path, *link;
    int sparse;
    size_t xattrs;
};

struct tar;
struct tree;

/* `total` bounds each size and the sum of sparse ones, `entries` the members.  With `unclosed` the closing zeros may
 * be left out.  NULL without memory. */
struct tar *tar_new(int64_t total, int64_t entries, int unclosed);
void tar_free(struct tar *t);
/* The next piece of the archive, valid until the parser asks for more; of size 0 at the end. */
void tar_feed(struct tar *t, const char *data, size_t size);
/* Goes to the next member over what is left of this one: MORE, MEMBER, END, BAD. */
int tar_next(struct tar *t, struct untar_fault_info *fault);
const struct untar_member *tar_member(const struct tar *t);
/* The i-th extended attribute; its name ends in NUL. */
const char *tar_xattr(const struct tar *t, size_t i, size_t *name_size, const char **value, size_t *value_size);
/* Data of the member: how many bytes stand at `data` and belong at `offset` of the file.  0: `tar_left` tells whether
 * more must be fed. */
size_t tar_data(struct tar *t, size_t most, const char **data, int64_t *offset);
int64_t tar_left(const struct tar *t);
/* That more bytes are wanted although the archive has ended. */
int tar_cut(struct tar *t, struct untar_fault_info *fault);

/* The components of a path without empty ones and dots, joined by slashes, in `out`, which is as large as `path`; their
 * number, or -1. */
int path_clean(const char *path, size_t size, char *out, size_t *out_size, struct untar_fault_info *fault);

/* Writes beneath the directory `root`, which stays the caller's.  NULL without memory. */
struct tree *tree_new(int root, int flags, int64_t entries, int64_t depth, int64_t free_bytes, const char *prefix);
void tree_free(struct tree *tree);
/* Writes the member that the parser stands at: DONE, MORE (feed and call again), OCCUPIED (remove `tree_path`, call
 * again), BAD. */
int tree_add(struct tree *tree, struct tar *t, struct untar_fault_info *fault);
/* Writes one member after another until one is not for the tree: MEMBER, `tree_path` being where a link would be; or MORE,
 * OCCUPIED, END, BAD. */
int tree_pump(struct tree *tree, struct tar *t, struct untar_fault_info *fault);
const char *tree_path(const struct tree *tree, size_t *size);
/* Counts something that is made elsewhere. */
int tree_count(struct tree *tree, const char *path, size_t size, struct untar_fault_info *fault);
/* A descriptor of a directory by its clean path, made where it is missing; the caller closes it.  -1: see `fault`. */
int tree_open(struct tree *tree, const char *path, size_t size, struct untar_fault_info *fault);
/* Times and modes of directories; once, at the end. */
int tree_finish(struct tree *tree, struct untar_fault_info *fault);
/* Writes the listing of a finished tree to `out`, `most` bytes of it; of a tree with TREE_DIGESTS, once. */
int tree_list(struct tree *tree, int out, int64_t most, struct untar_fault_info *fault);
/* The paths that were made for their children only, each followed by NUL. */
char *tree_implied(const struct tree *tree, size_t *size);

#endif
