/* The short ways of `pyrun-oci`; see oci_verbs.c. */
#ifndef PYRUN_OCI_VERBS_H
#define PYRUN_OCI_VERBS_H

#include "sys.h"

#define LARGEST 65536

enum status { UNKNOWN, CREATED, RUNNING, PAUSED, STOPPED };

struct container {
    char text[LARGEST], path[PATH_SIZE];
    const char *group, *hooks, *head, *tail, *helper;
    int32_t pid;
    uint64_t started;
    int dir, pidfd, error;
    const char *failed; /* the option that an exec could not follow, by `error`, when its program had run: it must not run again */
    enum status status;
};

/* 0 unless the container is there and its file is what it should be. */
int find_container(struct container *c, const char *root, const char *id, int lock);

/* The value of the option `name` at argv[*i], `--name value` or `--name=value`; 0 when that is another one. */
const char *value_of(int argc, char **argv, int *i, const char *name);
int is_log_format(const char *word);

/* Whether argv[*i] is --log, and its file can be written, which is made if need be: who asks for a log is told where there is none. */
int is_log(int argc, char **argv, int *i);

/* Carries out a verb; 0 when that is Python's to do. */
int oci_verb(int argc, char **argv, char **envp);

/* The one that there is memory for. */
struct container *new_container(void);

/* Lets the process of a created container go on; 0 when it was not to be had, or could not execute its program. */
int start_container(const struct container *c);

/* Removes cgroup and directory of one whose process has ended; 0 when something is left. */
int remove_container(struct container *c);

#endif
