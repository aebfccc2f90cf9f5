/* The plan: the one definition of what Python hands to the native helper.
 *
 * C includes this file, cffi's cdef reads it (build.py strips the preprocessor guard), and nothing
 * else describes the format.  A plan is one read-only block, native byte order, laid out as
 *
 *     struct plan_header | struct plan_op[op_count] | pool | notes
 *
 * The pool holds NUL-terminated strings, lists (that many strings one after the other) and blobs;
 * its first byte and its last byte are NUL, so every offset below pool_size starts a terminated
 * string and offset 0 is the empty one.  The notes are for Python alone (what each operation is
 * called and who asked for it); the helper never looks at them.
 *
 * plan_check() in decode.c validates a whole plan before the first operation runs.
 *
 * Who speaks, in what order (all SOCK_SEQPACKET, one struct plan_report a message):
 *
 *     Python                supervisor (host side)              init (pid 1 of the pod)
 *       |--- spawn or exec --->|                                   |
 *       |--- 'S' + slots ----->|                                   | (where it was spawned with SLOT_CONTROL alone)
 *       |                      |--- clone3 (namespaces, cgroup) -->|
 *       |<-- PLAN_CHECKPOINT --|                                   | (with PLAN_WAIT)
 *       |--- any byte -------->|                                   |
 *       |                      |--- 'G' go, once ids are mapped -->| (only in a user namespace)
 *       |                      |--- 'N' + network namespace ------>| (CLONE_NEWNET without CLONE_NEWUSER)
 *       |                      |                                   | operations up to OP_APP
 *       |                      |<-- 'T' + terminal master ---------| (with OP_TTY)
 *       |                      |<-- 'R' running -------------------| the app's execve succeeded (if asked for)
 *       |<-- PLAN_RUNNING -----|                                   |
 *       |                      |                                   | reaps
 *       |--- signal number --->|--- that signal ------------------>| to the app
 *       |<-- PLAN_EXITED ------|<-- EOF ---------------------------| the app has ended; init exits
 *       |                      |<-- pidfd readable ----------------| every process of the pod is dead
 *       |                      | cleans up, exits                  |
 *
 * A failing operation is PLAN_FAILED with its index and errno, nothing else: Python knows the rest.
 * A message of Python's is one byte, a signal.  EOF on the control socket is the life-line: the
 * supervisor then kills the pod.
 */
#ifndef PYRUN_PLAN_H
#define PYRUN_PLAN_H

#define PLAN_MAGIC 0x6e757279
#define PLAN_VERSION 1
#define PLAN_MAX_SIZE 4194304
#define PLAN_MAX_OPS 4096
#define PLAN_MAX_LIST 16384
#define PLAN_MAX_LOWERS 500

/* Descriptors of the helper, by slot; absent ones are closed and their header flag is clear. */
#define SLOT_PLAN 3
#define SLOT_CONTROL 4
#define SLOT_POD 5
#define SLOT_PODS 6
#define SLOT_CGROUP 7
#define SLOT_CGROUP_PARENT 8
#define SLOT_NETWORK 9 /* with PLAN_NETWORK */
#define SLOT_COUNT 10
#define SLOT_INIT 6 /* with PLAN_ENTER: a pidfd of process 1 of the pod; argv[1] is its pid.  With PLAN_SHARED: of the holder */
#define SLOT_SUPERVISOR 9 /* with PLAN_ENTER and CLONE_NEWUSER, where the pod has that for itself: its supervisor's directory in proc(5) */
#define SLOT_NAMESPACES 24 /* from here on the supervisor of a pod in a user namespace has its namespaces, see enter.c */
enum { NAMESPACE_USER, NAMESPACE_NET = 4, NAMESPACE_MOUNT };
#define SLOT_START 5 /* with PLAN_OCI: the fifo on which OP_PARK waits, and a failure behind it is told */
#define SLOT_LISTEN 128 /* the first of the listening sockets that the app gets as 3, 4, ..., sd_listen_fds(3) */
#define SLOT_LISTEN_MAX 64

