/* The keeper: starts the helper, watches it, starts it again.  It never waits for anything but events. */
#include <linux/poll.h>
#include <linux/wait.h>

#include "keep.h"

#define DONTWAIT 0x40
#define NOSIGNAL 0x4000
#define LONGEST_BACKOFF 60000 /* ms */
#define RAN_WELL 10000000000  /* ns; after that the next restart is as quick as the first */
#define GRACE 10000000000     /* ns between the signal that asks the apps of a pod to end and the kill */

enum { POLL_SIGNAL, POLL_FRONT, POLL_TTY, POLL_APPS = POLL_TTY + TTY_SLOTS };
#define POLLS(count) (POLL_APPS + POLL_EACH * (count)) /* of so many apps */
enum { EACH_CONTROL, EACH_OUT, EACH_ERR, EACH_WORDS, EACH_HEALTH, POLL_EACH = EACH_HEALTH + HEALTH_SLOTS };

/* The front learns what became of the first start, of one that failed when nothing of it is left; `status` is which app's. */
static void tell_front(struct keeper *keeper, const struct plan_report *report)
{
    if (keeper->front < 0)
        return;
    (void)sys_call6(__NR_sendto, keeper->front, report, sizeof *report, NOSIGNAL | DONTWAIT, 0, 0);
    sys_close(keeper->front);
    keeper->front = -1;
}

void decide(struct keeper *keeper, const struct app *because)
{
    keeper->decided = because;
    keeper->deadline = keeper->count == 1 ? ~0ULL : clock_ns(CLOCK_BOOTTIME) + GRACE;
    for EACH_APP (app, keeper)
        if (!app->ended)
            send_signal(app, app->how.stop);
}

/* One app's end is known; whether it is the pod's as well its policy says. */
static void app_ended(struct keeper *keeper, struct app *app)
{
    int left = 0, bad = !app->ended || app->status != 0;

    app->init_pid = 0;
    health_end(app);
    for EACH_APP (other, keeper)
        left += other != app && !other->ended && other->control >= 0;
    if (keeper->decided == 0 && (left == 0 || (keeper->exit == EXIT_MAIN ? app == keeper->apps : keeper->exit == EXIT_FIRST_FAILURE && bad)))
        decide(keeper, keeper->exit == EXIT_MAIN ? keeper->apps : app);
    else if (keeper->decided == 0)
        manager_ready(keeper);
    if (keeper->how.flags & KEEP_SEVERAL)
        write_run(keeper);
    else if (app->ended && !app->failed)
        write_exit(keeper, 0);
}

static void fail(struct keeper *keeper, struct app *app, const struct plan_report *report)
{
    app->failure = *report;
    app->failure.status = (int32_t)(app - keeper->apps);
    app->failed = app->ended = 1;
    app->status = 125 << 8;
    app->finished = clock_ns(0);
    if (app->control < 0)
        clear_cgroup(keeper, app); /* as for one whose helper has gone */
    app_ended(keeper, app);
    if (keeper->decided == 0)
        decide(keeper, app);
    keeper->deadline = 0; /* a pod that lacks an app is none: the others need no time to say goodbye */
}

static void app_runs(struct keeper *keeper, struct app *app, const struct plan_report *report)
{
    app->running = 1;
    app->init_pid = report->pid;
    write_run(keeper);
    for EACH_APP (other, keeper)
        if (!other->running)
            return;
    keeper->running = 1;
    tell_front(keeper, report);
    manager_ready(keeper);
    for EACH_APP (other, keeper)
        health_begin(keeper, other);
}

/* Returns 0 at the end of the helper. */
SELDOM static int on_control(struct keeper *keeper, struct app *app)
{
    struct plan_report report;
    long n = sys_call6(__NR_recvfrom, app->control, &report, sizeof report, DONTWAIT, 0, 0);

    if (n == -EAGAIN || n == -EINTR || n == -ECONNRESET) /* it went before it had read a signal; what it said is there all the same */
        return 1;
    if (n != sizeof report)
        return 0;
    if (report.kind == PLAN_RUNNING) {
        app_runs(keeper, app, &report);
    } else if (report.kind == PLAN_EXITED) {
        app->ended = 1;
        app->status = report.status;
        app->oom = report.detail;
        app->finished = report.time;
        app_ended(keeper, app);
    } else {
        fail(keeper, app, &report);
    }
    return 1;
}

