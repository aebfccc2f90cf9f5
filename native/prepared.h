/* The launcher's short way to a prepared pod; see prepared.c, which.c and place.c. */
#ifndef PYRUN_PREPARED_H
#define PYRUN_PREPARED_H

#include "sys.h"

#include "recipe.h"

/* `run-prepared` with these words behind it: becomes the pod's keeper; comes back when Python has to do it. */
void run_prepared(const char *root, char **words, char **envp);

/* What its command line says. */
struct asked {
    const char *root, *reference;
    int detach, json;
};

/* Reads the words behind the verb; 0 where Python has to. */
int understand(struct asked *asked, char **words);

/* The one pod that a UUID, a name or the beginning of a UUID means, in any phase; 0 where there is none, or several are. */
int find_pod(int pods, const char *reference, char uuid[UUID_LENGTH + 1]);

/* Brings this process to where the limits of the prepared pod with this directory can be set; 0 where Python has to. */
int take_place(int pod);

#endif
