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

/* Takes a JSON string that is plain, or as good as that; 0 for another. */
static int take_string(char *to, size_t room, const char *from, const char *end)
{
    size_t size = 0;

    for (; from < end; from++) {
        char c = *from;

        if (c == '\\') {
            c = *++from;
            if (c != '"' && c != '\\' && c != '/' && c != 'n')
                return 0;
            c = c == 'n' ? '\n' : c;
        }
        if (size + 1 >= room)
            return 0;
        to[size++] = c;
    }
    to[size] = '\0';
    return 1;
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

/* The text of a member of an object, "" where there is none; 0 where it is no plain text. */
static int member(const char *data, size_t size, const char *name, char *to, size_t room)
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
        if (behind == end)
            return 0;
        after = skip_blanks(behind + 1, end);
        at = behind;
        if (depth != 1 || after == end || *after != ':' || (size_t)(behind - key) != str_len(name) || memcmp(key, name, str_len(name)) != 0)
            continue;
        after = skip_blanks(after + 1, end);
        if (after == end || *after != '"')
            return 0;
        at = string_end(after + 1, end);
        if (at == end || !take_string(to, room, after + 1, at))
            return 0;
    }
    return depth == 0;
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

/* What one says that ended with an exit status; 0 where Python may read it otherwise. */
static char *own_words(const struct said *said, char *text, size_t room)
{
    const char *first = skip_blanks(said->out, said->out + said->out_size);
    char *at = text, *end = text + room, details[MOST_WORDS + 64], *found;

    text[0] = '\0';
    if (first < said->out + said->out_size) {
        if (!said->valid || *first != '{' || !member(first, (size_t)(said->out + said->out_size - first), "msg", text, room - sizeof details) ||
            !member(first, (size_t)(said->out + said->out_size - first), "details", details, sizeof details))
            return 0;
        at = str_add(str_add(text + str_len(text), end, " "), end, details);
    }
    if (at == 0)
        return 0;
    found = tidy(text);
    if (found[0] != '\0')
        return found;
    if (said->err_size >= room)
        return 0;
    memcpy(text, said->err, said->err_size);
    text[said->err_size] = '\0';
    found = str_len(text) == said->err_size ? tidy(text) : 0;
    if (found == 0 || found[0] != '\0')
        return found;
    at = str_add(str_add(text, end, "exit status "), end, said->code < 0 ? "-" : "");
    return str_add_number(at, end, (uint64_t)(said->code < 0 ? -said->code : said->code)) == 0 ? 0 : text;
}

void refuse_plugin(const char *network, const char *type, const struct said *said)
{
    static char text[8192];
    const char *words = text, *first = skip_blanks(said->out, said->out + said->out_size);
    char step[256];

    if (str_add(str_add(str_add(step, step + sizeof step, "ADD of plug-in "), step + sizeof step, type), step + sizeof step, " for network") == 0)
        return;
    if (said->code == LATE)
        words = "no answer within 60 seconds";
    else if (said->code != 0)
        words = own_words(said, text, sizeof text);
    else
        words = first[0] > ' ' && first[0] <= '~' && first[1] >= '\t' && first[0] != '{' ? "its answer is no result of CNI" : 0;
    if (words != 0)
        refuse(step, network, words, PLUGIN_HINT, said->code == LATE ? "" : "--net");
}
