/* The key of a configuration: all that decides, with a blank for what differs between two containers of a kind.
 *
 * The key is config.json itself, byte for byte, but that
 *
 *   - the container's id, if that is 64 hexadecimal digits, and its first 12 where they stand alone, are BLANKs of the same length,
 *   - so are 64 hexadecimal digits in the source of a mount,
 *   - root.path, linux.cgroupsPath, the paths of namespaces and the values of annotations are gone (VALUE),
 *   - mounts and variables stand in the order of their texts: clients that keep them in hash tables send them in any,
 *
 * and in front of it what else decides, and which installation it is.  Nothing is checked here: outside of the blanks it is, letter by letter, the text that
 * Python has read and found good, and inside of them are plain characters. */
#include "again.h"

#define ID_LENGTH 64
#define SHORT_LENGTH 12
#define ANNOTATIONS 64
#define PASSWD_MAX 65536
#define BLANK '\1'
#define VALUE '\2'

enum { TOP_VERSION, TOP_PROCESS, TOP_ROOT, TOP_MOUNTS, TOP_ANNOTATIONS, TOP_LINUX, TOP_COUNT };
enum cut_kind { CUT_VALUE, CUT_MOUNTS, CUT_VARIABLES };

struct cut {
    struct span span;
    enum cut_kind kind;
};

struct writer {
    struct again *a;
    char *at, *end;
    int has_id, failed, quoted;
};

static int is_hex(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
}

static void put(struct writer *w, char c)
{
    if (w->at < w->end)
        *w->at++ = c;
    else
        w->failed = 1;
}

static void put_bytes(struct writer *w, const char *from, uint32_t size)
{
    for (uint32_t i = 0; i < size; i++)
        put(w, from[i]);
}

/* Whether the id, or its beginning, is in there. */
static int has_part(const struct writer *w, const char *bytes, uint32_t size)
{
    for (uint32_t i = 0; w->has_id && i + SHORT_LENGTH <= size; i++)
        if (memcmp(bytes + i, w->a->id, SHORT_LENGTH) == 0)
            return 1;
    return 0;
}

/* A run of hexadecimal digits.  Part of an id that is not told apart from its surroundings could not be put in place again, and one
 * outside of a string, or of decimal digits alone, may be a number, which the plan has in another form. */
static void put_run(struct writer *w, const char *run, uint32_t size, int escaped, int any)
{
    const char *id = w->a->id;
    const int plain = w->quoted && !escaped;
    const int whole = plain && size == ID_LENGTH && (any || (w->has_id && memcmp(run, id, ID_LENGTH) == 0));
    const int part = plain && w->has_id && size == SHORT_LENGTH && memcmp(run, id, SHORT_LENGTH) == 0;
    int letters = any;

    w->failed |= !whole && !part && has_part(w, run, size);
    for (uint32_t i = 0; i < size; i++) {
        letters |= run[i] > '9';
        put(w, whole || part ? BLANK : run[i]);
    }
    w->failed |= (whole || part) && !letters;
}

/* `any`: digits that are no id are blanks too. */
static void put_text(struct writer *w, uint32_t from, uint32_t to, int any)
{
    const char *text = w->a->text;

    while (from < to) {
        uint32_t end = from;

        while (end < to && is_hex(text[end]))
            end++;
        if (end > from) {
            put_run(w, text + from, end - from, from >= 2 && text[from - 1] == 'u' && text[from - 2] == '\\', any);
            from = end;
            continue;
        }
        if ((text[from] >= 0 && text[from] < 9) || (w->has_id && text[from] == '\\' && text[from + 1] == 'u' && text[from + 2] == '0' &&
                                                    text[from + 3] == '0' && (text[from + 4] == '3' || text[from + 4] == '6')))
            w->failed = 1; /* one of ours, or a digit in disguise */
        w->quoted ^= text[from] == '"';
        if (text[from] == '\\' && from + 1 < to)
            put(w, text[from++]); /* and what is escaped by it: neither a quote nor the first of some digits */
        put(w, text[from++]);
    }
}

