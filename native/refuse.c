/* Refusals that the launcher knows the words of: no interpreter is started only to say them.
 *
 * The words are pyrun.errors', the form is that of pyrun.cli.main.  Tests compare both ways.  Instead of a traceback --debug shows where
 * it was said. */
#include "refuse.h"

#include "say.h"

#define MOST_WORDS 400 /* of a plug-in's */
#define PLUGIN_HINT "see what its configuration asks for, and that the plug-ins are installed (Debian: containernetworking-plugins)"

static struct {
    char what[8192], hint[2048], origin[32], place[64];
    int there, code;
} refusal;

void refuse_at(const char *file, int line, int code, const char *step, const char *subject, const char *why, const char *hint,
               const char *origin)
{
    struct say to = {refusal.what, refusal.what + sizeof refusal.what};

    say_text(&to, step);
    say_text(&to, subject[0] != '\0' ? " " : "");
    say_text(&to, subject);
    say_text(&to, why[0] != '\0' ? ": " : "");
    say_text(&to, why);
    to = (struct say){refusal.hint, refusal.hint + sizeof refusal.hint};
    say_text(&to, hint);
    to = (struct say){refusal.origin, refusal.origin + sizeof refusal.origin};
    say_text(&to, origin);
    to = (struct say){refusal.place, refusal.place + sizeof refusal.place};
    say_text(&to, "the launcher: native/");
    say_text(&to, file);
    say_text(&to, ", line ");
    say_number(&to, (uint64_t)line);
    refusal.there = 1;
    refusal.code = code;
}

const char *errno_text(long error)
{
    static char text[64];
    struct say to = {text, text + sizeof text};

    say_errno(&to, error);
    return text;
}

int is_refused(void)
{
    return refusal.there;
}

void forget_refusal(void)
{
    refusal.there = 0;
}

/* As colour() of pyrun.cli.output. */
static void add_line(struct say *to, const char *head, const char *colour, const char *text)
{
    if (text[0] == '\0')
        return;
    if (colour[0] != '\0') {
        say_text(to, "\033[");
        say_text(to, colour);
        say_text(to, "m");
    }
    say_text(to, head);
    say_text(to, colour[0] != '\0' ? "\033[0m " : " ");
    say_escaped(to, text);
    say_text(to, "\n");
}

static void add_member(struct say *to, const char *name, const char *text, const char *end)
{
    if (text[0] == '\0')
        return;
    say_text(to, name);
    say_quoted(to, text, str_len(text), 0);
    say_text(to, end);
}

void say_refusal(const struct telling *how, char **envp)
{
    static char text[8 * sizeof refusal];
    const char *terminal = from_environment(envp, "TERM"), *debug = from_environment(envp, "PYRUN_DEBUG");
    const int shows = how->debug || (debug[0] != '\0' && !str_eq(debug, "0"));
    struct say to = {text, text + sizeof text};
    struct termios mode;
    int plain;

    if (!refusal.there)
        return;
    plain = from_environment(envp, "NO_COLOR")[0] != '\0' || terminal[0] == '\0' || str_eq(terminal, "dumb") ||
            sys_call3(__NR_ioctl, 2, TCGETS, &mode) < 0;
    if (how->lines) {
        add_member(&to, "{\"error\": \"", refusal.what, "\"");
        add_member(&to, ", \"hint\": \"", refusal.hint, "\"");
        add_member(&to, ", \"origin\": \"", refusal.origin, "\"");
        add_member(&to, ", \"traceback\": [\"", shows ? refusal.place : "", "\"]");
        say_text(&to, ", \"exit_code\": ");
        say_number(&to, (uint64_t)refusal.code);
        say_text(&to, "}\n");
    } else {
        say_text(&to, shows ? refusal.place : "");
        say_text(&to, shows ? "\n" : "");
        add_line(&to, "pyrun:", plain ? "" : "31", refusal.what);
        add_line(&to, "hint:", plain ? "" : "36", refusal.hint);
        add_line(&to, "from:", plain ? "" : "2", refusal.origin);
    }
    (void)sys_write(2, text, to.at - text);
    sys_exit(refusal.code);
}

static unsigned hex(char c)
{
    return c >= '0' && c <= '9' ? (unsigned)(c - '0') : (unsigned)((c | 0x20) - 'a' + 10) & 15;
}

