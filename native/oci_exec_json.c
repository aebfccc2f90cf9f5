/* The `process` of a configuration (runtime-spec config.md, "Process"), by the rules of pyrun.oci.rules_process: a member that is
 * not known here, or says more than plain things, is Python's to read. */
#include "oci_exec.h"

enum { ARGS, CAPABILITIES, CWD, ENV, LOCKED, OOM_SCORE, LIMITS, TERMINAL, USER, SIZE, APPARMOR, SELINUX };
static const char members[] = "args\0capabilities\0cwd\0env\0noNewPrivileges\0oomScoreAdj\0rlimits\0terminal\0user\0consoleSize\0"
                              "apparmorProfile\0selinuxLabel\0";
static const char sets[] = "bounding\0effective\0permitted\0inheritable\0ambient\0";
static const char capabilities[] = /* by number, linux/capability.h */
    "CHOWN\0DAC_OVERRIDE\0DAC_READ_SEARCH\0FOWNER\0FSETID\0KILL\0SETGID\0SETUID\0SETPCAP\0LINUX_IMMUTABLE\0NET_BIND_SERVICE\0"
    "NET_BROADCAST\0NET_ADMIN\0NET_RAW\0IPC_LOCK\0IPC_OWNER\0SYS_MODULE\0SYS_RAWIO\0SYS_CHROOT\0SYS_PTRACE\0SYS_PACCT\0SYS_ADMIN\0"
    "SYS_BOOT\0SYS_NICE\0SYS_RESOURCE\0SYS_TIME\0SYS_TTY_CONFIG\0MKNOD\0LEASE\0AUDIT_WRITE\0AUDIT_CONTROL\0SETFCAP\0MAC_OVERRIDE\0"
    "MAC_ADMIN\0SYSLOG\0WAKE_ALARM\0BLOCK_SUSPEND\0AUDIT_READ\0PERFMON\0BPF\0CHECKPOINT_RESTORE\0";
static const char limits[] = /* by number, asm-generic/resource.h */
    "CPU\0FSIZE\0DATA\0STACK\0CORE\0RSS\0NPROC\0NOFILE\0MEMLOCK\0AS\0LOCKS\0SIGPENDING\0MSGQUEUE\0NICE\0RTPRIO\0RTTIME\0";

/* Where a word stands in a list of them; -1 when it does not. */
static int place(const char *list, const char *word, size_t size)
{
    for (int i = 0; *list != '\0'; i++, list += str_len(list) + 1)
        if (str_len(list) == size && memcmp(list, word, size) == 0)
            return i;
    return -1;
}

static int place_behind(const char *list, const char *front, const char *word)
{
    const size_t size = str_len(front);

    if (word == 0 || str_len(word) < size || memcmp(word, front, size) != 0)
        return -1;
    return place(list, word + size, str_len(word + size));
}

/* The next member's number in `list`; one that is not there, or comes twice, is bad. */
static int member(struct json *json, const char *list, unsigned *seen)
{
    size_t size;
    const char *name = json_name(json, &size);
    const int at = json->bad ? -1 : place(list, name, size);

    json->bad |= at < 0 || (*seen >> at & 1);
    *seen |= at < 0 ? 0 : 1U << at;
    return at;
}

static void read_words(struct json *json, struct words *words)
{
    words->start = json->out;
    for (json_open(json, '['); json_more(json, ']', &words->count);)
        (void)json_string(json);
    words->end = json->out;
}

static void read_environment(struct json *json, struct words *words)
{
    read_words(json, words);
    for (const char *at = words->start; !json->bad && at < words->end; at += str_len(at) + 1) {
        const char *equals = at;

        while (*equals != '=' && *equals != '\0')
            equals++;
        json->bad |= equals == at || *equals == '\0';
    }
}

/* A capability that is not known cannot be granted, and is left out. */
static void read_capabilities(struct json *json, uint64_t *masks)
{
    unsigned count = 0, seen = 0;

    for (json_open(json, '{'); json_more(json, '}', &count);) {
        const int set = member(json, sets, &seen);
        unsigned words = 0;

        if (json->bad || json_null(json))
            continue;
        for (json_open(json, '['); json_more(json, ']', &words);) {
            const int number = place_behind(capabilities, "CAP_", json_string(json));

            masks[set] |= number < 0 ? 0 : 1ULL << number;
        }
    }
}

