/* What the helper and the keeper both do: remove a cgroup, explain a failure, tell a manager, look at clock and processes. */
#include <linux/poll.h>

#include "shared.h"

#define AF_UNIX 1
#define SEND_FLAGS 0x4040 /* MSG_NOSIGNAL, MSG_DONTWAIT */

/* cgroup.events is read before the last look, so that no change is missed (cgroups(7)). */
void remove_group(int parent, const char *name)
{
    static const struct __kernel_timespec longest = {0, 100000000};
    char text[256];

    if (parent < 0 || sys_call3(__NR_unlinkat, parent, name, AT_REMOVEDIR) != -EBUSY)
        return;
    OWNED_FD own = (int)sys_openat(parent, name, O_RDONLY | O_DIRECTORY, 0), events = (int)sys_openat(own, "cgroup.events", O_RDONLY, 0);
    for (int tries = 0; events >= 0 && tries < 50; tries++) {
        struct pollfd change = {events, POLLPRI, 0};

        (void)sys_call4(__NR_pread64, events, text, sizeof text, 0);
        (void)remove_below(own); /* cgroups that the container made */
        if (sys_call3(__NR_unlinkat, parent, name, AT_REMOVEDIR) != -EBUSY)
            return;
        (void)write_file(own, "cgroup.kill", 0, 0, "1", 1); /* somebody entered it from outside, or nobody else kills it */
        (void)sys_call5(__NR_ppoll, &change, 1, &longest, 0, 8);
    }
}

int start_cleaner(int pod)
{
    char text[2048], *argv[32] = {0};
    const uint64_t none = 0;
    OWNED_FD fd = (int)sys_openat(pod, "cleaner", O_RDONLY | O_NOFOLLOW, 0);
    long n = fd < 0 ? fd : sys_read(fd, text, sizeof text - 1);
    unsigned count = 0;

    text[n > 0 ? n : 0] = '\0';
    for (char *at = text; at < text + n && count < 31; at += str_len(at) + 1)
        argv[count++] = at;
    if (count == 0 || (n = sys_call5(__NR_clone, 0, 0, 0, 0, 0)) != 0) /* not even for its execve */
        return n > 0;
    (void)sys_call0(__NR_setsid);
    (void)sys_call3(__NR_close_range, 0, ~0U, 0);
    fd = (int)sys_openat(AT_FDCWD, "/dev/null", O_RDWR, 0);
    for (int to = 2; to >= 0; to--) /* the last one is itself, which would go with the execve */
        (void)sys_call3(__NR_dup3, to > 0 ? fd : 1, to, 0);
    (void)sys_call4(__NR_rt_sigprocmask, SIG_SETMASK, &none, 0, sizeof none);
    (void)sys_call3(__NR_execve, argv[0], argv, argv + count);
    sys_exit(127);
}

void become_explainer(const struct plan_header *plan, const struct plan_report *failure, char **argv, size_t room, char **envp)
{
    static char numbers[3][24];
    const char *word = (const char *)plan + plan->pool + plan->explain;
    const uint64_t none = 0, values[3] = {failure->op, (uint64_t)failure->error, failure->detail};
    char **at = argv;

    if (plan->explain_count == 0 || plan->explain_count + 4 > room)
        return;
    for (uint32_t i = 0; i < plan->explain_count; i++, word += str_len(word) + 1)
        *at++ = (char *)(uintptr_t)word;
    for (int i = 0; i < 3; i++) {
        (void)str_add_number(numbers[i], numbers[i] + sizeof numbers[i], values[i]);
        *at++ = numbers[i];
    }
    *at = 0;
    (void)sys_call4(__NR_rt_sigprocmask, SIG_SETMASK, &none, 0, sizeof none);
    (void)sys_call3(__NR_execve, argv[0], argv, envp);
}

/* Each with a comma before it. */
static const char *oom_words(uint32_t detail)
{
    if (detail & OOM_KILL_GROUP)
        return ",\"oom\":true,\"oom_group\":true,\"oom_victim\":\"group\"";
    return detail & OOM_KILL_MAIN    ? ",\"oom\":true,\"oom_victim\":\"main\""
           : detail & OOM_KILL_CHILD ? ",\"oom\":true,\"oom_victim\":\"child\""
           : detail             ? ",\"oom\":true"
                                : "";
}

