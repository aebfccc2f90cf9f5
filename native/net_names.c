/* Files of names: what pyrun.net.names does for a pod that comes.  The lock of networks is held.
 *
 * networks/NAME.hosts has a line for each address of a pod that has a name: ADDRESS NAME... # UUID.  The file `hosts` of each pod on
 * that network has a section `# network NAME` with the others' lines. */
#include "net_script.h"

#include "files.h"

#define HOSTS_SIZE (1 << 20) /* pyrun.net.names reads no more either */
#define MARK "# network "
#define OWNER " # "
#define OWNER_SIZE (sizeof OWNER - 1 + UUID_LENGTH)

struct text {
    char *data;
    size_t size, room;
    int full;
};

static void add(struct text *text, const char *data, size_t size)
{
    if (size > text->room - text->size) {
        text->full = 1;
        return;
    }
    memcpy(text->data + text->size, data, size);
    text->size += size;
}

static void add_string(struct text *text, const char *string)
{
    add(text, string, str_len(string));
}

/* A file as it is; nothing where there is none. */
static long read_all(int dir, const char *name, struct text *text)
{
    OWNED_FD fd = (int)sys_openat(dir, name, O_RDONLY | O_NOFOLLOW, 0);
    long n = fd;

    text->size = 0;
    while (fd >= 0 && text->size < text->room && (n = sys_read(fd, text->data + text->size, text->room - text->size)) > 0)
        text->size += (size_t)n;
    return text->size == text->room ? -EFBIG : n;
}

static char *list_of(char path[PATH_SIZE], const char *network, const char *end)
{
    return join(path, network, ".hosts", end);
}

static size_t line_at(const char *from, const char *end)
{
    size_t n = 0;

    while (from + n < end && from[n] != '\n')
        n++;
    return n;
}

static int is_of(const char *line, size_t size, const char *uuid)
{
    return size >= OWNER_SIZE && memcmp(line + size - UUID_LENGTH, uuid, UUID_LENGTH) == 0;
}

/* What a pod's file says about a network: it does not name the pod itself. */
static void add_section(struct text *to, const char *network, const struct text *list, const char *uuid)
{
    const char *end = list->data + list->size;

    add_string(to, MARK);
    add_string(to, network);
    add(to, "\n", 1);
    for (const char *line = list->data; line < end;) {
        const size_t size = line_at(line, end);

        if (size > OWNER_SIZE && !is_of(line, size, uuid)) {
            add(to, line, size - OWNER_SIZE);
            add(to, "\n", 1);
        }
        line += size + 1;
    }
}

/* In place, by one write(2): the pod has this very file mounted. */
static long overwrite(int dir, const struct text *text)
{
    OWNED_FD fd = (int)sys_openat(dir, "hosts", O_WRONLY | O_CREAT | O_NOFOLLOW, 0644);
    long r = fd < 0 ? fd : sys_call2(__NR_fchmod, fd, 0644);

    if (r == 0)
        r = sys_write(fd, text->data, text->size);
    if (r < 0)
        return r;
    return r == (long)text->size ? sys_call2(__NR_ftruncate, fd, text->size) : -EIO;
}

static const char *find(const char *from, const char *end, const char *what)
{
    const size_t size = str_len(what);

    for (; from + size <= end; from++)
        if (*from == *what && memcmp(from, what, size) == 0)
            return from;
    return 0;
}

static struct text lists, before, after;

static void clear(struct text *text, char *data)
{
    text->data = data;
    text->room = HOSTS_SIZE;
    text->size = 0;
    text->full = 0;
}

/* Of another pod: the section is replaced by what the list says now. */
static long renew(int pod, const char *network, const char *uuid)
{
    char head[512];
    const char *end, *mark, *rest;
    long r = read_all(pod, "hosts", &before);

    if (r < 0 || str_add(str_add(str_add(head, head + sizeof head, MARK), head + sizeof head, network), head + sizeof head, "\n") == 0)
        return r == -ENOENT ? 0 : r < 0 ? r : -EINVAL;
    end = before.data + before.size;
    mark = find(before.data, end, head);
    if (mark == 0)
        return 0;
    rest = find(mark + 1, end, MARK);
    after.size = 0;
    add(&after, before.data, (size_t)(mark - before.data));
    add_section(&after, network, &lists, uuid);
    if (rest != 0)
        add(&after, rest, (size_t)(end - rest));
    if (after.full)
        return -EFBIG;
    if (after.size == before.size && memcmp(after.data, before.data, after.size) == 0)
        return 0;
    return overwrite(pod, &after);
}

