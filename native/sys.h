/* Freestanding base of the native programs: system calls, memory, strings.  No libc anywhere:
 * a program without one is exec'd and reaped in a quarter of the time, and has nothing to load. */
#ifndef PYRUN_SYS_H
#define PYRUN_SYS_H

#include <stddef.h>
#include <stdint.h>

#include <asm/errno.h>
#include <asm/ioctls.h>
#include <asm/signal.h>
#include <asm/stat.h>
#include <asm/termbits.h>
#include <asm/unistd.h>
#include <linux/close_range.h>
#include <linux/fcntl.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <linux/prctl.h>
#include <linux/sched.h>
#include <linux/stat.h>
#include <linux/time_types.h>

#ifndef __x86_64__
#error "pyrun's native programs know the system call convention of x86-64 only"
#endif

#define MNT_DETACH 2
#define BITS(type) (8 * sizeof(type))

/* Result of a system call: a value, or minus an errno.  Nothing here sets a global. */
static inline long sys6(long nr, long a, long b, long c, long d, long e, long f)
{
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    long result;

    __asm__ volatile("syscall" : "=a"(result) : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9) : "rcx", "r11", "memory");
    return result;
}

#define SYS_ARG(x) ((long)(x))
#define sys_call0(nr) sys6(nr, 0, 0, 0, 0, 0, 0)
#define sys_call1(nr, a) sys6(nr, SYS_ARG(a), 0, 0, 0, 0, 0)
#define sys_call2(nr, a, b) sys6(nr, SYS_ARG(a), SYS_ARG(b), 0, 0, 0, 0)
#define sys_call3(nr, a, b, c) sys6(nr, SYS_ARG(a), SYS_ARG(b), SYS_ARG(c), 0, 0, 0)
#define sys_call4(nr, a, b, c, d) sys6(nr, SYS_ARG(a), SYS_ARG(b), SYS_ARG(c), SYS_ARG(d), 0, 0)
#define sys_call5(nr, a, b, c, d, e) sys6(nr, SYS_ARG(a), SYS_ARG(b), SYS_ARG(c), SYS_ARG(d), SYS_ARG(e), 0)
#define sys_call6(nr, a, b, c, d, e, f) sys6(nr, SYS_ARG(a), SYS_ARG(b), SYS_ARG(c), SYS_ARG(d), SYS_ARG(e), SYS_ARG(f))

#define sys_read(fd, p, n) sys_call3(__NR_read, fd, p, n)
#define sys_write(fd, p, n) sys_call3(__NR_write, fd, p, n)
#define sys_close(fd) ((void)sys_call1(__NR_close, fd))
#define sys_openat(dir, path, flags, mode) sys_call4(__NR_openat, dir, path, (flags) | O_CLOEXEC, mode)
#define sys_fstat(fd, st) sys_call4(__NR_newfstatat, fd, "", st, AT_EMPTY_PATH)
#define sys_mount(src, dst, type, flags, data) sys_call5(__NR_mount, src, dst, type, flags, data)
#define sys_prctl(op, a, b) sys_call5(__NR_prctl, op, a, b, 0, 0)
#define sys_exit(code)                                                                       \
    do {                                                                                     \
        sys_call1(__NR_exit_group, (code));                                                  \
        __asm__ volatile("ud2"); /* a filter may refuse to let it go: no signal is surer */ \
    } while (1)

#define PAGE_SIZE 4096UL
#define MADV_RANDOM 1
#define MADV_DONTNEED 4

/* Of what runs while a program waits, or for each event that leaves it waiting: it stands at the front of the code, see settle(). */
#define WAITING __attribute__((section(".text.hot"), noinline))

/* Of what such a function calls seldom enough to settle() afterwards: it has to stay out of that one's page. */
#define SELDOM __attribute__((noinline))

