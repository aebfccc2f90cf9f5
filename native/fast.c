/* The launcher's short way: carry out a decision that `pyrun run` made before for this command line, or one that differs only in
 * what is handed on to the app (words.c).
 *
 * Nothing is decided here.  Whatever is not exactly as it was when the recipe was written, and whatever goes
 * wrong before the helper takes over, undoes itself and leaves the command to Python.  The steps are those of
 * pyrun.cli.run, in its order: lock the store, check, make the pod's directory and cgroup, become the helper. */
#include "fast.h"
#include "handover.h"
#include "net_script.h"
#include "pod.h"
#include "prepared.h"
#include "recipe.h"
#include "shared.h"
#include "words.h"

#define PODS_LOOKED_AT 64

struct fast {
    const char *root;
    char *data; /* the recipe, in private memory */
    const struct recipe_header *recipe;
    struct pod pod;
    char form; /* which one it was found under */
    int store, pods, recipes, helper, network;
    int undecided;
    long child;                         /* which has decided */
    char ahead[PATH_SIZE];              /* path of the program that is loaded already */
    int network_ahead;                  /* a network namespace that is made already */
    const struct recipe_stamps *stamps; /* which hold */
};

/* As require_own() of pyrun.native.users: who can put things there decides what is executed. */
int is_own(const char *root)
{
    char pods[PATH_SIZE];
    struct stat st;

    return sys_call4(__NR_newfstatat, AT_FDCWD, root, &st, 0) == 0 && st.st_uid == 0 && (st.st_mode & 2) == 0 &&
           join(pods, root, "/pods", "") != 0 && sys_call4(__NR_newfstatat, AT_FDCWD, pods, &st, 0) == 0 && st.st_uid == 0 &&
           (st.st_mode & 077) == 0;
}

/* Not a user, and not root of a user namespace either: its number is PROC_USER_INIT_INO (linux/proc_ns.h). */
int is_root(void)
{
    char link[32];

    return sys_call0(__NR_geteuid) == 0 && sys_call4(__NR_readlinkat, AT_FDCWD, "/proc/self/ns/user", link, sizeof link) == 17 &&
           memcmp(link, "user:[4026531837]", 17) == 0;
}

/* As state_root() of pyrun.native.users; a relative one where it would look further. */
const char *usual_root(char **envp)
{
    static char path[PATH_SIZE];
    const char *home = from_environment(envp, "HOME"), *data = from_environment(envp, "XDG_DATA_HOME");
    const size_t size = str_len(home);

    if (is_root())
        return "/var/lib/pyrun";
    if (data[0] == '/')
        return join(path, data, "/pyrun", "") == 0 ? "" : path;
    return size < 2 || home[size - 1] == '/' || join(path, home, "/.local/share/pyrun", "") == 0 ? "" : path;
}

const char *root_of(int argc, char **argv, char **envp, int *verb)
{
    const char *root = from_environment(envp, "PYRUN_ROOT");
    int i = 1;

    if (root[0] == '\0')
        root = usual_root(envp);
    if (i + 1 < argc && str_eq(argv[i], "--root")) {
        root = argv[i + 1];
        i += 2;
    } else if (i < argc && memcmp(argv[i], "--root=", 7) == 0) {
        root = argv[i++] + 7;
    }
    *verb = i;
    return i < argc && root[0] == '/' ? root : 0;
}

/* Whether the modules that decided are as they were then. */
static int has_own(const struct fast *fast, const struct recipe_header *recipe)
{
    const char *own = fast->data + recipe->own;

    return recipe->own_size == 0 || (fast->stamps != 0 && fast->stamps->size == recipe->own_size && memcmp(own, fast->stamps, recipe->own_size) == 0) ||
           recipe_stamps_hold(own, recipe->own_size);
}

/* Whether there is a recipe for this form of the command line, and still holds. */
static int find(struct fast *fast, struct words *words, int dir, char form, int here)
{
    const struct recipe_header *recipe = 0;

    if (words_key(words, form, here))
        recipe = recipe_map(dir, words->key, (uint32_t)words->key_size, RECIPE_MAGIC, RECIPE_VERSION, sizeof *recipe);
    fast->recipe = recipe;
    fast->data = (char *)(uintptr_t)recipe;
    fast->form = form;
    return recipe != 0 && recipe->place_count <= WORDS_VARIABLES && recipe->patch_count <= RECIPE_PATCHES &&
           recipe_inside(recipe, sizeof *recipe,
                         recipe->start.check_count * sizeof(struct recipe_check) + recipe->patch_count * sizeof(struct recipe_patch) +
                             recipe->place_count * sizeof(uint32_t)) &&
           recipe_inside(recipe, recipe->record, recipe->record_size) && recipe->net % 8 == 0 &&
           recipe_inside(recipe, recipe->net, recipe->net_size) && recipe->helper < recipe->start.size && recipe->own % 8 == 0 &&
           recipe_inside(recipe, recipe->own, recipe->own_size) && recipe_inside(recipe, recipe->limits, recipe->limits_size) &&
           has_own(fast, recipe) && recipe_holds(recipe, sizeof *recipe);
}

