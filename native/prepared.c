/* The launcher's short way for `run-prepared POD`: the pod's own link names the program that runs it (keeper.c).  Before that come a
 * place for the pod's limits, the service manager's sockets, and its network namespace (joined.c). */
#include "prepared.h"

#include "fast.h"
#include "handover.h"
#include "refuse.h"

#define SHARES 2048 /* bytes of the keeper's word about sockets */

/* The sockets that the service manager passed to this very process, sd_listen_fds(3); -1 where Python has to look at that. */
static int count_sockets(char **envp)
{
    const char *text = from_environment(envp, "LISTEN_FDS");
    char own[24];
    int count = 0;

    (void)str_add_number(own, own + sizeof own, (uint64_t)sys_call0(__NR_getpid));
    if (!str_eq(from_environment(envp, "LISTEN_PID"), own))
        return 0;
    if (*text == '\0')
        return -1;
    for (; *text != '\0'; text++) {
        if (*text < '0' || *text > '9')
            return -1;
        count = count * 10 + (*text - '0');
        if (count > SLOT_LISTEN_MAX)
            return -1;
    }
    return count;
}

/* The sockets among `names` that are called so, a bit each. */
static uint64_t called(const char *names, const char *name, size_t size)
{
    uint64_t found = 0;

    for (int i = 0;; i++) {
        size_t n = 0;

        while (names[n] != ':' && names[n] != '\0')
            n++;
        if (n == size && memcmp(names, name, size) == 0)
            found |= 1ULL << i;
        if (names[n] == '\0')
            return found;
        names += n + 1;
    }
}

/* Which app gets which socket: the file `sockets` has a line for each app, with the names that it asks for and colons between.
 * Without that file the first gets all.  0 where a socket is missing or left over, which Python explains. */
static int share(int pod, int count, const char *names, char shares[SHARES])
{
    OWNED_FD fd = (int)sys_openat(pod, "sockets", O_RDONLY | O_NOFOLLOW, 0);
    const uint64_t all = count == SLOT_LISTEN_MAX ? ~0ULL : (1ULL << count) - 1;
    char text[16384], *end = shares;
    uint64_t given = 0, own = 0;
    int named = 1;
    long n = fd == -ENOENT ? 0 : fd < 0 ? fd : sys_read(fd, text, sizeof text);

    if (fd == -ENOENT)
        return str_add_number(shares, shares + SHARES, all) != 0;
    for (const char *at = names; *at != '\0'; at++)
        named += *at == ':';
    if (n <= 0 || n == (long)sizeof text || text[n - 1] != '\n' || named != count)
        return 0;
    for (long at = 0, start = 0; at < n; at++) {
        if (text[at] != ':' && text[at] != '\n')
            continue;
        if (at > start) {
            const uint64_t found = called(names, text + start, (size_t)(at - start));

            if (found == 0)
                return 0;
            own |= found;
        }
        start = at + 1;
        if (text[at] == '\n') {
            end = str_add(str_add_number(end, shares + SHARES, own), shares + SHARES, at + 1 < n ? "," : "");
            if (end == 0)
                return 0;
            given |= own;
            own = 0;
        }
    }
    return given == all;
}

int out_of_the_way(int fd)
{
    return (int)sys_call3(__NR_fcntl, fd, F_DUPFD_CLOEXEC, SLOT_COUNT);
}

/* To where the keeper has them, before anything is opened where one is missing; 0 when one is. */
static int copy_sockets(int count)
{
    for (int i = 0; i < count; i++)
        if (sys_call3(__NR_dup3, 3 + i, SLOT_LISTEN + i, 0) < 0)
            return 0;
    return count >= 0;
}

