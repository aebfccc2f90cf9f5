/* What the parts of the helper share.  Two processes run this program:
 *
 *   supervisor  stays in the host's namespaces: clones, maps ids, waits, forwards signals,
 *               relays the terminal, reports, writes the exit record, removes what was made
 *   init        pid 1 of the pod: runs the operations, starts the app, reaps
 */
#ifndef PYRUN_HELPER_H
#define PYRUN_HELPER_H

#include "decode.h"
#include "link.h"
#include "shared.h"
#include "sys.h"

/* One page that supervisor and init share.  Init belongs to the container's side of the wall, so
 * the supervisor uses these values for telling and exit codes only, never as an address or a name.
 * Whoever reads or writes it makes it: while an app runs there is none. */
struct shared {
    volatile uint32_t failed;
    volatile uint32_t op;
    volatile int32_t error;
    volatile uint32_t detail;
    volatile uint32_t exited;
    volatile int32_t status;
    volatile uint32_t reported; /* init told the app's end itself */
    volatile uint32_t stays;    /* init does, for what follows the app's end */
    volatile uint32_t held;     /* init waits until the supervisor has looked at the app, see oom.c */
    volatile int32_t app;       /* the number that init knows it by, 0 for FIRST_CHILD */
    volatile uint32_t entered; /* enter.c: the process, as the client sees it */
};

#define FIRST_CHILD 2 /* in a pid namespace of its own */

/* What a process knows that waits without memory, and nothing else; whose it is begins with `top`, see doze.c. */
struct kept {
    unsigned long top; /* where its stack ends */
    char rest[184];
};

struct context {
    const struct plan_header *plan;
    const struct plan_op *ops;
    const char *pool;
    struct shared *shared;
    char **argv;
    char **envp;
    int killed;       /* supervisor: the app alone was to be killed, for a handler's sake */
    int reported;     /* supervisor: the app's end was told */
    int64_t oom_kills; /* supervisor: in the cgroup above the pod's, before the start; -1 where the pod's own counts */
    int64_t oom_seen; /* supervisor: how many there were when it looked who it was */
    uint32_t oom_victim;
    uint64_t started; /* CLOCK_REALTIME, ns: when init was cloned */
    int link;         /* this side's end of the socket between supervisor and init */
    int pidfd;        /* supervisor: of init */
    int32_t init_pid;
    int root;         /* init: O_PATH of the staged root until the pivot; supervisor: of the pod's, to let go of last */
    int failed;       /* as shared->failed, for init itself */
    uint32_t detail;  /* what DETAIL_ a failure at this moment would have */
    uint32_t handler; /* whose operations these are: index of an OP_HANDLER, 0 the app's */
    int of;           /* enter(): pidfd of the init to join, -1 for SLOT_INIT */
    int service;      /* connection to the metadata service */
    int notify;       /* supervisor: the socket on which the app speaks to the service manager */
    int inside;       /* this process has moved into the pod's cgroup itself */
    int tty;          /* supervisor: the master; init and app: the slave */
    unsigned long top; /* of the stack, for doze(), 0 where it stays */
};

/* Detail and minus errno travel together. */
static inline long with_detail(struct context *ctx, uint32_t detail, long result)
{
    if (result < 0)
        ctx->detail = detail;
    return result;
}

static inline const char *pool_string(const struct context *ctx, uint64_t offset)
{
    return ctx->pool + offset;
}

#define ARENA_SIZE (256 * 1024)
extern char arena[ARENA_SIZE]; /* the only memory beyond the stack */

/* supervise.c */
int supervise(struct context *ctx);
int wind_up(struct context *ctx, struct plan_report end); /* what is left when the pod is gone; the exit code */
void report(const struct context *ctx, const struct plan_report *what);
void block_signals(void);
void default_signals(int first, int last);
#define ALL_SIGNALS_OF_LINUX 1, 64
long clone_child(struct context *ctx, uint64_t flags, int (*run)(struct context *));
uint64_t now_ns(void);

/* watch.c */
int may_doze(const struct context *ctx);
void kill_pod(struct context *ctx);
void wait_for_pod(struct context *ctx, int signals); /* until it is gone; then, if it has slept, it does not come back either */

