/* Limits of the pod: files of its own cgroup, written before there is a process in it (cgroups(7), version 2).
 *
 * A controller's files are there when the cgroup above has the controller enabled for its children.  Where it has not,
 * it is enabled now.  The kernel allows that only while no process is in the cgroup above itself, the root excepted
 * ("no internal processes"), so the supervisor moves out of the way first, into a leaf beside the pod's; whoever else is
 * in there is not ours to move. */
#include <linux/bpf.h>

#include "handover.h"
#include "helper.h"

/* "+memory" for the file memory.max; 0 for a file of the core, or a name that cannot be one. */
static char *controller_of(char text[64], const char *file)
{
    char *at = text;

    *at++ = '+';
    while (*file != '\0' && *file != '.' && at < text + 63)
        *at++ = *file++;
    *at = '\0';
    return *file == '.' && !str_eq(text, "+cgroup") ? text : 0;
}

/* Whether the cgroup above can have children with controllers: the root always, any other once no process is in it.  The
 * kernel would let threaded controllers (cpu, cpuset, pids) pass and make the pod's cgroup one that no process can enter. */
static long make_room(void)
{
    long r = sys_call3(__NR_faccessat, SLOT_CGROUP_PARENT, "cgroup.type", 0);

    for (int moved = 0; r != -ENOENT; moved++) {
        OWNED_FD procs = (int)sys_openat(SLOT_CGROUP_PARENT, "cgroup.procs", O_RDONLY, 0);
        char byte;

        r = procs < 0 ? procs : sys_read(procs, &byte, 1);
        if (r <= 0 || moved)
            return r > 0 ? -EBUSY : r;
        (void)sys_call3(__NR_mkdirat, SLOT_CGROUP_PARENT, CGROUP_LEAF, 0755);
        if ((r = write_file(SLOT_CGROUP_PARENT, CGROUP_LEAF "/cgroup.procs", 0, 0, "0", 1)) < 0)
            return r;
    }
    return 0;
}

static long enable(struct context *ctx, const char *file)
{
    char text[64];
    long r;

    if (controller_of(text, file) == 0)
        return -ENOENT;
    r = make_room();
    if (r == 0)
        r = write_file(SLOT_CGROUP_PARENT, "cgroup.subtree_control", 0, 0, text, str_len(text));
    return r < 0 ? with_detail(ctx, r == -EBUSY ? DETAIL_INHABITED : DETAIL_CONTROLLER, r) : 0;
}

/* The program belongs to the cgroup from then on and goes with it.  Those of cgroups above are asked as well (bpf(2)). */
static long set_devices(const struct context *ctx, const struct plan_op *op)
{
    const char *code = pool_string(ctx, op->s1);
    union bpf_attr made = {.prog_type = BPF_PROG_TYPE_CGROUP_DEVICE, .insn_cnt = op->n / 8, .insns = (uintptr_t)code, .license = (uintptr_t)""};
    OWNED_FD program = (int)sys_call3(__NR_bpf, BPF_PROG_LOAD, &made, sizeof made);
    union bpf_attr put = {
        .target_fd = SLOT_CGROUP, .attach_bpf_fd = (uint32_t)program, .attach_type = BPF_CGROUP_DEVICE, .attach_flags = BPF_F_ALLOW_MULTI};

    return program < 0 ? program : sys_call3(__NR_bpf, BPF_PROG_ATTACH, &put, sizeof put);
}

long set_limit(struct context *ctx, const struct plan_op *op)
{
    const char *file = pool_string(ctx, op->s1), *text = pool_string(ctx, op->s2);
    long r;

    if (op->code == OP_LIMIT && op->a != 0)
        return set_version_1(ctx, op);
    if (!(ctx->plan->flags & PLAN_HAS_CGROUP))
        return with_detail(ctx, DETAIL_NO_CGROUP, -ENOENT);
    if (op->code == OP_DEVICES)
        return set_devices(ctx, op);
    r = write_file(op->flags & OPF_POD ? SLOT_CGROUP_PARENT : SLOT_CGROUP, file, 0, 0, text, str_len(text));
    if (r != -ENOENT || (op->flags & OPF_POD))
        return r;
    r = enable(ctx, file);
    return r < 0 ? r : write_file(SLOT_CGROUP, file, 0, 0, text, str_len(text));
}