/* plan_header.flags */
#define PLAN_HAS_CONTROL 1
#define PLAN_HAS_POD 2
#define PLAN_HAS_CGROUP 4
#define PLAN_REMOVE 8
#define PLAN_RELAY_STDIN 16
#define PLAN_SETGROUPS_DENY 32
#define PLAN_HAS_EXPLAIN 64
#define PLAN_TELL_RUNNING 128 /* somebody waits for PLAN_RUNNING */
#define PLAN_ENTER 256        /* no new pod, one more process in a running one: see enter.c */
#define PLAN_SHARED 512       /* one app of several: joins the net, ipc and uts namespaces of the process at SLOT_INIT */
#define PLAN_SHARED_PID 1024  /* and its pid namespace */
#define PLAN_OCI 2048         /* nobody stays: the process is left to whoever reaps it, see oci_start.c */
#define PLAN_NOTIFY_APP 4096   /* the app itself tells the service manager, see notify.c */
#define PLAN_NOTIFY_NONE 8192
#define PLAN_ACCOUNT 16384     /* with the end of the app come the figures of its cgroup: PLAN_FIGURES */
#define PLAN_NETWORK 32768     /* its network namespace is the one at SLOT_NETWORK, made beforehand: see pyrun.net */
#define PLAN_CLONE_NETWORK 65536 /* init is cloned into its network: who made one elsewhere could not come back to the host's (setns(2)) */
#define PLAN_WAIT 131072 /* with CLONE_NEWUSER: init goes on when Python has said a byte, and the namespaces are there to be joined until then */
#define PLAN_KEEP_GROUPS 262144 /* OP_IDS without groups leaves those of the caller */
#define PLAN_HOST_NETWORK 524288 /* in a user namespace that does not have the host's network, which then nobody may enter: who is in it stays */
#define PLAN_TELL_END 1048576 /* descriptor 2 gets JSON: a failure, or how it ended, which begins as PYRUN_END of the environment does */
#define PLAN_MANY 2097152 /* of a pod of many apps: while it waits, its processes have no command line, see doze.c */
#define PLAN_LISTEN_SHIFT 24 /* above it: how many listening sockets there are */
#define PLAN_ALL_FLAGS 4194303

struct plan_header {
    uint32_t magic;
    uint32_t version;
    uint32_t size;        /* of the whole plan, notes included */
    uint32_t op_count;
    uint32_t pool;        /* offset of the pool */
    uint32_t pool_size;
    uint32_t flags;       /* PLAN_HAS_... */
    uint32_t uid_map;     /* pool: text for /proc/PID/uid_map, 0 none */
    uint32_t gid_map;     /* pool: text for /proc/PID/gid_map, 0 none */
    uint32_t pod_name;    /* pool: name of the pod's directory (its uuid) */
    uint32_t cgroup_name; /* pool: name of the cgroup below SLOT_CGROUP_PARENT */
    uint32_t explain;     /* pool: argv list of the program that explains a failure */
    uint32_t explain_count;
    uint32_t timens;      /* pool: text for /proc/self/timens_offsets, 0 none */
    uint64_t clone_flags; /* the pod's namespaces, CLONE_NEW... of clone3(2); with PLAN_ENTER and PLAN_OCI, or CLONE_NEWUSER: those to join;
                             with PLAN_ENTER CLONE_NEWUSER alone: all, by the pidfd */
};

/* plan_op.flags: two that every operation knows, the others belong to one operation. */
#define OPF_OPTIONAL 1   /* ENOENT is no failure */
#define OPF_ELSE 2       /* when this one fails, the next one is the alternative; else it is skipped */
#define OPF_NOFOLLOW 16  /* the target may not lead through a symbolic link */
#define OPF_RECURSIVE 32 /* OP_BIND: with the mounts below the source */
#define OPF_VOLATILE 64  /* OP_OVERLAY: the upper directory is thrown away, never sync it */
#define OPF_KEEP 128     /* OP_WRITE: leave a file alone that has content; OP_ROOT_BIND, OP_ROOT_READONLY: device nodes work;
                          * OP_HOOK: begins in the root, not in the directory that the process was started in */
#define OPF_USERXATTR 256 /* OP_OVERLAY: in a user namespace */
#define OPF_CLAMP 1024     /* OP_RLIMIT: no higher than the caller's own hard limit */
#define OPF_POD 2048       /* OP_LIMIT: of the cgroup above, which the apps of a pod have in common */
#define OPF_NOSUID 512   /* OP_OVERLAY: set-id bits and file capabilities are inert */

struct plan_op {
    uint16_t code;
    uint16_t flags;
    uint32_t n;
    uint32_t s1;
    uint32_t s2;
    uint64_t a;
    uint64_t b;
};

