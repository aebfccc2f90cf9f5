/* `probe report`: everything that a process can see of itself and around it, as one JSON object. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/utsname.h>
#include <unistd.h>

int report(char **argv);

extern char **environ;

static const char *separator = "";

static void put_string(const char *text)
{
    putchar('"');
    for (const unsigned char *p = (const unsigned char *)text; *p; p++) {
        if (*p == '"' || *p == '\\')
            printf("\\%c", *p);
        else if (*p < 0x20 || *p >= 0x7f)
            printf("\\u%04x", *p);
        else
            putchar(*p);
    }
    putchar('"');
}

static void key(const char *name)
{
    fputs(separator, stdout);
    put_string(name);
    fputs(": ", stdout);
    separator = ",\n ";
}

static void put_number(const char *name, long value)
{
    key(name);
    printf("%ld", value);
}

static void put_text(const char *name, const char *value)
{
    key(name);
    put_string(value);
}

static void put_list(const char *name, char **list)
{
    key(name);
    putchar('[');
    for (char **p = list; *p; p++) {
        fputs(p == list ? "" : ", ", stdout);
        put_string(*p);
    }
    putchar(']');
}

/* The file's lines as a list; an unreadable one is null. */
static void put_lines(const char *name, const char *path)
{
    FILE *file = fopen(path, "re");
    const char *comma = "";
    char *line = NULL;
    size_t size = 0;

    key(name);
    if (file == NULL) {
        fputs("null", stdout);
        return;
    }
    putchar('[');
    while (getline(&line, &size, file) >= 0) {
        line[strcspn(line, "\n")] = '\0';
        fputs(comma, stdout);
        put_string(line);
        comma = ", ";
    }
    putchar(']');
    free(line);
    fclose(file);
}

static void put_link(const char *name, const char *path)
{
    char target[PATH_MAX];
    ssize_t n = readlink(path, target, sizeof target - 1);

    if (n < 0)
        n = snprintf(target, sizeof target, "?%s", strerrorname_np(errno));
    target[n] = '\0';
    put_text(name, target);
}

/* One object: every name in the directory with where its link leads. */
static void put_links(const char *name, const char *path, int numbers_only)
{
    DIR *dir = opendir(path);
    struct dirent *entry;
    char full[PATH_MAX];

    key(name);
    fputs("{", stdout);
    separator = "";
    while (dir != NULL && (entry = readdir(dir)) != NULL) {
        if (entry->d_name[0] == '.' || (numbers_only && atoi(entry->d_name) == dirfd(dir)))
            continue;
        snprintf(full, sizeof full, "%s/%s", path, entry->d_name);
        put_link(entry->d_name, full);
    }
    if (dir != NULL)
        closedir(dir);
    fputs("}", stdout);
    separator = ",\n ";
}

static void put_names(const char *name, const char *path)
{
    DIR *dir = opendir(path);
    struct dirent *entry;
    const char *comma = "";

    key(name);
    putchar('[');
    while (dir != NULL && (entry = readdir(dir)) != NULL) {
        if (entry->d_name[0] == '.')
            continue;
        fputs(comma, stdout);
        put_string(entry->d_name);
        comma = ", ";
    }
    if (dir != NULL)
        closedir(dir);
    putchar(']');
}

/* {"null": {"type": "c", "mode": 438, "major": 1, "minor": 3, "uid": 0, "gid": 0, "link": ""}, ...} */
static void put_devices(const char *path)
{
    DIR *dir = opendir(path);
    struct dirent *entry;
    struct stat st;
    char full[PATH_MAX];

    key("dev");
    putchar('{');
    separator = "";
    while (dir != NULL && (entry = readdir(dir)) != NULL) {
        snprintf(full, sizeof full, "%s/%s", path, entry->d_name);
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0 || lstat(full, &st) < 0)
            continue;
        key(entry->d_name);
        printf("{\"type\": \"%c\", \"mode\": %u, \"major\": %u, \"minor\": %u, \"uid\": %u, \"gid\": %u",
               "?pc?d?b?-?l?s???"[(st.st_mode >> 12) & 15], st.st_mode & 07777, major(st.st_rdev), minor(st.st_rdev), st.st_uid, st.st_gid);
        separator = ", ";
        if (S_ISLNK(st.st_mode))
            put_link("link", full);
        putchar('}');
        separator = ",\n  ";
    }
    if (dir != NULL)
        closedir(dir);
    putchar('}');
    separator = ",\n ";
}

