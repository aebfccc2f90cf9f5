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
#define SAID 256           /* bytes of a check's output that are kept */
#define STOP_GRACE 10000   /* ms between the signal and the kill of an app that is stopped for its health */

enum { STARTING, HEALTHY, UNHEALTHY };

static struct health how;
static int plan = -1, init = -1, check = -1, output = -1; /* `check`: a pidfd of the helper while one runs */
static int32_t init_pid, check_pid;
static int state, pod_stops;
static uint32_t failing;
static uint64_t begun, due, check_started; /* ns of CLOCK_BOOTTIME, the last of CLOCK_REALTIME; `due`: of the next step */
static char said[SAID + 1];
static size_t said_size;

/* Whether the pod has health checks. */
static int load(const struct keeper *keeper)
{
    OWNED_FD fd = (int)sys_openat(keeper->pod, "health.keep", O_RDONLY | O_NOFOLLOW, 0);
    uint32_t flags;

    if (fd < 0 || sys_read(fd, &how, sizeof how) != sizeof how || how.magic != HEALTH_MAGIC || how.version != HEALTH_VERSION)
        return 0;
    plan = (int)sys_openat(keeper->pod, "health.plan", O_RDWR | O_NOFOLLOW, 0);
    if (plan < 0 || sys_call4(__NR_pread64, plan, &flags, sizeof flags, offsetof(struct plan_header, flags)) != sizeof flags)
        return 0;
    flags = (flags & ~(uint32_t)PLAN_HAS_CGROUP) | (keeper->parent >= 0 ? PLAN_HAS_CGROUP : 0);
    return sys_call4(__NR_pwrite64, plan, &flags, sizeof flags, offsetof(struct plan_header, flags)) == sizeof flags;
}

