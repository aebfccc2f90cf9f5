/* A place in the cgroup tree for a pod with limits, found as pyrun.engine.placement does.
 *
 * The file `controllers` in the directory of a prepared pod, or the recipe of one that is not, names those that the cgroup above the
 * pod's has to give to its children, and @systemd or @cgroupfs where one of these was asked for. */
#include "fast.h"
#include "files.h"
#include "handover.h"
#include "prepared.h"
#include "say.h"

#define TEXT 4096

/* A small file as a string; minus an errno. */
static long read_text(int dir, const char *path, char text[TEXT])
{
    OWNED_FD fd = (int)sys_openat(dir, path, O_RDONLY | O_NOFOLLOW, 0);
    const long n = fd < 0 ? fd : sys_read(fd, text, TEXT - 1);

    text[n > 0 ? n : 0] = '\0';
    return n < TEXT - 1 ? n : -E2BIG;
}

static size_t word_size(const char *word)
{
    size_t n = 0;

    while (word[n] != '\0' && word[n] != ' ' && word[n] != '\n')
        n++;
    return n;
}

static const char *next_word(const char *at)
{
    while (*at == ' ' || *at == '\n')
        at++;
    return at;
}

static int has_word(const char *text, const char *word, size_t size)
{
    for (const char *at = next_word(text); *at != '\0'; at = next_word(at + word_size(at)))
        if (word_size(at) == size && memcmp(at, word, size) == 0)
            return 1;
    return 0;
}

/* "+memory +pids", those of `wanted` that `file` of a cgroup does not name; 0 where that cannot be told. */
static int lacking(int above, const char *file, const char *wanted, char missing[TEXT])
{
    char there[TEXT], *at = missing;

    if (read_text(above, file, there) < 0)
        return 0;
    for (const char *word = next_word(wanted); *word != '\0'; word = next_word(word + word_size(word))) {
        const size_t size = word_size(word);

        if (word[0] == '@' || has_word(there, word, size))
            continue;
        if (size + 3 > (size_t)(missing + TEXT - at))
            return 0;
        if (at > missing)
            *at++ = ' ';
        *at++ = '+';
        memcpy(at, word, size);
        at += size;
    }
    *at = '\0';
    return 1;
}

static int is_tree(const char *path)
{
    return str_eq(path, "/sys/fs/cgroup") || str_eq(path, "/sys/fs/cgroup/unified");
}

static int has_mark(const char *path, const char *name)
{
    char mark;

    return sys_call4(__NR_getxattr, path, name, &mark, 1) == 1 && mark == '1';
}

int ends_with(const char *text, const char *end)
{
    const size_t size = str_len(text), length = str_len(end);

    return size >= length && str_eq(text + size - length, end);
}

/* Whether systemd left this cgroup, or one above it, to its unit: 1 or 0.  What it left to a user's systemd that one knows, and
 * where it did not mark it -1: Python asks. */
static int is_delegated(const char *above)
{
    char path[PATH_SIZE], *end = str_add(path, path + sizeof path, above), *last;

    while (end > path + 1 && !is_tree(path)) {
        if (has_mark(path, "trusted.delegate") || has_mark(path, "user.delegate"))
            return 1;
        while (end > path && *--end != '/')
            ;
        *end = '\0';
        for (last = end; last > path && *--last != '/';)
            ;
        if (memcmp(last, "/user@", 6) == 0 && ends_with(path, ".service"))
            return -1;
    }
    return 0;
}

static int is_booted(void)
{
    return sys_call3(__NR_faccessat, AT_FDCWD, "/run/systemd/system/.", 0) == 0;
}

static const char *last_of(const char *path)
{
    const char *last = path;

    for (; *path != '\0'; path++)
        if (*path == '/')
            last = path + 1;
    return last;
}

static int refuse_scope(const char *uuid, const char *why)
{
    char name[64];
    const char *end = name + sizeof name;

    (void)str_add(str_add(str_add(name, end, "pyrun-"), end, uuid), end, ".scope");
    refuse("make scope", name, why, "use --cgroup-manager cgroupfs, below a unit with Delegate=yes", "");
    return 0;
}

static int refuse_service(const char *uuid, const char *path)
{
    char why[512];
    struct say to = {why, why + sizeof why};

    say_text(&to, last_of(path));
    say_text(&to, " would lose its main process");
    return refuse_scope(uuid, why);
}

