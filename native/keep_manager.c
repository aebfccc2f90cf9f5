/* Between the apps of a keeper and the service manager: sd_notify(3) and sd_listen_fds(3).
 *
 *     app ---- /dev/pyrun/notify ---- helper ---- `manager` in the app's directory ---- keeper ---- manager
 *
 * The manager believes its main process alone, which is the keeper in the foreground.  What a helper let through (notify.c)
 * goes on from here.  Of several apps that speak for themselves the pod is ready once each has said so, and alive as
 * long as each says that again; whatever else one of them says is passed on as it comes.
 *
 * The manager's sockets stand from SLOT_LISTEN on as long as the keeper lives, so an app that starts again gets them again. */
#include "keep.h"

#define DATAGRAM (2 | O_CLOEXEC | O_NONBLOCK) /* SOCK_DGRAM */
#define WHERE "/proc/self/fd/"
#define TOLD_READY 1
#define TOLD_ALIVE 2

int manager_sockets(struct keeper *keeper, const char *which)
{
    for (unsigned i = 0; i < keeper->count; i++) {
        for (; *which >= '0' && *which <= '9'; which++)
            keeper->apps[i].sockets = keeper->apps[i].sockets * 10 + (uint64_t)(*which - '0');
        which += *which == ',' && i + 1 < keeper->count;
        for (int socket = 0; socket < SLOT_LISTEN_MAX; socket++)
            if ((keeper->apps[i].sockets >> socket & 1) && sys_call3(__NR_fcntl, SLOT_LISTEN + socket, F_GETFD, 0) < 0)
                return 0;
    }
    return *which == '\0';
}

uint32_t manager_count(const struct app *app)
{
    uint32_t count = 0;

    for (uint64_t left = app->sockets; left != 0; left &= left - 1)
        count++;
    return count;
}

void manager_hand_over(const struct app *app)
{
    int to = SLOT_LISTEN;

    for (int socket = 0; socket < SLOT_LISTEN_MAX; socket++)
        if (app->sockets >> socket & 1)
            (void)sys_call3(__NR_dup3, SLOT_LISTEN + socket, to++, 0); /* EINVAL where it stands there already */
}

/* The names of the app's own sockets, with colons between, out of those of all. */
static void pick_names(const struct app *app, const char *all, char names[PATH_SIZE])
{
    const char *end = names + PATH_SIZE - 1;
    char *at = str_add(names, end, "LISTEN_FDNAMES=");

    for (unsigned socket = 0, any = 0; socket < SLOT_LISTEN_MAX; socket++) {
        const int own = (int)(app->sockets >> socket & 1);

        if (own && any++)
            at = str_add(at, end, ":");
        for (; *all != '\0' && *all != ':'; all++)
            if (own && at != 0 && at < end)
                *at++ = *all;
        all += *all == ':';
    }
    if (at != 0)
        *at = '\0';
}

void manager_environment(const struct keeper *keeper, const struct app *app, char *words[MANAGER_WORDS], char names[PATH_SIZE])
{
    static const char own[] = "NOTIFY_SOCKET=/proc/self/fd/5/manager", watchdog[] = "WATCHDOG_USEC"; /* SLOT_POD */
    const char *all = from_environment(keeper->environment, "LISTEN_FDNAMES"), *time = from_environment(keeper->environment, watchdog);

    if (app->words >= 0) {
        *words++ = (char *)(uintptr_t)own;
        if (time[0] != '\0')
            *words++ = (char *)(uintptr_t)(time - sizeof watchdog);
    }
    if (app->sockets != 0 && all[0] != '\0') {
        pick_names(app, all, names);
        *words++ = names;
    }
    *words = 0;
}

int manager_listen(struct app *app)
{
    struct {
        unsigned short family;
        char path[64];
    } address = {1 /* AF_UNIX */, WHERE};
    const char *end = address.path + sizeof address.path;

    if (!(app->flags & PLAN_NOTIFY_APP))
        return 1;
    (void)str_add(str_add_number(address.path + sizeof WHERE - 1, end, (uint64_t)app->dir), end, "/manager");
    (void)sys_call3(__NR_unlinkat, app->dir, "manager", 0);
    app->words = (int)sys_call3(__NR_socket, 1, DATAGRAM, 0);
    return app->words >= 0 && sys_call3(__NR_bind, app->words, &address, 2 + str_len(address.path) + 1) == 0;
}

/* Whether every app that speaks for itself has said it; one that has ended has nothing to say any more. */
static int all_said(const struct keeper *keeper, uint32_t what)
{
    for (const struct app *app = keeper->apps; app < keeper->apps + keeper->count; app++)
        if (app->words >= 0 && !app->ended && !(app->told & what))
            return 0;
    return 1;
}

static int passes(struct keeper *keeper, struct app *app, const char *line, size_t size)
{
    static const char ready[] = "READY=1", alive[] = "WATCHDOG=1";

    if (size == sizeof ready - 1 && memcmp(line, ready, size) == 0) {
        app->told |= TOLD_READY;
        keeper->ready |= all_said(keeper, TOLD_READY);
        return keeper->ready;
    }
    if (size == sizeof alive - 1 && memcmp(line, alive, size) == 0) {
        app->told |= TOLD_ALIVE;
        if (!all_said(keeper, TOLD_ALIVE))
            return 0;
        for (struct app *other = keeper->apps; other < keeper->apps + keeper->count; other++)
            other->told &= ~(uint32_t)TOLD_ALIVE;
    }
    return 1;
}

void manager_hear(struct keeper *keeper, struct app *app)
{
    char in[4096], out[4096];
    long n = sys_call6(__NR_recvfrom, app->words, in, sizeof in, 0x40 /* MSG_DONTWAIT */, 0, 0);
    size_t used = 0, start = 0;

    for (size_t i = 0; n > 0 && i <= (size_t)n; i++) {
        const size_t size = i - start;

        if (i < (size_t)n && in[i] != '\n')
            continue;
        if (passes(keeper, app, in + start, size)) {
            if (used > 0)
                out[used++] = '\n';
            memcpy(out + used, in + start, size);
            used += size;
        }
        start = i + 1;
    }
    if (used > 0)
        tell_manager(keeper->environment, out, used);
}

void manager_ready(struct keeper *keeper)
{
    if (!keeper->foreground || keeper->ready || (keeper->apps[0].flags & PLAN_NOTIFY_NONE) || !all_said(keeper, TOLD_READY))
        return;
    keeper->ready = 1;
    tell_manager(keeper->environment, "READY=1", 7);
}
