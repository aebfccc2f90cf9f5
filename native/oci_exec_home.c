/* The directory of the program's user by the container's own /etc/passwd (passwd(5)), as pyrun.oci.planner looks for it. */
#include <linux/openat2.h>

#include "oci_exec.h"

#define MOST_BYTES (1 << 16)

/* Their size; minus an errno where Python is to look. */
static long read_accounts(int32_t pid, char *text)
{
    const struct open_how how = {.flags = O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS};
    char path[64];
    OWNED_FD root = -1, fd = -1;
    struct stat st;
    long n;

    (void)str_add(str_add_number(str_add(path, path + sizeof path, "/proc/"), path + sizeof path, (uint64_t)pid), path + sizeof path, "/root");
    root = (int)sys_openat(AT_FDCWD, path, O_PATH | O_DIRECTORY, 0);
    if (root < 0)
        return root;
    fd = (int)sys_call4(__NR_openat2, root, "etc/passwd", &how, sizeof how);
    if (fd < 0)
        return fd == -ENOENT ? 0 : fd;
    if (sys_fstat(fd, &st) < 0 || (st.st_mode & S_IFMT) != S_IFREG)
        return -EINVAL;
    n = sys_read(fd, text, MOST_BYTES);
    for (long i = 0; i < n; i++)
        if (text[i] == '\0')
            return -EINVAL;
    return n < MOST_BYTES ? n : -EFBIG;
}

/* The sixth field of the line from `at` on, which ends at `end`, when its third one is `number`; 0 otherwise. */
static const char *directory(char *at, char *end, const char *number)
{
    const char *fields[7] = {at};
    int count = 1;

    for (*end = '\0'; at < end && count < 7; at++)
        if (*at == ':') {
            *at = '\0';
            fields[count++] = at + 1;
        }
    return count > 5 && str_eq(fields[2], number) && fields[5][0] == '/' ? fields[5] : 0;
}

const char *user_home(int32_t pid, uint32_t uid)
{
    static char text[MOST_BYTES + 1];
    const long size = read_accounts(pid, text);
    char number[24], *end;

    (void)str_add_number(number, number + sizeof number, uid);
    for (char *at = text; at < text + size; at = end + 1) {
        const char *found;

        for (end = at; end < text + size && *end != '\n';)
            end++;
        found = directory(at, end, number);
        if (found != 0)
            return found;
    }
    return size < 0 ? 0 : "/";
}