char *add_end(char *at, const char *end, int32_t status, uint64_t started, uint64_t finished, uint32_t oom)
{
    const int signal = status & 0x7f;

    at = str_add_number(str_add(at, end, "\"code\":"), end, signal ? 0 : (uint64_t)(status >> 8 & 0xff));
    at = str_add_number(str_add(at, end, ",\"signal\":"), end, (uint64_t)signal);
    at = str_add_number(str_add(at, end, ",\"started\":"), end, started);
    at = str_add_number(str_add(at, end, ",\"finished\":"), end, finished);
    return str_add(at, end, oom_words(oom));
}

/* In one piece, and it begins a line whatever stands there. */
void tell_end(char **envp, const char *members, int code)
{
    const char *begin = from_environment(envp, "PYRUN_END");
    char last[32];
    const char *end = last + sizeof last;
    struct {
        const void *base;
        size_t length;
    } parts[] = {{"\n", 1}, {begin, str_len(begin)}, {members, str_len(members)}, {last, 0}};
    struct pollfd room = {2, POLLOUT, 0};
    long n;

    parts[3].length = (size_t)(str_add(str_add_number(str_add(last, end, ",\"exit_code\":"), end, (uint64_t)code), end, "}\n") - last);
    while (*begin != '\0' && ((n = sys_call3(__NR_writev, 2, parts, 4)) == -EAGAIN || n == -EINTR))
        (void)sys_call5(__NR_ppoll, &room, 1, 0, 0, 8);
}

void tell_manager(char **envp, const char *text, size_t size)
{
    const char *path = from_environment(envp, "NOTIFY_SOCKET");
    struct { /* struct sockaddr_un of unix(7) */
        unsigned short family;
        char path[108];
    } to = {AF_UNIX, ""};
    const size_t length = str_len(path);
    OWNED_FD fd = -1;

    if ((path[0] != '/' && path[0] != '@') || length >= sizeof to.path || size == 0)
        return;
    memcpy(to.path, path, length);
    if (path[0] == '@') /* an abstract name, which is not terminated */
        to.path[0] = '\0';
    fd = (int)sys_call3(__NR_socket, AF_UNIX, 2 | O_CLOEXEC | O_NONBLOCK /* SOCK_DGRAM */, 0);
    if (fd >= 0)
        (void)sys_call6(__NR_sendto, fd, text, size, SEND_FLAGS, &to, 2 + length);
}

/* Behind what is WAITING, by the linker's own order of sections. */
__asm__(".pushsection .text.sorted.end, \"ax\"\n.globl waiting_end\n.hidden waiting_end\nwaiting_end:\n.popsection");

/* As a mapping of its own (that is what the advice makes of it) the code does not come back with a neighbour's page, but only when it
 * is run after all, from the file. */
WAITING void settle(void)
{
    extern const char waiting_end[], etext[], __bss_start[];
    const unsigned long start = ((unsigned long)waiting_end + PAGE_SIZE - 1) & ~(PAGE_SIZE - 1), end = (unsigned long)etext & ~(PAGE_SIZE - 1);

    (void)sys_call3(__NR_madvise, start, end - start, MADV_RANDOM);
    (void)sys_call3(__NR_madvise, start, ((unsigned long)__bss_start & ~(PAGE_SIZE - 1)) - start, MADV_DONTNEED);
    give_back_stack();
}

WAITING uint64_t clock_ns(int clock)
{
    struct __kernel_timespec t = {0, 0};

    (void)sys_call2(__NR_clock_gettime, clock, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

uint64_t start_time(int32_t pid)
{
    char path[32], text[512];
    uint64_t value = 0;
    int blanks = 0;
    long n;

    (void)str_add(str_add_number(str_add(path, path + sizeof path, "/proc/"), path + sizeof path, (uint64_t)pid), path + sizeof path,
                  "/stat");
    OWNED_FD fd = (int)sys_openat(AT_FDCWD, path, O_RDONLY, 0);
    n = fd < 0 ? fd : sys_read(fd, text, sizeof text - 1);
    if (n <= 0)
        return 0;
    text[n] = '\0';
    char *at = text + n;
    while (at > text && *at != ')') /* the name may hold anything */
        at--;
    for (; *at != '\0' && blanks < 20; at++)
        blanks += *at == ' ';
    for (; *at >= '0' && *at <= '9'; at++)
        value = value * 10 + (uint64_t)(*at - '0');
    return value;
}