/* Operations.  "in-root" paths resolve beneath the new root only (openat2 RESOLVE_IN_ROOT). */
enum plan_code {
    OP_NONE = 0,
    /* init, before the pivot */
    OP_PROPAGATION = 1,    /* mount flags n on / (MS_PRIVATE | MS_REC ...) */
    OP_SCRATCH = 2,        /* tmpfs with options s2 on host path s1 */
    OP_HOST_DIR = 3,       /* mkdir host path s1, mode n, owner a:b */
    OP_OVERLAY = 4,        /* root: n lower dirs s2 (list, top first), upper a, work b (pool, 0 none) on s1 */
    OP_ROOT_BIND = 5,      /* root: bind host directory s2 on s1 */
    OP_UNMOUNT = 6,        /* detach what is mounted on host path s1; with PLAN_ENTER in-root */
    OP_MKDIR = 7,          /* in-root directory s1, mode n, owner a:b, parents as needed */
    OP_MKFILE = 8,         /* in-root empty file s1, mode n: a mount point */
    OP_WRITE = 9,          /* in-root file s1 with content s2, mode n */
    OP_SYMLINK = 10,       /* in-root link s1 to s2; an existing name stays */
    OP_MKNOD = 11,         /* in-root node s1, mode n, device number a, owner b: uid, and gid in the upper half */
    OP_MOUNT = 12,         /* fstype s1 on in-root s2, data n (pool), MS_ flags a */
    OP_BIND = 13,          /* host source s1 on in-root s2, MOUNT_ATTR_ flags a to set */
    OP_MASK = 14,          /* hide in-root s1: a file by /dev/null, a directory by an empty tmpfs */
    OP_READONLY = 15,      /* make in-root s1 read-only */
    OP_ROOT_READONLY = 16,
    OP_HOSTNAME = 17,      /* s1 */
    OP_DOMAINNAME = 18,    /* s1 */
    OP_NETWORK = 19,       /* enter the network that the supervisor makes meanwhile; in a user namespace bring lo up */
    OP_TTY = 20,           /* new terminal on in-root /dev/pts, /dev/console; owner a */
    OP_OOM_SCORE = 21,     /* oom_score_adj n (int32) */
    OP_PIVOT = 22,         /* n 1: move the root there instead, and chroot; 2: mounts are shared with others; 3: chroot (to enter: into s1) */
    OP_KEYRING = 23,       /* fresh session keyring */
    OP_APP = 24,           /* start the app's process: what follows runs there */
    /* the app's process */
    OP_SESSION = 25,       /* setsid, the terminal of OP_TTY becomes the controlling one, all other descriptors go */
    OP_STDIN_NULL = 26,
    OP_UMASK = 27,         /* n */
    OP_RLIMIT = 28,        /* resource n, soft a, hard b */
    OP_IDS = 29,           /* uid a, gid b, n supplementary gids (uint32_t array at s1) */
    OP_CAPS = 30,          /* struct plan_caps at s1; n 0: bounding set, before OP_IDS; n 1: the others, after it */
    OP_CHDIR = 31,         /* s1 */
    OP_NO_NEW_PRIVS = 32,
    OP_SECCOMP = 33,       /* n bytes of struct sock_filter at s1, SECCOMP_FILTER_FLAG_... a; with a listener three strings s2 */
    OP_EXEC = 34,          /* argv list s1 (n), env list s2 (a), paths to try: list b low half, count b high half */
    /* the supervisor, before it clones; they come first */
    OP_LIMIT = 35,         /* file s1 of the pod's cgroup with content s2, of its v1 cgroup a (pool) if not 0; see limits.c */
    OP_DEVICES = 36,       /* n bytes of struct bpf_insn at s1: which devices the pod may use, in words s2; see limits.c */
    /* a program of its own beside the app's, behind it: what follows up to its OP_EXEC runs there, as the app's operations do */
    OP_HANDLER = 37,       /* n HANDLER_, a seconds that it may take, s1 what it is called; see handlers.c */
    /* with PLAN_OCI, see oci_start.c */
    OP_JOIN = 38,          /* before the clone: enter the namespace of file s1, kind n (CLONE_NEW...) */
    OP_CHECKPOINT = 39,    /* tell Python, and wait for its byte */
    OP_HOOK = 40,          /* run program: list s1 (path, then n - 1 words of argv), env list s2 (a low half), seconds a high half,
                              standard input: b low half, own pid, b high half */
    OP_FIND = 41,          /* whether one of the paths of OP_EXEC (b likewise) can be executed */
    OP_PARK = 42,          /* tell Python, wait for its byte, then for one on SLOT_START */
    OP_RAISE = 43,         /* every permitted capability becomes effective */
    /* before the pivot */
    OP_OCI_ROOT = 44,      /* host directory s1, with what is mounted below it, becomes the root, which gets propagation n; tree b likewise,
                              a MS_SHARED when what is below stays shared with the host; it is mounted at s2, "" where it is */
    OP_OCI_MOUNT = 45,     /* list s1 (n): type, source, in-root target, uid_map (or a namespace), gid_map, options; struct plan_oci_mount s2;
                              OCIM_ flags a; tree b (below OCI_TREES): made before the clone, 0 not */
    OP_OCI_COVER = 46,     /* in-root s1, n OCI_MASKED or OCI_READONLY */
    OP_OCI_DEVICE = 47,    /* in-root node s1, type and mode n, device number a, owner b: uid low half, gid high half; with a tree from
                              bit OCI_DEVICE_TREE of n on it is made before the clone, with the host's ids */
    OP_SYSCTL = 48,        /* file s1 below /proc/sys with content s2; of pods too */
    OP_OCI_LISTENER = 49,  /* connect to the socket s1, for OP_SECCOMP with SECCOMP_FILTER_FLAG_NEW_LISTENER */
    OP_LABEL = 50,         /* n 0: open the directory of labels, and if there is an s2 write it to file s1 there; n 1, behind OP_APP: write s2
                              to its file s1; n 2, of pods: to file s1 below their own /proc */
    /* behind OP_APP */
    OP_OCI_ATTRIBUTE = 51, /* OCI_... n, value a, b bytes at s1 (OCI_MEMORY_POLICY: b words of 64 bits) */
    /* the supervisor, and once more init before the pivot, in the pod's network */
    OP_METADATA = 52,      /* service at unix socket s1, started by list s2 (n) if need be; app b (pool), IPv4 address and port a; metadata.c */
    OP_LAST = 52
};

