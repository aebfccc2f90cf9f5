/* The command line of `run-prepared`, as pyrun.cli.parse reads it, and what is wrong with one, in the words of that and of pyrun.cli.help.
 *
 *     pyrun [global options] run-prepared [options] POD
 *
 * A test has both read the same lines. */
#include "fast.h"
#include "owners.h"
#include "prepared.h"
#include "refuse.h"
#include "say.h"

#define VERB "run-prepared"
#define LONGEST_NAME 64 /* letters of an option that could be near to one */

enum { ROOT, DEBUG, HELP, DETACH, UUID_FILE, QUIET, FORMAT };

static const struct {
    char name[12], value[8], letter, what;
} known[] = {
    {"--root", "DIR", '\0', ROOT},   {"--dir", "DIR", '\0', ROOT},   {"--debug", "", '\0', DEBUG},          {"--help", "", 'h', HELP},
    {"--detach", "", 'd', DETACH},   {"--quiet", "", 'q', QUIET},    {"--uuid-file", "FILE", '\0', UUID_FILE}, {"--format", "FORMAT", '\0', FORMAT},
};
#define KNOWN (sizeof known / sizeof *known)

/* Which one has this name, of so many bytes; KNOWN where none has. */
static size_t option_of(const char *name, size_t size)
{
    size_t i = 0;

    while (i < KNOWN && !(str_len(known[i].name) == size && memcmp(known[i].name, name, size) == 0) &&
           !(size == 2 && name[0] == '-' && known[i].letter != '\0' && name[1] == known[i].letter))
        i++;
    return i;
}

static size_t name_size(const char *word)
{
    size_t n = 0;

    while (word[n] != '=' && word[n] != '\0')
        n++;
    return n;
}

/* What difflib's SequenceMatcher calls matches: the longest block that both have, and likewise on either side of that. */
static unsigned matches(const uint32_t *a, size_t a_size, const uint32_t *b, size_t b_size)
{
    size_t at = 0, there = 0, best = 0;

    for (size_t i = 0; i < a_size; i++)
        for (size_t j = 0; j < b_size; j++) {
            size_t n = 0;

            while (i + n < a_size && j + n < b_size && a[i + n] == b[j + n])
                n++;
            if (n > best) {
                best = n;
                at = i;
                there = j;
            }
        }
    return best == 0 ? 0
                     : (unsigned)best + matches(a, at, b, there) +
                           matches(a + at + best, a_size - at - best, b + there + best, b_size - there - best);
}

/* The letters behind dashes. */
static size_t letters(const char *word, size_t size, uint32_t to[LONGEST_NAME])
{
    const char *end = word + size;
    size_t n = 0;

    while (word < end && *word == '-')
        word++;
    for (; word < end && n < LONGEST_NAME; n++)
        word += letter(word, &to[n]);
    return word < end ? 0 : n;
}

/* The nearest name, as get_close_matches() of difflib has it; KNOWN for none. */
static size_t nearest(const char *word, size_t size)
{
    uint32_t asked[LONGEST_NAME], name[LONGEST_NAME];
    const size_t length = letters(word, size, asked);
    unsigned best = 0, of = 1;
    size_t found = KNOWN;

    for (size_t i = 0; i < KNOWN && length > 0; i++) {
        const size_t other = letters(known[i].name, str_len(known[i].name), name);
        const unsigned same = matches(name, other, asked, length), all = (unsigned)(other + length);

        if (200 * same < 65 * all || same * of < best * all)
            continue;
        if (same * of > best * all || memcmp(known[i].name, known[found].name, sizeof known->name) > 0) {
            best = same;
            of = all;
            found = i;
        }
    }
    return found;
}

/* The verb that has this option, of those that `owners` names: its end is at the first colon. */
static const char *owner_of(const char *name, size_t size)
{
    const char *verb = owners;

    for (const char *at = owners; *at != '\0'; at++) {
        if (*at == '\n')
            verb = at + 1;
        if (*at == ':' && memcmp(at + 1, name, size) == 0 && at[1 + size] == ':')
            return verb;
    }
    return 0;
}

