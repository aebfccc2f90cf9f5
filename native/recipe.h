/* A recipe on disk: what `pyrun run` decided for one command line, for the launcher to use again.
 *
 * The file cache/run/HASH below the state root, HASH being FNV-1a (64 bits, hexadecimal) of the key:
 *
 *     struct recipe_header | struct recipe_check[check_count] | key | plan | record | strings
 *
 * key     current directory, $PYRUN_ROOT and every argument, each with a NUL behind it
 * checks  files that decided; one that changed makes the recipe worthless
 * plan    an encoded plan (plan.h) with BLANK for the pod's UUID
 * record  the pod's file `pod` up to its last two members, likewise
 *
 * Written by pyrun.pod.cache, read by fast.c.  The last byte of the file is NUL.
 */
#ifndef PYRUN_RECIPE_H
#define PYRUN_RECIPE_H

#define RECIPE_MAGIC 0x72797065
#define RECIPE_VERSION 2
#define RECIPE_BLANK "00000000-0000-4000-8000-000000000000"
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
    uint32_t unused;
};

struct recipe_check {
    uint64_t device;
    uint64_t inode;
    uint64_t size;
    uint64_t modified; /* nanoseconds since 1970 */
    uint64_t changed;
    uint32_t path;
    uint32_t kind; /* S_IFMT bits: only what kind of file it is counts, as for a volume's source; 0: all of the above */
};

#endif
