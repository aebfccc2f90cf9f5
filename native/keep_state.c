/* The records of a pod that is kept, and its way to exited/ or out of the world. */
#include <linux/signalfd.h>

#include "keep.h"

#define CLOCK_REALTIME 0

int32_t own_pid(void)
{
    return (int32_t)sys_call0(__NR_getpid);
}

struct text {
    char *at;
    const char *end;
};

static void add(struct text *text, const char *words)
{
    text->at = str_add(text->at, text->end, words);
}

static void add_number(struct text *text, const char *words, uint64_t value)
{
    add(text, words);
    if (text->at != 0)
        text->at = str_add_number(text->at, text->end, value);
}

/* A path as JSON has it: systemd's names of units hold backslashes. */
static void add_path(struct text *text, const char *path)
{
    for (; *path != '\0'; path++) {
        char c[3] = {*path, '\0', '\0'};

        if (*path == '"' || *path == '\\') {
            c[0] = '\\';
            c[1] = *path;
        }
        add(text, (unsigned char)*path < 0x20 ? "?" : c);
    }
}

/* The supervisor of an app that has ended may still hold its root. */
static void add_app(struct text *text, const struct app *app)
{
    if (app->init_pid > 0) {
        add_number(text, ",\"pid\":", (uint64_t)app->init_pid);
        add_number(text, ",\"start\":", start_time(app->init_pid));
    }
    if (app->helper_pid > 0) {
        add_number(text, ",\"supervisor\":", (uint64_t)app->helper_pid);
        add_number(text, ",\"supervisor_start\":", start_time(app->helper_pid));
    }
}

static void add_app_end(struct text *text, const struct app *app)
{
    const uint64_t finished = app->ended ? app->finished : clock_ns(CLOCK_REALTIME);

    if (text->at != 0)
        text->at = add_end(text->at, text->end, app->ended ? app->status : 125 << 8, app->started, finished, app->oom);
    if (!app->ended)
        add(text, ",\"lost\":true");
}

/* Of a pod of several: what is known of each, in the order of the command line. */
static void add_apps(struct text *text, const struct keeper *keeper)
{
    add(text, ",\"apps\":[");
    for (const struct app *app = keeper->apps; app < keeper->apps + keeper->count; app++) {
        add(text, app == keeper->apps ? "{\"name\":\"" : ",{\"name\":\"");
        add(text, app->how.name);
        add(text, "\"");
        add_app(text, app);
        if (app->init_pid > 0) {
            add_number(text, ",\"started\":", app->started);
        } else if (app->ended || (app->started > 0 && app->control < 0)) {
            add(text, ",");
            add_app_end(text, app);
        }
        add(text, "}");
    }
    add(text, "]");
}

/* What runs at the moment. */
void write_run(const struct keeper *keeper)
{
    char buffer[PATH_SIZE + 512 + KEEP_APPS * 384];
    struct text text = {buffer, buffer + sizeof buffer};

    add_number(&text, "{\"keeper\":", (uint64_t)own_pid());
    add_number(&text, ",\"keeper_start\":", start_time(own_pid()));
    if (keeper->how.flags & KEEP_SEVERAL) {
        add_apps(&text, keeper);
    } else if (keeper->apps[0].init_pid > 0) {
        add_app(&text, keeper->apps);
        add_number(&text, ",\"started\":", keeper->apps[0].started);
    }
    for (unsigned i = 0; i < keeper->count; i++)
        if (keeper->apps[i].sockets != 0) {
            add(&text, ",\"sockets\":true"); /* which the next keeper would not have */
            break;
        }
    add_number(&text, ",\"restarts\":", keeper->restarts);
    add(&text, ",\"cgroup\":\"");
    add_path(&text, keeper->cgroup);
    add(&text, "\"}\n");
    if (text.at != 0)
        (void)replace_file(keeper->pod, "run", buffer, (size_t)(text.at - buffer), 0);
}

/* The room that a file of the pod has already, for words that got none. */
static int write_over(const struct keeper *keeper, const char *name, const char *words, size_t size)
{
    OWNED_FD fd = (int)sys_openat(keeper->pod, name, O_WRONLY | O_NOFOLLOW, 0);

    return fd >= 0 && sys_call4(__NR_pwrite64, fd, (long)words, (long)size, 0) == (long)size && sys_call2(__NR_ftruncate, fd, (long)size) == 0;
}

/* `lost`: the supervisor was killed, and how the app ended is not known; that is never a success. */
static void add_end_of(struct text *text, const struct keeper *keeper, const struct app *app)
{
    add_app_end(text, app);
    add_number(text, ",\"restarts\":", keeper->restarts);
    if (log_dropped() > 0)
        add_number(text, ",\"log_dropped\":", log_dropped());
}

static void add_pod_end(struct text *text, const struct keeper *keeper)
{
    add_end_of(text, keeper, keeper->decided != 0 ? keeper->decided : keeper->apps);
    if (keeper->how.flags & KEEP_SEVERAL)
        add_apps(text, keeper);
}

