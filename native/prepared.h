/* The launcher's short way to a prepared pod; see prepared.c, which.c, joined.c, place.c and scope.c. */
#ifndef PYRUN_PREPARED_H
#define PYRUN_PREPARED_H

#include "sys.h"

#include "recipe.h"
#include "refuse.h"

/* `run-prepared`: becomes the pod's keeper, or says what is wrong; comes back from another verb, and where Python has to do it. */
void run_prepared(char **argv, char **envp);

/* How the last line begins that is written with --format json, as pyrun.cli.lines has it, of the pod with this directory and UUID. */
void begin_line(int pod, const char *uuid, char *line, size_t room);

/* The names of the apps of a pod with this directory, with commas between; how many there are, 0 for a pod of one.  The first one comes alone, too. */
struct say;
unsigned say_apps(int pod, struct say *to, char *first, size_t room);

/* The same of a pod that was prepared just now, whose directory is `pod`: `how` is the keeper's word (keeper.c). */
void become_keeper(const char *root, int pods, int pod, const char *uuid, const char *how, char **envp);

/* Whether the pod of that UUID stands in a phase ("running/"). */
int stands(int pods, const char *phase, const char *uuid);
int is_uuid(const char *text);

#define MOST_FILES 64 /* of --uuid-file that are read: two are one too many */

/* What its command line says. */
struct asked {
    const char *root, *reference, *file[MOST_FILES];
    unsigned references, files;
    int detach, json, debug, help;
    struct telling how;
};

/* Reads the command line; 0 for another verb, and for help.  What is wrong with it is noted (refuse.h). */
int understand(struct asked *asked, char **argv, char **envp);

/* Finds what it names as a pod; 0, and that is noted, unless it is one. */
int choose(struct asked *asked);

/* The one pod that a UUID, a name or the beginning of a UUID means, in any phase; 0, and that is noted, where there is none, or several are. */
void refuse_none(const char *reference);
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

/* The same for the pod that is being made from a recipe, with what that says of its limits. */
int take_place_again(char *limits, size_t size, const char *blank, const char *uuid);

/* How systemd is to be asked for the scope of a pod: the file `scope` in its directory, or what that would have in it. */
struct scope {
    const char *uuid;
    int pod; /* -1: */
    const char *calls;
    size_t size;
};

/* Has it move this process into that scope, whose cgroup `path` becomes; 0 where Python has to. */
int take_scope(const struct scope *scope, char path[PATH_SIZE]);

int ends_with(const char *text, const char *end);

#endif