/* Its keeper moves it on, in this order, and asks for no lock of networks. */
static int directory_of(const struct net *net, const char *uuid)
{
    char path[PATH_SIZE];
    int fd = join(path, "../pods/prepared/", uuid, "") == 0 ? -1 : (int)sys_openat(net->networks, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);

    if (fd == -ENOENT && join(path, "../pods/running/", uuid, "") != 0)
        fd = (int)sys_openat(net->networks, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
    return fd;
}

/* The pods in a directory: the names there, or what its links say. */
static long renew_in(const struct net *net, const char *folder, const char *network, int links)
{
    OWNED_FD dir = (int)sys_openat(net->networks, folder, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
    char buffer[8192] __attribute__((aligned(8))), uuid[UUID_LENGTH + 1];
    long n = dir, r = 0;

    while (dir >= 0 && r == 0 && (n = sys_call3(__NR_getdents64, dir, buffer, sizeof buffer)) > 0)
        for (long at = 0; at < n && r == 0; at += *(unsigned short *)(buffer + at + 16)) {
            const char *name = buffer + at + 19;
            OWNED_FD pod = -1;

            if (links ? sys_call4(__NR_readlinkat, dir, name, uuid, sizeof uuid) != UUID_LENGTH : str_len(name) != UUID_LENGTH)
                continue;
            if (!links)
                memcpy(uuid, name, UUID_LENGTH);
            uuid[UUID_LENGTH] = '\0';
            pod = str_eq(uuid, net->uuid) ? -1 : directory_of(net, uuid);
            r = pod < 0 ? 0 : renew(pod, network, uuid);
        }
    return r < 0 ? r : n;
}

/* Whoever has an address on it or, where plug-ins lease them, every pod: who is not on it has no section of it. */
static long renew_all(const struct net *net, const char *network)
{
    static const char phases[][20] = {"../pods/prepared", "../pods/running"};
    long r = renew_in(net, network, network, 1);

    if (r != -ENOENT)
        return r;
    r = 0;
    for (size_t i = 0; i < sizeof phases / sizeof *phases && (r == 0 || r == -ENOENT); i++)
        r = renew_in(net, phases[i], network, 0);
    return r == -ENOENT ? 0 : r;
}

static void set_up(void)
{
    static char data[3][HOSTS_SIZE];

    clear(&lists, data[0]);
    clear(&before, data[1]);
    clear(&after, data[2]);
}

long net_name(const struct net *net, const struct net_op *op)
{
    const char *network = net->pool + op->word[0];
    static char own[1 << 16];
    char path[PATH_SIZE], beside[PATH_SIZE];
    const long n = net_text(net, op->word[1], op->word[2], own, sizeof own);
    long r;

    set_up();
    if (n < 0 || list_of(path, network, "") == 0 || list_of(beside, network, ".new") == 0)
        return n < 0 ? n : -ENAMETOOLONG;
    r = read_all(net->networks, path, &lists);
    if (r < 0 && r != -ENOENT)
        return r;
    add(&lists, own, (size_t)n);
    if (lists.full)
        return -EFBIG;
    r = write_file(net->networks, beside, O_CREAT | O_TRUNC, 0644, lists.data, lists.size);
    if (r == 0)
        r = sys_call4(__NR_renameat, net->networks, beside, net->networks, path);
    return r < 0 ? r : renew_all(net, network);
}

long net_forget(const struct net *net, const char *network)
{
    char path[PATH_SIZE], beside[PATH_SIZE];
    long r;

    set_up();
    if (list_of(path, network, "") == 0 || list_of(beside, network, ".new") == 0 || (r = read_all(net->networks, path, &before)) < 0)
        return -ENOENT;
    for (const char *line = before.data, *end = line + before.size; line < end;) {
        const size_t size = line_at(line, end);

        if (!is_of(line, size, net->uuid)) {
            add(&lists, line, size);
            add(&lists, "\n", 1);
        }
        line += size + 1;
    }
    if (lists.size == before.size)
        return 0;
    r = write_file(net->networks, beside, O_CREAT | O_TRUNC, 0644, lists.data, lists.size);
    if (r == 0)
        r = sys_call4(__NR_renameat, net->networks, beside, net->networks, path);
    return r < 0 ? r : renew_all(net, network);
}

long net_hosts(const struct net *net, const struct net_op *op)
{
    char path[PATH_SIZE];
    long r;

    set_up();
    r = net_text(net, op->word[0], op->word[1], after.data, after.room);
    if (r < 0)
        return r;
    after.size = (size_t)r;
    for (const char *network = net->pool + op->word[2]; *network != '\0'; network += str_len(network) + 1) {
        r = list_of(path, network, "") == 0 ? -ENAMETOOLONG : read_all(net->networks, path, &lists);
        if (r < 0 && r != -ENOENT)
            return r;
        add_section(&after, network, &lists, net->uuid);
    }
    return after.full ? -EFBIG : overwrite(net->pod, &after);
}