/* The helper has gone, or goes once its life-line is cut. */
SELDOM static void app_gone(struct keeper *keeper, struct app *app)
{
    sys_close(app->control);
    app->control = -1;
    clear_cgroup(keeper, app);
    log_end(keeper, app);
    if (!app->ended)
        app_ended(keeper, app);
}

/* It was killed before the app ran, or could not be executed. */
SELDOM static void helper_ended(struct keeper *keeper, struct app *app)
{
    struct plan_report report = {.kind = PLAN_FAILED, .op = STEP_SUPERVISOR, .error = ECHILD};

    (void)sys_call4(__NR_wait4, app->helper_pid, &report.detail, __WALL, 0);
    app->helper_pid = 0;
    fail(keeper, app, &report);
}

WAITING static void watch(struct pollfd *slot, int fd)
{
    *slot = (struct pollfd){fd, POLLIN, 0};
}

WAITING static void watch_all(struct keeper *keeper, struct pollfd *polls)
{
    struct pollfd *slots = polls + POLL_APPS;

    watch(&polls[POLL_SIGNAL], keeper->signals);
    watch(&polls[POLL_FRONT], keeper->front);
    tty_watch(polls + POLL_TTY);
    for EACH_APP (app, keeper) {
        watch(&slots[EACH_CONTROL], app->control);
        watch(&slots[EACH_OUT], log_source(app, 0));
        watch(&slots[EACH_ERR], log_source(app, 1));
        watch(&slots[EACH_WORDS], keeper->running ? app->words : -1); /* ready is said for all, in the words that say it */
        health_watch(app, slots + EACH_HEALTH);
        slots += POLL_EACH;
    }
}

/* Whether it was more than lines. */
WAITING static int move_all(struct keeper *keeper, const struct pollfd *slots)
{
    int more = 0;

    for EACH_APP (app, keeper) {
        more |= slots[EACH_CONTROL].revents | slots[EACH_WORDS].revents | slots[EACH_HEALTH].revents | slots[EACH_HEALTH + 1].revents;
        if (slots[EACH_OUT].revents)
            (void)log_take(keeper, app, 0);
        if (slots[EACH_ERR].revents)
            (void)log_take(keeper, app, 1);
        if (slots[EACH_WORDS].revents)
            manager_hear(keeper, app);
        if (slots[EACH_CONTROL].revents && !on_control(keeper, app)) {
            if (!app->running && !app->ended)
                helper_ended(keeper, app);
            app_gone(keeper, app);
        }
        health_move(keeper, app, slots + EACH_HEALTH);
        slots += POLL_EACH;
    }
    return more;
}

/* What was asked to end in vain is killed; 0 when even that takes too long. */
SELDOM static int time_is_up(struct keeper *keeper)
{
    if (keeper->killing)
        return 0;
    keeper->killing = 1;
    keeper->deadline = clock_ns(CLOCK_BOOTTIME) + GRACE;
    for EACH_APP (app, keeper)
        send_signal(app, SIGKILL);
    return 1;
}

/* Only what is open: to poll(2) more places than the process may have open files are an error, whatever is in them. */
WAITING static long poll_until(const struct keeper *keeper, unsigned count, uint64_t due)
{
    const uint64_t now = clock_ns(CLOCK_BOOTTIME), left = now < due ? due - now : 0;
    struct __kernel_timespec rest = {(long)(left / 1000000000), (long)(left % 1000000000)};
    struct pollfd *polls = keeper->polls, *open = polls + POLLS(keeper->count);
    unsigned n = 0;
    long r;

    for (unsigned i = 0; i < count; i++)
        if (polls[i].fd >= 0)
            open[n++] = polls[i];
    r = sys_call5(__NR_ppoll, open, n, due != ~0ULL ? &rest : 0, 0, 8);
    for (unsigned i = count; i-- > 0;)
        if (polls[i].fd >= 0)
            polls[i] = open[--n];
    return r;
}

/* 0 when the time is up for a pod that is to end, or nothing can be waited for. */
WAITING static int wait_for_change(const struct keeper *keeper)
{
    const uint64_t end = keeper->decided != 0 ? keeper->deadline : ~0ULL, check = health_due(keeper);
    const long r = poll_until(keeper, POLLS(keeper->count), check < end ? check : end);

    return (r >= 0 || r == -EINTR) && (end == ~0ULL || clock_ns(CLOCK_BOOTTIME) < end);
}

WAITING static int any_helper(struct keeper *keeper)
{
    for EACH_APP (app, keeper)
        if (app->control >= 0)
            return 1;
    return 0;
}

