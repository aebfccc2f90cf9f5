/* What a container has on disk once it is made: see pyrun.oci.state.  All texts are plain characters, looked at before. */
#include "again.h"
#include "files.h"
#include "shared.h"

struct page {
    char text[AGAIN_TEXT + 4 * PATH_SIZE + 2048], *at;
};

static void add(struct page *page, const char *text)
{
    page->at = str_add(page->at, page->text + sizeof page->text, text);
}

static void add_number(struct page *page, uint64_t number)
{
    page->at = page->at == 0 ? 0 : str_add_number(page->at, page->text + sizeof page->text, number);
}

static void add_span(struct page *page, const struct again *a, struct span span)
{
    if (page->at == 0 || page->text + sizeof page->text - page->at <= (long)span.size) {
        page->at = 0;
        return;
    }
    memcpy(page->at, a->text + span.at, span.size);
    page->at += span.size;
    *page->at = '\0';
}

/* An object of plain strings without the blanks between them, as Python writes it. */
static void add_object(struct page *page, const struct again *a, struct span span)
{
    const char *from = a->text + span.at, *end = from + span.size;
    int quoted = 0;

    if (page->at == 0 || page->text + sizeof page->text - page->at <= (long)span.size) {
        page->at = 0;
        return;
    }
    for (; from < end; from++) {
        quoted ^= *from == '"';
        if (quoted || *from > ' ')
            *page->at++ = *from;
    }
    *page->at = '\0';
}

static void add_padded(struct page *page, uint64_t number, unsigned width)
{
    char digits[24];

    for (unsigned i = width; i > 0; i--, number /= 10)
        digits[i - 1] = (char)('0' + number % 10);
    digits[width] = '\0';
    add(page, digits);
}

/* UTC, as RFC 3339 has it; the days of a year that begins in March, so that the odd one comes last. */
static void add_time(struct page *page, uint64_t now)
{
    const uint64_t seconds = now / 1000000000, days = seconds / 86400 + 719468, left = seconds % 86400;
    const uint64_t era = days / 146097, of_era = days % 146097;
    const uint64_t years = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
    const uint64_t day = of_era - (365 * years + years / 4 - years / 100), month = (5 * day + 2) / 153;

    add_padded(page, years + era * 400 + (month >= 10), 4);
    add(page, "-");
    add_padded(page, month < 10 ? month + 3 : month - 9, 2);
    add(page, "-");
    add_padded(page, day - (153 * month + 2) / 5 + 1, 2);
    add(page, "T");
    add_padded(page, left / 3600, 2);
    add(page, ":");
    add_padded(page, left / 60 % 60, 2);
    add(page, ":");
    add_padded(page, left % 60, 2);
    add(page, ".");
    add_padded(page, now % 1000000000, 9);
    add(page, "Z");
}

static void add_member(struct page *page, const char *between, const char *name, const char *value)
{
    add(page, between);
    add(page, name);
    add(page, "\"");
    add(page, value);
    add(page, "\"");
}

static void add_rest(struct page *page, const struct again *a, const char *between, uint64_t now)
{
    add_member(page, between, "\"bundle\": ", a->bundle);
    add_member(page, between, "\"rootfs\": ", a->rootfs);
    add(page, between);
    add(page, "\"created\": \"");
    add_time(page, now);
    add(page, "\"");
    add_member(page, between, "\"owner\": ", "root");
    if (a->annotations.size > 0) {
        add(page, between);
        add(page, "\"annotations\": ");
        add_object(page, a, a->annotations);
    }
}

static long save(const struct page *page, int dir, const char *name)
{
    return page->at == 0 ? -ENAMETOOLONG : replace_file(dir, name, page->text, (size_t)(page->at - page->text), 0);
}

static long write_state(struct page *page, const struct again *a, int dir, int32_t pid, uint64_t started, uint64_t now)
{
    page->at = page->text;
    add(page, "{\"ociVersion\": ");
    add_span(page, a, a->version);
    add_member(page, ", ", "\"id\": ", a->id);
    add_rest(page, a, ", ", now);
    if (a->group[0] != '\0')
        add_member(page, ", ", "\"cgroup\": ", a->group);
    add(page, ", \"pid\": ");
    add_number(page, (uint64_t)pid);
    add(page, ", \"startTime\": ");
    add_number(page, started);
    add(page, "}");
    return save(page, dir, "state");
}

/* As `state` prints it, with a hole for what changes. */
static long write_fast(struct page *page, const struct again *a, int dir, int32_t pid, uint64_t started, uint64_t now, const char *helper)
{
    page->at = page->text;
    add_number(page, (uint64_t)pid);
    add(page, "\n");
    add_number(page, started);
    add(page, "\n");
    add(page, a->group);
    add(page, "\n\n{\n  \"ociVersion\": ");
    add_span(page, a, a->version);
    add_member(page, ",\n  ", "\"id\": ", a->id);
    add(page, ",\n  \"pid\": ");
    if (page->at != 0)
        page->at++; /* keeps the NUL */
    add_rest(page, a, ",\n  ", now);
    add(page, "\n}\n");
    if (page->at != 0)
        page->at++;
    add(page, helper);
    return save(page, dir, "fast");
}

