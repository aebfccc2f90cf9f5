/* What a command line of `run-prepared` says and which pod it means, as pyrun.cli.parse and pyrun.pod.names have it.
 *
 * A pod is named by its UUID, its name, or the beginning of a UUID, in a word or in a file of --uuid-file-save.  Whatever is wrong, and
 * a beginning that several have, is left to Python, which says so. */
#include "fast.h"
#include "prepared.h"
#include "recipe.h"

#define LONGEST_REFERENCE 256

int is_uuid(const char *text)
{
    size_t n = 0;

    for (; text[n] != '\0'; n++) {
        const int dash = n == 8 || n == 13 || n == 18 || n == 23;

        if (dash ? text[n] != '-' : !((text[n] >= '0' && text[n] <= '9') || (text[n] >= 'a' && text[n] <= 'f')))
            return 0;
    }
    return n == UUID_LENGTH;
}

/* The reference in a regular file: what comes by a pipe could not be read again. */
static int read_reference(const char *path, char text[LONGEST_REFERENCE + 1])
{
    OWNED_FD fd = -1;
    struct stat st;
    long n, start = 0;

    if (sys_call4(__NR_newfstatat, AT_FDCWD, path, &st, 0) < 0 || (st.st_mode & S_IFMT) != S_IFREG)
        return 0;
    fd = (int)sys_openat(AT_FDCWD, path, O_RDONLY | O_NONBLOCK, 0);
    n = fd < 0 ? fd : sys_read(fd, text, LONGEST_REFERENCE + 1);
    if (n <= 0 || n > LONGEST_REFERENCE)
        return 0;
    for (long i = 0; i < n; i++)
        if (text[i] == '\0') /* else what comes before it would be a reference */
            return 0;
    while (n > 0 && (text[n - 1] == ' ' || (text[n - 1] >= '\t' && text[n - 1] <= '\r')))
        n--;
    while (start < n && (text[start] == ' ' || (text[start] >= '\t' && text[start] <= '\r')))
        start++;
    memmove(text, text + start, (size_t)(n - start));
    text[n - start] = '\0';
    return 1;
}

/* The value of an option that stands in the same word behind a `=`, or in the next one; 0 where that is for Python. */
static const char *value_of(const char *name, char ***at)
{
    const char *word = **at;
    const size_t size = str_len(name);

    if (word[size] == '=')
        return word + size + 1;
    (*at)++;
    return **at == 0 || (**at)[0] == '-' ? 0 : **at;
}

static int is_option(const char *word, const char *name)
{
    const size_t size = str_len(name);

    return str_len(word) >= size && memcmp(word, name, size) == 0 && (word[size] == '\0' || word[size] == '=');
}

/* -d, -q, and both in one word */
static int short_flags(struct asked *asked, const char *word)
{
    for (word++; *word != '\0'; word++)
        if (*word == 'd')
            asked->detach = 1;
        else if (*word != 'q')
            return 0;
    return 1;
}

static int option(struct asked *asked, char ***at, char file[LONGEST_REFERENCE + 1])
{
    const char *word = **at, *value;

    if (word[1] != '-')
        return word[1] != '\0' && short_flags(asked, word);
    if (str_eq(word, "--detach"))
        return asked->detach = 1;
    if (str_eq(word, "--quiet"))
        return 1;
    if (str_eq(word, "--debug")) /* nothing said here has more to it: Python has, where it comes to that */
        return asked->debug = 1;
    if (is_option(word, "--format")) {
        value = value_of("--format", at);
        asked->json = value != 0 && str_eq(value, "json");
        return asked->json || (value != 0 && str_eq(value, "text"));
    }
    if (is_option(word, "--root") || is_option(word, "--dir")) {
        asked->root = value_of(word[2] == 'r' ? "--root" : "--dir", at);
        return asked->root != 0 && asked->root[0] == '/';
    }
    value = is_option(word, "--uuid-file") && asked->reference == 0 ? value_of("--uuid-file", at) : 0;
    asked->reference = file;
    return value != 0 && read_reference(value, file);
}

