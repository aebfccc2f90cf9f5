/* `probe spy`: what an app finds out about the processes that come and go beside it, as long as it runs.
 *
 * Says "ready", then until SIGTERM looks at everybody in /proc but itself and process 1, and at last says each distinct thing once, a
 * line of fields with tabs between: KIND TARGET DEVICE:INODE.  KIND is exe, root, cwd, fd, map, the last with no device; "caps" has the
 * permitted set as TARGET, and "write" is an exe that could be opened for writing. */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int spy(void);

#define SEEN 4096

static char *seen[SEEN];
static int count;
static volatile sig_atomic_t over;

static void end(int number)
{
    (void)number;
    over = 1;
}

static void note(const char *kind, const char *target, const char *place)
{
    char line[PATH_MAX + 128];

    snprintf(line, sizeof line, "%s\t%s\t%s", kind, target, place);
    for (int i = 0; i < count; i++)
        if (!strcmp(seen[i], line))
            return;
    if (count < SEEN)
        seen[count++] = strdup(line);
}

static void look_at(const char *kind, const char *path)
{
    char target[PATH_MAX], place[64] = "";
    struct stat st;
    ssize_t n = readlink(path, target, sizeof target - 1);

    if (n < 0)
        return;
    target[n] = '\0';
    if (strcmp(kind, "map") != 0 && stat(path, &st) == 0)
        snprintf(place, sizeof place, "%lx:%lx", (long)st.st_dev, (long)st.st_ino);
    note(kind, target, place);
}

static void look_into(const char *kind, const char *path)
{
    char full[PATH_MAX];
    DIR *dir = opendir(path);
    struct dirent *entry;

    while (dir != NULL && (entry = readdir(dir)) != NULL) {
        snprintf(full, sizeof full, "%s/%s", path, entry->d_name);
        if (entry->d_name[0] != '.' && (strcmp(kind, "fd") != 0 || atoi(entry->d_name) > 2))
            look_at(kind, full);
    }
    if (dir != NULL)
        closedir(dir);
}

static void caps(const char *path)
{
    FILE *file = fopen(path, "re");
    char line[256];

    while (file != NULL && fgets(line, sizeof line, file) != NULL)
        if (!strncmp(line, "CapPrm:\t", 8)) {
            line[strcspn(line, "\n")] = '\0';
            note("caps", line + 8, "");
        }
    if (file != NULL)
        fclose(file);
}

static void look_at_process(const char *pid)
{
    char path[PATH_MAX];
    int fd;

    snprintf(path, sizeof path, "/proc/%s/exe", pid);
    look_at("exe", path);
    fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd >= 0) {
        look_at("write", path);
        close(fd);
    }
    snprintf(path, sizeof path, "/proc/%s/root", pid);
    look_at("root", path);
    snprintf(path, sizeof path, "/proc/%s/cwd", pid);
    look_at("cwd", path);
    snprintf(path, sizeof path, "/proc/%s/fd", pid);
    look_into("fd", path);
    snprintf(path, sizeof path, "/proc/%s/map_files", pid);
    look_into("map", path);
    snprintf(path, sizeof path, "/proc/%s/status", pid);
    caps(path);
}

int spy(void)
{
    int self = getpid();

    signal(SIGTERM, end);
    puts("ready");
    fflush(stdout);
    while (!over) {
        DIR *dir = opendir("/proc");
        struct dirent *entry;

        while (dir != NULL && (entry = readdir(dir)) != NULL)
            if (atoi(entry->d_name) > 1 && atoi(entry->d_name) != self)
                look_at_process(entry->d_name);
        if (dir != NULL)
            closedir(dir);
    }
    for (int i = 0; i < count; i++)
        puts(seen[i]);
    return 0;
}