static int unknown(const char *name, size_t size)
{
    static char what[4096], hint[4096];
    struct say to = {what, what + sizeof what};
    char option[1024], *at = option, dashed[LONGEST_NAME] = "-";
    const char *owner = owner_of(name, size);
    size_t near = size > 1 && name[1] == '-' ? nearest(name, size) : KNOWN;

    while (at < option + (size < sizeof option - 1 ? size : sizeof option - 1)) {
        *at = name[at - option];
        at++;
    }
    *at = '\0';
    if (size > 1 && name[1] != '-' && str_add(dashed + 1, dashed + sizeof dashed, option) != 0)
        near = option_of(dashed, size + 1);
    say_text(&to, "unknown option ");
    say_text(&to, option);
    say_text(&to, " of `pyrun " VERB "`");
    to = (struct say){hint, hint + sizeof hint};
    if (near < KNOWN) {
        say_text(&to, "did you mean ");
        say_text(&to, known[near].name);
        say_text(&to, "?");
    } else if (owner != 0) {
        say_text(&to, option);
        say_text(&to, " is an option of `pyrun ");
        while (*owner != ':' && to.at + 2 < to.end)
            *to.at++ = *owner++;
        say_text(&to, "`");
    } else {
        say_text(&to, "`pyrun " VERB " --help` lists the options");
    }
    refuse_usage(what, "", "", hint, "");
    return 0;
}

/* `name` may have its value behind it. */
static int wrong(const char *name, size_t size, const char *why, const char *hint)
{
    char step[64] = "option ", *at = step + 7;

    for (size_t i = 0; i < size; i++)
        *at++ = name[i];
    *at = '\0';
    refuse_usage(step, "", why, hint, "");
    return 0;
}

static int lacks_value(size_t option, const char *given)
{
    char why[64];
    static char hint[8192];
    const char *name = known[option].name;
    struct say to = {hint, hint + sizeof hint};

    (void)str_add(str_add(why, why + sizeof why, "needs a value "), why + sizeof why, known[option].value);
    say_text(&to, "write ");
    say_text(&to, name);
    say_text(&to, " ");
    say_text(&to, known[option].value);
    if (given != 0 && str_len(given) > 2) {
        say_text(&to, ", or ");
        say_text(&to, name);
        say_text(&to, "=");
        say_text(&to, given);
        say_text(&to, " if that is the value");
    }
    return wrong(name, str_len(name), why, hint);
}

static int is_empty(size_t option)
{
    char hint[96];
    const char *end = hint + sizeof hint, *name = known[option].name;

    (void)str_add(str_add(str_add(str_add(str_add(hint, end, "write "), end, name), end, " "), end, known[option].value), end,
                  ", or leave the option out");
    return wrong(name, str_len(name), "the value is empty", hint);
}

static int is_other(const char *value)
{
    static char why[8192];
    struct say to = {why, why + sizeof why};

    say_text(&to, "'");
    say_text(&to, value);
    say_text(&to, "' is not one of text, json");
    return wrong("--format", 8, why, "write one of them, as in --format text");
}

static int take(struct asked *asked, size_t option, const char *value)
{
    if (value[0] == '\0')
        return is_empty(option);
    switch (known[option].what) {
    case ROOT:
        asked->root = value;
        return 1;
    case UUID_FILE:
        if (asked->files < MOST_FILES)
            asked->file[asked->files] = value;
        asked->files++;
        return 1;
    default:
        asked->json = str_eq(value, "json");
        return asked->json || str_eq(value, "text") || is_other(value);
    }
}

static void set(struct asked *asked, size_t option, int value)
{
    switch (known[option].what) {
    case DEBUG:
        asked->debug = value;
        break;
    case HELP:
        asked->help = value;
        break;
    case DETACH:
        asked->detach = value;
        break;
    default: /* nothing is said in any case */
        break;
    }
}

static int set_flag(struct asked *asked, size_t option, const char *value)
{
    static char why[8192];
    char hint[32];
    struct say to = {why, why + sizeof why};

    if (str_eq(value, "true") || str_eq(value, "false")) {
        set(asked, option, value[0] == 't');
        return 1;
    }
    say_text(&to, "takes no value but true or false, not '");
    say_text(&to, value);
    say_text(&to, "'");
    (void)str_add(str_add(str_add(hint, hint + sizeof hint, "write "), hint + sizeof hint, known[option].name), hint + sizeof hint, " alone");
    return wrong(known[option].name, str_len(known[option].name), why, hint);
}

/* Joined flags */
static int short_options(struct asked *asked, const char *word)
{
    for (size_t i = 1; word[i] != '\0';) {
        uint32_t code;
        char name[8] = "-";
        const size_t size = letter(word + i, &code), option = (memcpy(name + 1, word + i, size), option_of(name, 1 + size));

        if (option == KNOWN)
            return i > 1 || word[i + size] == '\0' ? unknown(name, 1 + size) : unknown(word, str_len(word));
        set(asked, option, 1);
        i += size;
    }
    return 1;
}

