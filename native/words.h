/* Which words of a command line decide; see words.c. */
#ifndef PYRUN_WORDS_H
#define PYRUN_WORDS_H

#include "sys.h"

#include "recipe.h"

#define WORDS_VARIABLES 128

struct words {
    char key[65536];
    size_t key_size;
    char **arguments; /* the app's */
    uint32_t argument_count;
    const char *variables[WORDS_VARIABLES]; /* NAME=VALUE */
    uint32_t variable_count;
};

/* Tells what decides from what is only handed on; 0 where there is too much of it. */
int words_split(struct words *words, int argc, char **argv, char **envp);

/* Makes the key of that form (recipe.h); 0 when there is none.  The forms one after the other. */
int words_key(struct words *words, char form);

/* The plan with arguments and variables in it, in memory of its own; 0 when that is for Python.  `size` becomes the new one. */
char *words_plan(const struct words *words, char form, char *plan, size_t *size, const uint32_t *places, uint32_t place_count);

#endif
