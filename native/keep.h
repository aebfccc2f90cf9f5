/* How a prepared pod is to be run: the file `keep` in its directory, written by pyrun.pod.prepare, read by the keeper.
 *
 * The keeper runs a pod in the background without any Python: two processes in one program.
 *
 *   front    the very process that was asked, `pyrun run-prepared`: takes the pod, and with --detach waits until its app
 *            runs, says so and ends.  In the foreground it becomes the helper.
 *   keeper   a session of its own; holds the pod's lock, starts the helper with the plan, keeps the app's output, records
 *            the exit, starts the app again if so wanted, and moves the pod to exited/ or removes it
 *
 *     front                     keeper                      helper (plan.h)
 *       |-- clone, setsid -------->|                           |
 *       |                          |-- cgroup, clone, exec --->|
 *       |                          |<-- PLAN_RUNNING ----------|
 *       |<-- that very report -----| `run`                     |
 *       | exits 0                  |<== the app's output ======|
 *                                  |--- signal number -------->| (of every signal that the keeper gets)
 *                                  |<-- PLAN_EXITED -----------|
 *                                  | `exit`                    | cleans up
 *                                  |<-- EOF -------------------|
 *                                  | again, or exited/
 *
 * A front that is killed before it heard of the app's start takes the pod with it.  A helper that is killed takes its pod
 * with it (init's PR_SET_PDEATHSIG) and leaves an exit record that says `lost`.  A keeper that is killed closes the helper's
 * control socket, so the pod is killed; there is no exit record then, and no lock.
 *
 * A pod of several apps (KEEP_SEVERAL) has a plan, a helper and a log for each, below apps/NAME, and one process more: the
 * holder, whose namespaces the others join (keep_pod.c).  In the foreground the front itself is the keeper then, and so it is
 * where somebody has to look after the health of an app, or to start it again.
 */
#ifndef PYRUN_KEEP_H
#define PYRUN_KEEP_H

#include "handover.h"
#include "shared.h"

#define KEEP_MAGIC 0x7065656b
#define KEEP_VERSION 2

#define CLOCK_BOOTTIME 7

enum keep_restart { RESTART_NO, RESTART_ON_FAILURE, RESTART_ALWAYS };
enum keep_log { LOG_AUTO, LOG_FILE, LOG_JOURNALD, LOG_NONE, LOG_PASSTHROUGH };

#define KEEP_REMOVE 1     /* when it has ended nothing is kept */
#define KEEP_FOREGROUND 2 /* it wants the caller's input, which there is none of in the background */
#define KEEP_TTY 4        /* it wants a terminal; in the background that is keep_tty.c's */
#define KEEP_HEALTH 8     /* health.keep and health.plan are there, of an app at least */
#define KEEP_SEVERAL 32   /* the file `apps.keep` says which */
#define KEEP_SHARE_PID 64 /* one pid namespace for all of them */
#define KEEP_SHARE_NET 128 /* a network namespace of their own; without it the host's */
#define KEEP_APPS 64
#define MANY_APPS 16 /* each of more has no page for its command line: PLAN_MANY */

#define APP_INPUT 1 /* in the foreground it has the caller's standard input */
#define APP_TTY 2   /* in the background keep_tty.c's terminal */

/* When a pod of several apps ends, and with which app's status. */
enum keep_exit { EXIT_FIRST_FAILURE, EXIT_LAST, EXIT_MAIN };

/* The file `apps.keep`: this, and `count` of the next. */
struct keep_apps {
    uint32_t count;
    uint32_t exit; /* enum keep_exit */
};

struct keep_app {
    char name[64];       /* NUL-terminated, as the next */
    char identifier[64]; /* for journald */
    uint32_t stop;       /* the signal that asks it to end */
    uint32_t flags;      /* APP_... */
};