/* One word, and the next one where that is its value. */
static int take_option(struct asked *asked, char ***at)
{
    const char *word = **at, *value;
    const size_t size = name_size(word), option = word[1] == '-' ? option_of(word, size) : KNOWN;

    if (word[1] != '-')
        return short_options(asked, word);
    if (option == KNOWN)
        return unknown(word, size);
    if (known[option].value[0] == '\0') {
        if (word[size] == '=')
            return set_flag(asked, option, word + size + 1);
        set(asked, option, 1);
        return 1;
    }
    if (word[size] == '=')
        return take(asked, option, word + size + 1);
    value = *++*at;
    if (value == 0 || str_eq(value, "--") || str_eq(value, "---") || option_of(value, str_len(value)) < KNOWN ||
        option_of(value, name_size(value)) < KNOWN)
        return lacks_value(option, value);
    return take(asked, option, value);
}

/* Of a line that is wrong its words say how that is told. */
static void find_manner(struct asked *asked, char **words)
{
    int detach = 0, json = 0;

    for (; *words != 0 && !str_eq(*words, "--"); words++) {
        asked->how.debug |= str_eq(*words, "--debug");
        json |= str_eq(*words, "--format=json") || (str_eq(*words, "--format") && words[1] != 0 && str_eq(words[1], "json"));
        detach |= str_eq(*words, "--detach") || str_eq(*words, "-d");
    }
    asked->how.lines = json && !detach;
}

/* Before the verb: what is wrong there is wrong for every verb, and Python says so. */
static char **find_verb(struct asked *asked, char **words)
{
    for (words++; *words != 0 && (*words)[0] == '-' && (*words)[1] == '-'; words++) {
        const size_t size = name_size(*words), option = option_of(*words, size);
        const int same = (*words)[size] == '=';
        const char *value = same ? *words + size + 1 : words[1];

        if (option < KNOWN && known[option].what == DEBUG && !same)
            asked->debug = 1;
        else if (option < KNOWN && known[option].what == ROOT && value != 0 && value[0] != '\0' && (same || value[0] != '-')) {
            asked->root = value;
            words += !same;
        } else
            return 0;
    }
    return *words != 0 && str_eq(*words, VERB) ? words + 1 : 0;
}

/* As os.path.abspath() has it. */
static const char *absolute(const char *root)
{
    static char path[PATH_SIZE];
    char *at = path;
    size_t size;

    if (root[0] == '/')
        return root;
    if (sys_call2(__NR_getcwd, path, sizeof path) < 0 || path[0] != '/')
        return 0;
    at = str_eq(path, "/") ? path : path + str_len(path);
    for (const char *word = root; *word != '\0'; word += size + (word[size] == '/')) {
        for (size = 0; word[size] != '/' && word[size] != '\0'; size++)
            ;
        if (size == 2 && memcmp(word, "..", 2) == 0) {
            while (at > path && *--at != '/')
                ;
        } else if (size > 0 && !(size == 1 && *word == '.')) {
            if (at + size + 2 > path + sizeof path)
                return 0;
            *at++ = '/';
            memcpy(at, word, size);
            at += size;
        }
    }
    if (at == path)
        *at++ = '/';
    *at = '\0';
    return path;
}

int understand(struct asked *asked, char **argv, char **envp)
{
    char **words = find_verb(asked, argv);
    int ended = 0, right = 1;

    if (words == 0)
        return 0;
    find_manner(asked, argv + 1);
    for (; *words != 0 && right && !asked->help; words++)
        if (!ended && str_eq(*words, "--")) {
            ended = 1;
        } else if (!ended && (*words)[0] == '-' && (*words)[1] != '\0') {
            right = take_option(asked, &words);
            if (*words == 0)
                break;
        } else {
            asked->reference = *words;
            asked->references++;
        }
    if (!right)
        return 1;
    asked->how = (struct telling){asked->debug, asked->json && !asked->detach};
    if (asked->root == 0)
        asked->root = from_environment(envp, "PYRUN_ROOT");
    if (asked->root[0] == '\0')
        asked->root = usual_root(envp);
    asked->root = asked->root[0] == '\0' ? 0 : absolute(asked->root);
    return asked->root != 0 && !asked->help;
}
