/* The launcher's short way for `run-prepared POD`: the pod's own link names the program that runs it (keeper.c).  Before that come a
 * place for the pod's limits, the service manager's sockets, and its network namespace (joined.c). */
#include "prepared.h"

#include "fast.h"
#include "handover.h"
#include "say.h"

#define SHARES 2048 /* bytes of the keeper's word about sockets */
#define LINES 4096  /* bytes of the beginning of the line that says how a pod ended */

/* The sockets that the service manager passed to this very process, sd_listen_fds(3); -1, and that is noted, for no number. */
static int count_sockets(char **envp)
{
    const char *text = from_environment(envp, "LISTEN_FDS"), *at = text;
    char own[24], subject[1024];
    struct say to = {subject, subject + sizeof subject};
    int count = *text == '\0' ? SLOT_LISTEN_MAX + 1 : 0;

    (void)str_add_number(own, own + sizeof own, (uint64_t)sys_call0(__NR_getpid));
    if (!str_eq(from_environment(envp, "LISTEN_PID"), own))
        return 0;
    for (; *at >= '0' && *at <= '9' && count <= SLOT_LISTEN_MAX; at++)
        count = count * 10 + (*at - '0');
    if (*at == '\0' && count <= SLOT_LISTEN_MAX)
        return count;
    say_text(&to, "LISTEN_FDS=");
    say_text(&to, text);
    refuse("take sockets", subject, "not a number up to 64", "", "");
    return -1;
}

static size_t word_size(const char *text)
{
    size_t n = 0;

    while (text[n] != ':' && text[n] != '\n' && text[n] != '\0')
        n++;
    return n;
}

/* The sockets among the first `count` of `names` that are called so, a bit each. */
static uint64_t called(const char *names, int count, const char *name, size_t size)
{
    uint64_t found = 0;

    for (int i = 0; i < count; i++) {
        const size_t n = word_size(names);

        if (n == size && memcmp(names, name, size) == 0)
            found |= 1ULL << i;
        if (names[n] == '\0')
            break;
        names += n + 1;
    }
    return found;
}

static int wrong_socket(const char *name, const char *why, const char *names, int count, const char *more)
{
    static char hint[4096], subject[1024];
    struct say to = {subject, subject + sizeof subject};

    for (size_t i = 0; i < word_size(name) && to.at + 1 < to.end; i++)
        *to.at++ = name[i];
    *to.at = '\0';
    to = (struct say){hint, hint + sizeof hint};
    say_text(&to, "the service manager's sockets are ");
    for (int i = 0; i < count; i++) {
        const size_t n = word_size(names);

        say_text(&to, i > 0 ? ", " : "");
        for (size_t j = 0; j < n && to.at + 1 < to.end; j++)
            *to.at++ = names[j];
        if (names[n] == '\0')
            break;
        names += n + 1;
    }
    say_text(&to, more);
    refuse_usage("option --socket", subject, why, hint, "");
    return 0;
}

static int is_before(const char *one, const char *other)
{
    const size_t size = word_size(one), more = word_size(other);
    const int r = memcmp(one, other, size < more ? size : more);

    return r < 0 || (r == 0 && size < more);
}

/* Whether every name that an app asks for is a socket's, and every socket that has a name some app's. */
static int all_shared(const char *text, const char *names, int count)
{
    const char *missing = 0, *all = names;
    uint64_t given = 0;

    for (const char *at = text; *at != '\0'; at += word_size(at) + 1) {
        const uint64_t found = called(names, count, at, word_size(at));

        given |= found;
        if (found == 0 && word_size(at) > 0 && (missing == 0 || is_before(at, missing)))
            missing = at;
    }
    if (missing != 0)
        return wrong_socket(missing, "no socket has that name", names, count, "");
    for (int i = 0; i < count; i++, names += word_size(names) + 1) {
        if ((given >> i & 1) == 0)
            return wrong_socket(names, "no app gets this socket", all, count, "; give each to an app");
        if (names[word_size(names)] == '\0')
            break;
    }
    return 1;
}

/* Which app gets which socket: the file `sockets` has a line for each app, with the names that it asks for and colons between.
 * Without that file the first gets all.  0, and that is noted, where a socket is missing or left over. */