static char *add_said(char *at, const char *end)
{
    for (size_t i = 0; i < said_size; i++) {
        unsigned char c = (unsigned char)said[i];
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
static void write_health(const struct keeper *keeper, int code)
{
    static const char words[][16] = {"starting", "healthy", "unhealthy"};
    char buffer[3 * SAID];
    const char *end = buffer + sizeof buffer;
    char *at = str_add(str_add(buffer, end, "{\"health\":\""), end, words[state]);

    at = str_add_number(str_add(at, end, "\",\"failing\":"), end, failing);
    if (code >= 0) {
        at = str_add_number(str_add(at, end, ",\"code\":"), end, (uint64_t)code);
        at = str_add_number(str_add(at, end, ",\"started\":"), end, check_started);
        at = str_add_number(str_add(at, end, ",\"finished\":"), end, clock_ns(0));
        at = str_add(add_said(str_add(at, end, ",\"output\":\""), end), end, "\"");
    }
    at = str_add(at, end, "}\n");
    if (at != 0)
        (void)replace_file(keeper->pod, "health", buffer, (size_t)(at - buffer), 0);
}

void health_begin(const struct keeper *keeper, int32_t pid)
{
    if (plan < 0 && (!(keeper->how.flags & KEEP_HEALTH) || !load(keeper)))
        return;
    init = (int)sys_call2(__NR_pidfd_open, pid, 0); /* if that is another's by now, the helper finds the host's root and goes */
    init_pid = pid;
    state = STARTING;
    failing = 0;
    pod_stops = 0;
    begun = clock_ns(CLOCK_BOOTTIME);
    due = begun + how.interval * MS;
    write_health(keeper, -1);
}

void health_watch(struct pollfd *slots)
{
    slots[0] = (struct pollfd){check, POLLIN, 0};
    slots[1] = (struct pollfd){output, POLLIN, 0};
}

uint64_t health_due(void)
{
    return init >= 0 ? due : ~0ULL;
}

/* A process that is born in a frozen cgroup does not run. */
static int paused(int cgroup)
{
    OWNED_FD fd = (int)sys_openat(cgroup, "cgroup.freeze", O_RDONLY, 0);
    char text = '0';

    return fd >= 0 && sys_read(fd, &text, 1) == 1 && text == '1';
}

static void start_check(struct keeper *keeper)
{
    OWNED_FD cgroup = open_cgroup(keeper), null = (int)sys_openat(AT_FDCWD, "/dev/null", O_RDONLY, 0);
    char title[64], number[24], *argv[3] = {title, number, 0}, *none[1] = {0};
    int pipe[2];
    long r;

    due = clock_ns(CLOCK_BOOTTIME) + how.interval * MS;
    if (paused(cgroup) || null < 0 || sys_call2(__NR_pipe2, pipe, O_CLOEXEC) < 0)
        return;
    (void)str_add(str_add(title, title + sizeof title, "pyrun: health "), title + sizeof title, keeper->uuid);
    (void)str_add_number(number, number + sizeof number, (uint64_t)init_pid);
    check_started = clock_ns(0);
    r = sys_call5(__NR_clone, CLONE_VFORK | CLONE_PIDFD | SIGCHLD, 0, &check, 0, 0);
    if (r == 0) {
        int slots[SLOT_COUNT] = {null, pipe[1], pipe[1], plan, -1, -1, init, cgroup, -1, -1};

        (void)enter_helper(keeper->helper, slots, 0, argv, none);
        sys_exit(125);
    }
    sys_close(pipe[1]);
    if (r < 0) {
        sys_close(pipe[0]);
        check = -1;
        return;
    }
    check_pid = (int32_t)r;
    output = pipe[0];
    said_size = 0;
    due = clock_ns(CLOCK_BOOTTIME) + how.timeout * MS;
}

/* All of it is read, so that the program never waits; the beginning is kept. */
static int hear(void)
{
    char text[SAID];
    long n = sys_read(output, text, sizeof text);
    size_t room = SAID - said_size;

    if (n <= 0) {
        sys_close(output);
        output = -1;
        return 0;
    }
    room = (size_t)n < room ? (size_t)n : room;
    memcpy(said + said_size, text, room);
    said_size += room;
    return 1;
}

static int end_check(int kill)
{
    int32_t status = 0;

    if (kill)
        (void)sys_call4(__NR_pidfd_send_signal, check, SIGKILL, 0, 0);
    (void)sys_call4(__NR_wait4, check_pid, &status, __WALL, 0);
    sys_close(check);
    check = -1;
    if (output >= 0 && !kill) { /* a background process of its may hold the pipe open */
        (void)sys_call3(__NR_fcntl, output, F_SETFL, O_NONBLOCK);
        while (hear())
            ;
    }
    if (output >= 0)
        sys_close(output);
    output = -1;
    return kill ? 124 : (status & 0x7f) != 0 ? 128 + (status & 0x7f) : status >> 8 & 0xff;
}

static void tell_app(const struct keeper *keeper, unsigned char signal)
{
    (void)sys_call6(__NR_sendto, keeper->apps[0].control, &signal, 1, 0x4040 /* MSG_NOSIGNAL, MSG_DONTWAIT */, 0, 0);
}

static void act(struct keeper *keeper)
{
    if (how.on_failure == HEALTH_NONE)
        return;
    pod_stops = 1;
    keeper->stopping |= how.on_failure == HEALTH_STOP;
    keeper->revive = how.on_failure == HEALTH_RESTART;
    tell_app(keeper, how.on_failure == HEALTH_KILL ? SIGKILL : (unsigned char)how.signal);
    due = clock_ns(CLOCK_BOOTTIME) + STOP_GRACE * MS;
}

static void insist(const struct keeper *keeper)
{
    tell_app(keeper, SIGKILL);
    due = clock_ns(CLOCK_BOOTTIME) + STOP_GRACE * MS;
}

static void judge(struct keeper *keeper, int code)
{
    int was = state;

    due = clock_ns(CLOCK_BOOTTIME) + how.interval * MS;
    if (code == 0) {
        failing = 0;
        state = HEALTHY;
    } else if (state != STARTING || clock_ns(CLOCK_BOOTTIME) - begun >= how.start_period * MS) {
        failing++;
        if (failing >= how.retries)
            state = UNHEALTHY;
    }
    write_health(keeper, code);
    if (state == UNHEALTHY && was != UNHEALTHY)
        act(keeper);
}

void health_move(struct keeper *keeper, const struct pollfd *slots)
{
    if (init < 0)
        return;
    if (slots[1].revents)
        (void)hear();
    if (check >= 0 && slots[0].revents)
        judge(keeper, end_check(0));
    else if (clock_ns(CLOCK_BOOTTIME) < due)
        return;
    else if (pod_stops)
        insist(keeper);
    else if (check >= 0)
        judge(keeper, end_check(1));
    else
        start_check(keeper);
}

void health_end(void)
{
    if (check >= 0)
        (void)end_check(1);
    if (init >= 0)
        sys_close(init);
    init = -1;
}