/* doze.c */
typedef void woken(struct kept *kept, long result);
__attribute__((noreturn)) void doze(struct kept *kept, woken *then, long number, long a, long b, long c, long d);
extern const uint64_t all_signals __attribute__((visibility("hidden"))); /* on the page of code */
unsigned long stack_top(const struct context *ctx);

/* limits.c */
long set_limit(struct context *ctx, const struct plan_op *op);

/* version1.c */
long set_version_1(const struct context *ctx, const struct plan_op *op);
long move_version_1(const struct context *ctx, int in); /* else out again */
void remove_version_1(const struct context *ctx);
const char *memory_1(const struct context *ctx);

/* supervise.c */
void send_report(const struct plan_report *what);

/* terminal.c */
void terminal_start(struct context *ctx);
void terminal_copy_size(struct context *ctx);
#define TERMINAL_SLOTS 3 /* of poll(2): the terminal, the caller's input and output */
struct pollfd;
void watch(struct pollfd *slot, int fd, short events);
void terminal_watch(const struct context *ctx, struct pollfd *slots, int ended);
void terminal_move(struct context *ctx, const struct pollfd *slots);
int terminal_waits(void); /* output is there that the caller has not taken */
void terminal_stop(void);

/* notify.c */
int notify_wanted(const struct context *ctx); /* the manager is to hear that the app runs */
void notify_ready(const struct context *ctx);
long notify_listen(struct context *ctx);
void notify_relay(const struct context *ctx);
char **notify_environment(const struct context *ctx, char **at);

/* cleanup.c */
void send_figures(const struct context *ctx);
void write_exit_record(const struct context *ctx, int32_t status, uint64_t finished, uint32_t oom);
void tell_caller(const struct context *ctx, const struct plan_report *how, int code);
void remove_leftovers(const struct context *ctx, int keep); /* keep: the pod ran and is to be looked at */

/* oom.c */
int64_t number_in(int dir, const char *file, const char *name);
#define OOM_KILL "\noom_kill "             /* of a process */
#define OOM_GROUP_KILL "\noom_group_kill " /* of all of them, memory.oom.group */
void count_oom_kills(struct context *ctx); /* before the app runs */
void look_for_victim(struct context *ctx);
uint32_t out_of_memory(const struct context *ctx, int32_t status);
long ended_child(struct shared *shared, int link, long app, int *status);

/* metadata.c */
long metadata_begin(struct context *ctx, uint32_t *step);
long metadata_listen(struct context *ctx, const struct plan_op *op);

/* handlers.c */
uint32_t find_handler(const struct context *ctx, uint32_t kind);
int pre_start(struct context *ctx);
void post_stop(struct context *ctx);

/* init.c */
long start_program(struct context *ctx, uint32_t op);
int init_main(struct context *ctx);
int hold_main(struct context *ctx);
void fail(struct context *ctx, uint32_t op, long error);
uint32_t run_ops(struct context *ctx, uint32_t i, int stop);
int alone(const struct context *ctx);

/* enter.c */
#define JOINED_NETWORK(ctx) ((ctx)->plan->flags & PLAN_HOST_NETWORK ? 0 : CLONE_NEWNET)
long enter(struct context *ctx);
void hold_namespaces(const struct context *ctx, int32_t init); /* 0: from the pod's supervisor, at SLOT_SUPERVISOR */
void release_namespaces(void);

/* root.c, mounts.c, process.c: each runs one operation, returns 0 or minus an errno */
long run_root_op(struct context *ctx, const struct plan_op *op);
long run_mount_op(struct context *ctx, const struct plan_op *op);
long run_process_op(struct context *ctx, const struct plan_op *op);
char **pool_pointers(const struct context *ctx, uint64_t offset, uint64_t count, char **at);

/* network.c */
long make_network(const struct context *ctx);
long join_network(const struct context *ctx);

/* path.c: resolution beneath the new root */
long open_in_root(const struct context *ctx, const char *path, uint64_t flags, int nofollow);
long make_in_root(const struct context *ctx, const char *path, int nofollow);
long make_beneath(int dir, const char *name);
enum { PARENT_MAKE = 1, PARENT_NOFOLLOW = 2 };
long parent_in_root(const struct context *ctx, const char *path, unsigned how, const char **name);
int is_beneath_last(const char *path);
void forget_parent(void);
void fd_path(char path[32], int fd);

#include "oci_helper.h"

#endif
