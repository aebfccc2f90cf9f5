/* The program `keeper`: runs a pod that stands prepared on disk, in the foreground or in the background; see keep.h.
 *
 *     keeper ROOT UUID front          become the pod's supervisor, or stay its keeper where one is needed
 *     keeper ROOT UUID told           the same, and what there is to say is JSON on descriptor 2, how the pod ended too: PLAN_TELL_END
 *     keeper ROOT UUID detach         return when the app runs, and print the UUID
 *     keeper ROOT UUID json           the same as JSON
 *     keeper ROOT UUID report         the same, but write the first struct plan_report to descriptor 1 instead
 *
 * One more word says which apps get which of the service manager's sockets, which stand from SLOT_LISTEN on: for each app a
 * number with a bit for each socket, with commas between; those behind the last number get none.
 *
 * Exit codes are those of pyrun: 125 when the pod could not be started. */
#include "keep.h"

#define EXIT_FAILED 125

enum { TALK_REPORT, TALK_TEXT, TALK_JSON };

static int told;

static int fail(const char *what, const char *subject, const char *why, const char *hint)
{
    char text[2 * PATH_SIZE];
    const char *end = text + sizeof text;
    char *at = str_add(str_add(str_add(text, end, told ? "{\"error\":\"" : "pyrun: "), end, what), end, subject);

    at = str_add(str_add(str_add(at, end, ": "), end, why), end, told ? "\",\"hint\":\"" : "\nhint: ");
    at = str_add(str_add(at, end, hint), end, told ? "\",\"exit_code\":125}\n" : "\n");
    if (at != 0)
        (void)sys_write(2, text, at - text);
    return EXIT_FAILED;
}

static int read_keep(struct keeper *keeper)
{
    OWNED_FD fd = (int)sys_openat(keeper->pod, "keep", O_RDONLY | O_NOFOLLOW, 0);

    return fd >= 0 && sys_read(fd, &keeper->how, sizeof keeper->how) == sizeof keeper->how && keeper->how.magic == KEEP_MAGIC &&
           keeper->how.version == KEEP_VERSION && keeper->how.identifier[sizeof keeper->how.identifier - 1] == '\0';
}

static int read_flags(struct app *app)
{
    struct plan_header head;

    app->own = app->control = app->words = -1;
    app->plan = (int)sys_openat(app->dir, "plan", O_RDWR | O_NOFOLLOW, 0);
    if (app->plan < 0 || sys_call4(__NR_pread64, app->plan, &head, sizeof head, 0) != sizeof head || head.magic != PLAN_MAGIC ||
        head.version != PLAN_VERSION)
        return 0;
    app->flags = head.flags & PLAN_ALL_FLAGS & ~(uint32_t)(PLAN_HAS_CONTROL | PLAN_HAS_POD | PLAN_HAS_CGROUP | PLAN_TELL_RUNNING | PLAN_TELL_END | PLAN_MANY);
    return 1;
}

static int read_all(struct keeper *keeper)
{
    if (!read_keep(keeper))
        return 0;
    keeper->count = 1;
    keeper->apps[0].dir = keeper->pod;
    keeper->apps[0].how.flags = APP_INPUT | APP_TTY;
    memcpy(keeper->apps[0].how.identifier, keeper->how.identifier, sizeof keeper->how.identifier);
    if ((keeper->how.flags & KEEP_SEVERAL) && !read_apps(keeper))
        return 0;
    for (unsigned i = 0; i < keeper->count; i++)
        if (!read_flags(&keeper->apps[i]))
            return 0;
    keeper->cgroup = (char *)(keeper->apps + keeper->count);
    return 1;
}

/* The plan stays the same for each start; which descriptors come with it does not. */
long set_plan_flags(const struct app *app, uint32_t flags)
{
    long n = sys_call4(__NR_pwrite64, app->plan, &flags, sizeof flags, offsetof(struct plan_header, flags));

    return n == sizeof flags ? 0 : n < 0 ? n : -EIO;
}

