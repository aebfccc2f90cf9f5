/* The keeper: starts the helper, watches it, starts it again.  It never waits for anything but events. */
#include <linux/poll.h>
#include <linux/signalfd.h>
#include <linux/wait.h>

#include "keep.h"

#define DONTWAIT 0x40
#define NOSIGNAL 0x4000
#define CLOCK_BOOTTIME 7
#define LONGEST_BACKOFF 60000 /* ms */
#define RAN_WELL 10000000000  /* ns; after that the next restart is as quick as the first */

enum { POLL_SIGNAL, POLL_CONTROL, POLL_FRONT, POLL_OUT, POLL_ERR, POLL_TTY, POLL_COUNT = POLL_TTY + TTY_SLOTS };

static int app_streams[3] = {-1, -1, -1};

static int block_signals(void)
{
    const uint64_t all = ~0ULL & ~(1ULL << (SIGSEGV - 1) | 1ULL << (SIGBUS - 1) | 1ULL << (SIGILL - 1) | 1ULL << (SIGFPE - 1));

    (void)sys_call4(__NR_rt_sigprocmask, SIG_SETMASK, &all, 0, sizeof all);
    return (int)sys_call4(__NR_signalfd4, -1, &all, sizeof all, SFD_CLOEXEC | SFD_NONBLOCK);
}

/* The front learns what became of the first start, of one that failed when nothing of it is left. */
static void tell_front(struct keeper *keeper, const struct plan_report *report)
{
    if (keeper->front < 0)
        return;
    (void)sys_call6(__NR_sendto, keeper->front, report, sizeof *report, NOSIGNAL | DONTWAIT, 0, 0);
    sys_close(keeper->front);
    keeper->front = -1;
}

static long start_helper(struct keeper *keeper)
{
    uint32_t flags = (keeper->flags & ~(uint32_t)(PLAN_HAS_EXPLAIN | PLAN_REMOVE)) | PLAN_HAS_CONTROL | PLAN_TELL_RUNNING;
    int links[2], slots[SLOT_COUNT];
    char *no_environment[1] = {0};
    long r;

    if (keeper->helper_pid > 0) /* of the last run: it may still hold its root, and that must not be mounted twice */
        (void)sys_call4(__NR_wait4, keeper->helper_pid, 0, __WALL, 0);
    keeper->helper_pid = 0;
    make_cgroup(keeper);
    r = set_plan_flags(keeper, flags | (keeper->own >= 0 ? PLAN_HAS_CGROUP : 0));
    if (r < 0 || (r = sys_call4(__NR_socketpair, 1 /* AF_UNIX */, 5 | O_CLOEXEC /* SOCK_SEQPACKET */, 0, links)) < 0)
        return r;
    keeper->started = clock_ns(0);
    r = sys_call5(__NR_clone, CLONE_VFORK | SIGCHLD, 0, 0, 0, 0);
    if (r == 0) {
        int wanted[SLOT_COUNT] = {app_streams[0], app_streams[1], app_streams[2], keeper->plan, links[1], keeper->pod, -1,
                                  keeper->own,    keeper->own < 0 ? -1 : keeper->parent};

        memcpy(slots, wanted, sizeof slots);
        (void)become_helper(keeper->helper, slots, 0, keeper->uuid, no_environment);
        sys_exit(125);
    }
    sys_close(links[1]);
    keeper->control = links[0];
    keeper->helper_pid = (int32_t)r;
    if (keeper->own >= 0)
        sys_close(keeper->own);
    keeper->own = -1;
    return r < 0 ? r : 0;
}

/* Any signal goes on to the app; one that asks a service to end also says that it is not to come back. */
static void on_signals(struct keeper *keeper)
{
    struct signalfd_siginfo info;

    while (sys_read(keeper->signals, &info, sizeof info) == sizeof info) {
        unsigned char signal = (unsigned char)info.ssi_signo;

        keeper->stopping |= signal == SIGTERM || signal == SIGINT || signal == SIGQUIT;
        if (signal != SIGCHLD && signal != SIGPIPE && keeper->control >= 0)
            (void)sys_call6(__NR_sendto, keeper->control, &signal, 1, NOSIGNAL | DONTWAIT, 0, 0);
    }
}

static void fail(struct keeper *keeper, const struct plan_report *report)
{
    keeper->failure = *report;
    keeper->failed = keeper->ended = 1;
    keeper->status = 125 << 8;
    keeper->finished = clock_ns(0);
}