/* Whether there is nothing to sweep: no half-made pod, no garbage, and among the first of the running ones none
 * whose lock is free. */
static int swept(const struct fast *fast, const char *phase)
{
    OWNED_FD dir = (int)sys_openat(fast->pods, phase, O_RDONLY | O_DIRECTORY, 0);
    char buffer[8192] __attribute__((aligned(8)));
    int left = PODS_LOOKED_AT;
    long n;

    while (dir >= 0 && (n = sys_call3(__NR_getdents64, dir, buffer, sizeof buffer)) != 0) {
        if (n < 0)
            return 0;
        for (long at = 0; at < n && left > 0; at += *(unsigned short *)(buffer + at + 16)) {
            const char *name = buffer + at + 19; /* struct linux_dirent64: 8 + 8 + 2 + 1 bytes before the name */
            OWNED_FD pod = -1;

            if (name[0] == '.')
                continue;
            if (phase[0] != 'r')
                return 0;
            pod = (int)sys_openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
            if (pod >= 0 && sys_call2(__NR_flock, pod, LOCK_SH | LOCK_NB) == 0)
                return 0;
            left--;
        }
    }
    return dir >= 0;
}

static int load_helper(struct fast *fast)
{
    const char *path = fast->data + fast->recipe->helper;

    if (fast->helper < 0 || !str_eq(fast->ahead, path)) {
        if (fast->helper >= 0)
            sys_close(fast->helper);
        fast->helper = sealed_program(path);
    }
    return fast->helper >= 0;
}

static void become(struct fast *fast, int plan, char **envp)
{
    struct pod *pod = &fast->pod;
    int slots[SLOT_COUNT] = {0, 1, 2, plan, -1, pod->dir, fast->pods, pod->own, pod->own < 0 ? -1 : pod->parent, fast->network};

    (void)become_helper(fast->helper, slots, 3, pod->uuid, envp);
    pod->pods = slots[SLOT_PODS]; /* what undoing needs, now that the exec has failed */
    pod->dir = slots[SLOT_POD];
    pod->own = slots[SLOT_CGROUP];
    pod->parent = slots[SLOT_CGROUP_PARENT];
    (void)sys_call3(__NR_close_range, 3, SLOT_COUNT - 1, 0); /* the copies; what the caller has there above is for Python, as /dev/fd/63 */
}

/* --uuid-file-save, as pyrun.cli.run has it. */
static int save_uuid(const struct pod *pod, const char *path)
{
    OWNED_FD fd = path == 0 ? -1 : (int)sys_openat(AT_FDCWD, path, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, 0644);
    char line[UUID_LENGTH + 2];

    (void)str_add(str_add(line, line + sizeof line, pod->uuid), line + sizeof line, "\n");
    return path == 0 || (fd >= 0 && sys_write(fd, line, UUID_LENGTH + 1) == UUID_LENGTH + 1);
}

/* The namespace that was made ahead, where the helper would make such a one; the plan then says so. */
static uint32_t take_network(struct fast *fast, const char *block)
{
    const struct plan_header *plan = (const struct plan_header *)block;

    if (fast->network_ahead < 0 || fast->network >= 0 || (plan->clone_flags & (CLONE_NEWNET | CLONE_NEWUSER)) != CLONE_NEWNET ||
        (plan->flags & (PLAN_NETWORK | PLAN_CLONE_NETWORK)))
        return 0;
    fast->network = fast->network_ahead;
    return PLAN_NETWORK;
}

static void reap(struct fast *fast)
{
    if (fast->child > 0)
        (void)sys_call4(__NR_wait4, fast->child, 0, 0, 0);
    fast->child = 0;
}

/* Brings this process to where the pod's limits can be set.  The child goes first: no controller is enabled beside a process. */
static int has_place(struct fast *fast, const char *record, size_t size)
{
    const struct recipe_header *recipe = fast->recipe;

    if (recipe->limits_size == 0)
        return 1;
    reap(fast);
    return size >= sizeof RECIPE_RECORD + UUID_LENGTH &&
           take_place_again(fast->data + recipe->limits, recipe->limits_size, record + sizeof RECIPE_RECORD - 1, fast->pod.uuid);
}

