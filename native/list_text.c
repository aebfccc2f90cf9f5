/* What list.c prints: ids, JSON or a table. */
#include "list.h"

/* The writer: text grows at list->at, which becomes 0 when the room is used up. */
static void add(struct list *list, const char *text, size_t size)
{
    if (list->at == 0 || size > (size_t)(list->end - list->at)) {
        list->at = 0;
        return;
    }
    memcpy(list->at, text, size);
    list->at += size;
}

static void say(struct list *list, const char *text)
{
    add(list, text, str_len(text));
}

static void say_number(struct list *list, uint64_t value)
{
    char text[24] = "";

    (void)str_add_number(text, text + sizeof text, value);
    say(list, text);
}

static void begin(struct list *list)
{
    list->text = list->at;
}

static void finish(struct list *list)
{
    if (list->at == 0)
        list->text = 0;
}

static uint64_t exit_code(const struct row *row)
{
    const uint64_t signal = number_of(row->of[SIGNAL]);

    if (row->lost || row->of[CODE].size == 0 || row->of[SIGNAL].size == 0)
        return 125;
    return signal != 0 ? 128 + signal : number_of(row->of[CODE]);
}

void write_ids(struct list *list, int json)
{
    begin(list);
    say(list, json ? "[" : "");
    for (size_t i = 0; i < list->count; i++) {
        say(list, !json ? "" : i > 0 ? ",\n  \"" : "\n  \"");
        say(list, list->order[i]->uuid);
        say(list, json ? "\"" : "\n");
    }
    say(list, !json ? "" : list->count > 0 ? "\n]\n" : "]\n");
    finish(list);
}

static const char states[][12] = {"preparing", "prepared", "running", "exited", "paused", "restarting"};

/* In the order in which pyrun.pod.status finds them. */
static void write_object(struct list *list, const struct row *row)
{
    static const unsigned char first[] = {APP, NAME, IMAGE, CREATED, RESTART, LOG, EXIT_POLICY, PID_NAMESPACE, ISOLATORS},
                               alive[] = {CGROUP, STARTED, RESTARTS, PID, HEALTH, FAILING},
                               ended[] = {CODE, SIGNAL, STARTED, FINISHED, RESTARTS, OOM, OOM_GROUP, OOM_VICTIM, LOST, LOG_DROPPED};
    const int is_ended = row->state == EXITED;
    const size_t count = sizeof first + (is_ended ? sizeof ended : sizeof alive);

    say(list, "  {\n    \"uuid\": \"");
    say(list, row->uuid);
    say(list, "\",\n    \"pod_name\": ");
    add(list, row->of[POD_NAME].size ? row->of[POD_NAME].at : "\"\"", row->of[POD_NAME].size ? row->of[POD_NAME].size : 2);
    say(list, ",\n    \"state\": \"");
    say(list, states[row->state]);
    say(list, "\"");
    for (size_t i = 0; i < count; i++) {
        const unsigned char key = i < sizeof first ? first[i] : (is_ended ? ended : alive)[i - sizeof first];

        if (row->of[key].size == 0)
            continue;
        say(list, ",\n    \"");
        say(list, fields[key].name);
        say(list, "\": ");
        add(list, row->of[key].at, row->of[key].size);
    }
    if (row->lost == LOST_ADDED)
        say(list, ",\n    \"lost\": true");
    if (is_ended) {
        say(list, ",\n    \"exit_code\": ");
        say_number(list, exit_code(row));
    }
    say(list, "\n  }");
}

void write_json(struct list *list)
{
    begin(list);
    say(list, "[");
    for (size_t i = 0; i < list->count; i++) {
        say(list, i == 0 ? "\n" : ",\n");
        write_object(list, list->order[i]);
    }
    say(list, list->count == 0 ? "]\n" : "\n]\n");
    finish(list);
}

enum { COLUMNS = 7 };
struct cells {
    struct span of[COLUMNS];
};