/* The standard streams of a process that waits, as an array of JSON in a string of JSON. */
static void add_streams(struct page *page, int32_t pid)
{
    for (unsigned i = 0; i < 3; i++) {
        char path[64], target[PATH_SIZE];
        char *at = str_add_number(str_add(path, path + sizeof path, "/proc/"), path + sizeof path, (uint64_t)pid);
        long n;

        (void)str_add_number(str_add(at, path + sizeof path, "/fd/"), path + sizeof path, i);
        n = sys_call4(__NR_readlinkat, AT_FDCWD, path, target, sizeof target - 1);
        target[n > 0 ? n : 0] = '\0';
        for (long k = 0; k < n; k++)
            if (target[k] < ' ' || target[k] > '~' || target[k] == '"' || target[k] == '\\')
                page->at = 0; /* for Python to write */
        add(page, i == 0 ? "\"[\\\"" : ", \\\"");
        add(page, n > 0 ? target : "/dev/null");
        add(page, "\\\"");
    }
    add(page, "]\"");
}

static long write_status(struct page *page, const struct again *a, int dir, int32_t pid, uint64_t started, uint64_t now)
{
    const size_t tree = str_len(a->base);

    page->at = page->text;
    add(page, "{\"pid\": ");
    add_number(page, (uint64_t)pid);
    add(page, ", \"process-start-time\": ");
    add_number(page, started);
    add_member(page, ", ", "\"cgroup-path\": ", a->group[0] == '\0' ? "" : a->group + tree);
    add_member(page, ", ", "\"scope\": ", "");
    add_member(page, ", ", "\"rootfs\": ", a->rootfs);
    add(page, ", \"systemd-cgroup\": false");
    add_member(page, ", ", "\"bundle\": ", a->bundle);
    add(page, ", \"created\": \"");
    add_time(page, now);
    add_member(page, "\"", ", \"owner\": ", "root");
    add(page, a->detach || !a->run ? ", \"detached\": true" : ", \"detached\": false");
    add(page, ", \"external_descriptors\": ");
    add_streams(page, pid);
    add(page, "}");
    return page->at == 0 ? -ENAMETOOLONG
                         : write_file(dir, "status.new", O_CREAT | O_TRUNC, 0600, page->text, (size_t)(page->at - page->text));
}

int again_publish(int dir)
{
    return sys_call4(__NR_renameat, dir, "status.new", dir, "status") == 0;
}

static long write_pid(const char *path, int32_t pid)
{
    const char *name = path + str_len(path);
    char folder[PATH_SIZE], other[PATH_SIZE], digits[24];
    char *at;
    long r;

    while (name > path && name[-1] != '/')
        name--;
    if (name - path >= PATH_SIZE)
        return -ENAMETOOLONG;
    memcpy(folder, path, (size_t)(name - path));
    folder[name - path] = '\0';
    (void)str_add_number(digits, digits + sizeof digits, (uint64_t)sys_call0(__NR_getpid));
    at = join(other, folder, ".", name) == 0 ? 0 : other + str_len(other);
    if (at == 0 || str_add(str_add(at, other + sizeof other, "."), other + sizeof other, digits) == 0)
        return -ENAMETOOLONG;
    (void)str_add_number(digits, digits + sizeof digits, (uint64_t)pid);
    r = write_file(AT_FDCWD, other, O_CREAT | O_TRUNC, 0644, digits, str_len(digits));
    if (r == 0)
        r = sys_call4(__NR_renameat, AT_FDCWD, other, AT_FDCWD, path);
    if (r < 0)
        (void)sys_call3(__NR_unlinkat, AT_FDCWD, other, 0);
    return r;
}

int again_settle(const struct again *a, int dir, int32_t pid, const char *plan, size_t size, const char *helper)
{
    static struct page page;
    const uint64_t started = start_time(pid), now = clock_ns(0);

    return started != 0 && write_file(dir, "config", O_CREAT | O_TRUNC, 0600, a->text, a->size) == 0 &&
           (a->pid_file == 0 || write_pid(a->pid_file, pid) == 0) && write_state(&page, a, dir, pid, started, now) == 0 &&
           write_file(dir, "plan", O_CREAT | O_TRUNC, 0600, plan, size) == 0 && write_fast(&page, a, dir, pid, started, now, helper) == 0 &&
           write_status(&page, a, dir, pid, started, now) == 0 && (a->run || again_publish(dir));
}
