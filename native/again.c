/* `create` and `run` without Python: a container like one that was created before (see again_key.c for what is alike).
 *
 * Nothing is decided here, and nothing is told but success.  Whatever is not exactly as it was when Python decided, and whatever
 * goes wrong before the program runs, is undone and left to Python, which begins again and reports.  The steps are those of
 * pyrun.oci.create and pyrun.oci.start, in their order. */

#include "again.h"
#include "handover.h"
#include "oci_verbs.h"
#include "plan.h"
#include "recipe.h"

#define RECIPES "/.recipes/"

struct recipe {
    char *data; /* private memory */
    const struct again_recipe *head;
};

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
        if (str_eq(argv[i], "--debug"))
            continue;
        if ((value = value_of(argc, argv, &i, "--root")) != 0)
            a->root = value;
        else if ((value = value_of(argc, argv, &i, "--cgroup-manager")) != 0 ? !str_eq(value, "cgroupfs")
                                                                              : value_of(argc, argv, &i, "--log") == 0 &&
                                                                                    value_of(argc, argv, &i, "--log-format") == 0 &&
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
    return sys_call0(__NR_geteuid) == 0 && from_environment(envp, "LISTEN_FDS")[0] == '\0' && size == sizeof whole - 1 &&
           memcmp(words, whole, size) == 0;
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

static int inside(const struct again_recipe *head, uint32_t at, uint64_t size)
{
    return at <= head->size && size <= head->size - at;
}

static int is_whole(const struct again_recipe *head, const struct again *a)
{
    const uint64_t items = head->mounts + (uint64_t)head->variables;

    return head->magic == AGAIN_MAGIC && head->version == AGAIN_VERSION && head->check_count > 0 && head->check_count <= 256 &&
           inside(head, sizeof *head, head->check_count * sizeof(struct recipe_check)) && inside(head, head->key, head->key_size) &&
           inside(head, head->plan, head->plan_size) && head->plan_size >= sizeof(struct plan_header) && head->plan % 8 == 0 &&
           head->mounts == a->mount_count && head->variables == a->variable_count && inside(head, head->order, 2 * items) &&
           head->order % 2 == 0 && head->root <= head->plan_size && head->plan_size - head->root >= PATH_SIZE &&
           head->helper < head->size &&
           (head->id == 0 || inside(head, head->id, 64)) && head->key_size == a->key_size &&
           memcmp((const char *)head + head->key, a->key, a->key_size) == 0;
}

/* The recipe of this key; it must be root's own file in a directory of his. */
static int load(const struct again *a, struct recipe *recipe)
{
    static const char digits[] = "0123456789abcdef";
    uint64_t hash = 0xcbf29ce484222325; /* FNV-1a */
    OWNED_FD dir = -1, fd = -1;
    char name[20], path[PATH_SIZE];
    struct stat st;
    long map;

    for (uint32_t i = 0; i < a->key_size; i++)
        hash = (hash ^ (unsigned char)a->key[i]) * 0x100000001b3;
    for (int i = 0; i < 16; i++)
        name[i] = digits[hash >> (60 - 4 * i) & 15];
    name[16] = '\0';
    dir = join(path, a->root, RECIPES, "") == 0 ? -1 : (int)sys_openat(AT_FDCWD, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
    if (dir < 0 || sys_fstat(dir, &st) < 0 || (st.st_mode & 07777) != 0700 || st.st_uid != 0)
        return 0;
    fd = (int)sys_openat(dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0);
    if (fd < 0 || sys_fstat(fd, &st) < 0 || (st.st_mode & (S_IFMT | 077)) != S_IFREG || st.st_uid != 0 ||
        st.st_size < (long)sizeof *recipe->head || st.st_size > PLAN_MAX_SIZE)
        return 0;
    map = sys_call6(__NR_mmap, 0, st.st_size, 3 /* read and write */, 2 /* private */, fd, 0);
    if ((unsigned long)map > -4096UL)
        return 0;
    recipe->data = (char *)map;
    recipe->head = (const struct again_recipe *)map;
    return recipe->head->size == st.st_size && recipe->data[st.st_size - 1] == '\0' && is_whole(recipe->head, a);
}

static int unchanged(const struct recipe *recipe)
{
    const struct recipe_check *check = (const struct recipe_check *)(recipe->head + 1);
    struct stat st;

    for (uint32_t i = 0; i < recipe->head->check_count; i++, check++)
        if (check->path >= recipe->head->size || sys_call4(__NR_newfstatat, AT_FDCWD, recipe->data + check->path, &st, 0) < 0 ||
            st.st_dev != check->device || st.st_ino != check->inode || (uint64_t)st.st_size != check->size ||
            st.st_mtime * 1000000000 + st.st_mtime_nsec != check->modified || st.st_ctime * 1000000000 + st.st_ctime_nsec != check->changed)
            return 0;
    return 1;
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
    struct recipe recipe;
    const char *bundle;

    if (!understand(a, argc, argv, &bundle) || !is_plain_root(envp))
        return -1;
    (void)sys_call3(__NR_close_range, 3, ~0U, 0); /* what a caller has leaked is no container's */
    if (!find_bundle(a, bundle) || !again_read(a))
        return -1;
    if (!load(a, &recipe) || !unchanged(&recipe))
        return hand_over(a);
    again_make(a, recipe.head, recipe.data, envp);
    return -1;
}
