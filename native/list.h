/* The list of all pods, read by list.c and list_scan.c, written by list_text.c. */
#ifndef PYRUN_LIST_H
#define PYRUN_LIST_H

#include "sys.h"

#define LIST_ROOM (64UL << 20) /* of addresses: only what is used becomes memory */

/* The members of a pod's records that matter, see pyrun.pod.status; list_scan.c has their names. */
enum {
    APP, NAME, IMAGE, CREATED, RESTART, LOG, EXIT_POLICY, PID_NAMESPACE, ISOLATORS, POD_NAME, APPS, CGROUP, KEEPER,
    STARTED, RESTARTS, PID, HEALTH, FAILING, CODE, SIGNAL, FINISHED, OOM, OOM_GROUP, OOM_VICTIM, LOST, LOG_DROPPED, KEYS
};

enum { PREPARING, PREPARED, RUNNING, EXITED, PAUSED, RESTARTING };
enum { LOST_NOT, LOST_SAID, LOST_ADDED }; /* its record says so, or there is none that says anything */

/* A value as it stands in its record, strings with their quotes; size 0: not there. */
struct span {
    const char *at;
    size_t size;
};

struct row {
    char uuid[64];
    int state, lost;
    uint64_t created;
    struct span cgroup, of[KEYS];
};

struct list {
    struct row *rows, **order;
    size_t count;
    char *at, *end; /* free memory */
    int json;       /* it is wanted as JSON */
    char *text;     /* the output up to `at`; 0 when there was not enough room */
};

struct field {
    char name[14];
    unsigned char size; /* of the name */
    char kind;          /* how the value begins; 0 stands for a digit, t for true or false */
};
extern const struct field fields[KEYS];

/* Memory for as long as the program runs; 0 when there is none left. */
void *take(struct list *list, size_t size);

/* Reads one flat JSON object into `of`: 1, or 0 when there is no such file, -1 when it holds anything unusual. */
int read_record(struct list *list, int dir, const char *path, struct span of[KEYS]);

uint64_t number_of(struct span value);

void write_ids(struct list *list, int json);
void write_json(struct list *list);
void write_table(struct list *list, int full, int legend);

#endif
