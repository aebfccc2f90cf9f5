/* A pod that is being made from a recipe; see pod.c. */
#ifndef PYRUN_POD_H
#define PYRUN_POD_H

#include <stddef.h>
#include <stdint.h>

#include "plan.h"
#include "recipe.h"

#define POD_PATH_SIZE 4096

struct pod {
    char uuid[UUID_LENGTH + 1];
    char blank[UUID_LENGTH]; /* what stands for it in the recipe */
    char cgroup_name[UUID_LENGTH + 8];
    char cgroup[POD_PATH_SIZE]; /* its directory, "" without one */
    int pods;                   /* the directory of all pods, which belongs to the caller */
    int dir, parent, own;       /* the pod's directory, locked; the cgroup above its own and its own: -1 where there is none */
};

/* Gives the pod a UUID; minus an errno. */
long pod_begin(struct pod *pod, int pods);

/* Makes directory and cgroup.  `record` are the first members of the file `pod`; the blank that it begins with becomes the
 * UUID wherever it is.  Minus an errno, and nothing is left. */
long pod_make(struct pod *pod, char *record, size_t size);

/* A sealed memfd with the plan of a pod that is made, or minus an errno; likewise. */
long pod_plan(const struct pod *pod, char *plan, size_t size, uint32_t flags);

/* Removes what pod_make made, and closes it. */
void pod_undo(struct pod *pod);

/* Puts slots[i] on descriptor i, for all from `first` on, -1: closed; then executes `helper`.  Comes back only with minus an
 * errno, and with copies of the descriptors in `slots`, out of the slots' way.  System calls only, so that it may run in
 * memory that it shares with another process. */
long enter_helper(int helper, int slots[SLOT_COUNT], int first, char *const *argv, char *const *envp);

/* Hands the slots to a helper that was started with nothing but the other end of `control`; minus an errno. */
long send_slots(int control, const int slots[SLOT_COUNT]);

#endif