int understand(struct asked *asked, char **words)
{
    static char file[LONGEST_REFERENCE + 1];
    int ended = 0;

    for (; *words != 0; words++)
        if (!ended && str_eq(*words, "--")) {
            ended = 1;
        } else if (!ended && (*words)[0] == '-') {
            if (!option(asked, &words, file))
                return 0;
        } else {
            if (asked->reference != 0)
                return 0;
            asked->reference = *words;
        }
    return asked->reference != 0 && asked->reference[0] != '\0' && (asked->detach || !asked->json);
}

int stands(int pods, const char *phase, const char *uuid)
{
    char path[64];

    (void)str_add(str_add(path, path + sizeof path, phase), path + sizeof path, uuid);
    return sys_call4(__NR_faccessat2, pods, path, 0, AT_SYMLINK_NOFOLLOW) == 0;
}

static int by_name(int pods, const char *name, char uuid[UUID_LENGTH + 1])
{
    char path[LONGEST_REFERENCE + 8], target[UUID_LENGTH + 2];
    long n;

    for (const char *c = name; *c != '\0'; c++)
        if (*c == '/')
            return 0;
    if (name[0] == '.' || str_add(str_add(path, path + sizeof path, "names/"), path + sizeof path, name) == 0)
        return 0;
    n = sys_call4(__NR_readlinkat, pods, path, target, sizeof target);
    target[n == UUID_LENGTH ? n : 0] = '\0';
    if (!is_uuid(target) || !(stands(pods, "prepared/", target) || stands(pods, "running/", target) || stands(pods, "exited/", target)))
        return 0;
    memcpy(uuid, target, UUID_LENGTH + 1);
    return 1;
}

/* The pod of this phase whose UUID begins so; 0 where there is another one than `uuid` already is.  A pod that moves on is seen twice. */
static int one_of(int pods, const char *phase, const char *start, char uuid[UUID_LENGTH + 1])
{
    OWNED_FD dir = (int)sys_openat(pods, phase, O_RDONLY | O_DIRECTORY, 0);
    char buffer[32768] __attribute__((aligned(8)));
    const size_t size = str_len(start);
    long n = 0;

    while (dir >= 0 && (n = sys_call3(__NR_getdents64, dir, buffer, sizeof buffer)) > 0)
        for (long at = 0; at < n; at += *(unsigned short *)(buffer + at + 16)) {
            const char *name = buffer + at + 19; /* struct linux_dirent64: 8 + 8 + 2 + 1 bytes before the name */

            if (!is_uuid(name) || memcmp(name, start, size) != 0)
                continue;
            if (uuid[0] != '\0' && !str_eq(uuid, name))
                return 0;
            memcpy(uuid, name, UUID_LENGTH + 1);
        }
    return n == 0 && (dir >= 0 || dir == -ENOENT);
}

static int by_beginning(int pods, const char *start, char uuid[UUID_LENGTH + 1])
{
    for (const char *c = start; *c != '\0'; c++)
        if (!((*c >= '0' && *c <= '9') || (*c >= 'a' && *c <= 'f') || *c == '-'))
            return 0;
    return str_len(start) < UUID_LENGTH && one_of(pods, "prepared", start, uuid) && one_of(pods, "running", start, uuid) &&
           one_of(pods, "exited", start, uuid) && uuid[0] != '\0';
}

int find_pod(int pods, const char *reference, char uuid[UUID_LENGTH + 1])
{
    char lower[LONGEST_REFERENCE + 1];
    size_t n = 0;

    for (; reference[n] != '\0'; n++) {
        if (n == LONGEST_REFERENCE)
            return 0;
        lower[n] = (char)(reference[n] + (reference[n] >= 'A' && reference[n] <= 'Z' ? 'a' - 'A' : 0));
    }
    lower[n] = uuid[0] = '\0';
    if (!is_uuid(lower))
        return by_name(pods, reference, uuid) || by_beginning(pods, lower, uuid);
    memcpy(uuid, lower, UUID_LENGTH + 1);
    return 1;
}
