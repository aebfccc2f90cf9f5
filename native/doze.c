/* Waiting without a page of one's own.
 *
 * A system call that blocks needs no memory of its caller's, and what a process has to know afterwards fits into registers, which the
 * kernel keeps in any case.  So who waits gives back all of its stack before the call, and makes it again from the registers when
 * something has happened: a pod has as many of these processes as apps, twice.
 *
 *     doze(kept, ...)     struct kept into xmm0...11, canary and pointers into registers of which system calls leave the values
 *       madvise           the stack is gone
 *       the call          for hours
 *     then(kept, result)  on a stack that has nothing but `kept`: whoever called doze() is not there any more
 *
 * The command line is on the stack too.  It goes to a page that nobody writes to any more, so that supervisor and init share it, and
 * /proc/PID/cmdline is told where that is (prctl(2), PR_SET_MM_MAP).  It has to be anonymous memory (access_remote_vm, FOLL_ANON), which
 * two apps cannot share: with PLAN_MANY there is none, and `ps` has the short name. */
#include "helper.h"

#define TITLE "pyrun: pod "
#define PLACE(name) (offsetof(struct prctl_mm_map, name) / sizeof(uint64_t))
#define SPAN "0x22000" /* more than a stack is deep, and less than the gap that the kernel keeps below */

_Static_assert(sizeof(struct kept) == 12 * 16, "as many registers");

/* doze(kept, then, number, a, b, c, d), a system call of four arguments.  r8 to r10 and the others but rax, rcx, r11 survive system
 * calls; the canary is where %fs:40 is, see start.c. */
__asm__(".pushsection .text.hot, \"ax\"\n"
        ".globl doze, all_signals\n"
        ".hidden doze, all_signals\n"
        ".balign 8\n"
        "all_signals: .quad -1\n"
        "doze:\n"
        "    mov 8(%rsp), %r10\n"
        "    mov %rdi, %rbx\n"
        "    mov %rsi, %rbp\n"
        "    mov %rdx, %r12\n"
        "    mov %rcx, %r13\n"
        "    mov %fs:40, %r14\n"
        ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11\n"
        "    movups 16*\\n(%rbx), %xmm\\n\n"
        ".endr\n"
        "    mov (%rbx), %rdi\n"
        "    mov $" SPAN ", %esi\n"
        "    sub %rsi, %rdi\n"
        "    mov $4, %edx\n" /* MADV_DONTNEED */
        "    mov $28, %eax\n" /* madvise */
        "    syscall\n"
        "    mov %r12, %rax\n"
        "    mov %r13, %rdi\n"
        "    mov %r8, %rsi\n"
        "    mov %r9, %rdx\n"
        "    syscall\n"
        "    mov %r14, %fs:40\n"
        ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11\n"
        "    movups %xmm\\n, 16*\\n(%rbx)\n"
        ".endr\n"
        "    mov %rbx, %rsp\n"
        "    and $-16, %rsp\n"
        "    mov %rbx, %rdi\n"
        "    mov %rax, %rsi\n"
        "    mov %rbp, %rax\n"
        "    xor %ebp, %ebp\n"
        "    call *%rax\n"
        "    hlt\n"
        ".popsection\n");

/* Before init is there.  0 where the stack has to stay: of who is not a keeper's, or on a Linux without CONFIG_CHECKPOINT_RESTORE.
 * Of the other places that are told to the kernel nothing depends but what it shows. */
unsigned long stack_top(const struct context *ctx)
{
    extern const char __ehdr_start[];
    const char *title = ctx->argv[0], *last = title;
    const size_t size = str_len(title) + 1;
    const int none = (ctx->plan->flags & PLAN_MANY) != 0;
    const long page = none ? (long)__ehdr_start : sys_call6(__NR_mmap, 0, size, 3 /* read, write */, 0x22 /* private, anonymous */, -1, 0);
    char name[16] = "pyrun: ";
    uint64_t map[13]; /* struct prctl_mm_map */

    if ((unsigned long)page > -4096UL)
        return 0;
    if (!none)
        memcpy((char *)page, title, size);
    for (size_t i = 0; i < 13; i++)
        map[i] = (uintptr_t)page;
    map[PLACE(end_code)] = map[PLACE(start_brk)] = map[PLACE(brk)] = (uintptr_t)page + PAGE_SIZE;
    map[PLACE(start_stack)] = (uintptr_t)map;
    map[PLACE(arg_end)] = map[PLACE(env_start)] = map[PLACE(env_end)] = (uintptr_t)page + (none ? 0 : size);
    map[PLACE(auxv)] = 0;
    map[PLACE(auxv) + 1] = ~0ULL << 32; /* no auxv, no exe_fd */
    if (sys_call5(__NR_prctl, PR_SET_MM, PR_SET_MM_MAP, map, sizeof map, 0) < 0)
        return 0;
    if (size > sizeof TITLE)
        memcpy(name + sizeof "pyrun: " - 1, title + sizeof TITLE - 1, 8);
    (void)sys_prctl(PR_SET_NAME, name, 0);
    for (char **word = ctx->envp; *word != 0; word++)
        last = *word;
    return ((uintptr_t)last | (PAGE_SIZE - 1)) + 1;
}
