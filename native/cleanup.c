/* What is left when the pod has ended: the exit record, the cgroup, the pod's directory.
 *
 * Everything here is best effort and idempotent: the exit has been reported, and whatever a crash
 * or a busy file leaves behind, the next command finds by its free lock and removes. */
#include "helper.h"

/* How often the kernel has killed there for want of memory (cgroup-v2.rst, memory.events), -1 where it does not count. */
int64_t oom_kills(int cgroup, const char *file, const char *name)
{
    OWNED_FD fd = (int)sys_openat(cgroup, file, O_RDONLY, 0);
    char text[512];
    long n = fd < 0 ? fd : sys_read(fd, text, sizeof text - 1);
    int64_t value = 0;

    for (char *at = text; n > (long)str_len(name); at++, n--) {
        if (memcmp(at, name, str_len(name)) != 0)
            continue;
        for (at += str_len(name); *at >= '0' && *at <= '9'; at++)
            value = value * 10 + (*at - '0');
        return value;
    }
    return -1;
}

/* Memory is counted in the pod's own cgroup, or, where that has no memory controller, in the one above: a unit's. */
void count_oom_kills(struct context *ctx)
{
    ctx->oom_kills = -1;
    if ((ctx->plan->flags & (PLAN_HAS_CGROUP | PLAN_ENTER)) == PLAN_HAS_CGROUP && own_oom_kills(ctx) < 0)
        ctx->oom_kills = oom_kills(SLOT_CGROUP_PARENT, "memory.events", OOM_KILL);
}

/* As plan_report.detail says it.  Others may live in the one above: there the app itself has to have been killed. */
int out_of_memory(const struct context *ctx, int32_t status)
{
    if ((ctx->plan->flags & (PLAN_HAS_CGROUP | PLAN_ENTER)) != PLAN_HAS_CGROUP)
        return 0;
    if (ctx->oom_kills < 0)
        return own_oom_kills(ctx) <= 0 ? 0 : oom_kills(SLOT_CGROUP, "memory.events", OOM_GROUP_KILL) > 0 ? 3 : 1;
    return (status & 0x7f) == SIGKILL && oom_kills(SLOT_CGROUP_PARENT, "memory.events", OOM_KILL) > ctx->oom_kills;
}

/* The cgroup goes with the pod: who wants its figures gets the kernel's own files before the end is told, see PLAN_FIGURES. */
void send_figures(const struct context *ctx)
{
    static const char names[] = "cpu.stat\0memory.peak\0memory.events\0pids.peak\0pids.events\0io.stat\0";
    char text[4096] = {PLAN_FIGURES}, *at = text + sizeof(uint32_t);

    if ((ctx->plan->flags & (PLAN_ACCOUNT | PLAN_HAS_CGROUP)) != (PLAN_ACCOUNT | PLAN_HAS_CGROUP))
        return;
    for (const char *name = names; *name != '\0'; name += str_len(name) + 1) { /* a file that is not there is empty */
        OWNED_FD fd = (int)sys_openat(SLOT_CGROUP, name, O_RDONLY, 0);
        long n = sys_read(fd, (at = str_add(str_add(at, at + 16, name), at + 32, "\n")), 600);

        at += n > 0 ? n : 0;
        *at++ = '\0';
    }
    (void)sys_call6(__NR_sendto, SLOT_CONTROL, text, at - text, 0x4000 | 0x40 /* MSG_NOSIGNAL, MSG_DONTWAIT */, 0, 0);
}

void write_exit_record(const struct context *ctx, int32_t status, uint64_t finished, int oom)
{
    char text[200];
    const char *end = text + sizeof text;
    int32_t signal = status & 0x7f;
    char *at;

    if (!(ctx->plan->flags & PLAN_HAS_POD) || (ctx->plan->flags & PLAN_REMOVE))
        return;
    at = str_add_number(str_add(text, end, "{\"code\":"), end, signal ? 0 : (uint64_t)(status >> 8 & 0xff));
    at = str_add_number(str_add(at, end, ",\"signal\":"), end, (uint64_t)signal);
    at = str_add_number(str_add(at, end, ",\"started\":"), end, ctx->started);
    at = str_add_number(str_add(at, end, ",\"finished\":"), end, finished);
    /* CLOCK_BOOTTIME: how long ago it was, whatever becomes of the date */
    at = str_add_number(str_add(at, end, ",\"uptime\":"), end, clock_ns(7));
    at = str_add(at, end, oom == 3 ? ",\"oom\":true,\"oom_group\":true}\n" : oom ? ",\"oom\":true}\n" : "}\n");
    if (at != 0)
        (void)replace_file(SLOT_POD, "exit", text, (size_t)(at - text), 1);
}

/* running/UUID becomes garbage/UUID or exited/UUID: one rename is the transition. */
static void remove_pod(const struct context *ctx, int keep)
{
    const char *name = pool_string(ctx, ctx->plan->pod_name);
    const char *state = keep ? "exited/" : "garbage/";
    char from[96], to[96];

    if (str_add(str_add(from, from + sizeof from, "running/"), from + sizeof from, name) == 0)
        return;
    (void)str_add(str_add(to, to + sizeof to, state), to + sizeof to, name);
    if (sys_call4(__NR_renameat, SLOT_PODS, from, SLOT_PODS, to) < 0 || start_cleaner(SLOT_POD) || keep)
        return;
    if (remove_below(SLOT_POD))
        (void)sys_call3(__NR_unlinkat, SLOT_PODS, to, AT_REMOVEDIR);
}

void remove_leftovers(const struct context *ctx, int keep)
{
    remove_version_1(ctx);
    if (ctx->plan->flags & PLAN_HAS_CGROUP)
        remove_group(SLOT_CGROUP_PARENT, pool_string(ctx, ctx->plan->cgroup_name));
    if (ctx->plan->flags & PLAN_HAS_POD)
        remove_pod(ctx, keep);
}