/* Returns 0 at the end of the helper. */
static int on_control(struct keeper *keeper)
{
    struct plan_report report;
    long n = sys_call6(__NR_recvfrom, keeper->control, &report, sizeof report, DONTWAIT, 0, 0);

    if (n == -EAGAIN || n == -EINTR)
        return 1;
    if (n != sizeof report)
        return 0;
    if (report.kind == PLAN_RUNNING) {
        keeper->running = 1;
        write_run(keeper, report.pid);
        tell_front(keeper, &report);
        give_back_stack();
    } else if (report.kind == PLAN_EXITED) {
        keeper->ended = 1;
        keeper->status = report.status;
        keeper->oom = report.detail;
        keeper->finished = report.time;
        write_exit(keeper);
    } else {
        fail(keeper, &report);
    }
    return 1;
}

static void watch(struct pollfd *slot, int fd)
{
    slot->fd = fd;
    slot->events = POLLIN;
    slot->revents = 0;
}

static void wait_for_helper(struct keeper *keeper)
{
    struct pollfd polls[POLL_COUNT];

    for (int on = 1; on;) {
        watch(&polls[POLL_SIGNAL], keeper->signals);
        watch(&polls[POLL_CONTROL], keeper->control);
        watch(&polls[POLL_FRONT], keeper->front);
        watch(&polls[POLL_OUT], log_source(0));
        watch(&polls[POLL_ERR], log_source(1));
        tty_watch(polls + POLL_TTY);
        if (sys_call5(__NR_ppoll, polls, POLL_COUNT, 0, 0, 8) < 0)
            continue;
        if (polls[POLL_SIGNAL].revents)
            on_signals(keeper);
        if (polls[POLL_OUT].revents)
            (void)log_take(keeper, 0);
        if (polls[POLL_ERR].revents)
            (void)log_take(keeper, 1);
        tty_move(keeper, polls + POLL_TTY);
        if (polls[POLL_CONTROL].revents)
            on = on_control(keeper);
        if (on && keeper->front >= 0 && polls[POLL_FRONT].revents)
            on = 0; /* nobody waits for the start any more: give it up */
    }
    sys_close(keeper->control); /* the life-line of what may still run */
    keeper->control = -1;
}

static void run_once(struct keeper *keeper)
{
    long r;

    keeper->running = keeper->ended = keeper->failed = 0;
    keeper->oom = 0;
    r = start_helper(keeper);
    if (r < 0) {
        fail(keeper, &(struct plan_report){.kind = PLAN_FAILED, .op = STEP_CLONE, .error = (int32_t)-r});
        return;
    }
    wait_for_helper(keeper);
    clear_cgroup(keeper);
    tty_rest(keeper);
    log_end(keeper);
    if (!keeper->ended || keeper->failed)
        write_exit(keeper);
}

static int wanted_again(const struct keeper *keeper)
{
    uint32_t how = keeper->how.restart;
    int good = keeper->ended && keeper->status == 0;

    if (how == RESTART_NO || (how == RESTART_ON_FAILURE && good) || told_to_stop(keeper))
        return 0;
    return keeper->how.restart_max == 0 || keeper->restarts < keeper->how.restart_max;
}

/* Sleeps, but not through a signal; 0 when the pod is to stop. */
static int back_off(struct keeper *keeper, uint64_t ms)
{
    const uint64_t end = clock_ns(CLOCK_BOOTTIME) + ms * 1000000;
    struct pollfd polls[1];

    write_run(keeper, 0);
    while (!told_to_stop(keeper)) {
        uint64_t now = clock_ns(CLOCK_BOOTTIME), left = now < end ? end - now : 0;
        struct __kernel_timespec rest = {(long)(left / 1000000000), (long)(left % 1000000000)};

        watch(&polls[0], keeper->signals);
        if (left == 0 || sys_call5(__NR_ppoll, polls, 1, &rest, 0, 8) == 0)
            return 1;
        on_signals(keeper);
    }
    return 0;
}

int keep(struct keeper *keeper)
{
    uint64_t wait = keeper->how.backoff;

    keeper->control = -1;
    keeper->signals = block_signals();
    write_run(keeper, 0); /* now under this process's own pid */
    app_streams[0] = (int)sys_openat(AT_FDCWD, "/dev/null", O_RDONLY, 0);
    if (app_streams[0] < 0 || keeper->signals < 0 || !log_start(keeper, app_streams + 1) ||
        ((keeper->how.flags & KEEP_TTY) && !tty_start(keeper, app_streams))) {
        bury(keeper, 1);
        tell_front(keeper, &(struct plan_report){.kind = PLAN_FAILED, .op = STEP_LOG, .error = EIO});
        return 125;
    }
    for (;;) {
        uint64_t begun = clock_ns(CLOCK_BOOTTIME);

        run_once(keeper);
        if (keeper->restarts == 0 && !keeper->running) {
            bury(keeper, 1);
            if (keeper->failed) /* else it hears of an end without a word */
                tell_front(keeper, &keeper->failure);
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
    if (!keeper->ended)
        return 125;
    return (keeper->status & 0x7f) != 0 ? 128 + (keeper->status & 0x7f) : keeper->status >> 8 & 0xff;
}