static void start(int pods, int pod, int sockets, char *argv[6], char **envp)
{
    char shares[SHARES], path[64];
    const char *end = path + sizeof path;
    const int network = find_network(argv[1], pods, pod, argv[2]);

    if (network == NETWORK_FOR_PYTHON)
        return;
    if (sockets > 0) {
        if (!share(pod, sockets, from_environment(envp, "LISTEN_FDNAMES"), shares))
            return;
        argv[4] = shares;
        (void)sys_call3(__NR_close_range, 3, 2 + sockets, CLOSE_RANGE_CLOEXEC);
    }
    (void)str_add(str_add_number(str_add(path, end, "/proc/self/fd/"), end, (uint64_t)pod), end, "/keeper");
    if (take_place(pod, argv[2]) && (network < 0 || sys_call3(__NR_dup3, network, SLOT_NETWORK, 0) >= 0))
        (void)sys_call3(__NR_execve, path, argv, envp);
    if (network >= 0) {
        sys_close(SLOT_NETWORK); /* if it came to that: Python opens it itself, or makes it anew */
        (void)sys_call3(__NR_unlinkat, pod, STARTER, 0);
    }
    for (int i = 0; i < sockets; i++) /* where Python looks for them */
        (void)sys_call3(__NR_dup3, SLOT_LISTEN + i, 3 + i, 0);
}

/* Only a pod that stands prepared can be started; whatever was refused has been taken back, or that is left to Python. */
static void say_why_not(const struct asked *asked, int pods, int pod, const char *uuid, char **envp)
{
    if (pod == -ENOENT && (stands(pods, "running/", uuid) || stands(pods, "exited/", uuid)))
        refuse("start pod", uuid, stands(pods, "running/", uuid) ? "it is running" : "it is exited",
               "a prepared pod runs once: see `pyrun prepare`", "");
    else if (pod == -ENOENT && !stands(pods, "prepared/", uuid) && !stands(pods, "preparing/", uuid) && !stands(pods, "garbage/", uuid) &&
             is_uuid(asked->reference))
        refuse("find pod", uuid, "there is none of that name", "see `pyrun list`", "");
    if (!asked->debug && (pod == -ENOENT || (pod >= 0 && sys_call3(__NR_faccessat, pod, "net", 0) == -ENOENT)))
        say_refusal(envp);
}

/* Where nothing can be meant by it; what several pods begin with is Python's to count. */
static void say_none(const struct asked *asked, int pods, const char *uuid, char **envp)
{
    char path[PATH_SIZE], target[2];

    for (const char *c = asked->reference; *c != '\0'; c++)
        if (!((*c >= 'a' && *c <= 'z') || (*c >= 'A' && *c <= 'Z') || (*c >= '0' && *c <= '9') || *c == '-' || *c == '_' || *c == '.'))
            return;
    if (asked->debug || uuid[0] != '\0' || asked->reference[0] == '.' || join(path, "names/", asked->reference, "") == 0 ||
        sys_call4(__NR_readlinkat, pods, path, target, sizeof target) != -ENOENT)
        return;
    refuse("find pod", asked->reference, "there is none of that name", "see `pyrun list`", "");
    say_refusal(envp);
}

void run_prepared(const char *root, char **words, char **envp)
{
    char path[PATH_SIZE], uuid[UUID_LENGTH + 1], title[] = "pyrun: keeper", how[][8] = {"front", "detach", "json"};
    struct asked asked = {.root = root};
    const int sockets = count_sockets(envp);
    OWNED_FD found = -1, pod = -1, pods = -1;

    if (!understand(&asked, words) || !copy_sockets(sockets) || join(path, asked.root, "/pods", "") == 0)
        return;
    pods = (int)sys_openat(AT_FDCWD, path, O_PATH | O_DIRECTORY, 0);
    if (pods < 0 || !is_own(asked.root))
        return;
    if (!find_pod(pods, asked.reference, uuid)) {
        say_none(&asked, pods, uuid, envp);
        return;
    }
    if (join(path, "prepared/", uuid, "") == 0)
        return;
    found = (int)sys_openat(pods, path, O_PATH | O_DIRECTORY | O_NOFOLLOW, 0);
    pod = found < 0 ? -1 : out_of_the_way(found);
    if (pod >= 0)
        start(pods, pod, sockets, (char *[]){title, (char *)(uintptr_t)asked.root, uuid, how[asked.json ? 2 : asked.detach], 0, 0}, envp);
    say_why_not(&asked, pods, found < 0 ? found : pod, uuid, envp);
}

void become_keeper(const char *root, int pods, int pod, const char *uuid, const char *how, char **envp)
{
    char title[] = "pyrun: keeper";
    char *argv[6] = {title, (char *)(uintptr_t)root, (char *)(uintptr_t)uuid, (char *)(uintptr_t)how, 0, 0};

    start(pods, pod, 0, argv, envp);
}
