/* Times start, exec and reaping of programs, in turn: floor_spawn ROUNDS PROGRAM...
 *
 * A small parent in C, so that what is measured is the kernel and the program.  Each round is in another order, since
 * who runs behind a larger program finds colder caches.  Prints a line for each round with the nanoseconds of each program.
 * vfork(2), as the library's own spawn shares memory until the exec too. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MOST 16

static long now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000L + t.tv_nsec;
}

static long once(char *program)
{
    char *const argv[] = {program, NULL}, *const envp[] = {NULL};
    long start = now();
    pid_t pid = vfork();
    int status;

    if (pid == 0) {
        execve(program, argv, envp);
        _exit(127);
    }
    if (pid < 0 || waitpid(pid, &status, 0) != pid || (WIFEXITED(status) && WEXITSTATUS(status) == 127))
        return -1;
    return now() - start;
}

int main(int argc, char **argv)
{
    int rounds = argc > 2 ? atoi(argv[1]) : 0, count = argc - 2, null = open("/dev/null", O_RDWR | O_CLOEXEC);
    int order[MOST];
    long took[MOST];

    if (count < 1 || count > MOST || null < 0 || dup2(null, 0) < 0 || dup2(null, 2) < 0)
        return 1;
    for (int i = 0; i < count; i++)
        order[i] = i;
    for (int round = 0; round < rounds; round++) {
        for (int i = 0; i < count; i++) {
            int j = i + rand() % (count - i), next = order[j];

            order[j] = order[i];
            order[i] = next;
            took[next] = once(argv[2 + next]);
            if (took[next] < 0)
                return 1;
        }
        for (int i = 0; i < count; i++)
            printf("%ld%c", took[i], i + 1 < count ? ' ' : '\n');
    }
    return 0;
}
