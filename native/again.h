/* `pyrun-oci create` and `run` once more of what was decided before; see again.c. */
#ifndef PYRUN_AGAIN_H
#define PYRUN_AGAIN_H

#include "sys.h"

#include "oci_json.h"
#include "recipe.h"

#define AGAIN_MAGIC 0x61676169
#define AGAIN_VERSION 5
#define AGAIN_ITEMS 128 /* mounts at most, and variables */
#define AGAIN_SPACES 8
#define AGAIN_JOIN 256 /* bytes in the plan for the path of a namespace */
#define AGAIN_TEXT (256 * 1024) /* bytes of config.json at most */

/* ROOT/.recipes/HASH, as pyrun.oci.recipe writes it:
 *
 *     struct again_recipe | struct recipe_check[check_count] | key | order | plan | strings
 */
struct again_recipe {
    struct recipe_start start;
    uint32_t order; /* uint16_t[mounts + variables]: which of the configuration's is the first by its text, the second, ... */
    uint32_t mounts;
    uint32_t variables;
    uint32_t mount; /* the operation of the first mount */
    uint32_t root;  /* in the plan: PATH_SIZE bytes for the path of the root */
    uint32_t helper;
    uint32_t id;    /* 64 hexadecimal digits that the plan has for the container's, 0 none */
    uint32_t owner, group; /* who gets the standard streams, 0 nobody */
    uint32_t zero;
};

/* What Python gets to make a recipe of, in a sealed memfd: struct again_key | order | key | passwd | config.json */
struct again_key {
    uint32_t magic;
    uint32_t mounts;
    uint32_t variables;
    uint32_t key_size;
    uint32_t passwd_size; /* AGAIN_NONE: the configuration has HOME */
    uint32_t text_size;
};
#define AGAIN_NONE 0xffffffff

struct span {
    uint32_t at, size;
};

struct again {
    const char *root, *id, *pid_file;
    int run, detach, keep, no_pivot, no_keyring;
    char bundle[PATH_SIZE], rootfs[PATH_SIZE], group[PATH_SIZE];
    const char *base; /* of the cgroup2 tree, "" without one */
    char text[AGAIN_TEXT];
    uint32_t size;
    struct span version, path, cgroups, annotations; /* path, cgroups, joins: what is between the quotes */
    struct span joins[AGAIN_SPACES];                  /* paths of namespaces, of the kinds in join_kinds (CLONE_NEW...) */
    uint64_t join_kinds[AGAIN_SPACES];
    uint32_t join_count;
    struct span mounts[AGAIN_ITEMS], sources[AGAIN_ITEMS], variables[AGAIN_ITEMS];
    uint32_t mount_count, variable_count;
    uint16_t order[2 * AGAIN_ITEMS];
    char key[2 * AGAIN_TEXT + 65536 + PATH_SIZE];
    uint32_t key_size;
    uint32_t passwd, passwd_size; /* in the key */
};

/* again_json.c: what is between the quotes of a string of plain characters, 0 for anything else; */
int json_plain(const struct again *a, struct span value, struct span *inside);

/* the members of an object, one after the other, and 0 behind the last: json.bad then tells whether it was one; */
struct members {
    struct json json;
    unsigned count;
};
struct members json_members(const struct again *a, struct span object);
int json_next(const struct again *a, struct members *of, struct span *name, struct span *value);

/* the values of an object's members by name, of size 0 where there is none; 0 for no object; */
int json_find(const struct again *a, struct span object, const char (*names)[16], struct span *values, int count);

/* the elements of an array, AGAIN_ITEMS at most; 0 for anything else. */
int json_elements(const struct again *a, struct span array, struct span *found, uint32_t *count);

/* Reads config.json and makes its key; 0 for what is only Python's to understand (again_key.c). */
int again_read(struct again *a);

/* Puts all of that into the plan of a recipe; 0 when it does not fit (again_plan.c). */
int again_plan(const struct again *a, const struct again_recipe *recipe, char *data);

/* Writes what a container that waits has on disk; 0 when some of it could not be written (again_state.c). */
int again_settle(const struct again *a, int dir, int32_t pid, const char *plan, size_t size, const char *helper);

/* Lets the file `status` be seen; see pyrun.oci.known. */
int again_publish(int dir);

/* Makes the container by the plan of a recipe, which is whole, and ends; comes back when Python has to do it (again_make.c). */
void again_make(struct again *a, const struct again_recipe *recipe, char *data, char **envp);

/* Carries out create or run and ends, or returns: the descriptor of what a recipe can be made of, or -1. */
int again_verb(int argc, char **argv, char **envp);

#endif
