/* The launcher's view of a running pod of one app; see live.c. */
#ifndef PYRUN_LIVE_H
#define PYRUN_LIVE_H

#include "sys.h"

#define TEXT 8192 /* bytes of a file that are looked at */
#define MARGIN 16

struct live {
    const char *uuid;
    int pod, init, cgroup; /* its directory, a pidfd of its process 1, its cgroup or -1 where there is none */
    uint64_t pid, supervisor;
};

/* Finds the processes of the running pod with that UUID: 0 where there is none, or of several apps.  close_live() is for both. */
int find_live(struct live *live, int pods, const char *uuid);
void close_live(struct live *live);

/* Whether this process is the pod's supervisor; asked last, whatever was opened by its number was its. */
int supervises(const struct live *live, uint64_t pid);

/* /proc/PID and `what` */
char *process_path(char path[64], uint64_t pid, const char *what);

/* The number behind white space, which `at` then is behind. */
uint64_t next_number(char **at);

/* Reads the beginning of a file as a string; 0 when there is nothing. */
int read_text(int dir, const char *path, char *text, size_t size);

#endif