static void put_limits(void)
{
    static const char *const names[] = {"cpu",  "fsize", "data",    "stack",      "core",     "rss",  "nproc",  "nofile",
                                        "memlock", "as",    "locks",   "sigpending", "msgqueue", "nice", "rtprio", "rttime"};
    struct rlimit limit;

    key("rlimits");
    putchar('{');
    separator = "";
    for (int i = 0; i < 16; i++) {
        getrlimit(i, &limit);
        key(names[i]);
        printf("[%ld, %ld]", limit.rlim_cur == RLIM_INFINITY ? -1L : (long)limit.rlim_cur,
               limit.rlim_max == RLIM_INFINITY ? -1L : (long)limit.rlim_max);
        separator = ", ";
    }
    putchar('}');
    separator = ",\n ";
}

static void put_ids(void)
{
    uid_t uid[3];
    gid_t gid[3], groups[256];
    int n = getgroups(256, groups);

    getresuid(&uid[0], &uid[1], &uid[2]);
    getresgid(&gid[0], &gid[1], &gid[2]);
    key("uid");
    printf("[%u, %u, %u]", uid[0], uid[1], uid[2]);
    key("gid");
    printf("[%u, %u, %u]", gid[0], gid[1], gid[2]);
    key("groups");
    for (int i = 0; i < n; i++)
        printf("%s%u", i ? ", " : "[", groups[i]);
    fputs(n > 0 ? "]" : "[]", stdout);
}

/* /proc/self/status as an object of strings: Cap*, NoNewPrivs, Seccomp, Sig*, NSpid, ... */
static void put_status(void)
{
    FILE *file = fopen("/proc/self/status", "re");
    char *line = NULL, *value;
    size_t size = 0;

    key("status");
    putchar('{');
    separator = "";
    while (file != NULL && getline(&line, &size, file) >= 0) {
        line[strcspn(line, "\n")] = '\0';
        value = strchr(line, ':');
        if (value == NULL)
            continue;
        *value++ = '\0';
        put_text(line, value + strspn(value, " \t"));
    }
    if (file != NULL)
        fclose(file);
    free(line);
    putchar('}');
    separator = ",\n ";
}

/* Init gives up its privileges while the app starts: neither waits for the other, so give it two seconds. */
static void await_confined_init(void)
{
    char line[128];

    for (int tries = 0; tries < 2000; tries++) {
        FILE *file = fopen("/proc/1/status", "re");
        int confined = file == NULL;

        while (file != NULL && fgets(line, sizeof line, file) != NULL)
            confined |= strncmp(line, "Seccomp:\t2", 10) == 0;
        if (file != NULL)
            fclose(file);
        if (confined)
            return;
        usleep(1000);
    }
}

int report(char **argv)
{
    char cwd[PATH_MAX];
    struct utsname host;
    mode_t mask = umask(0);

    umask(mask);
    uname(&host);
    putchar('{');
    put_number("pid", getpid());
    put_number("ppid", getppid());
    put_number("pgid", getpgid(0));
    put_number("sid", getsid(0));
    put_number("umask", mask);
    put_number("keyring", syscall(SYS_keyctl, 0 /* KEYCTL_GET_KEYRING_ID */, -3 /* session */, 0));
    put_text("hostname", host.nodename);
    put_text("domainname", host.domainname);
    put_text("cwd", getcwd(cwd, sizeof cwd) ? cwd : strerrorname_np(errno));
    put_text("tty", isatty(0) && ttyname(0) ? ttyname(0) : "");
    put_list("argv", argv);
    put_list("env", environ);
    put_ids();
    put_status();
    put_limits();
    put_links("namespaces", "/proc/self/ns", 0);
    put_links("fds", "/proc/self/fd", 1);
    put_devices("/dev");
    put_names("root", "/");
    put_names("proc", "/proc");
    put_names("interfaces", "/sys/class/net");
    put_lines("mounts", "/proc/self/mountinfo");
    put_lines("cgroup", "/proc/self/cgroup");
    put_lines("oom_score_adj", "/proc/self/oom_score_adj");
    await_confined_init();
    put_lines("init", "/proc/1/status");
    put_lines("uid_map", "/proc/self/uid_map");
    put_lines("hosts", "/etc/hosts");
    puts("}");
    return 0;
}
