/* The launcher's short way to a prepared pod; see prepared.c and place.c. */
#ifndef PYRUN_PREPARED_H
#define PYRUN_PREPARED_H

/* `run-prepared` with these words behind it: becomes the pod's keeper; comes back when Python has to do it. */
void run_prepared(const char *root, char **words, char **envp);

/* Brings this process to where the limits of the prepared pod with this directory can be set; 0 where Python has to. */
int take_place(int pod);

#endif