/* Where texts of `count` items stand, sorted: order[i] is the number of the one that comes i-th. */
static void sort(const struct span *texts, const char *base, uint16_t *order, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        uint32_t at = i;

        for (; at > 0; at--) {
            const struct span one = texts[order[at - 1]], two = texts[i];
            const int less = memcmp(base + two.at, base + one.at, one.size < two.size ? one.size : two.size);

            if (less > 0 || (less == 0 && two.size >= one.size))
                break;
            order[at] = order[at - 1];
        }
        order[at] = (uint16_t)i;
    }
}

/* An array with its elements in the order of their texts, and what is between them where it is. */
static void put_sorted(struct writer *w, struct span array, const struct span *items, const struct span *sources, uint32_t count,
                       uint16_t *order)
{
    static char scratch[AGAIN_TEXT];
    struct writer part = {w->a, scratch, scratch + sizeof scratch, w->has_id, 0, 0};
    struct span texts[AGAIN_ITEMS];
    uint32_t at = array.at;

    for (uint32_t i = 0; i < count; i++) {
        const uint32_t end = items[i].at + items[i].size, start = (uint32_t)(part.at - scratch);
        const struct span source = sources != 0 && sources[i].size > 0 ? sources[i] : (struct span){end, 0};

        put_text(&part, items[i].at, source.at, 0);
        put_text(&part, source.at, source.at + source.size, 1);
        put_text(&part, source.at + source.size, end, 0);
        texts[i] = (struct span){start, (uint32_t)(part.at - scratch) - start};
    }
    sort(texts, scratch, order, count);
    w->failed |= part.failed;
    for (uint32_t i = 0; i < count; i++) {
        put_text(w, at, items[i].at, 0);
        put_bytes(w, scratch + texts[order[i]].at, texts[order[i]].size);
        at = items[i].at + items[i].size;
    }
    put_text(w, at, array.at + array.size, 0);
}

static void put_cuts(struct writer *w, struct cut *cuts, int count)
{
    struct again *a = w->a;
    uint32_t at = 0;

    for (int i = 1; i < count; i++)
        for (int j = i; j > 0 && cuts[j].span.at < cuts[j - 1].span.at; j--) {
            const struct cut one = cuts[j];

            cuts[j] = cuts[j - 1];
            cuts[j - 1] = one;
        }
    for (int i = 0; i < count; i++) {
        put_text(w, at, cuts[i].span.at, 0);
        if (cuts[i].kind == CUT_VALUE)
            put(w, VALUE);
        else if (cuts[i].kind == CUT_MOUNTS)
            put_sorted(w, cuts[i].span, a->mounts, a->sources, a->mount_count, a->order);
        else
            put_sorted(w, cuts[i].span, a->variables, 0, a->variable_count, a->order + a->mount_count);
        at = cuts[i].span.at + cuts[i].span.size;
    }
    put_text(w, at, a->size, 0);
}

static int annotations(struct again *a, struct span object, struct cut *cuts, int count)
{
    struct members members = json_members(a, object);
    struct span name, value;

    a->annotations.size = 0;
    if (object.size == 0)
        return count;
    while (json_next(a, &members, &name, &value)) {
        if (count > ANNOTATIONS || !json_plain(a, value, &value))
            return -1;
        a->annotations = object;
        cuts[count++] = (struct cut){value, CUT_VALUE};
    }
    return members.json.bad ? -1 : count;
}

