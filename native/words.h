/* Which words of a command line decide; see words.c. */
#ifndef PYRUN_WORDS_H
#define PYRUN_WORDS_H

#include "sys.h"

#include "recipe.h"

#define WORDS_VARIABLES 128

struct words {
    char key[65536];
    size_t key_size, split_size; /* of a key; of what all keys of this line have */
    char **arguments; /* the app's */
    uint32_t argument_count;
    const char *variables[WORDS_VARIABLES]; /* NAME=VALUE, one of them that of the app's name if that is given */
    uint32_t variable_count;
    const char *host_name, *app_name, *uuid_file; /* 0: not given */
    char app_variable[80];
};

/* Tells what decides from what is only handed on; 0 where Python has to look at it. */
int words_split(struct words *words, int argc, char **argv, char **envp);

/* The key of the whole command line, in the place of the other; 0 where there is no room. */
int words_whole(struct words *words, int argc, char **argv, char **envp);

/* Makes the key of that form (recipe.h), with or without the current directory; 0 when there is none. */
int words_key(struct words *words, char form, int here);

/* How a recipe takes the words up. */
struct words_places {
    const uint32_t *variables;
    const struct recipe_patch *patches;
    uint32_t variable_count, patch_count;
    const char *strings; /* what a patch's texts are offsets of */
    uint32_t strings_size;
};

/* The plan with the words in it, in memory of its own; 0 when that is for Python.  `size` becomes the new one. */
char *words_plan(const struct words *words, char form, char *plan, size_t *size, const struct words_places *places);

/* Likewise the record, whose app has no name yet: it goes to `place`. */
char *words_record(const struct words *words, char *record, size_t *size, uint32_t place);

#endif
