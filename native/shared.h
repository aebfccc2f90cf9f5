/* What the helper and the keeper both do; see shared.c. */
#ifndef PYRUN_SHARED_H
#define PYRUN_SHARED_H

#include "files.h"
#include "plan.h"

/* Removes a cgroup, and kills what is still in it, for up to five seconds.  `parent` is a descriptor, or negative: nothing happens. */
void remove_group(int parent, const char *name);

/* Of a pod that has a network of its own: starts what takes back its addresses and rules, and removes what was not to be kept.
 * Its command is the file `cleaner`, NUL after each word.  0 where there is none, and nobody else does it. */
int start_cleaner(int pod);

/* Becomes Python, which reads the plan on SLOT_PLAN and says what failed; comes back where that cannot be.  `argv` is memory
 * for `room` words.  The plan has passed plan_check(). */
void become_explainer(const struct plan_header *plan, const struct plan_report *failure, char **argv, size_t room, char **envp);

/* One datagram for the service manager of this environment, if there is one (sd_notify(3)). */
void tell_manager(char **envp, const char *text, size_t size);

/* Adds how an app ended, members of a JSON object; `oom` are OOM_ bits.  As str_add(). */
char *add_end(char *at, const char *end, int32_t status, uint64_t started, uint64_t finished, uint32_t oom);

/* One more line on descriptor 2, whoever has written there: PYRUN_END of the environment, `members`, the exit code. */
void tell_end(char **envp, const char *members, int code);

/* For a process that from now on mostly waits: the memory of code and constants that only other times need, and of stack frames
 * that are gone, goes back to the kernel. */
void settle(void);

/* clock_gettime(2), in nanoseconds. */
uint64_t clock_ns(int clock);

/* Brings lo up; minus an errno. */
long loopback_up(void);

/* A new network namespace with nothing but that; this process is in the old one again whatever happens.  Minus an errno. */
int new_network(void);

/* proc(5), field 22 of stat: clock ticks between the boot and the start of the process; 0 when it is gone. */
uint64_t start_time(int32_t pid);

#endif