/* The text of a JSON string, or a value that is none as it stands there. */
static void take_string(char *to, size_t room, const char *from, const char *end)
{
    static const char names[] = "bfnrt", meant[] = "\b\f\n\r\t";
    size_t size = 0;

    for (; from < end && size + 4 < room; from++) {
        unsigned code = (unsigned char)*from;

        if (*from != '\\' || from + 1 == end) {
            to[size++] = *from;
            continue;
        }
        code = (unsigned char)*++from;
        for (size_t i = 0; i < sizeof names - 1; i++)
            if (*from == names[i])
                code = (unsigned char)meant[i];
        if (*from == 'u' && end - from > 4) {
            code = hex(from[1]) << 12 | hex(from[2]) << 8 | hex(from[3]) << 4 | hex(from[4]);
            from += 4;
        }
        if (code >= 0x800)
            to[size++] = (char)(0xe0 | code >> 12);
        if (code >= 0x80)
            to[size++] = (char)(code >= 0x800 ? 0x80 | (code >> 6 & 0x3f) : 0xc0 | code >> 6);
        to[size++] = (char)(code >= 0x80 ? 0x80 | (code & 0x3f) : code);
    }
    to[size] = '\0';
}

static const char *string_end(const char *at, const char *end)
{
    for (; at < end && *at != '"'; at++)
        at += *at == '\\';
    return at < end ? at : end;
}

static const char *skip_blanks(const char *at, const char *end)
{
    while (at < end && (*at == ' ' || (*at >= '\t' && *at <= '\r')))
        at++;
    return at;
}

/* Where a value ends that is no string. */
static const char *value_end(const char *at, const char *end)
{
    for (int depth = 0; at < end && (depth > 0 || (*at != ',' && *at != '}')); at++) {
        depth += (*at == '{' || *at == '[') - (*at == '}' || *at == ']');
        if (*at == '"')
            at = string_end(at + 1, end);
    }
    return at;
}

/* The text of a member of an object, "" where there is none. */
static void member(const char *data, size_t size, const char *name, char *to, size_t room)
{
    const char *at = skip_blanks(data, data + size), *end = data + size;
    int depth = 0;

    to[0] = '\0';
    for (; at < end; at++) {
        const char *key = at + 1, *behind, *after;

        depth += (*at == '{' || *at == '[') - (*at == '}' || *at == ']');
        if (*at != '"')
            continue;
        behind = string_end(key, end);
        after = behind == end ? end : skip_blanks(behind + 1, end);
        at = behind;
        if (depth != 1 || after == end || *after != ':' || (size_t)(behind - key) != str_len(name) || memcmp(key, name, str_len(name)) != 0)
            continue;
        after = skip_blanks(after + 1, end);
        at = *after == '"' ? string_end(after + 1, end) : value_end(after, end);
        take_string(to, room, *after == '"' ? after + 1 : after, at);
        at -= *after != '"';
    }
}

/* On one line, without what is blank around it, and no longer than Python makes it. */
static char *tidy(char *text)
{
    size_t size = str_len(text);

    while (size > 0 && (text[size - 1] == ' ' || text[size - 1] == '\n'))
        text[--size] = '\0';
    while (*text == ' ' || *text == '\n')
        text++;
    for (char *at = text; *at != '\0'; at++)
        *at = *at == '\n' ? ' ' : *at;
    if (str_len(text) > MOST_WORDS)
        text[MOST_WORDS] = '\0';
    return text;
}

/* What one says that ended with an exit status. */
static const char *own_words(const struct said *said, char *text, size_t room)
{
    const char *first = skip_blanks(said->out, said->out + said->out_size), *found;
    const size_t size = (size_t)(said->out + said->out_size - first);
    char *end = text + room, details[2 * MOST_WORDS];

    text[0] = '\0';
    if (size > 0 && said->valid && *first == '{') {
        member(first, size, "msg", text, room - sizeof details - 2);
        member(first, size, "details", details, sizeof details);
        (void)str_add(str_add(text + str_len(text), end, " "), end, details);
    }
    found = tidy(text);
    if (found[0] != '\0')
        return found;
    for (size_t i = 0; i < said->err_size && i + 1 < room; i++) {
        text[i] = said->err[i] == '\0' ? '?' : said->err[i];
        text[i + 1] = '\0';
    }
    found = said->err_size > 0 ? tidy(text) : "";
    if (found[0] != '\0')
        return found;
    (void)str_add_number(str_add(str_add(text, end, "exit status "), end, said->code < 0 ? "-" : ""), end,
                         (uint64_t)(said->code < 0 ? -said->code : said->code));
    return text;
}

void refuse_plugin(const char *command, const char *network, const char *type, const struct said *said)
{
    static char text[8192];
    const char *words;
    char step[256];
    const char *end = step + sizeof step;

    if (str_add(str_add(str_add(str_add(step, end, command), end, " of plug-in "), end, type), end, " for network") == 0)
        return;
    if (said->code == LATE)
        words = "no answer within 60 seconds";
    else if (said->code == LONG)
        words = "its answer is longer than 1 MiB";
    else
        words = said->code != 0 ? own_words(said, text, sizeof text) : "its answer is no result of CNI";
    refuse(step, network, words, PLUGIN_HINT, said->code >= LATE ? "" : "--net");
}
