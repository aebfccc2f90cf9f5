/* A recipe on disk: what `pyrun run` decided for a command line, and all that differ only in what it hands on, for the
 * launcher to use again.
 *
 * The file cache/run/HASH below the state root, HASH being FNV-1a (64 bits, hexadecimal) of the key:
 *
 *     struct recipe_header | struct recipe_check[check_count] | struct recipe_patch[patch_count] | uint32_t place[place_count] |
 *     key | plan | record | net | own | limits | strings
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
 * net     where the pod has a network of its own: a script, at a multiple of 8, for the same blank
 * own     the modules that decided, where they came from a bundle: what it begins with, struct recipe_stamps, at a multiple of 8
 * limits  of a pod with limits, or in a scope: the words that its file `controllers` would have if it were prepared, a NUL, and likewise what
 *         its file `scope` would have, for the same blank (place.c, scope.c)
 *
 * Written by pyrun.pod.cache, read by fast.c.  The last byte of the file is NUL.
 *
 * Those of pyrun-oci (again.h) are files of the same kind: what both begin with is struct recipe_start, what finds and judges
 * them is recipe.c, and pyrun.engine.recipes what writes them.
 */
#ifndef PYRUN_RECIPE_H
#define PYRUN_RECIPE_H

#define RECIPE_MAGIC 0x72797065
#define RECIPE_VERSION 9
#define RECIPE_EXACT '0'   /* the app gets no arguments */
#define RECIPE_OPEN '1'    /* none of its arguments decides */
#define RECIPE_PROGRAM '2' /* the first is its program */
#define RECIPE_HERE 3      /* more, where the current directory decides too */
#define RECIPE_KEPT 'k'    /* of a pod that a keeper looks after: struct recipe_kept */
#define RECIPE_NOWHERE 0xffffffff
#define RECIPE_PATCHES 8
#define RECIPE_RECORD "{\"uuid\":\""
#define UUID_LENGTH 36

/* Offsets count from the start of the file. */
struct recipe_start {
    uint32_t magic;
    uint32_t version;
    uint32_t size;
    uint32_t check_count;
    uint32_t key;
    uint32_t key_size;
    uint32_t plan;
    uint32_t plan_size;
};

struct recipe_header {
    struct recipe_start start;
    uint32_t record;
    uint32_t record_size;
    uint32_t helper; /* path of the helper program */
    uint32_t place_count;
    uint32_t patch_count;
    uint32_t name; /* where in the record the app's name goes, 0: it is there */
    uint32_t net;  /* the script of its network (net_script.h) */
    uint32_t net_size;
    uint32_t own;
    uint32_t own_size; /* 0: without */
    uint32_t limits;
    uint32_t limits_size; /* 0: it has none */
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

/* What a bundle of Python modules begins with (pyrun.cli.bundle): the files that it was made of, and where the rest of it is.
 *
 *     struct recipe_stamps | struct recipe_check[check_count] | strings, offsets from the start of this, a NUL at the end */
#define RECIPE_STAMPS_MAGIC 0x706d7473
#define RECIPE_STAMPS_VERSION 2

struct recipe_stamps {
    uint32_t magic;
    uint32_t version;
    uint32_t size; /* of this, up to the end of the strings */
    uint32_t check_count;
    uint32_t python; /* sys.hexversion of whose modules it holds */
    uint32_t code_size;
    uint32_t file_size;
    uint32_t first_size; /* of the code, what is needed to read the rest */
};

struct recipe_patch {
    uint32_t where; /* in the plan */
    uint32_t head;  /* what stands before the host name, an offset in the file */
    uint32_t tail;  /* and behind it */
};

/* The file of a pod that is kept: in the background, named, restarted or checked.  What its directory held is here as it was, for one
 * other UUID, which is replaced, and so are its first characters where they stand alone; `pod` lacks its last three members.
 *
 *     struct recipe_kept | struct recipe_check[check_count] | struct recipe_file[file_count] | key | plan | strings
 *
 * All of the command line is in the key.  Written by pyrun.pod.kept, read by kept.c. */
#define RECIPE_KEPT_MAGIC 0x7470656b
#define RECIPE_KEPT_VERSION 1
#define RECIPE_FILES 12
#define RECIPE_SHORT 8 /* characters of a UUID in names for people */

struct recipe_kept {
    struct recipe_start start;
    uint32_t file_count;
    uint32_t uuid;   /* which it was */
    uint32_t name;   /* the pod's, "": it has none */
    uint32_t keeper; /* path of the program that keeps it */
    uint32_t detach;
};

struct recipe_file {
    uint32_t name;
    uint32_t data;
    uint32_t size;
};

/* The directory of recipes, which must be root's alone; -1 without one. */
int recipe_directory(const char *root, const char *below);

/* Whether there is anything of that key. */
int recipe_there(int dir, const char *key, uint32_t key_size);

/* The recipe of a key, in private memory: root's own file, and whole, with checks behind a header of that size; 0 without one. */
void *recipe_map(int dir, const char *key, uint32_t key_size, uint32_t magic, uint32_t version, size_t header);

/* Whether that many bytes of it are there. */
int recipe_inside(const void *recipe, uint64_t at, uint64_t size);

/* Whether all files that decided are as they were. */
int recipe_holds(const void *recipe, size_t header);

/* Likewise those of struct recipe_stamps, of which no more than `room` bytes are there. */
int recipe_stamps_hold(const void *stamps, uint64_t room);

/* The bundle NAME.TAG.bundle beside the directory of the file `start`, TAG for python3.`minor`, open, and what it begins with; -1 where there is
 * none, or not all of it. */
int recipe_bundle(const char *start, const char *name, const char *minor, const struct recipe_stamps **stamps);

#endif
