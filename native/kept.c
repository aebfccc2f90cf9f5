/* The launcher's short way for `run` of a pod that a keeper looks after: one in the background, named, restarted or checked.
 *
 * The same command line was run before, word for word, and pyrun.pod.kept wrote down what the pod's directory held then (struct
 * recipe_kept).  It is made again for another UUID, stands there as a prepared pod, and starts as one (prepared.c).  Whatever is in
 * the way before that undoes itself and leaves the command to Python. */
#include "fast.h"
#include "handover.h"
#include "pod.h"
#include "prepared.h"
#include "recipe.h"
#include "shared.h"
#include "words.h"

#define CLOCK_BOOTTIME 7
#define HEAD sizeof(struct recipe_kept)

struct kept {
    int pods, dir; /* the pod's own, locked */
    char *data;    /* the recipe, in private memory */
    const struct recipe_kept *recipe;
    const struct recipe_file *files;
    const char *name;
    struct pod pod;
};

static const char *text_of(const struct kept *kept, uint32_t at)
{
    return kept->data + at; /* the file ends with a NUL */
}

static int find(struct kept *kept, int recipes, int argc, char **argv, char **envp)
{
    static struct words words;
    const struct recipe_kept *recipe = 0;
    struct plan_header plan;
    uint64_t behind;

    if (words_whole(&words, argc, argv, envp))
        recipe = recipe_map(recipes, words.key, (uint32_t)words.key_size, RECIPE_KEPT_MAGIC, RECIPE_KEPT_VERSION, HEAD);
    if (recipe == 0)
        return 0;
    behind = HEAD + recipe->start.check_count * sizeof(struct recipe_check);
    kept->recipe = recipe;
    kept->data = (char *)(uintptr_t)recipe;
    kept->files = (const void *)(kept->data + behind);
    if (recipe->file_count == 0 || recipe->file_count > RECIPE_FILES ||
        !recipe_inside(recipe, behind, recipe->file_count * sizeof(struct recipe_file)) ||
        !recipe_inside(recipe, recipe->uuid, UUID_LENGTH + 1) || recipe->name >= recipe->start.size || recipe->keeper >= recipe->start.size)
        return 0;
    for (uint32_t i = 0; i < recipe->file_count; i++)
        if (kept->files[i].name >= recipe->start.size || !recipe_inside(recipe, kept->files[i].data, kept->files[i].size))
            return 0;
    kept->name = text_of(kept, recipe->name);
    memcpy(&plan, kept->data + recipe->start.plan, sizeof plan);
    if (plan.magic != PLAN_MAGIC || plan.version != PLAN_VERSION || !is_uuid(text_of(kept, recipe->uuid)))
        return 0;
    memcpy(kept->pod.blank, text_of(kept, recipe->uuid), UUID_LENGTH);
    return recipe_holds(recipe, HEAD);
}

static void fill_in(const struct pod *pod, char *data, size_t size)
{
    for (size_t i = 0; i + RECIPE_SHORT <= size; i++)
        if (data[i] == pod->blank[0] && memcmp(data + i, pod->blank, RECIPE_SHORT) == 0)
            memcpy(data + i, pod->uuid, i + UUID_LENGTH <= size && memcmp(data + i, pod->blank, UUID_LENGTH) == 0 ? UUID_LENGTH : RECIPE_SHORT);
}

/* `tail` comes behind it. */
static int put_file(const struct kept *kept, const char *name, char *data, size_t size, const char *tail)
{
    OWNED_FD fd = (int)sys_openat(kept->dir, name, O_WRONLY | O_CREAT | O_EXCL, 0600);
    struct {
        const void *base;
        size_t length;
    } parts[] = {{data, size}, {tail, str_len(tail)}};

    fill_in(&kept->pod, data, size);
    return fd >= 0 && sys_call3(__NR_writev, fd, parts, 2) == (long)(size + parts[1].length);
}

