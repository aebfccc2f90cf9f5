/* How the last line begins that a verb writes with --format json, where the output is the app's own, as pyrun.cli.lines has it: the native
 * side adds how the pod ended (PLAN_TELL_END of plan.h). */
#include "oci_json.h"
#include "prepared.h"
#include "say.h"

#define RECORD (1 << 20) /* bytes of a pod's record */

struct value {
    const char *at;
    size_t size;
};

/* Members of the record, as they stand there. */
static int read_members(int pod, const char names[][12], struct value *values, size_t count)
{
    static char record[RECORD + 1];
    OWNED_FD file = (int)sys_openat(pod, "pod", O_RDONLY | O_NOFOLLOW, 0);
    const long n = file < 0 ? file : sys_read(file, record, RECORD);
    struct json json = {.at = record, .end = record + (n > 0 ? n : 0), .known = 1};
    unsigned members = 0;

    json_open(&json, '{');
    while (json_more(&json, '}', &members)) {
        size_t size, i = 0;
        const char *name = json_name(&json, &size);
        struct value value;

        value.at = json_text(&json, &value.size);
        while (i < count && (str_len(names[i]) != size || memcmp(names[i], name, size) != 0))
            i++;
        if (i < count)
            values[i] = value;
    }
    return json_ended(&json);
}

static void say_member(struct say *to, const char *name, struct value value)
{
    say_text(to, ", \"");
    say_text(to, name);
    say_text(to, "\": \"");
    say_quoted(to, value.at + 1, value.size - 2, 1);
    say_text(to, "\"");
}

void begin_line(int pod, const char *uuid, char *line, size_t room)
{
    static const char names[][12] = {"pod_name", "app", "name", "image"};
    struct value values[sizeof names / sizeof *names] = {{0, 0}}, none = {"\"\"", 2};
    const int whole = read_members(pod, names, values, sizeof names / sizeof *names);
    struct say to = {line, line + room - 32};

    say_text(&to, "{\"uuid\": \"");
    say_text(&to, uuid);
    say_text(&to, "\"");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (whole && values[i].size > 1 && values[i].at[0] == '"')
            say_member(&to, names[i], values[i]);
        else if (i == 0)
            say_member(&to, names[0], none);
    to.end = line + room;
    say_text(&to, ", \"state\": \"exited\", ");
}

unsigned say_apps(int pod, struct say *to, char *first, size_t room)
{
    static const char names[][12] = {"apps"};
    struct value apps = {0, 0};
    unsigned found = 0, items = 0;
    struct json json = {.known = 1};

    if (!read_members(pod, names, &apps, 1) || apps.size == 0)
        return 0;
    json.at = json.out = (char *)(uintptr_t)apps.at;
    json_open(&json, '[');
    while (json_more(&json, ']', &items)) {
        unsigned members = 0;

        json_open(&json, '{');
        while (json_more(&json, '}', &members)) {
            size_t size;
            const char *name = json_name(&json, &size);
            const char *text;

            if (size != 4 || memcmp(name, "name", 4) != 0) {
                json_skip(&json);
                continue;
            }
            json.out = json.at;
            text = json_string(&json);
            if (text == 0)
                return found;
            (void)str_add(first, first + room, found == 0 ? text : first);
            say_text(to, found++ > 0 ? ", " : "");
            say_text(to, text);
        }
    }
    return found;
}