/* For a process that from now on mostly waits: the memory of stack frames that are gone goes back to the kernel. */
__attribute__((unused)) WAITING static void give_back_stack(void)
{
    enum { DEEPEST = 128 * 1024, IN_USE = 256 };
    const unsigned long end = ((unsigned long)__builtin_frame_address(0) - IN_USE) & ~(PAGE_SIZE - 1);

    (void)sys_call3(__NR_madvise, end - DEEPEST, DEEPEST, MADV_DONTNEED);
}

/* Likewise whole pages of an array, which read as zeros from then on. */
__attribute__((unused)) static void give_back(const void *array, size_t size)
{
    const unsigned long start = ((unsigned long)array + PAGE_SIZE - 1) & ~(PAGE_SIZE - 1);
    const unsigned long end = ((unsigned long)array + size) & ~(PAGE_SIZE - 1);

    (void)sys_call3(__NR_madvise, start, end - start, MADV_DONTNEED);
}

static inline size_t str_len(const char *s)
{
    size_t n = 0;

    while (s[n] != '\0')
        n++;
    return n;
}

static inline int str_eq(const char *a, const char *b)
{
    while (*a != '\0' && *a == *b) {
        a++;
        b++;
    }
    return *a == *b;
}

/* Of what each file would have a copy: the linker keeps one. */
#define ONE_COPY __attribute__((weak, noinline, visibility("hidden")))

/* Appends s to the string that ends at `at`; `end` bounds the buffer.  Returns the new end, or 0 when it does not fit. */
char *str_add(char *at, const char *end, const char *s);
ONE_COPY char *str_add(char *at, const char *end, const char *s)
{
    size_t n = str_len(s);

    if (at == 0 || n >= (size_t)(end - at))
        return 0;
    for (size_t i = 0; i <= n; i++)
        at[i] = s[i];
    return at + n;
}

#define PATH_SIZE 4096

/* One path of up to three parts; 0 when it is too long. */
static inline char *join(char path[PATH_SIZE], const char *one, const char *two, const char *three)
{
    char *at = str_add(str_add(path, path + PATH_SIZE, one), path + PATH_SIZE, two);

    return str_add(at, path + PATH_SIZE, three) == 0 ? 0 : path;
}

char *str_add_number(char *at, const char *end, uint64_t value);
ONE_COPY char *str_add_number(char *at, const char *end, uint64_t value)
{
    char digits[24];
    char *p = digits + sizeof digits - 1;

    *p = '\0';
    do {
        *--p = (char)('0' + value % 10);
        value /= 10;
    } while (value != 0);
    return str_add(at, end, p);
}

/* The compiler may call these by name. */
void *memcpy(void *restrict to, const void *restrict from, size_t n);
void *memset(void *to, int byte, size_t n);
void *memmove(void *to, const void *from, size_t n);
int memcmp(const void *a, const void *b, size_t n);

/* The value of a variable; empty when it is not there. */
const char *from_environment(char **envp, const char *name);

/* Every program has this: argument vector, environment, auxiliary values come in on the stack. */
int program(int argc, char **argv, char **envp);

/* cfmakeraw(3) of `mode`, for the terminal `fd` */
static inline int set_raw(int fd, struct termios mode)
{
    mode.c_iflag &= ~(tcflag_t)(IGNBRK | BRKINT | PARMRK | ISTRIP | INLCR | IGNCR | ICRNL | IXON);
    mode.c_oflag &= ~(tcflag_t)OPOST;
    mode.c_lflag &= ~(tcflag_t)(ECHO | ECHONL | ICANON | ISIG | IEXTEN);
    mode.c_cflag = (mode.c_cflag & ~(tcflag_t)(CSIZE | PARENB)) | CS8;
    mode.c_cc[VMIN] = 1;
    mode.c_cc[VTIME] = 0;
    return sys_call3(__NR_ioctl, fd, TCSETS, &mode) == 0;
}

/* Closes a descriptor when its variable goes out of scope. */
static inline void close_at_exit(const int *fd)
{
    if (*fd >= 0)
        sys_close(*fd);
}
#define OWNED_FD __attribute__((cleanup(close_at_exit))) int

#endif