static void read_limits(struct json *json, struct process *process)
{
    unsigned count = 0, kinds = 0;

    for (json_open(json, '['); json_more(json, ']', &count);) {
        struct limit *limit = &process->limits[process->limit_count];
        unsigned members_seen = 0, seen = 0;
        int kind = -1;

        json->bad |= process->limit_count++ == MOST_LIMITS;
        if (json->bad)
            return;
        for (json_open(json, '{'); json_more(json, '}', &members_seen);) {
            const int at = member(json, "type\0soft\0hard\0", &seen);

            if (at == 0)
                kind = place_behind(limits, "RLIMIT_", json_string(json));
            else if (at == 1)
                limit->soft = json_number(json, ~0ULL);
            else if (at == 2)
                limit->hard = json_number(json, ~0ULL);
        }
        json->bad |= seen != 7 || kind < 0 || (kinds >> kind & 1) || limit->soft > limit->hard;
        if (json->bad)
            return;
        limit->kind = (uint32_t)kind;
        kinds |= 1U << kind;
    }
}

static void read_groups(struct json *json, struct process *process)
{
    unsigned count = 0;

    for (json_open(json, '['); json_more(json, ']', &count);) {
        json->bad |= process->group_count == MOST_GROUPS;
        if (!json->bad)
            process->groups[process->group_count++] = (uint32_t)json_number(json, LARGEST_ID);
    }
}

static void read_user(struct json *json, struct process *process)
{
    unsigned count = 0, seen = 0;

    for (json_open(json, '{'); json_more(json, '}', &count);) {
        switch (member(json, "uid\0gid\0umask\0additionalGids\0", &seen)) {
        case 0:
            process->uid = (uint32_t)json_number(json, LARGEST_ID);
            break;
        case 1:
            process->gid = (uint32_t)json_number(json, LARGEST_ID);
            break;
        case 2:
            if (!json_null(json))
                process->umask = (uint32_t)json_number(json, 0777);
            break;
        default:
            if (!json_null(json))
                read_groups(json, process);
        }
    }
    json->bad |= (seen & 3) != 3;
}

static void read_size(struct json *json, struct process *process)
{
    unsigned count = 0, seen = 0;

    for (json_open(json, '{'); json_more(json, '}', &count);)
        if (member(json, "height\0width\0", &seen) == 0)
            process->height = (uint16_t)json_number(json, 0xffff);
        else
            process->width = (uint16_t)json_number(json, 0xffff);
    json->bad |= seen != 3;
}

static void read_member(struct json *json, struct process *process, int which)
{
    const char *text;

    switch (which) {
    case ARGS:
        read_words(json, &process->args);
        break;
    case CAPABILITIES:
        read_capabilities(json, process->sets);
        break;
    case CWD:
        process->cwd = json_string(json);
        break;
    case ENV:
        read_environment(json, &process->env);
        break;
    case LOCKED:
        process->locked = json_true(json);
        break;
    case OOM_SCORE: /* what the container's own process has is inherited */
        json->at += json->at[0] == '-' && json->at[1] > ' ';
        (void)json_number(json, 1000);
        break;
    case LIMITS:
        read_limits(json, process);
        break;
    case TERMINAL:
        process->terminal = json_true(json);
        break;
    case USER:
        read_user(json, process);
        break;
    case SIZE:
        read_size(json, process);
        break;
    default: /* a label */
        text = json_string(json);
        json->bad |= text == 0 || *text != '\0';
    }
}

int read_process(struct json *json, struct process *process)
{
    unsigned count = 0;

    process->umask = CALLERS_OWN;
    for (json_open(json, '{'); json_more(json, '}', &count);) {
        const int which = member(json, members, &process->seen);

        if (!json->bad && !json_null(json))
            read_member(json, process, which);
    }
    return !json->bad && process->cwd != 0 && process->cwd[0] == '/' && process->args.count > 0 && process->args.start[0] != '\0';
}