/* The first controller of a list, without what stands before it. */
static void first_of(const char *words, char name[64])
{
    const char *word = next_word(words);
    size_t n = 0;

    while (*word == '@')
        word = next_word(word + word_size(word));
    word += *word == '+';
    for (; n < word_size(word) && n < 63; n++)
        name[n] = word[n];
    name[n] = '\0';
}

static int refuse_limit(const char *controllers, const char *why, const char *path, const char *hint)
{
    char name[64], reason[PATH_SIZE + 128];
    struct say to = {reason, reason + sizeof reason};

    first_of(controllers, name);
    say_text(&to, why);
    say_text(&to, path);
    refuse("limit the pod", name, reason, hint, "");
    return 0;
}

static int refuse_undelegated(const char *missing, const char *path)
{
    char hint[512];
    struct say to = {hint, hint + sizeof hint};

    say_text(&to, "put Delegate=yes into ");
    say_text(&to, last_of(path));
    return refuse_limit(missing, "the controller is not delegated to ", path, hint);
}

/* Into a scope where systemd is asked for one, or where it has not left the cgroup to anybody.  A service would lose its process. */
static int take_managed(const struct scope *scope, const char *wanted, char path[PATH_SIZE])
{
    char missing[TEXT];

    if (!has_word(wanted, "@systemd", 8)) {
        OWNED_FD fd = (int)sys_openat(AT_FDCWD, path, O_RDONLY | O_DIRECTORY, 0);
        int left;

        if (fd < 0 || !lacking(fd, "cgroup.subtree_control", wanted, missing))
            return refuse_limit(wanted, "there is no telling what is enabled in ", path, "see what the cgroup tree is");
        if (missing[0] == '\0' || has_word(wanted, "@cgroupfs", 9) || is_tree(path) || !is_booted())
            return 1;
        left = is_delegated(path);
        if (left != 0)
            return left > 0;
        if (ends_with(path, ".service"))
            return refuse_undelegated(missing, path);
    }
    if (!is_booted())
        return refuse_scope(scope->uuid, "this host was not booted by systemd");
    if (ends_with(path, ".service"))
        return refuse_service(scope->uuid, path);
    return take_scope(scope, path);
}

/* Where root rules, as in a login, a user's own systemd is asked. */
static int take_own(const struct scope *scope, const char *wanted, char path[PATH_SIZE])
{
    if (!is_root() && !has_word(wanted, "@cgroupfs", 9) && is_booted())
        return take_scope(scope, path);
    if (!is_root() && is_booted())
        return refuse_limit(wanted, "the controller is not delegated to you in ", "the cgroup of this process",
                            "leave out --cgroup-manager cgroupfs, or run it in a unit with Delegate=yes and User=");
    refuse("limit the pod", "", "there is no cgroup2 tree that pyrun may write to", "mount one on /sys/fs/cgroup", "");
    return 0;
}

/* The user's systemd whose unit this is below, "" for none. */
static void manager_of(const char *path, char name[64])
{
    name[0] = '\0';
    for (; *path != '\0'; path++) {
        size_t n = 1;

        while (*path == '/' && path[n] != '/' && path[n] != '\0')
            n++;
        if (*path != '/' || n < 14 || n > 60 || memcmp(path + 1, "user@", 5) != 0 || memcmp(path + n - 8, ".service", 8) != 0)
            continue;
        memcpy(name, path + 1, n - 1);
        name[n - 1] = '\0';
        return;
    }
}

/* Whether a hierarchy of version 1 has the controller: the second field of its line (cgroups(7)). */
static int is_in_version_1(const char *name)
{
    char text[TEXT];
    const size_t size = str_len(name);

    if (read_text(AT_FDCWD, "/proc/cgroups", text) <= 0)
        return 0;
    for (const char *line = text; *line != '\0';) {
        if (memcmp(line, name, size) == 0 && line[size] == '\t')
            return line[size + 1] != '0' || line[size + 2] != '\t';
        while (*line != '\n' && *line != '\0')
            line++;
        line += *line == '\n';
    }
    return 0;
}