/* The last members of the pod's record. */
static void tell_times(char *at, const char *end)
{
    struct __kernel_timespec now = {0, 0};

    at = str_add_number(str_add(at, end, ",\"uptime\":"), end, clock_ns(CLOCK_BOOTTIME));
    (void)sys_call2(__NR_clock_gettime, 0, &now);
    at = str_add_number(str_add(at, end, ",\"created\":"), end, (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec);
    (void)str_add(at, end, ",\"cgroup\":\"\"}");
}

static int fill_directory(const struct kept *kept)
{
    const struct recipe_kept *recipe = kept->recipe;
    char times[128];

    tell_times(times, times + sizeof times);
    for (uint32_t i = 0; i < recipe->file_count; i++) {
        const char *name = text_of(kept, kept->files[i].name);

        if (!put_file(kept, name, kept->data + kept->files[i].data, kept->files[i].size, str_eq(name, "pod") ? times : ""))
            return 0;
    }
    return put_file(kept, "plan", kept->data + recipe->start.plan, recipe->start.plan_size, "") &&
           sys_call3(__NR_symlinkat, text_of(kept, recipe->keeper), kept->dir, "keeper") == 0;
}

static int path_of(char path[PATH_SIZE], const char *above, const char *name)
{
    return str_add(str_add(path, path + PATH_SIZE, above), path + PATH_SIZE, name) != 0;
}

/* claim() of pyrun.pod.names, but for one that another pod has, also an ended one: that is Python's. */
static int claim(const struct kept *kept)
{
    static const char phases[][12] = {"preparing/", "prepared/", "running/", "exited/"};
    char path[PATH_SIZE], holder[UUID_LENGTH + 2];
    OWNED_FD names = -1;
    long n;

    if (kept->name[0] == '\0')
        return 1;
    names = (int)sys_openat(kept->pods, "names", O_RDONLY | O_DIRECTORY, 0);
    if (names < 0 || sys_call2(__NR_flock, names, LOCK_EX | LOCK_NB) < 0 || !path_of(path, "names/", kept->name))
        return 0;
    n = sys_call4(__NR_readlinkat, kept->pods, path, holder, sizeof holder);
    if (n >= 0) {
        holder[n == UUID_LENGTH ? n : 0] = '\0';
        if (!is_uuid(holder))
            return 0;
        for (size_t i = 0; i < sizeof phases / sizeof *phases; i++)
            if (stands(kept->pods, phases[i], holder))
                return 0;
        if (sys_call3(__NR_unlinkat, kept->pods, path, 0) < 0)
            return 0;
    }
    return sys_call3(__NR_symlinkat, kept->pod.uuid, kept->pods, path) == 0;
}

static void undo(const struct kept *kept, const char *from, const char *to)
{
    char path[PATH_SIZE], holder[UUID_LENGTH + 2];

    for (uint32_t i = 0; i < kept->recipe->file_count; i++)
        (void)sys_call3(__NR_unlinkat, kept->dir, text_of(kept, kept->files[i].name), 0);
    (void)sys_call3(__NR_unlinkat, kept->dir, "plan", 0);
    (void)sys_call3(__NR_unlinkat, kept->dir, "keeper", 0);
    (void)sys_call3(__NR_unlinkat, kept->pods, from, AT_REMOVEDIR);
    (void)sys_call3(__NR_unlinkat, kept->pods, to, AT_REMOVEDIR);
    if (kept->name[0] != '\0' && path_of(path, "names/", kept->name) &&
        sys_call4(__NR_readlinkat, kept->pods, path, holder, sizeof holder) == UUID_LENGTH && memcmp(holder, kept->pod.uuid, UUID_LENGTH) == 0)
        (void)sys_call3(__NR_unlinkat, kept->pods, path, 0);
}

void run_kept(const char *root, int pods, int recipes, int argc, char **argv, char **envp)
{
    static struct kept kept;
    char from[PATH_SIZE], to[PATH_SIZE];
    OWNED_FD dir = -1, above = -1;

    kept.pods = pods;
    if (!find(&kept, recipes, argc, argv, envp) || pod_begin(&kept.pod, pods) < 0 || !path_of(from, "preparing/", kept.pod.uuid) ||
        !path_of(to, "prepared/", kept.pod.uuid) || sys_call3(__NR_mkdirat, pods, from, 0700) < 0)
        return;
    dir = kept.dir = (int)sys_openat(pods, from, O_RDONLY | O_DIRECTORY, 0);
    above = out_of_the_way(pods);
    if (dir >= 0 && above >= 0 && sys_call2(__NR_flock, dir, LOCK_EX | LOCK_NB) == 0 && fill_directory(&kept) && claim(&kept) &&
        sys_call4(__NR_renameat, pods, from, pods, to) == 0) {
        OWNED_FD pod = out_of_the_way(dir);

        if (pod >= 0)
            become_keeper(root, above, pod, kept.pod.uuid, kept.recipe->detach ? "detach" : "front", envp);
    }
    if (sys_call3(__NR_faccessat, dir, "net", 0) < 0)
        undo(&kept, from, to);
    else if (path_of(from, "running/", kept.pod.uuid)) /* it has something in the host: Python finds a dead pod to sweep */
        (void)sys_call4(__NR_renameat, pods, to, pods, from);
}