static int share(int pod, int count, const char *names, char shares[SHARES])
{
    OWNED_FD fd = (int)sys_openat(pod, "sockets", O_RDONLY | O_NOFOLLOW, 0);
    char text[16384], *end = shares;
    uint64_t own = 0;
    long n = fd == -ENOENT ? 0 : fd < 0 ? fd : sys_read(fd, text, sizeof text - 1);

    if (fd == -ENOENT)
        return str_add_number(shares, shares + SHARES, count == SLOT_LISTEN_MAX ? ~0ULL : (1ULL << count) - 1) != 0;
    if (n <= 0 || n == (long)sizeof text - 1 || text[n - 1] != '\n') {
        refuse("read", "sockets", "it is not as `pyrun prepare` wrote it", "remove the pod and prepare it again", "");
        return 0;
    }
    text[n] = '\0';
    if (!all_shared(text, names, count))
        return 0;
    for (const char *at = text; *at != '\0' && end != 0; at += word_size(at) + 1) {
        own |= called(names, count, at, word_size(at));
        if (at[word_size(at)] == '\n') {
            end = str_add(str_add_number(end, shares + SHARES, own), shares + SHARES, at + word_size(at) + 1 < text + n ? "," : "");
            own = 0;
        }
    }
    return end != 0;
}

int out_of_the_way(int fd)
{
    return (int)sys_call3(__NR_fcntl, fd, F_DUPFD_CLOEXEC, SLOT_COUNT);
}

/* To where the keeper has them, before anything is opened where one is missing; 0, and that is noted, when one is. */
static int copy_sockets(int count)
{
    for (int i = 0; i < count; i++) {
        const long r = sys_call3(__NR_dup3, 3 + i, SLOT_LISTEN + i, 0);
        char subject[32] = "descriptor ";

        if (r >= 0)
            continue;
        (void)str_add_number(subject + str_len(subject), subject + sizeof subject, (uint64_t)(3 + i));
        refuse("take socket", subject, errno_text(r), "LISTEN_FDS says how many there are from descriptor 3 on", "");
        return 0;
    }
    return count >= 0;
}

static void start(int pods, int pod, int sockets, char *argv[6], char **envp)
{
    char shares[SHARES], path[64];
    const char *end = path + sizeof path;
    int network;

    if (sockets > 0) {
        if (!share(pod, sockets, from_environment(envp, "LISTEN_FDNAMES"), shares))
            return;
        argv[4] = shares;
    }
    if (!take_place(pod, argv[2]) || (network = find_network(argv[1], pods, pod, argv[2])) == NETWORK_FOR_PYTHON)
        return;
    if (sockets > 0)
        (void)sys_call3(__NR_close_range, 3, 2 + sockets, CLOSE_RANGE_CLOEXEC);
    (void)str_add(str_add_number(str_add(path, end, "/proc/self/fd/"), end, (uint64_t)pod), end, "/keeper");
    if (network < 0 || sys_call3(__NR_dup3, network, SLOT_NETWORK, 0) >= 0) {
        const int held = network >= 0 && !str_eq(argv[3], "detach") && !str_eq(argv[3], "json"); /* who asked may give up these */
        uint64_t before = 0;
        long r;

        if (held) /* what was made ends with the pod */
            hold_signals(&before);
        r = sys_call3(__NR_execve, path, argv, envp);
        if (held)
            let_signals(&before);
        refuse("start the native keeper", "", errno_text(r), "is the installation complete?", "");
    }
    if (network >= 0) {
        sys_close(SLOT_NETWORK); /* if it came to that: the next start has to take back what this one has made */
        (void)sys_call3(__NR_unlinkat, pod, STARTER, 0);
    }
    for (int i = 0; i < sockets; i++) /* where Python looks for them */
        (void)sys_call3(__NR_dup3, SLOT_LISTEN + i, 3 + i, 0);
}

/* Only a pod that stands prepared can be started. */
static void refuse_phase(const char *reference, int pods, const char *uuid)
{
    if (stands(pods, "running/", uuid) || stands(pods, "exited/", uuid))
        refuse("start pod", uuid, stands(pods, "running/", uuid) ? "it is running" : "it is exited",
               "a prepared pod runs once: see `pyrun prepare`", "");
    else
        refuse_none(reference);
}

