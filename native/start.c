/* Program entry without libc: stack set-up, the stack protector's canary, memory functions. */
#include "sys.h"

/* -mstack-protector-guard=global makes the compiler use these instead of thread-local storage.  Set before its first use. */
uintptr_t __stack_chk_guard;

__attribute__((noreturn)) void __stack_chk_fail(void);
__attribute__((noreturn)) void __stack_chk_fail(void)
{
    static const char text[] = "pyrun: stack smashed in the native helper\n";

    (void)sys_write(2, text, sizeof text - 1);
    for (;;)
        sys_exit(125);
}

/* AT_RANDOM (getauxval(3)): sixteen random bytes from the kernel. */
__attribute__((noreturn, used, no_stack_protector)) void start_c(long *stack)
{
    int argc = (int)stack[0];
    char **argv = (char **)(stack + 1);
    char **envp = argv + argc + 1;
    unsigned long *aux;
    char **p = envp;

    while (*p != 0)
        p++;
    for (aux = (unsigned long *)(p + 1); aux[0] != 0; aux += 2)
        if (aux[0] == 25 /* AT_RANDOM */)
            __stack_chk_guard = *(const uintptr_t *)aux[1] & ~(uintptr_t)0xff;
    for (;;)
        sys_exit(program(argc, argv, envp));
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
