/* Who was killed for want of memory.
 *
 * The cgroup that accounts the memory counts how many processes it were.  Which ones the kernel's log alone tells
 * (mm/oom_kill.c), by the group's path and the number in the initial pid namespace:
 *
 *     oom-kill:constraint=...,oom_memcg=PATH,task_memcg=PATH,task=NAME,pid=N,uid=N
 *     Memory cgroup out of memory: Killed process N (NAME) ...
 *
 * The log is read when the counter has risen, else never.  A number says something only as long as nobody has waited for its
 * process, so init leaves an app that ended by SIGKILL as it is until the supervisor has looked:
 *
 *     init            supervisor
 *       |---- 'K' ------->| look_for_victim
 *       |<-- SIGCHLD -----|
 *       | goes on         |
 *
 * What the log does not tell, not any more (it is a ring, and says it ten times in five seconds at most) or not to this process
 * (syslog(2), kernel.dmesg_restrict), stays unsaid. */
#include <asm/siginfo.h>
#include <linux/wait.h>

#include "helper.h"

#define INITIAL_PIDS 0xeffffffcU /* the inode of the initial pid namespace: PID_NS_INIT_INO of linux/nsfs.h */
#define HEAD "oom-kill:"
#define KILLED ": Killed process " /* the number comes before the name there */
#define DOUBTFUL (~0ULL)

/* The number that follows `name` in a file, -1 where there is none. */
int64_t number_in(int dir, const char *file, const char *name)
{
    OWNED_FD fd = (int)sys_openat(dir, file, O_RDONLY, 0);
    const char *at = name;
    char text[2048] = "";
    int64_t value = 0;
    long n;

    while ((n = fd < 0 ? fd : sys_read(fd, text, sizeof text)) > 0)
        for (long i = 0; i < n; i++)
            if (*at != '\0')
                at = text[i] == *at ? at + 1 : text[i] == *name ? name + 1 : name;
            else if (text[i] >= '0' && text[i] <= '9')
                value = value * 10 + (text[i] - '0');
            else
                return value;
    return *at == '\0' ? value : -1;
}

static int has_cgroup(const struct context *ctx)
{
    return (ctx->plan->flags & (PLAN_HAS_CGROUP | PLAN_ENTER)) == PLAN_HAS_CGROUP;
}

static int64_t own_oom_kills(const struct context *ctx)
{
    const char *old = memory_1(ctx);
    OWNED_FD group = old != 0 ? (int)sys_openat(AT_FDCWD, old, O_RDONLY | O_DIRECTORY, 0) : -1;

    return old != 0 ? number_in(group, "memory.oom_control", OOM_KILL) : number_in(SLOT_CGROUP, "memory.events", OOM_KILL);
}

/* Memory is counted in the pod's own cgroup, or, where that has no memory controller, in the one above: a unit's. */
void count_oom_kills(struct context *ctx)
{
    ctx->oom_kills = -1;
    if (has_cgroup(ctx) && own_oom_kills(ctx) < 0)
        ctx->oom_kills = number_in(SLOT_CGROUP_PARENT, "memory.events", OOM_KILL);
}

/* Of this run. */
static int64_t killed(const struct context *ctx)
{
    if (!has_cgroup(ctx))
        return 0;
    return ctx->oom_kills < 0 ? own_oom_kills(ctx) : number_in(SLOT_CGROUP_PARENT, "memory.events", OOM_KILL) - ctx->oom_kills;
}

/* The end of the path of the group that counts, which is the same wherever its tree is mounted; all of it where that is known. */
static const char *counting_group(const struct context *ctx, char path[PATH_SIZE])
{
    static const char tree[] = "/sys/fs/cgroup";
    const char *old = memory_1(ctx), *last = path;
    char link[32];

    fd_path(link, ctx->oom_kills < 0 ? SLOT_CGROUP : SLOT_CGROUP_PARENT);
    memset(path, 0, PATH_SIZE);
    if (old != 0)
        (void)str_add(path, path + PATH_SIZE, old);
    else
        (void)sys_call4(__NR_readlinkat, AT_FDCWD, link, path, PATH_SIZE - 1);
    for (const char *at = path; *at != '\0'; at++) {
        if (*at == '/')
            last = at;
        if (memcmp(at, "/pyrun-", 7) == 0)
            return at;
    }
    return memcmp(path, tree, sizeof tree - 1) == 0 ? path + sizeof tree - 1 : last;
}

static uint64_t number_at(const char *at)
{
    uint64_t value = 0;

    for (; *at >= '0' && *at <= '9'; at++)
        value = value * 10 + (uint64_t)(*at - '0');
    return value;
}

/* Who a line of the log says was killed, 0 where that was not in this group.  The name may look like a number, or hold the end of
 * the line, and it may be a thread that is named below; what is said twice is certain, anything else DOUBTFUL. */