/* What keeps others from putting things there, as require_own() of pyrun.native.users says it. */
static void refuse_root(const char *root)
{
    char why[64];
    struct say to = {why, why + sizeof why};
    struct stat st = {0};

    (void)sys_call4(__NR_newfstatat, AT_FDCWD, root, &st, 0);
    if (st.st_uid != 0) {
        say_text(&to, "it belongs to another user (");
        say_number(&to, st.st_uid);
        say_text(&to, ")");
    }
    refuse("use root", root,
           st.st_uid != 0      ? why
           : (st.st_mode & 2) ? "everybody may write to it"
                              : "it holds a directory pods of others, which pyrun would believe, and empty",
           "name a directory that is yours alone, or a new one, which is made: --root DIR", "");
}

/* The directory of all pods; minus an errno, and that is noted. */
static int open_pods(const struct asked *asked)
{
    char path[PATH_SIZE];
    const int pods = join(path, asked->root, "/pods", "") == 0 ? -ENAMETOOLONG : (int)sys_openat(AT_FDCWD, path, O_PATH | O_DIRECTORY, 0);

    if (pods == -ENOENT)
        refuse_none(asked->reference);
    else if (pods < 0)
        refuse("open the pods' directory", path, errno_text(pods), "name another one with --root DIR, or see what stands there", "");
    else if (!is_own(asked->root))
        refuse_root(asked->root);
    else
        return pods;
    if (pods >= 0)
        sys_close(pods);
    return -1;
}

/* The environment with what the line begins with that says how the pod ended. */
static char **with_line(char **environment, char **envp, int pod, const char *uuid, char line[LINES])
{
    static const char name[] = "PYRUN_END=";
    char **to = environment;

    (void)str_add(line, line + LINES, name);
    begin_line(pod, uuid, line + sizeof name - 1, LINES - sizeof name + 1);
    for (; *envp != 0; envp++)
        if (memcmp(*envp, name, sizeof name - 1) != 0)
            *to++ = *envp;
    to[0] = line;
    to[1] = 0;
    return environment;
}

static size_t count(char **words)
{
    size_t n = 0;

    while (words[n] != 0)
        n++;
    return n;
}

static void try_to_start(const struct asked *asked, int sockets, char **envp)
{
    char path[PATH_SIZE], line[LINES], uuid[UUID_LENGTH + 1], title[] = "pyrun: keeper", how[][8] = {"front", "detach", "told", "json"};
    char **environment = __builtin_alloca(sizeof *envp * (count(envp) + 2));
    OWNED_FD found = -1, pod = -1, pods = open_pods(asked);

    if (pods < 0 || !find_pod(pods, asked->reference, uuid) || join(path, "prepared/", uuid, "") == 0)
        return;
    found = (int)sys_openat(pods, path, O_PATH | O_DIRECTORY | O_NOFOLLOW, 0);
    pod = found < 0 ? found : out_of_the_way(found);
    if (pod == -ENOENT)
        refuse_phase(asked->reference, pods, uuid);
    else if (pod < 0)
        refuse("start pod", uuid, errno_text(pod), "see what stands in its place", "");
    else
        start(pods, pod, sockets,
              (char *[]){title, (char *)(uintptr_t)asked->root, uuid, how[2 * asked->json + asked->detach], 0, 0},
              asked->how.lines ? with_line(environment, envp, pod, uuid, line) : envp);
}

void run_prepared(char **argv, char **envp)
{
    static struct asked asked;
    int sockets = -1;

    if (!understand(&asked, argv, envp))
        return;
    if (is_refused() || ((sys_call0(__NR_geteuid) == 0 || become_users_root(asked.root)) && (sockets = count_sockets(envp)) >= 0 &&
                         copy_sockets(sockets) && choose(&asked)))
        if (!is_refused())
            try_to_start(&asked, sockets, envp);
    say_refusal(&asked.how, envp);
}

void become_keeper(const char *root, int pods, int pod, const char *uuid, const char *how, char **envp)
{
    char title[] = "pyrun: keeper";
    char *argv[6] = {title, (char *)(uintptr_t)root, (char *)(uintptr_t)uuid, (char *)(uintptr_t)how, 0, 0};

    start(pods, pod, 0, argv, envp);
}