/* Namespaces by path, of the kinds for which nothing but the path matters. */
static int spaces(struct again *a, struct span array, struct cut *cuts, int count)
{
    static const char kinds[][16] = {"pid", "network", "ipc", "uts", "cgroup", "time"}, members[2][16] = {"type", "path"};
    static const uint64_t flags[] = {CLONE_NEWPID, CLONE_NEWNET, CLONE_NEWIPC, CLONE_NEWUTS, CLONE_NEWCGROUP, CLONE_NEWTIME};
    struct span all[AGAIN_ITEMS], found[2], kind, path;
    uint32_t many;

    if (!json_elements(a, array, all, &many))
        return -1;
    for (uint32_t i = 0; i < many; i++) {
        if (!json_find(a, all[i], members, found, 2))
            return -1;
        if (found[1].size == 0 || !json_plain(a, found[0], &kind) || !json_plain(a, found[1], &path) || path.size == 0)
            continue;
        for (unsigned k = 0; k < sizeof flags / sizeof *flags; k++)
            if (kind.size == str_len(kinds[k]) && memcmp(a->text + kind.at, kinds[k], kind.size) == 0) {
                if (a->join_count == AGAIN_SPACES || path.size >= AGAIN_JOIN || a->text[path.at] != '/')
                    return -1;
                a->join_kinds[a->join_count] = flags[k];
                a->joins[a->join_count++] = path;
                cuts[count++] = (struct cut){path, CUT_VALUE};
            }
    }
    return count;
}

/* Sources of mounts; 1 when one may be below the bundle, -1 for what is not understood. */
static int sources(struct again *a)
{
    int relative = 0;

    for (uint32_t i = 0; i < a->mount_count; i++) {
        const struct span mount = a->mounts[i];
        struct span source;

        if (!json_find(a, mount, (const char[1][16]){"source"}, &source, 1))
            return -1;
        if (source.size != 0 && (!json_plain(a, source, &a->sources[i]) || a->text[a->sources[i].at] != '/')) {
            for (uint32_t at = mount.at; at < mount.at + mount.size; at++) {
                if (a->text[at] == '\\') /* the word may be in disguise */
                    return -1;
                relative |= memcmp(a->text + at, "bind", 4) == 0;
            }
            a->sources[i].size = 0;
        }
    }
    return relative;
}

/* Python would look there for the directory of the user. */
static int passwd(struct again *a, struct writer *w)
{
    const struct open_how how = {.flags = O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS};
    OWNED_FD root = (int)sys_openat(AT_FDCWD, a->rootfs, O_PATH | O_DIRECTORY, 0), fd = -1;
    struct stat st;
    long n = 0;

    w->at += sizeof a->passwd_size; /* in front of it */
    a->passwd = (uint32_t)(w->at - a->key);
    if (root < 0 || w->end - w->at < PASSWD_MAX)
        return 0;
    fd = (int)sys_call4(__NR_openat2, root, "etc/passwd", &how, sizeof how);
    if (fd >= 0 && sys_fstat(fd, &st) == 0 && (st.st_mode & S_IFMT) == S_IFREG)
        n = sys_read(fd, w->at, PASSWD_MAX);
    if (n < 0 || n == PASSWD_MAX)
        return 0;
    a->passwd_size = (uint32_t)n;
    memcpy(w->at - sizeof a->passwd_size, &a->passwd_size, sizeof a->passwd_size);
    w->at += n;
    return !has_part(w, a->key + a->passwd, a->passwd_size); /* HOME would become another's */
}

static int read_text(struct again *a)
{
    char path[PATH_SIZE];
    OWNED_FD fd = join(path, a->bundle, "/config.json", "") == 0 ? -1 : (int)sys_openat(AT_FDCWD, path, O_RDONLY | O_NONBLOCK, 0);
    long n;

    while (fd >= 0 && (n = sys_read(fd, a->text + a->size, sizeof a->text - 8 - a->size)) != 0) {
        if (n < 0)
            return 0;
        a->size += (uint32_t)n;
    }
    return a->size > 0 && a->size < sizeof a->text - 8;
}

/* The path of this launcher. */
static void put_installation(struct writer *w)
{
    char path[PATH_SIZE];
    const long n = sys_call4(__NR_readlinkat, AT_FDCWD, "/proc/self/exe", path, sizeof path);

    w->failed |= n <= 0 || n == sizeof path;
    put_bytes(w, path, n <= 0 ? 0 : (uint32_t)n);
    put(w, '\0');
}

