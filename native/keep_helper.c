/* The keeper and the helper of an app: its start, and the signals for it. */
#include <linux/signalfd.h>
#include <linux/wait.h>

#include "keep.h"

#define DONTWAIT 0x40
#define NOSIGNAL 0x4000

long start_helper(struct keeper *keeper, struct app *app)
{
    const int several = (keeper->how.flags & KEEP_SEVERAL) != 0;
    uint32_t flags = (app->flags & ~(uint32_t)(PLAN_HAS_EXPLAIN | PLAN_REMOVE)) | PLAN_HAS_CONTROL | PLAN_TELL_RUNNING;
    int links[2], slots[SLOT_COUNT];
    const int plan = (int)sys_openat(app->dir, "plan", O_RDWR | O_NOFOLLOW, 0); /* `pyrun update` may have put another one there */
    long r;

    if (plan >= 0) {
        sys_close(app->plan);
        app->plan = plan;
    }
    if (app->helper_pid > 0) /* of the last run: it may still hold its root, and that must not be mounted twice */
        (void)sys_call4(__NR_wait4, app->helper_pid, 0, __WALL, 0);
    app->helper_pid = 0;
    make_cgroup(keeper, app);
    flags |= manager_count(app) << PLAN_LISTEN_SHIFT | (keeper->count > MANY_APPS ? PLAN_MANY : 0);
    r = set_plan_flags(app, flags | (app->own >= 0 ? PLAN_HAS_CGROUP : 0));
    if (r < 0 || (r = sys_call4(__NR_socketpair, 1 /* AF_UNIX */, 5 | O_CLOEXEC /* SOCK_SEQPACKET */, 0, links)) < 0)
        return r;
    app->started = clock_ns(0);
    r = sys_call5(__NR_clone, CLONE_VFORK | SIGCHLD, 0, 0, 0, 0);
    if (r == 0) {
        int wanted[SLOT_COUNT] = {app->streams[0], app->streams[1], app->streams[2], app->plan, links[1], app->dir, keeper->holder,
                                  app->own,        app->own < 0 ? -1 : several ? keeper->group : keeper->parent, app->flags & PLAN_NETWORK ? SLOT_NETWORK : -1};
        char *words[MANAGER_WORDS], names[PATH_SIZE];

        if (keeper->foreground) /* a key of the terminal that means all of its processes comes to the apps through this one alone */
            (void)sys_call0(__NR_setsid);
        memcpy(slots, wanted, sizeof slots);
        manager_environment(keeper, app, words, names);
        manager_hand_over(app);
        sys_exit((int)-become_helper(keeper->helper, slots, 0, keeper->uuid, words));
    }
    sys_close(links[1]);
    app->control = links[0];
    app->helper_pid = (int32_t)r;
    if (app->own >= 0)
        sys_close(app->own);
    app->own = -1;
    return r < 0 ? r : 0;
}

void send_signal(const struct app *app, uint32_t number)
{
    unsigned char signal = (unsigned char)number;

    if (app->control >= 0)
        (void)sys_call6(__NR_sendto, app->control, &signal, 1, NOSIGNAL | DONTWAIT, 0, 0);
}

/* In the foreground the helper gets it as if it had been asked itself: it knows its terminal's size and when to hurry. */
static void pass_on(const struct keeper *keeper, const struct app *app, uint32_t number)
{
    number = number == SIGTERM && app->how.stop != 0 ? app->how.stop : number;
    if (!keeper->foreground)
        send_signal(app, number);
    else if (app->control >= 0 && app->helper_pid > 0)
        (void)sys_call2(__NR_kill, app->helper_pid, number);
}

/* Any signal goes on to the apps; one that asks a service to end, or a terminal that is gone, also says that it is not to come back. */
void on_signals(struct keeper *keeper)
{
    struct signalfd_siginfo info;

    while (sys_read(keeper->signals, &info, sizeof info) == sizeof info) {
        if (info.ssi_code > 0 && (keeper->ignored >> (info.ssi_signo - 1) & 1))
            continue;
        keeper->stopping |= info.ssi_signo == SIGTERM || info.ssi_signo == SIGINT || info.ssi_signo == SIGQUIT ||
                            (info.ssi_signo == SIGHUP && info.ssi_code > 0 /* by the kernel, not kill(2) */);
        if (info.ssi_signo != SIGCHLD && (info.ssi_signo != SIGPIPE || info.ssi_pid != (uint32_t)own_pid() /* a reader of its own has gone */))
            for EACH_APP (app, keeper)
                pass_on(keeper, app, info.ssi_signo);
    }
}
