/* Health checks: now and then a program is run in the pod, confined as its app, and its exit code says how the app does.
 *
 * The program's plan is ready in the file `health.plan` (pyrun.pod.health); each time the keeper starts the helper with it
 * as `pyrun exec` does (enter.c), with a pipe for its output, and waits for nothing but events:
 *
 *            interval over                  exit code, or the time-out
 *     idle ----------------> running check ----------------------------> idle
 *                                              0: healthy; else one failure more, and at `retries` unhealthy
 *
 * In the start period failures do not count until the first success.  What is known stands in the file `health`. */
#include <linux/poll.h>
#include <linux/wait.h>

#include "keep.h"
#include "pod.h"

#define MS 1000000ULL
#define STOP_GRACE 10000   /* ms between the signal and the kill of an app that is stopped for its health */

enum { STARTING, HEALTHY, UNHEALTHY };

/* Whether the app has health checks. */
static int load(const struct keeper *keeper, struct app *app)
{
    static struct check checks[KEEP_APPS] __attribute__((aligned(PAGE_SIZE))); /* no memory where there are none */
    OWNED_FD fd = (int)sys_openat(app->dir, "health.keep", O_RDONLY | O_NOFOLLOW, 0), plan = -1;
    struct check *check = checks + (app - keeper->apps);
    uint32_t flags;

    if (fd < 0 || sys_read(fd, &check->how, sizeof check->how) != sizeof check->how || check->how.magic != HEALTH_MAGIC ||
        check->how.version != HEALTH_VERSION)
        return 0;
    plan = (int)sys_openat(app->dir, "health.plan", O_RDWR | O_NOFOLLOW, 0);
    if (plan < 0 || sys_call4(__NR_pread64, plan, &flags, sizeof flags, offsetof(struct plan_header, flags)) != sizeof flags)
        return 0;
    flags = (flags & ~(uint32_t)PLAN_HAS_CGROUP) | (keeper->parent >= 0 ? PLAN_HAS_CGROUP : 0);
    if (sys_call4(__NR_pwrite64, plan, &flags, sizeof flags, offsetof(struct plan_header, flags)) != sizeof flags)
        return 0;
    check->init = check->helper = check->output = -1;
    check->plan = plan;
    plan = -1;
    app->check = check;
    return 1;
}

static char *add_said(const struct check *check, char *at, const char *end)
{
    for (size_t i = 0; i < check->said_size; i++) {
        unsigned char c = (unsigned char)check->said[i];
        char text[3] = {(char)c, '\0', '\0'};

        if (c == '"' || c == '\\') {
            text[0] = '\\';
            text[1] = (char)c;
        } else if (c < 0x20 || c >= 0x7f) {
            text[0] = c == '\n' ? ' ' : '?';
        }
        at = str_add(at, end, text);
    }
    return at;
}

/* `code`: of the last check, 124 when its time was over, -1 when there was none yet. */
static void write_health(const struct app *app, int code)
{
    static const char words[][16] = {"starting", "healthy", "unhealthy"};
    const struct check *check = app->check;
    char buffer[3 * HEALTH_SAID];
    const char *end = buffer + sizeof buffer;
    char *at = str_add(str_add(buffer, end, "{\"health\":\""), end, words[check->state]);

    at = str_add_number(str_add(at, end, "\",\"failing\":"), end, check->failing);
    if (code >= 0) {
        at = str_add_number(str_add(at, end, ",\"code\":"), end, (uint64_t)code);
        at = str_add_number(str_add(at, end, ",\"started\":"), end, check->started);
        at = str_add_number(str_add(at, end, ",\"finished\":"), end, clock_ns(0));
        at = str_add(add_said(check, str_add(at, end, ",\"output\":\""), end), end, "\"");
    }
    at = str_add(at, end, "}\n");
    if (at != 0)
        (void)replace_file(app->dir, "health", buffer, (size_t)(at - buffer), 0);
}

