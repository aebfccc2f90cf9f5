/* A place in the cgroup tree for a prepared pod with limits, found as pyrun.engine.placement does.
 *
 * The file `controllers` in the pod's directory names those that the cgroup above the pod's has to give to its children, and
 * @systemd or @cgroupfs where one of these was asked for.  Whatever is in the way is left to Python, which begins again and says
 * what is wrong. */
#include "fast.h"
#include "files.h"
#include "handover.h"
#include "prepared.h"

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

/* Into a scope where systemd is asked for one, or where it has not left the cgroup to anybody.  A service would lose its process. */
static int take_managed(int pod, const char *uuid, const char *wanted, char path[PATH_SIZE])
{
    char missing[TEXT];

    if (!has_word(wanted, "@systemd", 8)) {
        OWNED_FD fd = (int)sys_openat(AT_FDCWD, path, O_RDONLY | O_DIRECTORY, 0);
        int left;

        if (fd < 0 || !lacking(fd, "cgroup.subtree_control", wanted, missing))
            return 0;
        if (missing[0] == '\0' || has_word(wanted, "@cgroupfs", 9) || is_tree(path) || !is_booted())
            return 1;
        left = is_delegated(path);
        if (left != 0)
            return left > 0;
    }
    return !ends_with(path, ".service") && is_booted() && take_scope(pod, uuid, path);
}

/* Where root rules, as in a login, a user's own systemd is asked. */
static int take_own(int pod, const char *uuid, const char *wanted, char path[PATH_SIZE])
{
    return !is_root() && !has_word(wanted, "@cgroupfs", 9) && is_booted() && take_scope(pod, uuid, path);
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

int take_place(int pod, const char *uuid)
{
    char wanted[TEXT], missing[TEXT], absent[TEXT], path[PATH_SIZE];
    OWNED_FD above = -1;
    const long n = read_text(pod, "controllers", wanted);

    if (n == -ENOENT)
        return 1;
    if (n <= 0 || !(find_cgroup(path) ? take_managed(pod, uuid, wanted, path) : take_own(pod, uuid, wanted, path)))
        return 0;
    above = (int)sys_openat(AT_FDCWD, path, O_RDONLY | O_DIRECTORY, 0);
    if (above < 0 || !lacking(above, "cgroup.subtree_control", wanted, missing))
        return 0;
    return missing[0] == '\0' || (lacking(above, "cgroup.controllers", wanted, absent) && absent[0] == '\0' && make_room(above) &&
                                  write_file(above, "cgroup.subtree_control", 0, 0, missing, str_len(missing)) == 0);
}
