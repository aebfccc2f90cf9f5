/* `probe trace FILE COMMAND...`: writes down, a line each, what programs the process of a command becomes, and ends as it does.
 *
 * strace(1) stops it at every system call, which costs most of the time where the processor is emulated; this at each execve(2) that
 * succeeds, whose file's name is then that of the process (begin_new_exec in the kernel's fs/exec.c).  Who it starts is not traced. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

int trace(char **words);

static void note(int log, pid_t pid)
{
    char path[64], name[32];
    int fd;
    ssize_t n;

    snprintf(path, sizeof path, "/proc/%d/comm", (int)pid);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    n = read(fd, name, sizeof name);
    if (n <= 0 || write(log, name, (size_t)n) != n)
        perror("probe: trace");
    close(fd);
}

int trace(char **words)
{
    int log = open(words[0], O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644), status, number;
    pid_t pid = log < 0 ? -1 : fork();

    if (pid < 0) {
        perror("probe: trace");
        return 2;
    }
    if (pid == 0) {
        ptrace(PTRACE_TRACEME, 0, NULL, NULL);
        raise(SIGSTOP);
        execvp(words[1], words + 1);
        perror(words[1]);
        _exit(127);
    }
    if (waitpid(pid, &status, 0) < 0 || ptrace(PTRACE_SETOPTIONS, pid, NULL, (void *)PTRACE_O_TRACEEXEC)) {
        perror("probe: trace");
        return 2;
    }
    for (number = 0;;) {
        ptrace(PTRACE_CONT, pid, NULL, (void *)(long)number);
        while (waitpid(pid, &status, 0) < 0)
            if (errno != EINTR)
                return 2;
        if (WIFEXITED(status))
            return WEXITSTATUS(status);
        if (WIFSIGNALED(status)) {
            signal(WTERMSIG(status), SIG_DFL);
            raise(WTERMSIG(status));
            return 128 + WTERMSIG(status);
        }
        number = WSTOPSIG(status);
        if (status >> 16 == PTRACE_EVENT_EXEC) {
            note(log, pid);
            number = 0;
        }
    }
}
