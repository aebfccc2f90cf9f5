/* The launcher's short ways; see fast.c, quick.c and list.c. */
#ifndef PYRUN_FAST_H
#define PYRUN_FAST_H

#include "sys.h"

/* Becomes the helper when this command line was decided before, or one of the same meaning, and nothing changed since; else returns. */
void run_recipe(int argc, char **argv, char **envp);

/* Whether it has come back for nothing but want of a decision, which never was there. */
int may_decide(void);

/* Whether all options of `run` are of those with which it is worth a try. */
int decides_early(int argc, char **argv, int verb);

/* Lets the interpreter decide, called by `args` with `*word` changed; returns the child when that has left a recipe, else 0. */
struct recipe_stamps;
long decide(const char *python, char **args, char **word, char **envp, const char *helper, const struct recipe_stamps *stamps);

/* What is likely to be needed: the program of the helper, a network namespace, and whether the sources of the bundle are as they were. */
void prepare_ahead(const char *helper, const struct recipe_stamps *stamps);

/* Does what run_recipe() does for a recipe that `child` has left, which is waited for. */
void run_decided(long child, char **envp);

/* What the short ways of `run` have opened: the state root's directories of pods and of recipes. */
void run_kept(const char *root, int pods, int recipes, int argc, char **argv, char **envp);

/* Enters a running pod when that takes nothing but a UUID and a command; else returns. */
void enter_pod(int argc, char **argv, char **envp);

/* Lists the pods when only what pyrun writes is to be listed, and ends; else returns. */
void list_pods(int argc, char **argv, char **envp);

/* `[--root DIR] VERB ...`: returns the state root and where the verb is, or 0 for anything else. */
int is_root(void);

/* Whether nobody but root can put things into this state directory. */
int is_own(const char *root);
const char *usual_root(char **envp); /* where neither the command line nor the environment says; "" where that takes Python */
const char *root_of(int argc, char **argv, char **envp, int *verb);

/* Takes the process of a user who has run pods before into a user namespace as its root; 0, and nothing has changed, where Python has to. */
int become_users_root(const char *root);

#endif
