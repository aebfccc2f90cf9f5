/* The native helper: executes a plan.  Never run by hand; pyrun.engine.launch spawns or becomes it.
 *
 *   descriptors   0-2 the app's; 3 the plan; 4... see SLOT_ in plan.h
 *   exit status   the app's, 128+n when signal n ended it, 125 when the plan failed
 */
#include "helper.h"

_Alignas(PAGE_SIZE) char arena[ARENA_SIZE];

#define PROT_RW 3
#define PROT_R 1
#define SHARED_ANONYMOUS 0x21
#define PRIVATE 2

static int bad_plan(const char *why)
{
    (void)sys_write(2, why, str_len(why));
    return 125;
}
#define BAD_PLAN(why) bad_plan("pyrun: internal error: " why "\n")

/* Started while the pod was still being made: the other slots come in one message.  All of them are free, and
 * descriptors are installed in the order of the message, each on the lowest free number: where it belongs. */
static long receive_slots(void)
{
    struct link_message message;

    link_message_init(&message, 0, LINK_DESCRIPTORS);
    return sys_call3(__NR_recvmsg, SLOT_CONTROL, &message.header, 0);
}

int program(int argc, char **argv, char **envp)
{
    struct context ctx = {.argv = argv, .envp = envp, .link = -1, .pidfd = -1, .root = -1, .of = -1, .service = -1, .notify = -1, .tty = -1};
    struct stat st;
    long map, shared;

    if (sys_call0(__NR_geteuid) == 0) /* else nobody could write the id maps: /proc/PID would be root's (proc(5)) */
        (void)sys_prctl(PR_SET_DUMPABLE, 0, 0);
    block_signals();
    if (argc > 1 && str_eq(argv[1], "hold"))
        return hold_main(&ctx);
    if (sys_fstat(SLOT_PLAN, &st) == -EBADF && receive_slots() == 0)
        return 125; /* whoever started this has given up */
    if (sys_fstat(SLOT_PLAN, &st) < 0 || st.st_size <= 0 || st.st_size > PLAN_MAX_SIZE)
        return BAD_PLAN("the native helper was started without a plan");
    map = sys_call6(__NR_mmap, 0, st.st_size, PROT_R, PRIVATE, SLOT_PLAN, 0);
    shared = sys_call6(__NR_mmap, 0, 4096, PROT_RW, SHARED_ANONYMOUS, -1, 0);
    if ((unsigned long)map > -4096UL || (unsigned long)shared > -4096UL)
        return BAD_PLAN("the native helper got no memory");
    if (plan_check((const void *)map, (size_t)st.st_size) != 0)
        return BAD_PLAN("the plan is malformed");
    ctx.plan = (const struct plan_header *)map;
    ctx.ops = (const struct plan_op *)(ctx.plan + 1);
    ctx.pool = (const char *)map + ctx.plan->pool;
    ctx.shared = (struct shared *)shared;
    return ctx.plan->flags & PLAN_OCI ? oci_main(&ctx) : supervise(&ctx);
}