static void start(struct fast *fast, const struct words *words, char **envp)
{
    char *data = fast->data, *block, *record;
    const struct recipe_header *recipe = fast->recipe;
    const struct recipe_check *checks = (const struct recipe_check *)(recipe + 1);
    const struct recipe_patch *patches = (const struct recipe_patch *)(checks + recipe->start.check_count);
    const struct words_places places = {
        .variables = (const uint32_t *)(patches + recipe->patch_count),
        .variable_count = recipe->place_count,
        .patches = patches,
        .patch_count = recipe->patch_count,
        .strings = data,
        .strings_size = recipe->start.size,
    };
    size_t size = recipe->start.plan_size, record_size = recipe->record_size;
    uint64_t before;
    int plan, placed;

    block = words_plan(words, fast->form, data + recipe->start.plan, &size, &places);
    record = data + recipe->record;
    if (words->app_name != 0)
        record = words_record(words, record, &record_size, recipe->name);
    if (block == 0 || record == 0 || pod_begin(&fast->pod, fast->pods) < 0 || !save_uuid(&fast->pod, words->uuid_file) ||
        !has_place(fast, record, record_size))
        return;
    hold_signals(&before); /* what is made here is undone, or the supervisor's; a network may take plug-ins that take long */
    if (pod_make(&fast->pod, record, record_size) < 0) {
        let_signals(&before);
        return;
    }
    placed = recipe->limits_size == 0 || fast->pod.own >= 0;
    if (recipe->net_size > 0)
        let_signals(&before);
    if (placed && recipe->net_size > 0)
        fast->network = net_make(fast->root, fast->pod.dir, fast->pod.uuid, data + recipe->net, recipe->net_size, 0);
    plan = !placed || (recipe->net_size > 0 && fast->network < 0) ? -1 : (int)pod_plan(&fast->pod, block, size, take_network(fast, block));
    if (plan >= 0) /* which reaps the child: giving back its memory takes as long as all of this */
        become(fast, plan, envp);
    if (sys_call3(__NR_faccessat, fast->pod.dir, "net", 0) < 0) /* else it has something in the host: Python finds a dead pod to sweep */
        pod_undo(&fast->pod);
    let_signals(&before);
}

static struct words words;
static struct fast fast;

/* Whether there is a recipe for the command line.  It is undecided where none of its forms has a file: one that does not hold any
 * more, or is there to say so, is for Python alone. */
static int find_any(void)
{
    static const char forms[] = {RECIPE_EXACT, RECIPE_OPEN, RECIPE_PROGRAM};

    fast.undecided = 1;
    for (size_t i = 0; i < 2 * sizeof forms; i++) {
        if (find(&fast, &words, fast.recipes, forms[i % sizeof forms], i >= sizeof forms)) {
            fast.undecided = 0;
            return 1;
        }
        fast.undecided = fast.undecided && !recipe_there(fast.recipes, words.key, (uint32_t)words.key_size);
    }
    return 0;
}

int may_decide(void)
{
    return fast.undecided;
}

void prepare_ahead(const char *helper, const struct recipe_stamps *stamps)
{
    fast.network_ahead = new_network();
    if (join(fast.ahead, helper, "", "") != 0)
        fast.helper = sealed_program(helper);
    if (recipe_stamps_hold(stamps, stamps->file_size))
        fast.stamps = stamps;
}

void run_decided(long child, char **envp)
{
    fast.child = child;
    fast.undecided = 0;
    if (find_any() && load_helper(&fast))
        start(&fast, &words, envp);
    reap(&fast);
}

/* Comes back only when Python has to do it. */
void run_recipe(int argc, char **argv, char **envp)
{
    char path[PATH_SIZE];
    int verb, plain, found;

    fast.store = fast.pods = fast.recipes = fast.helper = fast.network = fast.network_ahead = -1;
    fast.root = root_of(argc, argv, envp, &verb);
    if (fast.root == 0 || !str_eq(argv[verb], "run"))
        run_prepared(argv, envp);
    if (from_environment(envp, "LISTEN_FDS")[0] != '\0') /* sockets of the service manager's stand where ours would be opened */
        return;
    if (fast.root == 0 || !str_eq(argv[verb], "run") || from_environment(envp, "PYRUN_DEBUG")[0] != '\0' ||
        !(is_root() || become_users_root(fast.root)) || !is_own(fast.root))
        return;
    plain = words_split(&words, argc, argv, envp);
    if (join(path, fast.root, "/locks/store", "") == 0)
        return;
    fast.store = (int)sys_openat(AT_FDCWD, path, O_RDWR, 0);
    (void)join(path, fast.root, "/pods", "");
    fast.pods = (int)sys_openat(AT_FDCWD, path, O_RDONLY | O_DIRECTORY, 0);
    fast.recipes = recipe_directory(fast.root, "/cache/run");
    if (fast.store < 0 || fast.pods < 0 || fast.recipes < 0 || sys_call2(__NR_flock, fast.store, LOCK_SH | LOCK_NB) < 0)
        return;
    found = plain && find_any();
    fast.undecided = fast.undecided && is_root() && decides_early(argc, argv, verb);
    if (!swept(&fast, "garbage") || !swept(&fast, "preparing") || !swept(&fast, "running"))
        fast.undecided = 0;
    else if (!found)
        run_kept(fast.root, fast.pods, fast.recipes, argc, argv, envp);
    else if (load_helper(&fast))
        start(&fast, &words, envp);
}