struct keep {
    uint32_t magic;
    uint32_t version;
    uint32_t restart;     /* enum keep_restart */
    uint32_t restart_max; /* times, 0 without end */
    uint32_t log;         /* enum keep_log */
    uint32_t log_files;   /* how many are kept, the current one included */
    uint64_t log_size;    /* bytes of one file, 0 without limit */
    uint32_t flags;       /* KEEP_... */
    uint32_t backoff;     /* milliseconds before the first restart; doubles each time */
    char identifier[64];  /* for journald, NUL-terminated */
};

struct log {
    int pipes[2][2], file;
    int middle[2]; /* the last that a stream wrote was no whole line */
    uint64_t size;
    size_t used; /* of what is to be written, before another app's turn */
};

/* Of health checks: the file `health.keep`, written by pyrun.pod.health; times in milliseconds. */
#define HEALTH_MAGIC 0x746c6568
#define HEALTH_VERSION 1

enum health_action { HEALTH_NONE, HEALTH_KILL, HEALTH_RESTART, HEALTH_STOP };

struct health {
    uint32_t magic;
    uint32_t version;
    uint32_t interval;
    uint32_t timeout;
    uint32_t start_period;
    uint32_t retries;
    uint32_t on_failure; /* enum health_action */
    uint32_t signal;     /* that asks the app to end */
};

#define HEALTH_SAID 256 /* bytes of a check's output that are kept */

struct check {
    struct health how;
    int plan, init, helper, output; /* `helper`: a pidfd of the one that runs now; `init` of the app's, -1 when there is nothing to check */
    int32_t init_pid, helper_pid;
    int state, stops; /* `stops`: the app was asked to end for its health */
    uint32_t failing;
    uint64_t begun, due, started; /* ns of CLOCK_BOOTTIME, the last of CLOCK_REALTIME; `due`: of the next step */
    char said[HEALTH_SAID + 1];
    size_t said_size;
};

struct app {
    struct keep_app how;
    int dir, plan, own; /* `own`: its cgroup, between its making and the start */
    int control;        /* to its helper, -1 when that is gone */
    int words;          /* a socket for what it says to the service manager, -1 where that is not wanted */
    uint32_t told;      /* TOLD_..., of keep_manager.c */
    uint64_t sockets;   /* which of the service manager's it gets */
    struct check *check; /* 0 without one */
    int streams[3];
    struct log log;
    uint32_t flags; /* of the plan, as it was prepared */
    int32_t helper_pid, init_pid;
    /* of this run; `ended`: its helper told how */
    int running, ended, failed;
    int32_t status;
    uint32_t oom; /* OOM_ bits */
    uint64_t started, finished;
    struct plan_report failure;
};

struct pollfd;

struct keeper {
    struct keep how;
    const char *root, *uuid;
    int pods, pod, helper, parent;
    int group;              /* the cgroup of a pod of several apps, above theirs */
    int holder;             /* pidfd of the process that holds the namespaces of several apps, -1 without one */
    int front;              /* socket to the front until the app runs first, then -1 */
    int signals;
    uint32_t restarts, exit;
    unsigned count;
    /* of this run */
    const struct app *decided; /* whose end is the pod's */
    uint64_t deadline;         /* when what still runs is killed, CLOCK_BOOTTIME */
    int running, stopping, killing;
    int revive; /* it is stopped for its health, to start again whatever its policy */
    char **environment; /* the caller's */
    int foreground;     /* this is the process that was asked; its streams are the apps' */
    int terminals;      /* which of these are terminals, a bit each */
    uint64_t ignored;   /* signals that the caller ignores, likewise: what is blocked is queued all the same */
    int ready;          /* the service manager has been told */
    int unsaved;        /* the last end is not on the disk, which is full */
    char *cgroup;       /* the pod's, "" without one: behind the last app that there is, */
    struct pollfd *polls; /* and these behind that, so that few pages hold all that is in use */
    struct app apps[KEEP_APPS];
    char room[3 * PATH_SIZE];
};