void write_exit(struct keeper *keeper, int last)
{
    char buffer[512 + KEEP_APPS * 384];
    struct text text = {buffer, buffer + sizeof buffer};

    add(&text, "{");
    add_pod_end(&text, keeper);
    add_number(&text, ",\"uptime\":", clock_ns(CLOCK_BOOTTIME)); /* how long ago it was, whatever becomes of the date */
    add(&text, "}\n");
    keeper->unsaved = text.at != 0 && replace_file(keeper->pod, "exit", buffer, (size_t)(text.at - buffer), 0) < 0 &&
                      !write_over(keeper, "exit", buffer, (size_t)(text.at - buffer)); /* or it would tell of the run before */
    if (keeper->unsaved && last && write_over(keeper, "run", buffer, (size_t)(text.at - buffer)))
        (void)sys_call4(__NR_renameat, keeper->pod, "run", keeper->pod, "exit");
}

size_t end_words(const struct keeper *keeper, const struct app *app, char *words, size_t size)
{
    struct text text = {words, words + size};

    add_end_of(&text, keeper, app);
    return text.at != 0 ? (size_t)(text.at - words) : 0;
}

void tell_caller(struct keeper *keeper, int code)
{
    char buffer[512 + KEEP_APPS * 384];
    struct text text = {buffer, buffer + sizeof buffer};

    for EACH_APP (app, keeper)
        app->helper_pid = 0; /* nobody's business any more */
    add_pod_end(&text, keeper);
    if (text.at != 0)
        tell_end(keeper->environment, buffer, code);
}

/* Nobody waits for the disk: a child does.  A power cut before that leaves no record, or an empty one: `lost`, never a success. */
static void sync_exit(const struct keeper *keeper)
{
    OWNED_FD fd = (int)sys_openat(keeper->pod, "exit", O_RDONLY | O_NOFOLLOW, 0);
    long child = fd < 0 ? fd : sys_call5(__NR_clone, 0, 0, 0, 0, 0);

    if (child > 0 || fd < 0)
        return;
    if (sys_call1(__NR_fsync, fd) == 0)
        (void)sys_call1(__NR_fsync, keeper->pod);
    if (child == 0)
        sys_exit(0);
}

int block_signals(void)
{
    const uint64_t all = ~0ULL & ~(1ULL << (SIGSEGV - 1) | 1ULL << (SIGBUS - 1) | 1ULL << (SIGILL - 1) | 1ULL << (SIGFPE - 1));
    static const uint64_t standard[4]; /* children of whoever ignores SIGCHLD leave no status, and execve(2) keeps that */

    (void)sys_call4(__NR_rt_sigaction, SIGCHLD, standard, 0, sizeof all);
    (void)sys_call4(__NR_rt_sigprocmask, SIG_SETMASK, &all, 0, sizeof all);
    return (int)sys_call4(__NR_signalfd4, -1, &all, sizeof all, SFD_CLOEXEC | SFD_NONBLOCK);
}

uint64_t find_ignored(void)
{
    static const int sent[] = {SIGHUP, SIGINT, SIGQUIT};
    uint64_t found = 0;

    for (size_t i = 0; i < sizeof sent / sizeof *sent; i++)
        found |= (uint64_t)(signal_action(sent[i]) == ACTION_IGNORE) << (sent[i] - 1);
    return found;
}

/* A shell passes the hang-up on by kill(2), which does not tell; but the terminal does, see tty_ioctl(4). */
static int is_terminal_gone(const struct keeper *keeper)
{
    struct termios mode;

    for (int fd = 0; fd < 3; fd++)
        if ((keeper->terminals >> fd & 1) && sys_call3(__NR_ioctl, fd, TCGETS, &mode) == -EIO)
            return 1;
    return 0;
}

int told_to_stop(const struct keeper *keeper)
{
    return keeper->stopping || is_terminal_gone(keeper) || sys_call3(__NR_faccessat, keeper->pod, "stop", 0 /* F_OK */) == 0;
}

int wanted_again(const struct keeper *keeper)
{
    uint32_t how = keeper->how.restart;
    int good = keeper->decided->ended && keeper->decided->status == 0;

    if (keeper->revive && !told_to_stop(keeper))
        return 1;
    if (how == RESTART_NO || (how == RESTART_ON_FAILURE && good) || told_to_stop(keeper))
        return 0;
    return keeper->how.restart_max == 0 || keeper->restarts < keeper->how.restart_max;
}

/* One rename is the transition; what is not removed here `pyrun gc` removes.  Whoever sees a pod in exited/ may lock it. */
void bury(struct keeper *keeper, int remove)
{
    char from[64], to[64];

    (void)str_add(str_add(from, from + sizeof from, "running/"), from + sizeof from, keeper->uuid);
    (void)str_add(str_add(to, to + sizeof to, remove ? "garbage/" : "exited/"), to + sizeof to, keeper->uuid);
    if (!remove) {
        if (keeper->unsaved)
            write_exit(keeper, 1);
        (void)sys_call2(__NR_flock, keeper->pod, LOCK_UN);
        (void)sys_call4(__NR_renameat, keeper->pods, from, keeper->pods, to);
        (void)start_cleaner(keeper->pod);
        sync_exit(keeper);
        return;
    }
    if (sys_call4(__NR_renameat, keeper->pods, from, keeper->pods, to) < 0)
        return;
    if (!start_cleaner(keeper->pod) && remove_below(keeper->pod))
        (void)sys_call3(__NR_unlinkat, keeper->pods, to, AT_REMOVEDIR);
}
