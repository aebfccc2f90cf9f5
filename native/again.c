/* `create` and `run` without Python: a container like one that was created before (see again_key.c for what is alike).
 *
 * Nothing is decided here, and nothing is told but success.  Whatever is not exactly as it was when Python decided, and whatever
 * goes wrong before the program runs, is undone and left to Python, which begins again and reports.  The steps are those of
 * pyrun.oci.create and pyrun.oci.start, in their order. */

#include "again.h"
#include "handover.h"
#include "oci_verbs.h"

static struct again again;

static int is_name(const char *id)
{
    size_t n = 0;

    for (; id[n] != '\0'; n++)
        if (!((id[n] >= 'a' && id[n] <= 'z') || (id[n] >= 'A' && id[n] <= 'Z') || (id[n] >= '0' && id[n] <= '9') || id[n] == '_' ||
              id[n] == '+' || id[n] == '-' || id[n] == '.'))
            return 0;
    return n > 0 && n <= 255 && id[0] != '.';
}

/* An option of create and run; 0 for one that only Python knows. */
static int option(struct again *a, int argc, char **argv, int *i, const char **bundle)
{
    const char *value;

    if ((value = value_of(argc, argv, i, "--bundle")) != 0 || (value = value_of(argc, argv, i, "-b")) != 0)
        *bundle = value;
    else if ((value = value_of(argc, argv, i, "--pid-file")) != 0)
        a->pid_file = value;
    else if (str_eq(argv[*i], "--no-pivot"))
        a->no_pivot = 1;
    else if (str_eq(argv[*i], "--no-new-keyring"))
        a->no_keyring = 1;
    else if (a->run && (str_eq(argv[*i], "--detach") || str_eq(argv[*i], "-d")))
        a->detach = 1;
    else if (a->run && str_eq(argv[*i], "--keep"))
        a->keep = 1;
    else
        return str_eq(argv[*i], "--no-subreaper");
    return 1;
}

static int understand(struct again *a, int argc, char **argv, const char **bundle)
{
    const char *value;
    int i = 1;

    a->root = "/run/pyrun-oci";
    *bundle = ".";
    for (; i < argc && argv[i][0] == '-'; i++) {
        if ((value = value_of(argc, argv, &i, "--root")) != 0)
            a->root = value;
        else if ((value = value_of(argc, argv, &i, "--cgroup-manager")) != 0 ? !str_eq(value, "cgroupfs")
                                                                              : !is_log(argc, argv, &i) &&
                                                                                    !is_log_format(value_of(argc, argv, &i, "--log-format")) &&
                                                                                    value_of(argc, argv, &i, "--log-level") == 0)
            return 0;
    }
    if (i >= argc || !is_straight(a->root) || !(str_eq(argv[i], "create") || str_eq(argv[i], "run")))
        return 0;
    a->run = argv[i++][0] == 'r';
    for (; i < argc; i++)
        if (argv[i][0] == '-') {
            if (!option(a, argc, argv, &i, bundle))
                return 0;
        } else if (a->id != 0) {
            return 0;
        } else {
            a->id = argv[i];
        }
    return a->id != 0 && is_name(a->id) && (*bundle)[0] != '\0' && (a->pid_file == 0 || a->pid_file[0] != '\0');
}

/* Root of the host, not of a user namespace, and no sockets that are to be handed on. */
static int is_plain_root(char **envp)
{
    static const char whole[] = "0 0 4294967295";
    OWNED_FD fd = (int)sys_openat(AT_FDCWD, "/proc/self/uid_map", O_RDONLY, 0);
    char text[256], words[64];
    long n = fd < 0 ? 0 : sys_read(fd, text, sizeof text);
    unsigned size = 0;

    for (long i = 0; i < n && size + 2 < sizeof words; i++)
        if (text[i] != ' ' && text[i] != '\n') {
            if (size > 0 && i > 0 && (text[i - 1] == ' ' || text[i - 1] == '\n'))
                words[size++] = ' ';
            words[size++] = text[i];
        }
    return sys_call0(__NR_geteuid) == 0 && from_environment(envp, "LISTEN_FDS")[0] == '\0' &&
           from_environment(envp, "NOTIFY_SOCKET")[0] == '\0' && size == sizeof whole - 1 && memcmp(words, whole, size) == 0;
}

