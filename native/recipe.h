/* A recipe on disk: what `pyrun run` decided for a command line, and all that differ only in what it hands on, for the
 * launcher to use again.
 *
 * The file cache/run/HASH below the state root, HASH being FNV-1a (64 bits, hexadecimal) of the key:
 *
 *     struct recipe_header | struct recipe_check[check_count] | struct recipe_patch[patch_count] | uint32_t place[place_count] |
 *     key | plan | record | strings
 *
 * key     its form (RECIPE_...), current directory, $PYRUN_ROOT, the path of the launcher, which is another one's in another
 *         installation, and the words that decide, each with a NUL behind it; of a variable the value is left out, but for PATH, and so are the values of --name, --hostname, --uuid-file-save: see words.c
 * checks  files that decided; one that changed makes the recipe worthless
 * place   where in the app's environment the variables of the command line go, RECIPE_NOWHERE: they are not in it
 * plan    an encoded plan (plan.h), at a multiple of 8, with a blank for the pod's UUID, without those values and without the
 *         arguments that are not in the key: they go behind the app's own
 * patch   texts of the plan that have the host name in them, if the command line gives one
 * record  the pod's file `pod` up to its last two members, likewise (it begins with RECIPE_RECORD and the blank: a random UUID,
 *         so that nothing that a caller hands on is taken for it), and without the app's name if the command line gives one
 *
 * Written by pyrun.pod.cache, read by fast.c.  The last byte of the file is NUL.
 */
#ifndef PYRUN_RECIPE_H
#define PYRUN_RECIPE_H

#define RECIPE_MAGIC 0x72797065
#define RECIPE_VERSION 6
#define RECIPE_EXACT '0'   /* the app gets no arguments */
#define RECIPE_OPEN '1'    /* none of its arguments decides */
#define RECIPE_PROGRAM '2' /* the first is its program */
#define RECIPE_NOWHERE 0xffffffff
#define RECIPE_PATCHES 8
#define RECIPE_RECORD "{\"uuid\":\""
#define UUID_LENGTH 36

struct recipe_header {
    uint32_t magic;
    uint32_t version;
    uint32_t size;
    uint32_t check_count;
    uint32_t key;
    uint32_t key_size;
    uint32_t plan;
    uint32_t plan_size;
    uint32_t record;
    uint32_t record_size;
    uint32_t helper; /* path of the helper program */
    uint32_t place_count;
    uint32_t patch_count;
    uint32_t name; /* where in the record the app's name goes, 0: it is there */
};

struct recipe_check {
    uint64_t device;
    uint64_t inode;
    uint64_t size;
    uint64_t modified; /* nanoseconds since 1970 */
    uint64_t changed;
    uint32_t path;
    uint32_t kind; /* S_IFMT bits: only what kind of file it is counts, as for a volume's source; 0: all of the above; or: */
#define RECIPE_ABSENT 1 /* nothing may be there */
};

struct recipe_patch {
    uint32_t where; /* in the plan */
    uint32_t head;  /* what stands before the host name, an offset in the file */
    uint32_t tail;  /* and behind it */
};

#endif
