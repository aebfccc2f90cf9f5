/* The short way of `pyrun-oci exec`; see oci_exec.c. */
#ifndef PYRUN_OCI_EXEC_H
#define PYRUN_OCI_EXEC_H

#include "oci_json.h"
#include "oci_verbs.h"

#define MOST_GROUPS 128
#define MOST_LIMITS 16 /* kinds of them */
#define MOST_ADDED 64
#define CALLERS_OWN (~0U) /* umask */
#define LARGEST_ID 0x7fffffff

struct words { /* one behind the other */
    const char *start, *end;
    unsigned count;
};

struct limit {
    uint32_t kind;
    uint64_t soft, hard;
};

/* The `process` of a configuration, as far as it is plain. */
struct process {
    struct words args, env;
    const char *cwd;
    uint32_t uid, gid, umask, group_count, groups[MOST_GROUPS];
    uint64_t sets[5]; /* as in struct plan_caps */
    unsigned limit_count;
    struct limit limits[MOST_LIMITS];
    int locked, terminal;
    uint16_t height, width;
    unsigned seen;
};

/* One exec. */
struct exec {
    struct container *container;
    struct process process;
    const char *process_file, *pid_file, *console;
    const char *added[MOST_ADDED]; /* --env */
    unsigned added_count, kept;    /* descriptors from 3 on */
    int detach;
    const struct plan_header *created; /* the plan by which the container was made */
    int plan;
};

/* oci_exec_json.c: 0 for what only Python reads. */
int read_process(struct json *json, struct process *process);

/* oci_exec_home.c: the directory of a user of the container, 0 where Python is to look. */
const char *user_home(int32_t pid, uint32_t uid);

/* oci_exec_plan.c: a sealed memfd with it as exec->plan, or 0. */
int make_exec_plan(struct exec *exec, uint64_t namespaces, uint32_t flags);

/* oci_exec_run.c: starts the process and ends with it; returns when Python is to try. */
void run_exec(struct exec *exec);

/* oci_exec.c: `argv` is what follows the verb, called as crun or not; returns when that is Python's to do. */
void oci_exec(struct container *container, const char *root, int as_crun, char **argv, char **envp);

#endif