/* advice() of pyrun.engine.placement */
static void advise(int above, const char *path, const char *missing, char hint[1024])
{
    static const char unmanaged[] = "dmem hugetlb misc rdma";
    char name[64], manager[64], there[TEXT];
    struct say to = {hint, hint + 1024};

    first_of(missing, name);
    manager_of(path, manager);
    if (read_text(above, "cgroup.controllers", there) > 0 && has_word(there, name, str_len(name)))
        say_text(&to, "other processes are in that cgroup: start pyrun in one of its own, below a unit with Delegate=yes");
    else if (is_in_version_1(name))
        say_text(&to, "this host uses it with cgroup version 1: boot with systemd.unified_cgroup_hierarchy=1");
    else if (is_tree(path))
        say_text(&to, "this kernel does not have it: see cgroup.controllers there");
    else if (manager[0] != '\0') {
        say_text(&to, "delegate it to users, in /etc/systemd/system/user@.service.d/delegate.conf: [Service] Delegate=cpu cpuset io memory pids; "
                      "then restart ");
        say_text(&to, manager);
    } else if (has_word(unmanaged, name, str_len(name))) {
        say_text(&to, "systemd never delegates it: write +");
        say_text(&to, name);
        say_text(&to, " to cgroup.subtree_control in /sys/fs/cgroup and each cgroup above this");
    } else
        say_text(&to, "it is not delegated: put Delegate=yes into the unit that pyrun runs in, or enable it in cgroup.subtree_control above");
}

/* Whether no process is in the cgroup itself, once this one, if it was alone, has gone to a leaf.  The root has no cgroup.type. */
static int make_room(int above)
{
    char text[TEXT], own[24];
    long n;

    if (sys_call3(__NR_faccessat, above, "cgroup.type", 0) == -ENOENT)
        return 1;
    (void)str_add(str_add_number(own, own + sizeof own, (uint64_t)sys_call0(__NR_getpid)), own + sizeof own, "\n");
    n = read_text(above, "cgroup.procs", text);
    if (n <= 0 || !str_eq(text, own))
        return n == 0;
    n = sys_call3(__NR_mkdirat, above, CGROUP_LEAF, 0755);
    return (n == 0 || n == -EEXIST) && write_file(above, CGROUP_LEAF "/cgroup.procs", 0, 0, "0", 1) == 0 &&
           read_text(above, "cgroup.procs", text) == 0;
}

static int enable(int above, const char *path, const char *wanted)
{
    char missing[TEXT], absent[TEXT], hint[1024];

    if (above < 0 || !lacking(above, "cgroup.subtree_control", wanted, missing))
        return refuse_limit(wanted, "there is no telling what is enabled in ", path, "see what the cgroup tree is");
    if (missing[0] == '\0')
        return 1;
    if (lacking(above, "cgroup.controllers", wanted, absent) && absent[0] == '\0' && make_room(above) &&
        write_file(above, "cgroup.subtree_control", 0, 0, missing, str_len(missing)) == 0)
        return 1;
    if (absent[0] == '\0')
        memcpy(absent, missing, sizeof absent);
    advise(above, path, absent, hint);
    return refuse_limit(absent, "the controller cannot be enabled in ", path, hint);
}

static int take(const struct scope *scope, const char *wanted)
{
    char path[PATH_SIZE];
    OWNED_FD above = -1;

    if (!(find_cgroup(path) ? take_managed(scope, wanted, path) : take_own(scope, wanted, path)))
        return 0;
    above = (int)sys_openat(AT_FDCWD, path, O_RDONLY | O_DIRECTORY, 0);
    return enable(above, path, wanted);
}

int take_place(int pod, const char *uuid)
{
    char wanted[TEXT];
    const struct scope scope = {uuid, pod, 0, 0};
    const long n = read_text(pod, "controllers", wanted);

    if (n == -ENOENT)
        return 1;
    if (n <= 0) {
        refuse("read", "controllers", n < 0 ? errno_text(n) : "it is empty", "remove the pod and prepare it again", "");
        return 0;
    }
    return take(&scope, wanted);
}

int take_place_again(char *limits, size_t size, const char *blank, const char *uuid)
{
    const size_t words = str_len(limits) + 1; /* the file ends with a NUL */
    const struct scope scope = {uuid, -1, limits + words, words < size ? size - words : 0};

    for (size_t i = words; i + UUID_LENGTH <= size; i++)
        if (memcmp(limits + i, blank, UUID_LENGTH) == 0)
            memcpy(limits + i, uuid, UUID_LENGTH);
    return words <= size && take(&scope, limits);
}
