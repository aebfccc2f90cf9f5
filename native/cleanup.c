/* What is left when the pod has ended: the exit record, the cgroup, the pod's directory.
 *
 * Everything here is best effort and idempotent: the exit has been reported, and whatever a crash
 * or a busy file leaves behind, the next command finds by its free lock and removes. */
#include "helper.h"

#define DEPTH 64 /* a deeper tree is left to `pyrun gc`, which has memory to walk it */

struct dirent64 {
    uint64_t ino;
    int64_t off;
    unsigned short length;
    unsigned char type;
    char name[];
};

/* JSON, written beside and renamed: a reader sees all of it or nothing. */
void write_exit_record(const struct context *ctx, int32_t status, uint64_t finished)
{
    char text[160];
    const char *end = text + sizeof text;
    int32_t signal = status & 0x7f;
    char *at;

    if (!(ctx->plan->flags & PLAN_HAS_POD) || (ctx->plan->flags & PLAN_REMOVE))
        return;
    at = str_add(text, end, "{\"code\":");
    at = str_add_number(at, end, signal ? 0 : (uint64_t)(status >> 8 & 0xff));
    at = str_add(at, end, ",\"signal\":");
    at = str_add_number(at, end, (uint64_t)signal);
    at = str_add(at, end, ",\"started\":");
    at = str_add_number(at, end, ctx->started);
    at = str_add(at, end, ",\"finished\":");
    at = str_add_number(at, end, finished);
    at = str_add(at, end, "}\n");
    if (at == 0 || write_file(SLOT_POD, "exit.new", O_CREAT | O_TRUNC, 0600, text, (size_t)(at - text)) < 0)
        return;
    (void)sys_call4(__NR_renameat, SLOT_POD, "exit.new", SLOT_POD, "exit");
    (void)sys_call1(__NR_fsync, SLOT_POD);
}

static int remove_entry(int dir, const struct dirent64 *entry, uint64_t device, int depth);

/* Empties the directory `dir`, whose device is `device`: mounts are never crossed.  Descriptors are the stack. */
static int empty_directory(int dir, uint64_t device, int depth)
{
    static char buffers[DEPTH][2048];
    int failed = 0, removed = 0;
    long n;

    while ((n = sys_call3(__NR_getdents64, dir, buffers[depth], sizeof buffers[depth])) != 0) {
        if (n < 0)
            return 0;
        for (long at = 0; at < n;) {
            const struct dirent64 *entry = (const void *)(buffers[depth] + at);

            at += entry->length;
            if (str_eq(entry->name, ".") || str_eq(entry->name, ".."))
                continue;
            if (remove_entry(dir, entry, device, depth))
                removed++;
            else
                failed++;
        }
        if (removed > 0 && failed == 0 && sys_call3(__NR_lseek, dir, 0, 0) < 0) /* names move while some are removed */
            return 0;
        removed = 0;
    }
    return failed == 0;
}

static int remove_entry(int dir, const struct dirent64 *entry, uint64_t device, int depth)
{
    OWNED_FD child = -1;
    struct stat st;

    if (entry->type != 4 /* DT_DIR */)
        return sys_call3(__NR_unlinkat, dir, entry->name, 0) == 0;
    if (depth + 1 == DEPTH)
        return 0;
    child = (int)sys_openat(dir, entry->name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
    if (child < 0 || sys_fstat(child, &st) < 0 || st.st_dev != device || !empty_directory(child, device, depth + 1))
        return 0;
    return sys_call3(__NR_unlinkat, dir, entry->name, AT_REMOVEDIR) == 0;
}

/* running/UUID becomes garbage/UUID or exited/UUID: one rename is the transition. */
static void remove_pod(const struct context *ctx, int keep)
{
    const char *name = pool_string(ctx, ctx->plan->pod_name);
    const char *state = keep ? "exited/" : "garbage/";
    char from[96], to[96];
    struct stat st;

    if (str_add(str_add(from, from + sizeof from, "running/"), from + sizeof from, name) == 0)
        return;
    (void)str_add(str_add(to, to + sizeof to, state), to + sizeof to, name);
    if (sys_call4(__NR_renameat, SLOT_PODS, from, SLOT_PODS, to) < 0 || keep)
        return;
    if (sys_fstat(SLOT_POD, &st) == 0 && empty_directory(SLOT_POD, st.st_dev, 0))
        (void)sys_call3(__NR_unlinkat, SLOT_PODS, to, AT_REMOVEDIR);
}

static void remove_cgroup(const struct context *ctx)
{
    const char *name = pool_string(ctx, ctx->plan->cgroup_name);
    struct __kernel_timespec pause = {0, 1000000};

    for (int tries = 0; tries < 100; tries++) {
        if (sys_call3(__NR_unlinkat, SLOT_CGROUP_PARENT, name, AT_REMOVEDIR) != -EBUSY)
            return;
        (void)write_file(SLOT_CGROUP, "cgroup.kill", 0, 0, "1", 1); /* somebody entered it from outside */
        (void)sys_call2(__NR_nanosleep, &pause, 0);
    }
}

void remove_leftovers(const struct context *ctx, int keep)
{
    if (ctx->plan->flags & PLAN_HAS_CGROUP)
        remove_cgroup(ctx);
    if (ctx->plan->flags & PLAN_HAS_POD)
        remove_pod(ctx, keep);
}
