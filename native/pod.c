/* A pod on disk and its cgroup, from a recipe: what the launcher and the library share.
 *
 * Raw system calls that touch no errno: the launcher has no libc, and in the library a process that shares the
 * interpreter's memory runs beside. */
#include "pod.h"
#include "handover.h"
#include "link.h"

long pod_begin(struct pod *pod, int pods)
{
    static const char digits[] = "0123456789abcdef";
    unsigned char random[16];
    char *at = pod->uuid;
    long r = sys_call3(__NR_getrandom, random, sizeof random, 0);

    pod->pods = pods;
    pod->dir = pod->parent = pod->own = -1;
    pod->cgroup[0] = '\0';
    if (r != sizeof random)
        return r < 0 ? r : -EIO;
    random[6] = (unsigned char)((random[6] & 0x0f) | 0x40);
    random[8] = (unsigned char)((random[8] & 0x3f) | 0x80);
    for (int i = 0; i < 16; i++) {
        *at++ = digits[random[i] >> 4];
        *at++ = digits[random[i] & 15];
        if (i == 3 || i == 5 || i == 7 || i == 9)
            *at++ = '-';
    }
    *at = '\0';
    (void)str_add(str_add(pod->cgroup_name, pod->cgroup_name + sizeof pod->cgroup_name, "pyrun-"),
                  pod->cgroup_name + sizeof pod->cgroup_name, pod->uuid);
    return 0;
}

static void fill_in(const struct pod *pod, char *data, size_t size)
{
    for (size_t i = 0; i + UUID_LENGTH <= size; i++)
        if (data[i] == pod->blank[0] && memcmp(data + i, pod->blank, UUID_LENGTH) == 0)
            memcpy(data + i, pod->uuid, UUID_LENGTH);
}

long pod_plan(const struct pod *pod, char *plan, size_t size, uint32_t flags)
{
    uint32_t held;

    fill_in(pod, plan, size);
    memcpy(&held, plan + offsetof(struct plan_header, flags), sizeof held);
    held |= flags | PLAN_HAS_POD | (pod->own >= 0 ? PLAN_HAS_CGROUP : 0);
    memcpy(plan + offsetof(struct plan_header, flags), &held, sizeof held);
    return sealed("pyrun-plan", plan, size, 0);
}

/* The pod's record names the cgroup before there is one, so that whoever finds the pod can remove it. */
static void name_cgroup(struct pod *pod)
{
    char above[PATH_SIZE];

    if (!find_cgroup(above) || join(pod->cgroup, above, "/", pod->cgroup_name) == 0)
        pod->cgroup[0] = '\0';
    else
        pod->parent = (int)sys_openat(AT_FDCWD, above, O_RDONLY | O_DIRECTORY, 0);
}

static void make_cgroup(struct pod *pod)
{
    if (pod->parent >= 0 && sys_call3(__NR_mkdirat, pod->parent, pod->cgroup_name, 0755) == 0)
        pod->own = (int)sys_openat(pod->parent, pod->cgroup_name, O_RDONLY | O_DIRECTORY, 0);
}

/* The record's last members.  A cgroup with a name that JSON would have to escape is not for here. */
static long write_record(const struct pod *pod, char *record, size_t size)
{
    char tail[PATH_SIZE + 128];
    const char *end = tail + sizeof tail;
    struct __kernel_timespec now = {0, 0};
    struct {
        const void *base;
        size_t length;
    } parts[2] = {{record, size}, {tail, 0}};
    OWNED_FD fd = -1;
    char *at;
    long n;

    for (const char *c = pod->cgroup; *c != '\0'; c++)
        if (*c == '"' || *c == '\\' || (unsigned char)*c < 0x20 || (unsigned char)*c >= 0x7f)
            return -EINVAL;
    (void)sys_call2(__NR_clock_gettime, 0, &now);
    at = str_add(tail, end, ",\"created\":");
    at = at == 0 ? 0 : str_add_number(at, end, (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec);
    at = str_add(str_add(str_add(at, end, ",\"cgroup\":\""), end, pod->cgroup), end, "\"}");
    if (at == 0)
        return -ENAMETOOLONG;
    parts[1].length = (size_t)(at - tail);
    fill_in(pod, record, size);
    fd = (int)sys_openat(pod->dir, "pod", O_WRONLY | O_CREAT | O_EXCL, 0600);
    n = fd < 0 ? fd : sys_call3(__NR_writev, fd, parts, 2);
    return n < 0 ? n : (size_t)n == size + parts[1].length ? 0 : -EIO;
}

static void path_of(char path[64], const char *phase, const char *uuid)
{
    (void)str_add(str_add(path, path + 64, phase), path + 64, uuid);
}

static long make_directory(struct pod *pod, char *record, size_t size)
{
    char from[64], to[64];
    long r;

    path_of(from, "preparing/", pod->uuid);
    path_of(to, "running/", pod->uuid);
    r = sys_call3(__NR_mkdirat, pod->pods, from, 0700);
    if (r < 0)
        return r;
    r = pod->dir = (int)sys_openat(pod->pods, from, O_RDONLY | O_DIRECTORY, 0);
    if (r >= 0)
        r = sys_call2(__NR_flock, pod->dir, LOCK_EX | LOCK_NB);
    if (r == 0)
        r = write_record(pod, record, size);
    if (r == 0)
        r = sys_call4(__NR_renameat, pod->pods, from, pod->pods, to);
    if (r < 0) {
        (void)sys_call3(__NR_unlinkat, pod->dir, "pod", 0);
        (void)sys_call3(__NR_unlinkat, pod->pods, from, AT_REMOVEDIR);
    }
    return r;
}

static void close_one(int *fd)
{
    if (*fd >= 0)
        sys_close(*fd);
    *fd = -1;
}

long pod_make(struct pod *pod, char *record, size_t size)
{
    long r;

    if (size < sizeof RECIPE_RECORD + UUID_LENGTH || memcmp(record, RECIPE_RECORD, sizeof RECIPE_RECORD - 1) != 0)
        return -EINVAL;
    memcpy(pod->blank, record + sizeof RECIPE_RECORD - 1, UUID_LENGTH);
    name_cgroup(pod);
    r = make_directory(pod, record, size);
    if (r == 0) {
        make_cgroup(pod);
        return 0;
    }
    close_one(&pod->dir);
    close_one(&pod->parent);
    return r;
}

void pod_undo(struct pod *pod)
{
    char path[64];

    if (pod->own >= 0)
        (void)sys_call3(__NR_unlinkat, pod->parent, pod->cgroup_name, AT_REMOVEDIR);
    if (pod->dir >= 0) {
        path_of(path, "running/", pod->uuid);
        (void)sys_call3(__NR_unlinkat, pod->dir, "pod", 0);
        (void)sys_call3(__NR_unlinkat, pod->pods, path, AT_REMOVEDIR);
    }
    close_one(&pod->own);
    close_one(&pod->dir);
    close_one(&pod->parent);
}

long send_slots(int control, const int slots[SLOT_COUNT])
{
    struct link_message message;
    int given[SLOT_COUNT];
    unsigned count = 0;
    long r;

    for (int i = 0; i < SLOT_COUNT; i++)
        if (i != SLOT_CONTROL && slots[i] >= 0)
            given[count++] = slots[i];
    link_message_init(&message, 'S', count);
    memcpy(message.control.fds, given, sizeof(int) * count);
    r = sys_call3(__NR_sendmsg, control, &message.header, 0x4000 /* MSG_NOSIGNAL */);
    return r < 0 ? r : 0;
}