struct plan_caps {
    uint64_t bounding;
    uint64_t effective;
    uint64_t permitted;
    uint64_t inheritable;
    uint64_t ambient;
};

enum plan_report_kind {
    PLAN_FAILED = 1,
    PLAN_RUNNING = 2,
    PLAN_EXITED = 3,
    PLAN_CHECKPOINT = 4,
    PLAN_PARKED = 5,
    PLAN_FIGURES = 6 /* before PLAN_EXITED: uint32_t kind, then files of the cgroup, each as name, newline, content, NUL */
};

/* op of a failure outside any operation */
#define STEP_DECODE 0xfffffff0
#define STEP_CLONE 0xfffffff1
#define STEP_IDMAP 0xfffffff2
#define STEP_INIT 0xfffffff3
#define STEP_TIMENS 0xfffffff4
#define STEP_LOG 0xfffffff5
#define STEP_ENTER 0xfffffff6 /* into the cgroup */
#define STEP_JOIN 0xfffffff7  /* into the namespaces */
#define STEP_NOTIFY 0xfffffff8
#define STEP_HOLDER 0xfffffff9 /* the process that holds what several apps share */
#define STEP_SUPERVISOR 0xfffffffa /* the helper ended before the app ran, and said nothing; detail is its wait status */

/* detail of a failure: which half of the operation */
#define DETAIL_NONE 0
#define DETAIL_SOURCE 1
#define DETAIL_TARGET 2
#define DETAIL_INTERPRETER 3 /* OP_EXEC: the file is there, its interpreter is not */
#define DETAIL_OUTSIDE 4     /* OP_CHDIR: the directory is not below the root */
#define DETAIL_OVERLAY 5
#define DETAIL_CONTROLLER 6 /* OP_LIMIT: the cgroup above does not have the controller */
#define DETAIL_INHABITED 7  /* OP_LIMIT: processes in the cgroup above keep the controller from being enabled */
#define DETAIL_NO_CGROUP 8  /* OP_LIMIT, OP_DEVICES: the pod has none */
#define DETAIL_STATUS 65536 /* OP_HANDLER, OP_HOOK: added to the wait status with which it ended */

/* OP_HANDLER.n: when */
#define HANDLER_PRE_START 1
#define HANDLER_POST_STOP 2
#define SIGNAL_LAST 64      /* with a handler for its end, the app alone is killed by this one: init stays for the handler */

/* detail of an end: whether the kernel killed some of the pod for want of memory, and what is known of who that was */
#define OOM_KILL_ANY 1
#define OOM_KILL_GROUP 2 /* all of it at once, memory.oom.group */
#define OOM_KILL_MAIN 4  /* the app itself */
#define OOM_KILL_CHILD 8 /* others alone */

struct plan_report {
    uint32_t kind;
    uint32_t op;     /* PLAN_FAILED: index or STEP_ */
    int32_t error;   /* PLAN_FAILED: errno */
    uint32_t detail; /* PLAN_EXITED: OOM_ bits */
    int32_t status;  /* PLAN_EXITED: wait status of the app, wait(2) encoding */
    int32_t pid;     /* PLAN_RUNNING: init's pid in the host */
    uint64_t time;   /* CLOCK_REALTIME, nanoseconds */
};

#endif
