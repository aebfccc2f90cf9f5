/* What stands between a pod on disk and its supervisor; shared by the launcher and the keeper. */
#ifndef PYRUN_HANDOVER_H
#define PYRUN_HANDOVER_H

#include "sys.h"

#include "plan.h"
#include "recipe.h"

#define LOCK_SH 1
#define LOCK_EX 2
#define LOCK_NB 4
#define LOCK_UN 8

#define CGROUP_LEAF "pyrun-supervisor" /* for processes of pyrun's own, beside the pods' cgroups */

/* The cgroup2 directory of this process, of one in CGROUP_LEAF the one above, as pyrun.host finds it; 0 where there is none
 * that can be written. */
int find_cgroup(char path[PATH_SIZE]);

/* memfd_create(2), written and sealed; minus an errno where that is not to be had. */
int sealed(const char *name, const char *data, size_t size, unsigned flags);

/* The program `path` in a sealed memfd that may be executed; minus an errno. */
int sealed_program(const char *path);

/* Waits for `events` of a descriptor; 0 when a signal comes first that would end this process, were it not blocked. */
int comes_first(int fd, short events);

/* Whether a path means the same to Python, which takes `..` out of it, and to the kernel. */
int is_straight(const char *path);

/* Turns this process into the helper, slots[i] on descriptor i from `first` on (-1: closed); comes back only with minus an
 * errno, and with copies of the descriptors in `slots`, out of the slots' way. */
long become_helper(int helper, int slots[SLOT_COUNT], int first, const char *uuid, char **envp);

/* Blocks what ends a process, until a supervisor waits for it: an execve keeps that, and signals that are pending, too (signal(7)).
 * `before` is what was blocked. */
void hold_signals(uint64_t *before);
void let_signals(const uint64_t *before);

#define ACTION_DEFAULT 0UL /* SIG_DFL */
#define ACTION_IGNORE 1UL  /* SIG_IGN */
unsigned long signal_action(int number);

#endif