/* Whatever was said since `start` is one cell. */
static struct span cell(struct list *list, const char *start)
{
    return list->at == 0 ? (struct span){start, 0} : (struct span){start, (size_t)(list->at - start)};
}

/* pyrun.cli.output.age: 5s, 3m, 2h, 4d. */
static struct span ago(struct list *list, struct span when, uint64_t now)
{
    static const uint64_t lengths[] = {86400, 3600, 60, 1};
    static const char names[] = "dhms";
    const char *start = list->at;
    const uint64_t then = number_of(when), seconds = now > then ? (now - then) / 1000000000 : 0;
    int i = 0;

    if (when.size == 0)
        return (struct span){"-", 1};
    while (i < 3 && seconds < lengths[i])
        i++;
    say_number(list, seconds / lengths[i]);
    add(list, names + i, 1);
    say(list, " ago");
    return cell(list, start);
}

static struct span state_of(struct list *list, const struct row *row)
{
    const char *start = list->at;

    say(list, states[row->state]);
    if (row->state != EXITED) {
        if (row->of[HEALTH].size > 2) {
            say(list, " (");
            add(list, row->of[HEALTH].at + 1, row->of[HEALTH].size - 2);
            say(list, ")");
        }
    } else if (row->lost) {
        say(list, " (unknown)");
    } else {
        say(list, " (");
        say_number(list, exit_code(row));
        say(list, row->of[OOM].size != 0 && row->of[OOM].at[0] == 't' ? ", oom)" : ")");
    }
    return cell(list, start);
}

/* A string without its quotes.  An escape in it is left to Python: *plain becomes 0. */
static struct span inner(struct span value, int empty_is_dash, int *plain)
{
    for (size_t i = 0; i < value.size; i++)
        if (value.at[i] == '\\')
            *plain = 0;
    if (value.size == 0 || (empty_is_dash && value.size == 2))
        return (struct span){"-", 1};
    return (struct span){value.at + 1, value.size - 2};
}

static void write_line(struct list *list, const struct span *cells, const size_t *widths)
{
    for (int column = 0; column < COLUMNS; column++) {
        add(list, cells[column].at, cells[column].size);
        for (size_t n = cells[column].size; column + 1 < COLUMNS && n < widths[column] + 2; n++)
            say(list, " ");
    }
    say(list, "\n");
}

void write_table(struct list *list, int full, int legend)
{
    static const char names[COLUMNS][8] = {"UUID", "NAME", "APP", "IMAGE", "STATE", "CREATED", "STARTED"};
    struct span head[COLUMNS];
    struct cells *cells = take(list, sizeof *cells * list->count);
    struct __kernel_timespec t = {0, 0};
    size_t widths[COLUMNS] = {0};
    uint64_t now;
    int plain = 1;

    (void)sys_call2(__NR_clock_gettime, 0 /* CLOCK_REALTIME */, &t);
    now = (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
    for (size_t i = 0; cells != 0 && i < list->count; i++) {
        const struct row *row = list->order[i];
        const size_t length = str_len(row->uuid);

        cells[i] = (struct cells){{
            {row->uuid, full || length < 8 ? length : 8},
            inner(row->of[POD_NAME], 1, &plain),
            inner(row->of[APP], 0, &plain),
            inner(row->of[NAME], 0, &plain),
            state_of(list, row),
            ago(list, row->of[CREATED], now),
            ago(list, row->of[STARTED], now),
        }};
    }
    for (int column = 0; column < COLUMNS; column++) {
        head[column] = (struct span){names[column], str_len(names[column])};
        widths[column] = legend ? head[column].size : 0;
        for (size_t i = 0; cells != 0 && i < list->count; i++)
            widths[column] = cells[i].of[column].size > widths[column] ? cells[i].of[column].size : widths[column];
    }
    begin(list);
    if (legend)
        write_line(list, head, widths);
    for (size_t i = 0; cells != 0 && i < list->count; i++)
        write_line(list, cells[i].of, widths);
    finish(list);
    if (!plain || (cells == 0 && list->count != 0))
        list->text = 0;
}
