/* Asks the kernel what a seccomp filter says, without executing a single one of the calls asked about.
 *
 *     seccomp_walk FILTER walk FIRST LAST        one line a number: NUMBER VERDICT
 *     seccomp_walk FILTER ask NUMBER [ARG...]    the verdict on one call
 *     seccomp_walk FILTER ask32 NUMBER [ARG...]  the same through int 0x80
 *     seccomp_walk FILTER exec PROGRAM [ARG...]  runs a program under the filter
 *
 * A guard filter goes in first: it answers errno MARK to every call whose sixth argument is the magic number.
 * Of two filters the sterner verdict holds, and of two errnos that of the newer filter (seccomp(2)): so MARK comes
 * back exactly when the filter under test allows the call.  Verdicts: allow, the errno's number, or signal N. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAGIC 0x5ecc0de5U
#define MARK 4000

static void die(const char *what)
{
    perror(what);
    exit(99);
}

static void install(struct sock_filter *code, unsigned short n)
{
    struct sock_fprog program = {n, code};

    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program))
        die("install");
}

static void install_guard(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[5])),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, MAGIC, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | MARK),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };

    install(code, sizeof code / sizeof *code);
}

static void install_file(const char *path)
{
    static struct sock_filter code[4096];
    int fd = open(path, O_RDONLY);
    ssize_t n = fd < 0 ? -1 : read(fd, code, sizeof code);

    if (n <= 0 || n % 8 != 0)
        die(path);
    install(code, (unsigned short)(n / 8));
}

static long ask(long number, const unsigned long *a)
{
    long verdict = syscall(number, a[0], a[1], a[2], a[3], a[4], (unsigned long)MAGIC) == -1 ? errno : 0;

    /* the magic number is still in its register, and the next call may have less than six arguments */
#ifdef __x86_64__
    __asm__ volatile("xor %%r9d, %%r9d" ::: "r9");
#else
    __asm__ volatile("mov x5, #0" ::: "x5");
#endif
    return verdict;
}

static long ask32(long number, const unsigned long *a)
{
#ifdef __x86_64__
    long result;

    __asm__ volatile("push %%rbp\n mov %6, %%ebp\n int $0x80\n pop %%rbp"
                     : "=a"(result)
                     : "a"(number), "b"(a[0]), "c"(a[1]), "d"(a[2]), "S"(a[3]), "r"(MAGIC), "D"(a[4])
                     : "memory", "r8", "r9", "r10", "r11");
    return -result;
#else
    (void)number;
    (void)a;
    return ENOSYS;
#endif
}

/* In a child, so that a verdict of death is only a verdict. */
static void show(const char *filter, long (*how)(long, const unsigned long *), long number, const unsigned long *args)
{
    int link[2], status;
    long verdict;
    pid_t child;

    if (pipe(link) || (child = fork()) < 0)
        die("fork");
    if (child == 0) {
        install_guard();
        install_file(filter);
        verdict = how(number, args);
        _exit(write(link[1], &verdict, sizeof verdict) != sizeof verdict);
    }
    close(link[1]);
    if (read(link[0], &verdict, sizeof verdict) != sizeof verdict)
        verdict = -1;
    close(link[0]);
    waitpid(child, &status, 0);
    if (verdict < 0 && WIFSIGNALED(status))
        printf("signal %d\n", WTERMSIG(status));
    else if (verdict == MARK)
        printf("allow\n");
    else
        printf("%ld\n", verdict);
}

int main(int argc, char **argv)
{
    unsigned long args[6] = {0};

    if (argc < 4)
        return 99;
    for (int i = 4; i < argc && i < 10; i++)
        args[i - 4] = strtoul(argv[i], NULL, 0);
    if (strcmp(argv[2], "walk") == 0) {
        for (long number = strtol(argv[3], NULL, 0); number <= (long)args[0]; number++) {
            static const unsigned long none[6];

            printf("%ld ", number);
            fflush(stdout);
            show(argv[1], ask, number, none);
        }
    } else if (strcmp(argv[2], "exec") == 0) {
        install_file(argv[1]);
        execvp(argv[3], argv + 3);
        die(argv[3]);
    } else {
        show(argv[1], strcmp(argv[2], "ask32") == 0 ? ask32 : ask, strtol(argv[3], NULL, 0), args);
    }
    return 0;
}