/* The caller's own file mode mask and capabilities, which a configuration may leave as they are, and how to go about it. */
static void put_caller(struct writer *w, int relative, int home)
{
    const struct again *a = w->a;
    const uint32_t bundle = relative ? (uint32_t)str_len(a->bundle) + 1 : 0;
    const long mask = sys_call1(__NR_umask, 022);

    (void)sys_call1(__NR_umask, mask);
    put_bytes(w, (const char *)&mask, sizeof mask);
    for (int i = 0; i < 64; i++)
        put(w, (char)('0' + (sys_call5(__NR_prctl, PR_CAPBSET_READ, i, 0, 0, 0) == 1)));
    put(w, (char)('0' + a->no_pivot));
    put(w, (char)('0' + a->no_keyring));
    put(w, (char)('0' + w->has_id));
    put(w, (char)('0' + relative));
    put(w, (char)('0' + home));
    put_bytes(w, a->base, (uint32_t)str_len(a->base) + 1);
    put_bytes(w, a->bundle, bundle);
    w->failed |= has_part(w, a->bundle, bundle); /* as would sources below it */
}

static int is_id(const char *id)
{
    uint32_t n = 0;

    while (is_hex(id[n]))
        n++;
    return n == ID_LENGTH && id[n] == '\0';
}

int again_read(struct again *a)
{
    static const char names[TOP_COUNT][16] = {"ociVersion", "process", "root", "mounts", "annotations", "linux"};
    struct writer w = {a, a->key, a->key + sizeof a->key, is_id(a->id), 0, 0};
    static const char linux_names[2][16] = {"cgroupsPath", "namespaces"};
    struct cut cuts[ANNOTATIONS + AGAIN_SPACES + 5];
    struct span top[TOP_COUNT], env, path, own[2];
    int count = 0, relative, home = 0;

    if (!read_text(a) || !json_find(a, (struct span){0, a->size}, names, top, TOP_COUNT) ||
        !json_find(a, top[TOP_PROCESS], (const char[1][16]){"env"}, &env, 1) ||
        !json_find(a, top[TOP_ROOT], (const char[1][16]){"path"}, &path, 1) ||
        !json_find(a, top[TOP_LINUX], linux_names, own, 2) || !json_plain(a, path, &a->path) || a->path.size == 0 ||
        !json_plain(a, top[TOP_VERSION], &a->version) || !json_elements(a, top[TOP_MOUNTS], a->mounts, &a->mount_count) ||
        !json_elements(a, env, a->variables, &a->variable_count) || (relative = sources(a)) < 0)
        return 0;
    a->version = top[TOP_VERSION];
    cuts[count++] = (struct cut){a->path, CUT_VALUE};
    if (own[0].size != 0) {
        if (!json_plain(a, own[0], &a->cgroups))
            return 0;
        cuts[count++] = (struct cut){a->cgroups, CUT_VALUE};
    }
    if ((count = annotations(a, top[TOP_ANNOTATIONS], cuts, count)) < 0 || (count = spaces(a, own[1], cuts, count)) < 0)
        return 0;
    if (a->mount_count > 0)
        cuts[count++] = (struct cut){top[TOP_MOUNTS], CUT_MOUNTS};
    if (a->variable_count > 0)
        cuts[count++] = (struct cut){env, CUT_VARIABLES};
    a->text[a->path.at + a->path.size] = '\0'; /* for a moment */
    path.size = a->text[a->path.at] == '/' ? join(a->rootfs, a->text + a->path.at, "", "") != 0
                                           : join(a->rootfs, a->bundle, "/", a->text + a->path.at) != 0;
    a->text[a->path.at + a->path.size] = '"';
    for (uint32_t i = 0; i < a->variable_count; i++)
        home |= a->variables[i].size > 6 && memcmp(a->text + a->variables[i].at, "\"HOME=", 6) == 0;
    if (path.size == 0)
        return 0;
    put_installation(&w);
    put_caller(&w, relative, home);
    a->passwd_size = AGAIN_NONE;
    if (!home && !passwd(a, &w))
        return 0;
    put_cuts(&w, cuts, count);
    a->key_size = (uint32_t)(w.at - a->key);
    return !w.failed;
}