static int find_bundle(struct again *a, const char *bundle)
{
    OWNED_FD fd = (int)sys_openat(AT_FDCWD, bundle, O_PATH | O_DIRECTORY, 0);
    char link[32];
    long n;

    if (fd < 0)
        return 0;
    (void)str_add_number(str_add(link, link + sizeof link, "/proc/self/fd/"), link + sizeof link, (uint64_t)fd);
    n = sys_call4(__NR_readlinkat, AT_FDCWD, link, a->bundle, sizeof a->bundle - 1);
    a->bundle[n > 0 ? n : 0] = '\0';
    a->base = sys_call3(__NR_faccessat, AT_FDCWD, "/sys/fs/cgroup/cgroup.controllers", 0) == 0           ? "/sys/fs/cgroup"
              : sys_call3(__NR_faccessat, AT_FDCWD, "/sys/fs/cgroup/unified/cgroup.controllers", 0) == 0 ? "/sys/fs/cgroup/unified"
                                                                                                          : "";
    return n > 0 && n < PATH_SIZE - 1 && a->bundle[0] == '/';
}

/* Whether what is particular to it fits to this configuration. */
static int fits(const struct again_recipe *head, const struct again *a)
{
    const uint64_t items = head->mounts + (uint64_t)head->variables;

    return head->mounts == a->mount_count && head->variables == a->variable_count && recipe_inside(head, head->order, 2 * items) &&
           head->order % 2 == 0 && head->root <= head->start.plan_size && head->start.plan_size - head->root >= PATH_SIZE &&
           head->helper < head->start.size && (head->id == 0 || recipe_inside(head, head->id, 64));
}

/* The recipe of this key, if it still holds; else 0. */
static struct again_recipe *find(const struct again *a)
{
    OWNED_FD dir = recipe_directory(a->root, "/.recipes");
    struct again_recipe *found =
        dir < 0 ? 0 : recipe_map(dir, a->key, a->key_size, AGAIN_MAGIC, AGAIN_VERSION, sizeof *found);

    return found != 0 && fits(found, a) && recipe_holds(found, sizeof *found) ? found : 0;
}

/* What Python needs to make a recipe of its decision. */
static int hand_over(const struct again *a)
{
    static char all[sizeof a->key + sizeof a->text + sizeof(struct again_key) + sizeof a->order];
    const struct again_key head = {AGAIN_MAGIC, a->mount_count, a->variable_count, a->key_size, a->passwd_size, a->size};
    const uint32_t order = 2 * (a->mount_count + a->variable_count), own = a->passwd_size == AGAIN_NONE ? 0 : a->passwd_size;
    char *at = all;

    memcpy(at, &head, sizeof head);
    memcpy(at += sizeof head, a->order, order);
    memcpy(at += order, a->key, a->key_size);
    memcpy(at += a->key_size, a->key + a->passwd, own);
    memcpy(at += own, a->text, a->size);
    return sealed("pyrun-oci-key", all, (size_t)(at - all) + a->size, 0);
}

int again_verb(int argc, char **argv, char **envp)
{
    struct again *a = &again;
    struct again_recipe *recipe;
    const char *bundle;

    if (!understand(a, argc, argv, &bundle) || !is_plain_root(envp))
        return -1;
    (void)sys_call3(__NR_close_range, 3, ~0U, 0); /* what a caller has leaked is no container's */
    if (!find_bundle(a, bundle) || !again_read(a))
        return -1;
    recipe = find(a);
    if (recipe == 0)
        return hand_over(a);
    again_make(a, recipe, (char *)recipe, envp);
    return -1;
}
