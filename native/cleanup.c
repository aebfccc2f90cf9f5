/* What is left when the pod has ended: the exit record, the cgroup, the pod's directory.
 *
 * Everything here is best effort and idempotent: the exit has been reported, and whatever a crash
 * or a busy file leaves behind, the next command finds by its free lock and removes. */
#include "helper.h"

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

void write_exit_record(const struct context *ctx, int32_t status, uint64_t finished, uint32_t oom)
{
    char text[320];
    const char *end = text + sizeof text;
    char *at;

    if (!(ctx->plan->flags & PLAN_HAS_POD) || (ctx->plan->flags & PLAN_REMOVE))
        return;
    at = add_end(str_add(text, end, "{"), end, status, ctx->started, finished, oom);
    /* CLOCK_BOOTTIME: how long ago it was, whatever becomes of the date */
    at = str_add(str_add_number(str_add(at, end, ",\"uptime\":"), end, clock_ns(7)), end, "}\n");
    if (at != 0)
        (void)replace_file(SLOT_POD, "exit", text, (size_t)(at - text), 1);
}

/* The last thing: however long the caller takes to read it, the pod is free for everybody. */
void tell_caller(const struct context *ctx, const struct plan_report *how, int code)
{
    char text[320];

    if (!(ctx->plan->flags & PLAN_TELL_END))
        return;
    sys_close(SLOT_POD);
    if (add_end(text, text + sizeof text, how->status, ctx->started, how->time, how->detail) != 0)
        tell_end(ctx->envp, text, code);
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