#define EACH_APP(each, keeper) (struct app *each = (keeper)->apps; each < (keeper)->apps + (keeper)->count; each++)

/* keeper.c */
long set_plan_flags(const struct app *app, uint32_t flags);
void make_cgroup(struct keeper *keeper, struct app *app);
int open_cgroup(const struct keeper *keeper);
void clear_cgroup(const struct keeper *keeper, const struct app *app);
const char *cgroup_name(const struct keeper *keeper);

/* keep_helper.c */
long start_helper(struct keeper *keeper, struct app *app);
void send_signal(const struct app *app, uint32_t number);
void on_signals(struct keeper *keeper);

/* keep_run.c */
int keep(struct keeper *keeper);
void decide(struct keeper *keeper, const struct app *because); /* the pod ends: what else runs is asked to end too */

/* keep_state.c */
int32_t own_pid(void);
void write_run(const struct keeper *keeper);
void write_exit(struct keeper *keeper, int last);
void tell_caller(struct keeper *keeper, int code); /* how the pod ended */
size_t end_words(const struct keeper *keeper, const struct app *app, char *words, size_t size); /* members of its record; how long */
int block_signals(void); /* all that can be; a descriptor that tells of them, signalfd(2) */
uint64_t find_ignored(void); /* of what a terminal sends, as nohup(1) and shells without job control have it; a bit each */
int told_to_stop(const struct keeper *keeper);
int wanted_again(const struct keeper *keeper);
void bury(struct keeper *keeper, int remove);

/* keep_log.c */
int open_streams(struct keeper *keeper); /* of all apps; 0 when there can be none */
int log_source(const struct app *app, int stream); /* what to poll(2), -1 where nothing passes through the keeper */
long log_take(const struct keeper *keeper, struct app *app, int stream); /* moves some of what is there; minus an errno when there is nothing */
void log_end(const struct keeper *keeper, struct app *app); /* the app has ended: the rest, and an end to its last line */
uint64_t log_dropped(void);                       /* bytes that could not be written */

/* keep_health.c */
#define HEALTH_SLOTS 2 /* of poll(2) */
void health_begin(const struct keeper *keeper, struct app *app); /* the app runs */
void health_watch(const struct app *app, struct pollfd *slots);
uint64_t health_due(const struct keeper *keeper); /* when health_move is wanted at the latest, CLOCK_BOOTTIME; ~0 never */
void health_move(struct keeper *keeper, struct app *app, const struct pollfd *slots);
void health_end(struct app *app);

/* keep_manager.c */
#define MANAGER_WORDS 5 /* of the helper's environment, the end included */
int manager_sockets(struct keeper *keeper, const char *which); /* 0 where `which` makes no sense */
int manager_listen(struct app *app);
void manager_hear(struct keeper *keeper, struct app *app);
void manager_ready(struct keeper *keeper); /* all of them run, or one has ended */
uint32_t manager_count(const struct app *app); /* how many sockets it gets */
void manager_hand_over(const struct app *app); /* in the helper's process: they stand in a row */
void manager_environment(const struct keeper *keeper, const struct app *app, char *words[MANAGER_WORDS], char names[PATH_SIZE]);

/* keep_tty.c */
#define TTY_SLOTS 3 /* of poll(2) */
int tty_start(const struct keeper *keeper, struct app *app); /* a terminal in place of its streams; 0 when there can be none */
void tty_watch(struct pollfd *slots);
int tty_move(struct keeper *keeper, const struct pollfd *slots); /* whether anything was there */
void tty_rest(struct keeper *keeper); /* the app has ended: what it wrote last */
void tty_end(const struct keeper *keeper);  /* the pod has ended: tell whoever is attached */

/* keep_pod.c: what only pods of several apps need */
int read_apps(struct keeper *keeper);
int share_memory(const struct keeper *keeper);
long share_begin(struct keeper *keeper);
void share_end(struct keeper *keeper);

#endif
