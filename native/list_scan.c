/* Reads one record of a pod for list.c: a flat JSON object, in plain ASCII, as pyrun writes it. */
#include "list.h"

#define DEEPEST 8
#define LONGEST_RECORD 8192
#define LONGEST_NUMBER 19 /* digits that 64 bits hold in any case */

#define FIELD(name, kind) {name, sizeof name - 1, kind}

const struct field fields[KEYS] = {
    [APP] = FIELD("app", '"'),
    [NAME] = FIELD("name", '"'),
    [IMAGE] = FIELD("image", '"'),
    [CREATED] = FIELD("created", '0'),
    [RESTART] = FIELD("restart", '"'),
    [LOG] = FIELD("log", '"'),
    [EXIT_POLICY] = FIELD("exit_policy", '"'),
    [PID_NAMESPACE] = FIELD("pid_namespace", '"'),
    [ISOLATORS] = FIELD("isolators", '{'),
    [POD_NAME] = FIELD("pod_name", '"'),
    [APPS] = FIELD("apps", '['),
    [CGROUP] = FIELD("cgroup", '"'),
    [KEEPER] = FIELD("keeper", '0'),
    [STARTED] = FIELD("started", '0'),
    [RESTARTS] = FIELD("restarts", '0'),
    [PID] = FIELD("pid", '0'),
    [HEALTH] = FIELD("health", '"'),
    [FAILING] = FIELD("failing", '0'),
    [CODE] = FIELD("code", '0'),
    [SIGNAL] = FIELD("signal", '0'),
    [FINISHED] = FIELD("finished", '0'),
    [OOM] = FIELD("oom", 't'),
    [OOM_GROUP] = FIELD("oom_group", 't'),
    [OOM_VICTIM] = FIELD("oom_victim", '"'),
    [LOST] = FIELD("lost", 't'),
    [LOG_DROPPED] = FIELD("log_dropped", '0'),
};

void *take(struct list *list, size_t size)
{
    char *start = list->at;

    if (start == 0 || size > (size_t)(list->end - start))
        return 0;
    list->at += (size + 15) & ~15UL;
    return start;
}

/* The scanner: each function gets where something begins and returns where it ends, 0 when that is not plain. */
static const char *blanks(const char *at)
{
    while (*at == ' ' || *at == '\n' || *at == '\t' || *at == '\r')
        at++;
    return at;
}

static const char *string(const char *at)
{
    for (at++; *at != '"'; at++) {
        if (*at < 0x20 || *at > 0x7e)
            return 0;
        if (*at == '\\' && *++at != '\\' && *at != '"')
            return 0;
    }
    return at + 1;
}

static const char *number(const char *at)
{
    const char *start = at;

    while (*at >= '0' && *at <= '9')
        at++;
    if (at == start || at - start > LONGEST_NUMBER || (*start == '0' && at - start > 1))
        return 0;
    return *at == '.' || *at == 'e' || *at == 'E' ? 0 : at;
}

static const char *word(const char *at, const char *expected)
{
    while (*expected != '\0')
        if (*at++ != *expected++)
            return 0;
    return at;
}

static const char *value(const char *at, int depth);

/* The rest of an object or array behind its first bracket. */
static const char *members(const char *at, char close, int depth)
{
    at = blanks(at);
    if (*at == close)
        return at + 1;
    for (;;) {
        if (close == '}') {
            at = *at == '"' ? string(at) : 0;
            at = at == 0 ? 0 : blanks(at);
            if (at == 0 || *at != ':')
                return 0;
            at = blanks(at + 1);
        }
        at = value(at, depth);
        if (at == 0)
            return 0;
        at = blanks(at);
        if (*at == close)
            return at + 1;
        if (*at != ',')
            return 0;
        at = blanks(at + 1);
    }
}

static const char *value(const char *at, int depth)
{
    if (*at == '"')
        return string(at);
    if (*at == '{' || *at == '[')
        return depth == 0 ? 0 : members(at + 1, *at == '{' ? '}' : ']', depth - 1);
    return *at == 't' ? word(at, "true") : *at == 'f' ? word(at, "false") : *at == 'n' ? word(at, "null") : number(at);
}

static int key_of(const char *at, size_t size)
{
    for (int key = 0; key < KEYS; key++)
        if (fields[key].size == size && memcmp(fields[key].name, at, size) == 0)
            return key;
    return -1;
}

static int has_kind(const char *at, char kind)
{
    return kind == '0' ? *at >= '0' && *at <= '9' : kind == 't' ? *at == 't' || *at == 'f' : *at == kind || (kind == '{' && *at == '[');
}

static int scan(const char *at, struct span of[KEYS])
{
    at = blanks(at);
    if (*at++ != '{')
        return 0;
    do {
        const char *name = blanks(at), *end = *name == '"' ? string(name) : 0, *from;
        int key;

        if (end == 0)
            return 0; /* an empty object too: to Python that is damage */
        from = blanks(end);
        if (*from != ':')
            return 0;
        from = blanks(from + 1);
        at = value(from, DEEPEST);
        if (at == 0)
            return 0;
        key = key_of(name + 1, (size_t)(end - name) - 2);
        if (key >= 0 && !has_kind(from, fields[key].kind))
            return 0;
        if (key >= 0)
            of[key] = (struct span){from, (size_t)(at - from)};
        at = blanks(at);
    } while (*at++ == ',');
    return at[-1] == '}' && *blanks(at) == '\0';
}

int read_record(struct list *list, int dir, const char *path, struct span of[KEYS])
{
    OWNED_FD fd = (int)sys_openat(dir, path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0);
    char *text = list->at;
    long n;

    if (fd < 0)
        return fd == -ENOENT ? 0 : -1;
    if (text == 0 || list->end - text < LONGEST_RECORD)
        return -1;
    n = sys_read(fd, text, LONGEST_RECORD);
    if (n <= 0 || n == LONGEST_RECORD)
        return -1;
    text[n] = '\0';
    (void)take(list, (size_t)n + 1);
    return scan(text, of) ? 1 : -1;
}

uint64_t number_of(struct span value)
{
    uint64_t found = 0;

    for (size_t i = 0; i < value.size; i++)
        found = found * 10 + (uint64_t)(value.at[i] - '0');
    return found;
}
