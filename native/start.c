/* Program entry without libc: stack set-up, the stack protector's canary, memory functions. */
#include "sys.h"

#define ARCH_SET_FS 0x1002
#define AT_RANDOM 25
#define GUARD 5 /* the compiler looks for the canary at %fs:40, five words from where that points */

__attribute__((noreturn)) void __stack_chk_fail(void);
__attribute__((noreturn)) void __stack_chk_fail(void)
{
    static const char text[] = "pyrun: stack smashed in the native helper\n";

    (void)sys_write(2, text, sizeof text - 1);
    for (;;)
        sys_exit(125);
}

/* The kernel leaves up to two pages between the strings of arguments and environment and what points to them, so that a program which
 * waits would keep three pages of stack (arch_align_stack).  Count and pointers move up to the strings, the canary between them: not
 * in the data, which many a program then has none of.  It is from AT_RANDOM (getauxval(3)), sixteen random bytes from the kernel, and
 * begins with a NUL, which no string copies over. */
__attribute__((used, no_stack_protector)) static uintptr_t *arrange(uintptr_t *stack)
{
    uintptr_t *aux = stack + 1 + stack[0] + 1, *to, guard = 0;
    size_t words;

    while (*aux++ != 0)
        ;
    words = (size_t)(aux - stack);
    for (; aux[0] != 0; aux += 2)
        if (aux[0] == AT_RANDOM)
            guard = *(const uintptr_t *)aux[1] & ~(uintptr_t)0xff;
    to = stack[0] != 0 ? (uintptr_t *)(stack[1] & ~15UL) : aux; /* nothing is needed of what is below the first string */
    *--to = guard;
    (void)sys_call2(__NR_arch_prctl, ARCH_SET_FS, to - GUARD);
    to = (uintptr_t *)((uintptr_t)(to - words) & ~15UL);
    for (size_t i = words; i-- > 0;)
        to[i] = stack[i];
    return to;
}

__attribute__((noreturn, used)) static void start_c(uintptr_t *stack)
{
    int argc = (int)stack[0];
    char **argv = (char **)(stack + 1);

    for (;;)
        sys_exit(program(argc, argv, argv + argc + 1));
}

const char *from_environment(char **envp, const char *name)
{
    size_t n = str_len(name);

    for (; *envp != 0; envp++)
        if (memcmp(*envp, name, n) == 0 && (*envp)[n] == '=')
            return *envp + n + 1;
    return "";
}

__asm__(".globl _start\n"
        ".type _start,@function\n"
        "_start:\n"
        "    xor %ebp, %ebp\n"
        "    mov %rsp, %rdi\n"
        "    and $-16, %rsp\n"
        "    call arrange\n"
        "    mov %rax, %rsp\n"
        "    mov %rax, %rdi\n"
        "    call start_c\n"
        "    hlt\n");

WAITING void *memcpy(void *restrict to, const void *restrict from, size_t n)
{
    void *result = to;

    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
    return result;
}

void *memset(void *to, int byte, size_t n)
{
    void *result = to;

    __asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(byte) : "memory");
    return result;
}

void *memmove(void *to, const void *from, size_t n)
{
    unsigned char *d = to;
    const unsigned char *s = from;

    if (d < s)
        return memcpy(to, from, n);
    while (n-- > 0)
        ((volatile unsigned char *)d)[n] = s[n];
    return to;
}

int memcmp(const void *a, const void *b, size_t n)
{
    const unsigned char *x = a, *y = b;

    for (size_t i = 0; i < n; i++)
        if (x[i] != y[i])
            return x[i] < y[i] ? -1 : 1;
    return 0;
}
