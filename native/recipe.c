/* Finding a recipe and judging whether it still holds; see recipe.h. */
#include "handover.h"
#include "recipe.h"

#define MOST_CHECKS 256

int recipe_directory(const char *root, const char *below)
{
    char path[PATH_SIZE];
    struct stat st;
    const int fd = join(path, root, below, "") == 0 ? -1 : (int)sys_openat(AT_FDCWD, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);

    if (fd < 0 || (sys_fstat(fd, &st) == 0 && (st.st_mode & 07777) == 0700 && st.st_uid == 0))
        return fd;
    sys_close(fd);
    return -1;
}

/* FNV-1a, in hexadecimal */
static void name_of(char name[17], const char *key, size_t size)
{
    static const char digits[] = "0123456789abcdef";
    uint64_t hash = 0xcbf29ce484222325;

    for (size_t i = 0; i < size; i++)
        hash = (hash ^ (unsigned char)key[i]) * 0x100000001b3;
    for (int i = 0; i < 16; i++)
        name[i] = digits[hash >> (60 - 4 * i) & 15];
    name[16] = '\0';
}

int recipe_inside(const void *recipe, uint64_t at, uint64_t size)
{
    const struct recipe_start *start = recipe;

    return at <= start->size && size <= start->size - at;
}

void *recipe_map(int dir, const char *key, uint32_t key_size, uint32_t magic, uint32_t version, size_t header)
{
    char name[17];
    const struct recipe_start *start;
    struct stat st;
    long map;

    name_of(name, key, key_size);
    OWNED_FD fd = (int)sys_openat(dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0);
    if (fd < 0 || sys_fstat(fd, &st) < 0 || (st.st_mode & (S_IFMT | 077)) != S_IFREG || st.st_uid != 0 || st.st_size < (long)header ||
        st.st_size > PLAN_MAX_SIZE)
        return 0;
    map = sys_call6(__NR_mmap, 0, st.st_size, 3 /* read and write */, 2 /* private */, fd, 0);
    if ((unsigned long)map > -4096UL)
        return 0;
    start = (const struct recipe_start *)map;
    if (start->magic != magic || start->version != version || start->size != st.st_size || ((const char *)map)[st.st_size - 1] != '\0' ||
        start->check_count == 0 || start->check_count > MOST_CHECKS ||
        !recipe_inside(start, header, start->check_count * sizeof(struct recipe_check)) ||
        start->key_size != key_size || !recipe_inside(start, start->key, key_size) ||
        memcmp((const char *)map + start->key, key, key_size) != 0 || start->plan % 8 != 0 ||
        !recipe_inside(start, start->plan, start->plan_size) || start->plan_size < sizeof(struct plan_header))
        return 0;
    return (void *)map;
}

int recipe_there(int dir, const char *key, uint32_t key_size)
{
    char name[17];

    name_of(name, key, key_size);
    return sys_call3(__NR_faccessat, dir, name, 0) == 0;
}

static int as_before(const struct recipe_check *check, const char *path)
{
    struct stat st;
    const long r = sys_call4(__NR_newfstatat, AT_FDCWD, path, &st, 0);

    if (check->kind == RECIPE_ABSENT)
        return r == -ENOENT;
    if (check->kind != 0)
        return r == 0 && (st.st_mode & S_IFMT) == check->kind;
    return r == 0 && st.st_dev == check->device && st.st_ino == check->inode && (uint64_t)st.st_size == check->size &&
           st.st_mtime * 1000000000 + st.st_mtime_nsec == check->modified &&
           st.st_ctime * 1000000000 + st.st_ctime_nsec == check->changed;
}

int recipe_holds(const void *recipe, size_t header)
{
    const struct recipe_start *start = recipe;
    const struct recipe_check *check = (const void *)((const char *)recipe + header);

    for (uint32_t i = 0; i < start->check_count; i++, check++)
        if (check->path >= start->size || !as_before(check, (const char *)recipe + check->path))
            return 0;
    return 1;
}

int recipe_stamps_hold(const void *stamps, uint64_t room)
{
    const struct recipe_stamps *head = stamps;

    return room >= sizeof *head && head->magic == RECIPE_STAMPS_MAGIC && head->version == RECIPE_STAMPS_VERSION && head->size <= room &&
           head->check_count > 0 && head->check_count <= MOST_CHECKS &&
           sizeof *head + head->check_count * sizeof(struct recipe_check) < head->size &&
           ((const char *)stamps)[head->size - 1] == '\0' && recipe_holds(stamps, sizeof *head);
}

int recipe_bundle(const char *start, const char *name, const char *minor, const struct recipe_stamps **stamps)
{
    char path[PATH_SIZE];
    const char *end = path + sizeof path;
    struct stat st;
    char *at = str_add(path, end, start);
    long map = -1;
    int fd;

    for (int names = 0; at != 0 && at > path && names < 2; names++) { /* its name, and its directory's */
        at--;
        while (at > path && at[-1] != '/')
            at--;
    }
    at = str_add(str_add(str_add(str_add(at, end, "__pycache__/"), end, name), end, ".cpython-3"), end, minor);
    if (str_add(at, end, ".bundle") == 0)
        return -1;
    fd = (int)sys_openat(AT_FDCWD, path, O_RDONLY | O_NONBLOCK, 0);
    if (fd >= 0 && sys_fstat(fd, &st) == 0 && st.st_size >= (long)sizeof(struct recipe_stamps))
        map = sys_call6(__NR_mmap, 0, st.st_size, 1 /* read */, 2 /* private */, fd, 0);
    *stamps = (const struct recipe_stamps *)map;
    if (map > 0 && (*stamps)->file_size == st.st_size)
        return fd;
    if (fd >= 0)
        sys_close(fd);
    return -1;
}