void health_begin(const struct keeper *keeper, struct app *app)
{
    struct check *check;

    if (app->init_pid <= 0 || (app->check == 0 && (!(keeper->how.flags & KEEP_HEALTH) || !load(keeper, app))))
        return;
    check = app->check;
    check->init_pid = app->init_pid;
    check->init = (int)sys_call2(__NR_pidfd_open, app->init_pid, 0); /* if that is another's by now, the helper finds the host's root and goes */
    check->state = STARTING;
    check->failing = 0;
    check->stops = 0;
    check->begun = clock_ns(CLOCK_BOOTTIME);
    check->due = check->begun + check->how.interval * MS;
    write_health(app, -1);
}

WAITING void health_watch(const struct app *app, struct pollfd *slots)
{
    slots[0] = (struct pollfd){app->check != 0 ? app->check->helper : -1, POLLIN, 0};
    slots[1] = (struct pollfd){app->check != 0 ? app->check->output : -1, POLLIN, 0};
}

WAITING uint64_t health_due(const struct keeper *keeper)
{
    uint64_t first = ~0ULL;

    for (const struct app *app = keeper->apps; app < keeper->apps + keeper->count; app++)
        if (app->check != 0 && app->check->init >= 0 && app->check->due < first)
            first = app->check->due;
    return first;
}

/* A process that is born in a frozen cgroup does not run. */
static int paused(const struct keeper *keeper)
{
    OWNED_FD pod = open_cgroup(keeper), fd = (int)sys_openat(pod, "cgroup.freeze", O_RDONLY, 0);
    char text = '0';

    return fd >= 0 && sys_read(fd, &text, 1) == 1 && text == '1';
}

static int cgroup_of(const struct keeper *keeper, const struct app *app)
{
    if (keeper->how.flags & KEEP_SEVERAL)
        return keeper->group < 0 ? -1 : (int)sys_openat(keeper->group, app->how.name, O_RDONLY | O_DIRECTORY, 0);
    return open_cgroup(keeper);
}

static void start_check(struct keeper *keeper, struct app *app)
{
    OWNED_FD cgroup = cgroup_of(keeper, app), null = (int)sys_openat(AT_FDCWD, "/dev/null", O_RDONLY, 0);
    char title[64], number[24], *argv[3] = {title, number, 0}, *none[1] = {0};
    struct check *check = app->check;
    int pipe[2];
    long r;

    check->due = clock_ns(CLOCK_BOOTTIME) + check->how.interval * MS;
    if (paused(keeper) || null < 0 || sys_call2(__NR_pipe2, pipe, O_CLOEXEC) < 0)
        return;
    (void)str_add(str_add(title, title + sizeof title, "pyrun: health "), title + sizeof title, keeper->uuid);
    (void)str_add_number(number, number + sizeof number, (uint64_t)check->init_pid);
    check->started = clock_ns(0);
    r = sys_call5(__NR_clone, CLONE_VFORK | CLONE_PIDFD | SIGCHLD, 0, &check->helper, 0, 0);
    if (r == 0) {
        int slots[SLOT_COUNT] = {null, pipe[1], pipe[1], check->plan, -1, -1, check->init, cgroup, -1, -1};
        char path[32];

        (void)str_add_number(str_add(path, path + sizeof path, "/proc/"), path + sizeof path, (uint64_t)app->helper_pid);
        slots[SLOT_SUPERVISOR] = (int)sys_openat(AT_FDCWD, path, O_PATH | O_DIRECTORY, 0);

        if (keeper->foreground) /* nor does a key of the terminal reach it */
            (void)sys_call0(__NR_setsid);
        (void)enter_helper(keeper->helper, slots, 0, argv, none);
        sys_exit(125);
    }
    sys_close(pipe[1]);
    if (r < 0) {
        sys_close(pipe[0]);
        check->helper = -1;
        return;
    }
    check->helper_pid = (int32_t)r;
    check->output = pipe[0];
    check->said_size = 0;
    check->due = clock_ns(CLOCK_BOOTTIME) + check->how.timeout * MS;
}