/* Takes the pod: of several who try at once one gets the lock, and the rename is what counts. */
static int take(struct keeper *keeper, const char *root, int front)
{
    static const char gone[] = "there is no prepared pod of that name";
    char path[PATH_SIZE], to[64];

    if (join(path, root, "/pods", "") == 0 || str_len(keeper->uuid) != UUID_LENGTH)
        return fail("start pod ", keeper->uuid, gone, "see `pyrun list`");
    keeper->pods = (int)sys_openat(AT_FDCWD, path, O_RDONLY | O_DIRECTORY, 0);
    (void)str_add(str_add(path, path + sizeof path, "prepared/"), path + sizeof path, keeper->uuid);
    (void)str_add(str_add(to, to + sizeof to, "running/"), to + sizeof to, keeper->uuid);
    keeper->pod = (int)sys_openat(keeper->pods, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
    if (keeper->pod < 0)
        return fail("start pod ", keeper->uuid, gone, "see `pyrun list`: was it started already?");
    if (sys_call2(__NR_flock, keeper->pod, LOCK_EX | LOCK_NB) < 0)
        return fail("start pod ", keeper->uuid, "somebody else is starting or removing it", "a prepared pod runs once");
    if (!read_all(keeper))
        return fail("start pod ", keeper->uuid, "its plan was made by another version of pyrun", "remove it with `pyrun rm` and prepare it again");
    if (!front && (keeper->how.flags & KEEP_FOREGROUND))
        return fail("start pod ", keeper->uuid, "it was prepared with standard input", "run it without --detach, or prepare it with --tty too");
    if (sys_call4(__NR_renameat, keeper->pods, path, keeper->pods, to) < 0)
        return fail("start pod ", keeper->uuid, "somebody else was quicker", "a prepared pod runs once");
    return 0;
}

/* What kept a network that was made ahead has done so: see pyrun.net.pin. */
static void unpin(const char *root, const char *uuid)
{
    char path[PATH_SIZE];

    if (join(path, root, "/netns/", uuid) != 0 && sys_call2(__NR_umount2, path, MNT_DETACH | 8 /* UMOUNT_NOFOLLOW */) != -ENOENT)
        (void)sys_call3(__NR_unlinkat, AT_FDCWD, path, 0);
}

/* `run` names the cgroup before there is one, so that whoever finds the pod can remove it. */
static void name_cgroup(struct keeper *keeper)
{
    char above[PATH_SIZE];

    keeper->parent = -1;
    if (find_cgroup(above) && join(keeper->cgroup, above, "/pyrun-", keeper->uuid) != 0)
        keeper->parent = (int)sys_openat(AT_FDCWD, above, O_RDONLY | O_DIRECTORY, 0);
    if (keeper->parent < 0)
        keeper->cgroup[0] = '\0';
    write_run(keeper);
}

const char *cgroup_name(const struct keeper *keeper)
{
    const char *name = keeper->cgroup + str_len(keeper->cgroup);

    while (name > keeper->cgroup && name[-1] != '/')
        name--;
    return name;
}

/* Of the only app it is the pod's; those of several lie below it. */
void make_cgroup(struct keeper *keeper, struct app *app)
{
    const int several = (keeper->how.flags & KEEP_SEVERAL) != 0, above = several ? keeper->group : keeper->parent;
    const char *name = several ? app->how.name : cgroup_name(keeper);

    if (above < 0)
        return;
    (void)sys_call3(__NR_mkdirat, above, name, 0755);
    app->own = (int)sys_openat(above, name, O_RDONLY | O_DIRECTORY, 0);
}

int open_cgroup(const struct keeper *keeper)
{
    return keeper->parent < 0 ? -1 : (int)sys_openat(keeper->parent, cgroup_name(keeper), O_RDONLY | O_DIRECTORY, 0);
}

/* The helper has done it, unless it was killed: then what is in there dies at this moment. */
void clear_cgroup(const struct keeper *keeper, const struct app *app)
{
    if (keeper->how.flags & KEEP_SEVERAL)
        remove_group(keeper->group, app->how.name);
    else
        remove_group(keeper->parent, cgroup_name(keeper));
}

/* Where memfds must not be executed (vm.memfd_noexec): a copy without a name, which nobody can open for writing any more. */
static int nameless_copy(const struct keeper *keeper, const char *program)
{
    char path[32] = "/proc/self/fd/";
    OWNED_FD from = (int)sys_openat(AT_FDCWD, program, O_RDONLY, 0);
    OWNED_FD copy = (int)sys_openat(keeper->pods, ".", 020000000 | O_DIRECTORY | O_RDWR /* O_TMPFILE */, 0500);
    struct stat st;

    if (from < 0 || copy < 0 || sys_fstat(from, &st) < 0 || sys_call4(__NR_sendfile, copy, from, 0, st.st_size) != st.st_size)
        return -EIO;
    (void)str_add_number(path + str_len(path), path + sizeof path, (uint64_t)copy);
    return (int)sys_openat(AT_FDCWD, path, O_RDONLY, 0);
}

/* The helper lies beside this program. */
static int load_helper(struct keeper *keeper)
{
    char path[PATH_SIZE];
    long n = sys_call4(__NR_readlinkat, AT_FDCWD, "/proc/self/exe", path, sizeof path - 8);

    while (n > 0 && path[n - 1] != '/')
        n--;
    if (n <= 0)
        return -ENOENT;
    (void)str_add(path + n, path + sizeof path, "helper");
    keeper->helper = sealed_program(path);
    if (keeper->helper == -EACCES)
        keeper->helper = nameless_copy(keeper, path);
    return keeper->helper;
}

static int become_supervisor(struct keeper *keeper, char **envp)
{
    struct app *app = keeper->apps;
    uint32_t flags = app->flags | PLAN_HAS_POD | (told ? PLAN_TELL_END : 0) | manager_count(app) << PLAN_LISTEN_SHIFT;
    int slots[SLOT_COUNT] = {0, 1, 2, app->plan, -1, keeper->pod, keeper->pods, -1, -1, app->flags & PLAN_NETWORK ? SLOT_NETWORK : -1};

    manager_hand_over(app);
    make_cgroup(keeper, app);
    slots[SLOT_CGROUP] = app->own;
    slots[SLOT_CGROUP_PARENT] = app->own < 0 ? -1 : keeper->parent;
    if (set_plan_flags(app, flags | (app->own >= 0 ? PLAN_HAS_CGROUP : 0)) == 0)
        (void)become_helper(keeper->helper, slots, 3, keeper->uuid, envp);
    bury(keeper, 1);
    return fail("start pod ", keeper->uuid, "the native helper cannot be executed", "is the installation complete?");
}

static int explain(const struct keeper *keeper, const struct plan_report *failure, char **envp)
{
    static char *argv[32];
    const struct app *app = &keeper->apps[failure->status]; /* see tell_front */
    const int plan = app->plan;
    struct stat st;
    long map;

    if (sys_fstat(plan, &st) < 0 || st.st_size < (long)sizeof(struct plan_header))
        return EXIT_FAILED;
    map = sys_call6(__NR_mmap, 0, st.st_size, 1 /* read */, 2 /* private */, plan, 0);
    /* the helper has checked this very plan before it could fail */
    if ((unsigned long)map > -4096UL || failure->op == STEP_DECODE)
        return EXIT_FAILED;
    if (told)
        (void)set_plan_flags(app, app->flags | PLAN_TELL_END);
    if (sys_call3(__NR_dup3, plan, SLOT_PLAN, 0) >= 0 || plan == SLOT_PLAN)
        become_explainer((const struct plan_header *)map, failure, argv, sizeof argv / sizeof *argv, envp);
    return EXIT_FAILED;
}

/* A pod whose UUID could not be told goes on, since its app may have done something by now: the error names it.  Who has closed the
 * standard output (>&-) wants to hear nothing. */
static int tell_uuid(const struct keeper *keeper, int json)
{
    char text[128];
    const char *end = text + sizeof text;
    char *at = str_add(str_add(text, end, json ? "{\n  \"uuid\": \"" : ""), end, keeper->uuid);
    const long size = str_add(at, end, json ? "\",\n  \"state\": \"running\"\n}\n" : "\n") - text, n = sys_write(1, text, size);

    if (n == size || n == -EBADF)
        return 0;
    return fail("tell of pod ", keeper->uuid, "it runs, but standard output takes no more", "stop and remove it, or go on with this UUID");
}

/* Waits for the first report; without one the keeper was killed. */
static int wait_for_start(const struct keeper *keeper, int link, int talk, char **envp)
{
    struct plan_report report = {.kind = 0};
    long n;

    do
        n = sys_read(link, &report, sizeof report);
    while (n == -EINTR);
    if (n == sizeof report && talk == TALK_REPORT)
        return sys_write(1, &report, sizeof report) == sizeof report ? 0 : EXIT_FAILED;
    if (n != sizeof report)
        return fail("start pod ", keeper->uuid, "its keeper was killed", "run `pyrun gc` and try again");
    if (report.kind == PLAN_FAILED)
        return explain(keeper, &report, envp);
    return tell_uuid(keeper, talk == TALK_JSON);
}

/* Whole pages of strings that nobody will ask for; without sockets of the service manager's there are no names of them. */
static void give_back_environment(struct keeper *keeper, char **envp)
{
    const char *last = envp[0];

    for EACH_APP (app, keeper)
        if (app->sockets != 0)
            return;
    while (*envp != 0)
        last = *envp++;
    if (last != 0)
        give_back(keeper->environment[0], (size_t)(((unsigned long)last | (PAGE_SIZE - 1)) + 1 - (unsigned long)keeper->environment[0]));
}

static int detach(struct keeper *keeper, int talk, const uint64_t *before, char **envp)
{
    int links[2];
    long r = sys_call4(__NR_socketpair, 1 /* AF_UNIX */, 5 | O_CLOEXEC /* SOCK_SEQPACKET */, 0, links);

    if (r < 0 || (r = sys_call5(__NR_clone, SIGCHLD, 0, 0, 0, 0)) < 0) {
        bury(keeper, 1);
        return fail("start pod ", keeper->uuid, "no process can be made", "a limit on processes or open files is reached");
    }
    if (r > 0) {
        let_signals(before); /* who waits here may give up: the pod goes on */
        sys_close(links[1]);
        sys_close(keeper->pod); /* the lock is the keeper's alone */
        return wait_for_start(keeper, links[0], talk, envp);
    }
    sys_close(links[0]);
    keeper->front = links[1];
    give_back_environment(keeper, envp);
    (void)sys_call0(__NR_setsid);
    (void)sys_call1(__NR_chdir, "/");
    (void)sys_call1(__NR_umask, 0077);
    if (keeper->how.log != LOG_PASSTHROUGH) {
        OWNED_FD null = (int)sys_openat(AT_FDCWD, "/dev/null", O_RDWR, 0);

        for (int fd = 0; null >= 0 && fd < 3; fd++)
            (void)sys_call3(__NR_dup3, null, fd, 0);
    }
    return keep(keeper);
}

/* As a service is run, in the very process that was asked, with its streams. */
static int stay(struct keeper *keeper, char **envp)
{
    struct termios mode;
    int r;

    for (int fd = 0; fd < 3; fd++)
        keeper->terminals |= (sys_call3(__NR_ioctl, fd, TCGETS, &mode) == 0) << fd;
    keeper->how.log = LOG_PASSTHROUGH;
    keeper->how.flags &= ~(uint32_t)KEEP_TTY;
    keeper->foreground = 1;
    r = keep(keeper);
    for (const struct app *app = keeper->apps; app < keeper->apps + keeper->count; app++)
        if (app->failed)
            return explain(keeper, &app->failure, envp);
    if (r == EXIT_FAILED && !keeper->running && keeper->decided != 0 && !keeper->decided->ended)
        return fail("start pod ", keeper->uuid, "the native helper cannot be executed, or was killed", "raise ulimit -n, or try again");
    if (told)
        tell_caller(keeper, r);
    return r;
}

int program(int argc, char **argv, char **envp)
{
    static struct keeper keeper __attribute__((aligned(PAGE_SIZE)));
    uint64_t before = 0;
    int front, r;

    if (argc < 4 || argc > 5)
        return fail("the keeper", "", "is not run by hand", "use `pyrun run-prepared`");
    if (str_eq(argv[3], "told")) /* a keeper in the background has no page for it */
        told = 1;
    front = told || str_eq(argv[3], "front");
    keeper.front = keeper.group = keeper.holder = -1;
    keeper.root = argv[1];
    keeper.uuid = argv[2];
    keeper.environment = envp;
    keeper.ignored = find_ignored();
    (void)sys_prctl(PR_SET_DUMPABLE, 0, 0);
    hold_signals(&before); /* from here on there is a pod that would be left behind */
    r = take(&keeper, argv[1], front);
    if (r == 0 && argc == 5 && !manager_sockets(&keeper, argv[4])) {
        bury(&keeper, 1);
        return fail("the keeper", "", "was told of sockets that it does not have", "use `pyrun run-prepared`");
    }
    if (r != 0)
        return r;
    unpin(argv[1], keeper.uuid);
    name_cgroup(&keeper);
    if (load_helper(&keeper) < 0) {
        bury(&keeper, 1);
        return fail("start pod ", keeper.uuid, "the native helper cannot be loaded", "is the installation complete?");
    }
    if ((keeper.how.flags & KEEP_SEVERAL) && !share_memory(&keeper)) {
        bury(&keeper, 1);
        return fail("start pod ", keeper.uuid, "its shared memory cannot be mounted", "pyrun needs root (CAP_SYS_ADMIN)");
    }
    if (front && (keeper.how.restart != RESTART_NO || (keeper.how.flags & (KEEP_SEVERAL | KEEP_HEALTH))))
        return stay(&keeper, envp);
    if (front)
        return become_supervisor(&keeper, envp);
    return detach(&keeper, str_eq(argv[3], "json") ? TALK_JSON : str_eq(argv[3], "detach") ? TALK_TEXT : TALK_REPORT, &before,
                  envp);
}