WAITING static void wait_for_helpers(struct keeper *keeper)
{
    struct pollfd *polls = keeper->polls;
    int in_time, more;

    while (any_helper(keeper)) {
        watch_all(keeper, polls);
        in_time = wait_for_change(keeper);
        if ((more = polls[POLL_SIGNAL].revents) != 0)
            on_signals(keeper);
        more |= move_all(keeper, polls + POLL_APPS);
        more |= tty_move(keeper, polls + POLL_TTY);
        if (more)
            settle();
        if ((keeper->front >= 0 && polls[POLL_FRONT].revents) || (!in_time && !time_is_up(keeper)))
            break; /* nobody waits for the start any more: give it up */
    }
    for EACH_APP (app, keeper) /* all at once, then one after the other: they clean up at the same time */
        send_signal(app, SIGKILL);
    for EACH_APP (app, keeper)
        if (app->control >= 0)
            app_gone(keeper, app);
}

static void run_once(struct keeper *keeper)
{
    long r;

    keeper->running = keeper->killing = keeper->revive = 0;
    keeper->decided = 0;
    for EACH_APP (app, keeper) {
        app->running = app->ended = app->failed = 0;
        app->started = app->oom = app->told = 0;
    }
    r = share_begin(keeper);
    if (r < 0)
        fail(keeper, keeper->apps, &(struct plan_report){.kind = PLAN_FAILED, .op = STEP_HOLDER, .error = (int32_t)-r});
    for EACH_APP (app, keeper)
        if (keeper->decided == 0 && (r = start_helper(keeper, app)) < 0)
            fail(keeper, app, &(struct plan_report){.kind = PLAN_FAILED, .op = STEP_CLONE, .error = (int32_t)-r});
    wait_for_helpers(keeper);
    share_end(keeper);
    tty_rest(keeper);
    if ((keeper->how.flags & KEEP_SEVERAL) || !keeper->apps[0].ended || keeper->apps[0].failed)
        write_exit(keeper, 0);
}

/* Sleeps, but not through a signal; 0 when the pod is to stop. */
static int back_off(struct keeper *keeper, uint64_t ms)
{
    const uint64_t end = clock_ns(CLOCK_BOOTTIME) + ms * 1000000;

    write_run(keeper);
    while (!told_to_stop(keeper)) {
        watch(&keeper->polls[0], keeper->signals);
        if (poll_until(keeper, 1, end) == 0)
            return 1;
        on_signals(keeper);
    }
    return 0;
}

static void tell_failure(struct keeper *keeper)
{
    for EACH_APP (app, keeper)
        if (app->failed) /* else it hears of an end without a word */
            tell_front(keeper, &app->failure);
}

int keep(struct keeper *keeper)
{
    uint64_t wait = keeper->how.backoff;
    int32_t status;

    _Static_assert(2 * sizeof(struct pollfd) * POLLS(KEEP_APPS) + sizeof(uint64_t) + PATH_SIZE <= sizeof keeper->room, "there is room for all");
    keeper->polls = (struct pollfd *)(((uintptr_t)keeper->cgroup + str_len(keeper->cgroup) + sizeof(uint64_t)) & ~(sizeof(uint64_t) - 1));
    keeper->signals = block_signals();
    write_run(keeper); /* now under this process's own pid */
    if (keeper->signals < 0 || !open_streams(keeper)) {
        fail(keeper, keeper->apps, &(struct plan_report){.kind = PLAN_FAILED, .op = STEP_LOG, .error = EIO});
        bury(keeper, 1);
        tell_failure(keeper);
        return 125;
    }
    for (;;) {
        uint64_t begun = clock_ns(CLOCK_BOOTTIME);

        run_once(keeper);
        if (keeper->restarts == 0 && !keeper->running) {
            bury(keeper, 1);
            tell_failure(keeper);
            return 125;
        }
        if (!wanted_again(keeper))
            break;
        if (clock_ns(CLOCK_BOOTTIME) - begun > RAN_WELL)
            wait = keeper->how.backoff;
        if (!back_off(keeper, wait))
            break;
        wait = wait * 2 < LONGEST_BACKOFF ? wait * 2 : LONGEST_BACKOFF;
        keeper->restarts++;
    }
    tty_end(keeper);
    bury(keeper, (keeper->how.flags & KEEP_REMOVE) != 0);
    if (!keeper->decided->ended)
        return 125;
    status = keeper->decided->status;
    return (status & 0x7f) != 0 ? 128 + (status & 0x7f) : status >> 8 & 0xff;
}
