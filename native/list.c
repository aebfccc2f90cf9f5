/* The launcher's short way for `pyrun list`: the records of all pods are read, sorted and printed as pyrun.pod.status and
 * pyrun.cli.pods do it, byte for byte.
 *
 * Only what pyrun itself writes is understood: flat records of plain ASCII, pods of one app.  Anything else, damage and
 * every error included, is left to Python, which begins again: nothing is printed before everything is known. */
#include "fast.h"
#include "handover.h"
#include "list.h"

#define MOST_PODS 16384
#define LONGEST_RECORD 8192
#define LONGEST_NAME 64
#define EXIT_PIPE 141
#define DT_DIR 4

enum { FULL = 1, NO_LEGEND = 2, QUIET = 4, JSON = 8, TABLE = 16 };

static struct list list;

/* Options of the command line, each at most once; -1 for what only Python knows. */
static int options(int argc, char **argv, int i)
{
    static const char names[][16] = {"--full", "--no-legend", "--quiet", "-q", "--format=json", "--format=table"};
    static const int flags[] = {FULL, NO_LEGEND, QUIET, QUIET, JSON, TABLE};
    int given = 0;

    for (; i < argc; i++) {
        int flag = 0;

        for (size_t n = 0; n < sizeof flags / sizeof *flags; n++)
            if (str_eq(argv[i], names[n]))
                flag = flags[n];
        if (str_eq(argv[i], "--format") && i + 1 < argc) {
            i++;
            flag = str_eq(argv[i], "json") ? JSON : str_eq(argv[i], "table") ? TABLE : 0;
        }
        if (flag == 0 || (given & flag) != 0 || ((flag & (JSON | TABLE)) != 0 && (given & (JSON | TABLE)) != 0))
            return -1;
        given |= flag;
    }
    return given;
}

/* Whether a running pod's supervisor lives: it holds the lock of its directory. */
static int is_locked(int pod)
{
    return sys_call2(__NR_flock, pod, LOCK_SH | LOCK_NB) < 0 || sys_call2(__NR_flock, pod, LOCK_UN) < 0;
}

/* cgroups(7): all processes are stopped by cgroup.freeze.  -1: the path is not to be told here. */
static int is_frozen(struct span cgroup)
{
    static const char file[] = "/cgroup.events", word[] = "frozen 1";
    char path[PATH_SIZE], text[256];
    size_t n = 0;
    OWNED_FD fd = -1;
    long size;

    if (cgroup.size <= 2)
        return 0;
    for (const char *c = cgroup.at + 1; c < cgroup.at + cgroup.size - 1; c++) {
        c += *c == '\\'; /* the only escapes that were let through stand for themselves */
        if (n + sizeof file >= sizeof path)
            return -1;
        path[n++] = *c;
    }
    memcpy(path + n, file, sizeof file);
    fd = (int)sys_openat(AT_FDCWD, path, O_RDONLY, 0);
    size = fd < 0 ? fd : sys_read(fd, text, sizeof text);
    for (long i = 0; i + (long)sizeof word - 1 <= size; i++)
        if (memcmp(text + i, word, sizeof word - 1) == 0)
            return 1;
    return 0;
}

static void copy_fields(struct row *row, const struct span *from, const unsigned char *keys, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (from[keys[i]].size != 0)
            row->of[keys[i]] = from[keys[i]];
}

static int is_true(struct span value)
{
    return value.size != 0 && value.at[0] == 't';
}

static int read_end(struct row *row, int pod)
{
    static const unsigned char keys[] = {CODE, SIGNAL, STARTED, FINISHED, RESTARTS, OOM, OOM_GROUP, OOM_VICTIM, LOST, LOG_DROPPED};
    struct span end[KEYS] = {{0, 0}};

    if (read_record(&list, pod, "exit", end) < 0)
        return 0;
    copy_fields(row, end, keys, sizeof keys);
    row->state = EXITED;
    if (end[CODE].size == 0)
        row->lost = row->of[LOST].size == 0 ? LOST_ADDED : LOST_SAID;
    else if (is_true(end[LOST]))
        row->lost = LOST_SAID;
    return row->lost != LOST_SAID || is_true(row->of[LOST]);
}

