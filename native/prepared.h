/* The launcher's short way to a prepared pod; see prepared.c, which.c, joined.c, place.c and scope.c. */
#ifndef PYRUN_PREPARED_H
#define PYRUN_PREPARED_H

#include "sys.h"

#include "recipe.h"

/* `run-prepared` with these words behind it: becomes the pod's keeper; comes back when Python has to do it. */
void run_prepared(const char *root, char **words, char **envp);

/* The same of a pod that was prepared just now, whose directory is `pod`: `how` is the keeper's word (keeper.c). */
void become_keeper(const char *root, int pods, int pod, const char *uuid, const char *how, char **envp);

/* Whether the pod of that UUID stands in a phase ("running/"). */
int stands(int pods, const char *phase, const char *uuid);
int is_uuid(const char *text);

/* What its command line says. */
struct asked {
    const char *root, *reference;
    int detach, json, debug;
};

/* Reads the words behind the verb; 0 where Python has to. */
int understand(struct asked *asked, char **words);

/* The one pod that a UUID, a name or the beginning of a UUID means, in any phase; 0 where there is none, or several are. */
int find_pod(int pods, const char *reference, char uuid[UUID_LENGTH + 1]);

/* The network namespace that the prepared pod with this directory and UUID joins, or one that is made for it, or one of these. */
#define NETWORK_NONE (-1)       /* it takes none */
#define NETWORK_FOR_PYTHON (-2) /* Python makes it, or says what is wrong */
#define STARTER "net.by" /* the file that says who makes it: pyrun.pod.starter */
int find_network(const char *root, int pods, int pod, const char *uuid);

/* A copy of a descriptor where the keeper has none of its own. */
int out_of_the_way(int fd);

/* Brings this process to where the limits of the prepared pod with this directory and UUID can be set; 0 where Python has to. */
int take_place(int pod, const char *uuid);

/* Has systemd move this process into a scope of the pod's, whose cgroup `path` becomes; 0 where Python has to. */
int take_scope(int pod, const char *uuid, char path[PATH_SIZE]);

int ends_with(const char *text, const char *end);

#endif