static uint64_t victim_of(const char *line, const char *group)
{
    const size_t size = str_len(group);
    uint64_t pid = 0;
    int own = 0;

    for (; *line != '\n' && *line != '\0'; line++) {
        own |= memcmp(line, group, size) == 0 && (line[size] == ',' || line[size] == '/');
        if (memcmp(line, ",pid=", 5) == 0)
            pid = number_at(line + 5);
    }
    if (!own)
        return 0;
    for (; *line != '\0' && memcmp(line, HEAD, sizeof HEAD - 1) != 0; line++)
        if (memcmp(line, KILLED, sizeof KILLED - 1) == 0)
            return pid != 0 && number_at(line + sizeof KILLED - 1) == pid ? pid : DOUBTFUL;
    return DOUBTFUL;
}

/* Whether `pid` of the host is the app: a child of init's that has the number there that init knows it by.  -1: nobody can say. */
static int is_app(const struct context *ctx, uint64_t pid)
{
    char path[48] = "/proc/", name[48] = "\nNSpid:\t";
    int64_t inside;

    (void)str_add(str_add_number(path + 6, path + sizeof path, pid), path + sizeof path, "/status");
    if (pid == DOUBTFUL)
        return -1;
    if (number_in(AT_FDCWD, path, "\nPPid:\t") != ctx->init_pid)
        return 0;
    (void)str_add(str_add_number(name + 8, name + sizeof name, pid), name + sizeof name, "\t");
    inside = number_in(AT_FDCWD, path, name);
    return inside < 0 ? -1 : inside == (ctx->shared->app != 0 ? ctx->shared->app : FIRST_CHILD);
}

/* The kills of this run are the last ones of its group in the log. */
static uint32_t find_victim(const struct context *ctx, int64_t kills)
{
    char path[PATH_SIZE], *text = arena + ARENA_SIZE / 2; /* the first half is the terminal's */
    const char *group = counting_group(ctx, path);
    const long n = sys_call3(__NR_syslog, 3 /* SYSLOG_ACTION_READ_ALL */, text, ARENA_SIZE / 2 - 2 * PATH_SIZE);

    memset(text + (n > 0 ? n : 0), 0, 2 * PATH_SIZE);
    for (long at = n; at >= 0 && kills > 0; at--) {
        const uint64_t pid = memcmp(text + at, HEAD, sizeof HEAD - 1) == 0 ? victim_of(text + at, group) : 0;
        const int app = pid != 0 ? is_app(ctx, pid) : 0;

        if (app != 0)
            return app > 0 ? OOM_KILL_MAIN : 0;
        kills -= pid != 0;
    }
    return kills == 0 ? OOM_KILL_CHILD : 0;
}

/* While the app can be found: it is there, or init has not waited for it. */
void look_for_victim(struct context *ctx)
{
    const int64_t kills = killed(ctx);
    struct stat own;
    uint32_t found;

    if (kills <= 0 || kills == ctx->oom_seen || ctx->shared->exited || ctx->oom_victim == OOM_KILL_MAIN ||
        sys_call4(__NR_newfstatat, AT_FDCWD, "/proc/self/ns/pid", &own, 0) < 0 || own.st_ino != INITIAL_PIDS)
        return;
    found = find_victim(ctx, kills);
    if (ctx->shared->exited) /* meanwhile, and then nothing that was not found is proved */
        return;
    ctx->oom_victim = found;
    ctx->oom_seen = kills;
}

/* As plan_report.detail says it.  Others may live in the cgroup above: there the app itself has to have been killed. */
uint32_t out_of_memory(const struct context *ctx, int32_t status)
{
    const int64_t kills = killed(ctx);
    const int own = ctx->oom_kills < 0, by_kill = (status & 0x7f) == SIGKILL;
    uint32_t victim = ctx->oom_victim;

    if (kills <= 0 || (!own && !by_kill))
        return 0;
    if (own && number_in(SLOT_CGROUP, "memory.events.local", OOM_GROUP_KILL) > 0) /* not of a group that the app has made */
        return OOM_KILL_ANY | OOM_KILL_GROUP;
    if (victim == OOM_KILL_CHILD && by_kill && kills != ctx->oom_seen)
        victim = 0;
    if (!own && victim == OOM_KILL_CHILD)
        return 0;
    return OOM_KILL_ANY | (by_kill ? victim : OOM_KILL_CHILD);
}

/* Init: the next child that has ended, 0 when none has.  The app is left as it is, after SIGKILL until the supervisor has looked */
WAITING long ended_child(struct shared *shared, int link, long app, int *status)
{
    siginfo_t info;
    long r = sys_call5(__NR_waitid, 0 /* P_ALL */, 0, &info, WEXITED | WNOHANG | WNOWAIT | __WALL, 0);

    if (r < 0 || info.si_pid == 0)
        return r;
    *status = info.si_code == CLD_EXITED ? info.si_status << 8 : info.si_status | (info.si_code == CLD_DUMPED) << 7;
    if (info.si_pid != app)
        (void)sys_call4(__NR_wait4, info.si_pid, 0, WNOHANG | __WALL, 0);
    if (info.si_pid != app || *status != SIGKILL)
        return info.si_pid;
    shared->held = 1;
    if (sys_call6(__NR_sendto, link, "K", 1, 0x4000 /* MSG_NOSIGNAL */, 0, 0) == 1)
        while (shared->held)
            (void)sys_call4(__NR_rt_sigtimedwait, &all_signals, 0, 0, sizeof all_signals);
    return app;
}