static int read_running(struct row *row, int pod)
{
    static const unsigned char keys[] = {STARTED, RESTARTS, PID}, health_keys[] = {HEALTH, FAILING};
    struct span run[KEYS] = {{0, 0}}, more[KEYS] = {{0, 0}};
    int known, frozen;

    if (!is_locked(pod))
        return read_end(row, pod);
    known = read_record(&list, pod, "run", run);
    if (known < 0)
        return 0;
    copy_fields(row, run, keys, sizeof keys);
    row->of[CGROUP] = run[CGROUP].size > 2 ? run[CGROUP] : row->cgroup.size > 2 ? row->cgroup : (struct span){"\"\"", 2};
    if (run[KEEPER].size == 0) { /* in the foreground */
        if (known != 0 || row->of[CREATED].size == 0)
            return 0;
        row->of[STARTED] = row->of[CREATED];
    } else if (run[PID].size == 0) {
        int ended = read_record(&list, pod, "exit", more);

        if (ended < 0)
            return 0;
        if (ended > 0)
            row->state = RESTARTING;
    }
    if (run[PID].size != 0) {
        memset(more, 0, sizeof more);
        if (read_record(&list, pod, "health", more) < 0)
            return 0;
        copy_fields(row, more, health_keys, sizeof health_keys);
    }
    frozen = is_frozen(row->of[CGROUP]);
    if (frozen > 0)
        row->state = PAUSED;
    return frozen >= 0;
}

/* Its addresses and ports are lists, which are not written here. */
static int has_network(int phases, const char *uuid)
{
    char path[LONGEST_NAME + 8];

    (void)str_add(str_add(path, path + sizeof path, uuid), path + sizeof path, "/net");
    return sys_call3(__NR_faccessat, phases, path, 0) != -ENOENT;
}

