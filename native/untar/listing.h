/* What inodes.c, fields.c and listing.c share, and tree.c with the first. */
#ifndef PYRUN_LISTING_H
#define PYRUN_LISTING_H

#include <stddef.h>
#include <stdint.h>

#include "untar.h"

#define DIGEST_SIZE 32   /* of SHA-256 */
#define MAX_XATTRS 65536 /* xattr(7): the names of one file, and one value */

enum inode_knows { INODE_DIGEST = 1, INODE_NO_XATTRS = 2 };

/* An inode, its number not 0; `knows` says what of it is known. */
struct inode {
    uint64_t number;
    char *first; /* path */
    int knows;
    unsigned char digest[DIGEST_SIZE];
};

struct inodes;

/* NULL without memory. */
struct inodes *inodes_new(void);
void inodes_free(struct inodes *all);
/* What is known of an inode, to be filled in; until the next call; NULL without memory. */
struct inode *inodes_at(struct inodes *all, uint64_t number);
/* One digest at a time; -1 without memory. */
int inodes_begin(struct inodes *all);
int inodes_add(struct inodes *all, const char *data, size_t size);
int inodes_end(struct inodes *all, unsigned char digest[DIGEST_SIZE]);

/* The names in a directory, sorted; its path has `size` bytes. */
struct level {
    struct dirent **names;
    int count, next;
    size_t size;
};

struct listing {
    struct tree *tree;
    struct untar_fault_info *fault;
    int out, dir; /* the directory that is open, -1 when that is the one below and not `levels[depth - 1]` */
    int64_t most, room; /* bytes that may be written, and those that still may */
    struct level *levels;
    size_t depth, levels_room;
    size_t size; /* of the path, which begins with a slash */
    char path[UNTAR_MAX_NAME + 1];
    size_t used;
    char buffer[65536];
    char names[MAX_XATTRS], value[MAX_XATTRS];
};

/* fields.c: -1, and the fault is filled in. */
int listing_broken(struct listing *l, int code);
int listing_put(struct listing *l, const char *data, size_t size);
int listing_quoted(struct listing *l, const char *data, size_t size);
/* After a blank; "-" where it is empty. */
int listing_field(struct listing *l, const char *data, size_t size);
int listing_hex(struct listing *l, const unsigned char *data, size_t size);
int listing_flush(struct listing *l);

#endif