/* All of it is read, so that the program never waits; the beginning is kept. */
static int hear(struct check *check)
{
    char text[HEALTH_SAID];
    long n = sys_read(check->output, text, sizeof text);
    size_t room = HEALTH_SAID - check->said_size;

    if (n <= 0) {
        sys_close(check->output);
        check->output = -1;
        return 0;
    }
    room = (size_t)n < room ? (size_t)n : room;
    memcpy(check->said + check->said_size, text, room);
    check->said_size += room;
    return 1;
}

static int end_check(struct check *check, int kill)
{
    int32_t status = 125 << 8; /* as of a check that cannot be made */

    if (kill)
        (void)sys_call4(__NR_pidfd_send_signal, check->helper, SIGKILL, 0, 0);
    (void)sys_call4(__NR_wait4, check->helper_pid, &status, __WALL, 0);
    sys_close(check->helper);
    check->helper = -1;
    if (check->output >= 0 && !kill) { /* a background process of its may hold the pipe open */
        (void)sys_call3(__NR_fcntl, check->output, F_SETFL, O_NONBLOCK);
        while (hear(check))
            ;
    }
    if (check->output >= 0)
        sys_close(check->output);
    check->output = -1;
    return kill ? 124 : (status & 0x7f) != 0 ? 128 + (status & 0x7f) : status >> 8 & 0xff;
}

/* Of several apps `kill` ends this one, the exit policy says what becomes of the others; restart and stop are about all. */
static void act(struct keeper *keeper, struct app *app)
{
    const uint32_t action = app->check->how.on_failure;

    if (action == HEALTH_NONE || keeper->decided != 0) /* what ends already ends for a reason of its own */
        return;
    app->check->stops = 1;
    keeper->stopping |= action == HEALTH_STOP;
    keeper->revive |= action == HEALTH_RESTART;
    if (action != HEALTH_KILL && keeper->count > 1)
        decide(keeper, keeper->exit == EXIT_MAIN ? keeper->apps : app);
    else
        send_signal(app, action == HEALTH_KILL ? SIGKILL : app->check->how.signal);
    app->check->due = clock_ns(CLOCK_BOOTTIME) + STOP_GRACE * MS;
}

static void insist(struct app *app)
{
    send_signal(app, SIGKILL);
    app->check->due = clock_ns(CLOCK_BOOTTIME) + STOP_GRACE * MS;
}

static void judge(struct keeper *keeper, struct app *app, int code)
{
    struct check *check = app->check;
    int was = check->state;

    check->due = clock_ns(CLOCK_BOOTTIME) + check->how.interval * MS;
    if (code == 0) {
        check->failing = 0;
        check->state = HEALTHY;
    } else if (check->state != STARTING || clock_ns(CLOCK_BOOTTIME) - check->begun >= check->how.start_period * MS) {
        check->failing++;
        if (check->failing >= check->how.retries)
            check->state = UNHEALTHY;
    }
    write_health(app, code);
    if (check->state == UNHEALTHY && was != UNHEALTHY)
        act(keeper, app);
}

SELDOM static void move(struct keeper *keeper, struct app *app, const struct pollfd *slots)
{
    struct check *check = app->check;

    if (slots[1].revents)
        (void)hear(check);
    if (check->helper >= 0 && slots[0].revents)
        judge(keeper, app, end_check(check, 0));
    else if (clock_ns(CLOCK_BOOTTIME) < check->due)
        return;
    else if (check->stops)
        insist(app);
    else if (check->helper >= 0)
        judge(keeper, app, end_check(check, 1));
    else
        start_check(keeper, app);
}

WAITING void health_move(struct keeper *keeper, struct app *app, const struct pollfd *slots)
{
    const struct check *check = app->check;

    if (check != 0 && check->init >= 0 && (slots[0].revents || slots[1].revents || clock_ns(CLOCK_BOOTTIME) >= check->due))
        move(keeper, app, slots);
}

void health_end(struct app *app)
{
    struct check *check = app->check;

    if (check != 0 && check->helper >= 0)
        (void)end_check(check, 1);
    if (check != 0 && check->init >= 0) {
        sys_close(check->init);
        check->init = -1;
    }
}