/* One pod: 1 when it is in the list or has moved on, 0 when only Python knows what it is. */
static int read_pod(int phases, int phase, const char *uuid)
{
    static const unsigned char keys[] = {APP, NAME, IMAGE, CREATED, RESTART, LOG, EXIT_POLICY, PID_NAMESPACE, ISOLATORS, POD_NAME};
    struct span pod[KEYS] = {{0, 0}};
    struct row *row = list.rows + list.count;
    struct stat st;
    OWNED_FD dir = -1;
    const size_t length = str_len(uuid);
    char path[LONGEST_NAME + 8];
    int found;

    if (length >= LONGEST_NAME || list.count == MOST_PODS)
        return 0;
    if (phase >= RUNNING) {
        dir = (int)sys_openat(phases, uuid, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
        if (dir < 0)
            return dir == -ENOENT;
    }
    (void)str_add(str_add(path, path + sizeof path, uuid), path + sizeof path, "/pod");
    found = read_record(&list, dir < 0 ? phases : dir, dir < 0 ? path : path + length + 1, pod);
    if (found > 0 && (pod[APPS].size != 0 || (list.json && pod[ISOLATORS].size != 0)))
        return 0; /* their members are objects, which are printed in another form than they have here */
    if (list.json && (phase == PREPARED || phase == RUNNING) && has_network(phases, uuid))
        return 0;
    if (found <= 0) /* a moment later it may stand in the next phase */
        return found == 0 && sys_call4(__NR_newfstatat, phases, uuid, &st, 0) == -ENOENT;
    memset(row, 0, sizeof *row);
    memcpy(row->uuid, uuid, length + 1);
    row->state = phase;
    row->cgroup = pod[CGROUP];
    copy_fields(row, pod, keys, sizeof keys);
    row->created = number_of(row->of[CREATED]);
    list.count++;
    return phase == RUNNING ? read_running(row, dir) : phase == EXITED ? read_end(row, dir) : 1;
}

static int read_phase(int pods, const char *name, int phase)
{
    char buffer[32768] __attribute__((aligned(8)));
    OWNED_FD dir = (int)sys_openat(pods, name, O_RDONLY | O_DIRECTORY, 0);
    long n;

    if (dir < 0)
        return dir == -ENOENT;
    while ((n = sys_call3(__NR_getdents64, dir, buffer, sizeof buffer)) > 0)
        for (long at = 0; at < n; at += *(unsigned short *)(buffer + at + 16)) {
            const char *uuid = buffer + at + 19; /* struct linux_dirent64: 8 + 8 + 2 + 1 bytes before the name */

            if (uuid[0] == '.' && (uuid[1] == '\0' || (uuid[1] == '.' && uuid[2] == '\0')))
                continue;
            for (const char *c = uuid; *c != '\0'; c++)
                if (!((*c >= '0' && *c <= '9') || (*c >= 'a' && *c <= 'z') || *c == '-'))
                    return 0;
            if (buffer[at + 18] != DT_DIR || !read_pod(dir, phase, uuid))
                return 0;
        }
    return n == 0;
}

static int is_after(const struct row *one, const struct row *other)
{
    size_t i = 0;

    if (one->created != other->created)
        return one->created > other->created;
    while (one->uuid[i] != '\0' && one->uuid[i] == other->uuid[i])
        i++;
    return one->uuid[i] > other->uuid[i];
}

/* By age, then by UUID: a shell sort.  One that moved while it was read stands there twice: its last phase counts. */
static void sort(void)
{
    size_t kept = 0;

    for (size_t i = 0; i < list.count; i++)
        list.order[i] = list.rows + i;
    for (size_t gap = list.count / 2; gap > 0; gap = gap == 2 ? 1 : gap * 5 / 11)
        for (size_t i = gap; i < list.count; i++) {
            struct row *moving = list.order[i];
            size_t j = i;

            for (; j >= gap && is_after(list.order[j - gap], moving); j -= gap)
                list.order[j] = list.order[j - gap];
            list.order[j] = moving;
        }
    for (size_t i = 0; i < list.count; i++) {
        if (kept > 0 && str_eq(list.order[kept - 1]->uuid, list.order[i]->uuid))
            kept--;
        list.order[kept++] = list.order[i];
    }
    list.count = kept;
}

/* Comes back only when the caller's output took nothing, or broke otherwise than by a reader that has gone. */
static void print(const char *text, size_t size)
{
    const uint64_t pipe = 1ULL << (SIGPIPE - 1);

    (void)sys_call4(__NR_rt_sigprocmask, SIG_BLOCK, &pipe, 0, sizeof pipe);
    while (size > 0) {
        long n = sys_write(1, text, size);

        if (n == -EPIPE)
            sys_exit(EXIT_PIPE);
        if (n < 0 && n != -EINTR)
            break;
        text += n < 0 ? 0 : n;
        size -= n < 0 ? 0 : (size_t)n;
    }
    if (size == 0)
        sys_exit(0);
    (void)sys_call4(__NR_rt_sigprocmask, SIG_UNBLOCK, &pipe, 0, sizeof pipe);
}

void list_pods(int argc, char **argv, char **envp)
{
    static const char phases[][12] = {"preparing", "prepared", "running", "exited"};
    int verb, how, pods = -1, known = 1;
    const char *root = root_of(argc, argv, envp, &verb);
    char path[PATH_SIZE];
    long map;

    if (root == 0 || !str_eq(argv[verb], "list") || !is_root() || !is_own(root) || (how = options(argc, argv, verb + 1)) < 0)
        return;
    map = sys_call6(__NR_mmap, 0, LIST_ROOM, 3 /* read and write */, 0x4022 /* private, anonymous, not reserved */, -1, 0);
    if ((unsigned long)map > -4096UL || join(path, root, "/pods/garbage/..", "") == 0)
        return;
    list.at = (char *)map;
    list.json = (how & (JSON | QUIET)) == JSON;
    list.end = list.at + LIST_ROOM;
    list.rows = take(&list, sizeof *list.rows * MOST_PODS);
    list.order = take(&list, sizeof *list.order * MOST_PODS);
    pods = (int)sys_openat(AT_FDCWD, path, O_RDONLY | O_DIRECTORY, 0);
    for (int phase = 0; known && phase < 4; phase++)
        known = pods >= 0 && read_phase(pods, phases[phase], phase);
    if (known) {
        sort();
        if (how & QUIET)
            write_ids(&list, (how & JSON) != 0);
        else if (list.json)
            write_json(&list);
        else
            write_table(&list, (how & FULL) != 0, (how & NO_LEGEND) == 0);
        if (list.text != 0)
            print(list.text, (size_t)(list.at - list.text));
    }
    (void)sys_call2(__NR_munmap, map, LIST_ROOM);
    if (pods >= 0)
        sys_close(pods);
}
