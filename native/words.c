/* What a command line of `pyrun run` says that decides nothing: the app's arguments, the values of its variables, names, and
 * where the pod's UUID goes.
 *
 * split() in pyrun.pod.cache does the same, and the recipe is right for every line with the same key because the parser never
 * takes the name of an option, or `--`, for the value of another option. */
#include "words.h"
#include "decode.h"

#define HOST_NAME_MAX 64
#define APP_NAME_MAX 64

static const char *behind(const char *word, const char *start)
{
    while (*start != '\0' && *word == *start) {
        word++;
        start++;
    }
    return *start == '\0' ? word : 0;
}

enum option { OPTION_VARIABLE, OPTION_VARIABLE_SHORT = 2, OPTION_NAME, OPTION_HOST_NAME, OPTION_UUID_FILE, OPTION_COUNT };

/* Which option this word is the value of, or has behind a `=`. */
static int option_of(const char *word, const char *before, const char **value)
{
    static const char options[OPTION_COUNT][20] = {"--set-env", "--env", "-e", "--name", "--hostname", "--uuid-file-save"};

    *value = word;
    for (int i = 0; i < OPTION_COUNT; i++)
        if (str_eq(before, options[i]))
            return i;
    for (int i = 0; i < OPTION_COUNT; i++) {
        const char *rest = behind(word, options[i]);

        if (rest != 0 && *rest == '=' && i != OPTION_VARIABLE_SHORT) {
            *value = rest + 1;
            return i;
        }
    }
    return OPTION_COUNT;
}

/* Of letters, digits, dots, dashes and, if allowed, underscores; a host name's ends are letters or digits. */
static int is_plain(const char *name, size_t most, int underscores)
{
    const size_t size = str_len(name);

    for (size_t i = 0; i < size; i++) {
        const char c = name[i];
        const int letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');

        if (!letter && (c != '_' || !underscores) && ((c != '-' && c != '.') || i == 0 || i + 1 == size || (c == '.' && name[i + 1] == '.')))
            return 0;
    }
    return size > 0 && size <= most;
}

/* An option that may be given once; returns how much of the word is in the key, -1 where it is for Python. */
static long once(const char **held, const char *word, const char *value, int plain)
{
    if (*held != 0 || !plain)
        return -1;
    *held = value;
    return value - word;
}

static long keep_variable(struct words *words, const char *word, const char *text)
{
    const char *end = text;

    while (*end != '\0' && *end != '=')
        end++;
    if (end == text || *end == '\0' || behind(text, "PATH=") != 0)
        return (long)str_len(word);
    if (words->variable_count == WORDS_VARIABLES)
        return -1;
    words->variables[words->variable_count++] = text;
    return end + 1 - word;
}

static long keep_name(struct words *words, const char *word, const char *name)
{
    const long size = once(&words->app_name, word, name, is_plain(name, APP_NAME_MAX, 1));
    const char *end = words->app_variable + sizeof words->app_variable;

    if (size < 0 || words->variable_count == WORDS_VARIABLES)
        return -1;
    (void)str_add(str_add(words->app_variable, end, "AC_APP_NAME="), end, name);
    words->variables[words->variable_count++] = words->app_variable;
    return size;
}

/* How many bytes of a word belong to the key; -1 where it is for Python. */
static long keep(struct words *words, const char *word, const char *before)
{
    const char *value;

    switch (option_of(word, before, &value)) {
    case OPTION_VARIABLE ... OPTION_VARIABLE_SHORT:
        return keep_variable(words, word, value);
    case OPTION_NAME:
        return keep_name(words, word, value);
    case OPTION_HOST_NAME:
        return once(&words->host_name, word, value, is_plain(value, HOST_NAME_MAX, 0));
    case OPTION_UUID_FILE:
        return once(&words->uuid_file, word, value, *value != '\0' && *value != '-');
    default:
        return (long)str_len(word);
    }
}

static char *add(char *at, const char *end, const char *word, size_t size)
{
    if (at == 0 || size + 1 > (size_t)(end - at))
        return 0;
    memcpy(at, word, size);
    at[size] = '\0';
    return at + size + 1;
}

/* What comes first in every key, behind the form; 0 where there is none. */
static char *begin(struct words *words, char **envp)
{
    const char *end = words->key + sizeof words->key, *root = from_environment(envp, "PYRUN_ROOT");
    char path[PATH_SIZE], *at = add(words->key + 2, end, root, str_len(root));
    long size;

    size = sys_call4(__NR_readlinkat, AT_FDCWD, "/proc/self/exe", path, sizeof path);
    return size <= 0 || size == sizeof path ? 0 : add(at, end, path, (size_t)size);
}

static char *add_directory(const struct words *words, char *at)
{
    char path[PATH_SIZE];

    return sys_call2(__NR_getcwd, path, sizeof path) < 0 ? 0 : add(at, words->key + sizeof words->key, path, str_len(path));
}

int words_whole(struct words *words, int argc, char **argv, char **envp)
{
    char *at = begin(words, envp);

    for (int i = 1; i < argc; i++)
        at = add(at, words->key + sizeof words->key, argv[i], str_len(argv[i]));
    at = add_directory(words, at);
    words->key[0] = RECIPE_KEPT;
    words->key[1] = '\0';
    words->key_size = at == 0 ? 0 : (size_t)(at - words->key);
    return at != 0;
}

int words_split(struct words *words, int argc, char **argv, char **envp)
{
    const char *end = words->key + sizeof words->key;
    char *at = begin(words, envp);
    int several = 0, i;

    for (i = 1; i < argc; i++)
        several |= str_eq(argv[i], "---");
    for (i = 1; at != 0 && i < argc; i++) {
        const int last = !several && str_eq(argv[i], "--");
        const long size = several || last || i == 1 ? (long)str_len(argv[i]) : keep(words, argv[i], argv[i - 1]);

        if (size < 0)
            return 0;
        at = add(at, end, argv[i], (size_t)size);
        if (last) {
            i++;
            break;
        }
    }
    words->arguments = argv + i;
    words->argument_count = (uint32_t)(argc - i);
    words->split_size = at == 0 ? 0 : (size_t)(at - words->key);
    return at != 0;
}

int words_key(struct words *words, char form, int here)
{
    char *at = words->key + words->split_size;

    words->key[0] = (char)(form + (here ? RECIPE_HERE : 0));
    words->key[1] = '\0';
    if ((form == RECIPE_EXACT) != (words->argument_count == 0))
        return 0;
    if (form == RECIPE_PROGRAM)
        at = add(at, words->key + sizeof words->key, words->arguments[0], str_len(words->arguments[0]));
    if (here)
        at = add_directory(words, at);
    words->key_size = at == 0 ? 0 : (size_t)(at - words->key);
    return at != 0;
}

struct pool {
    char *start, *at;
};

static uint32_t offset(const struct pool *pool)
{
    return (uint32_t)(pool->at - pool->start);
}

static void put(struct pool *pool, const char *data, size_t size)
{
    memcpy(pool->at, data, size);
    pool->at += size;
}

static const char *put_word(struct pool *pool, const char *word)
{
    const size_t size = str_len(word) + 1;

    put(pool, word, size);
    return word + size;
}

/* The arguments go behind the app's own; the other programs of a plan are event handlers. */
static void put_arguments(const struct words *words, uint32_t first, struct pool *pool, struct plan_op *op)
{
    const char *word = pool->start + op->s1;

    op->s1 = offset(pool);
    for (uint32_t i = 0; i < op->n; i++)
        word = put_word(pool, word);
    for (uint32_t i = first; i < words->argument_count; i++)
        (void)put_word(pool, words->arguments[i]);
    op->n += words->argument_count - first;
}

static uint32_t put_variables(const struct words *words, const uint32_t *places, struct pool *pool, const struct plan_op *op)
{
    const uint32_t start = offset(pool);
    const char *word = pool->start + op->s2;

    for (uint64_t i = 0; i < op->a; i++) {
        const char *given = 0, *next = word + str_len(word) + 1;

        for (uint32_t k = 0; k < words->variable_count; k++)
            if (places[k] == i)
                given = words->variables[k];
        (void)put_word(pool, given != 0 ? given : word);
        word = next;
    }
    return start;
}

/* A text of the plan that has the host name in it; `where` is the member of an operation that says where it is. */
static int put_patch(const struct words *words, const struct words_places *places, const struct recipe_patch *patch, struct pool *pool,
                     char *plan)
{
    const uint32_t at = offset(pool);

    if (words->host_name == 0 || patch->head >= places->strings_size || patch->tail >= places->strings_size || patch->where % 4 != 0 ||
        patch->where < sizeof(struct plan_header) || patch->where + 4UL > (size_t)(pool->start - plan))
        return 0;
    put(pool, places->strings + patch->head, str_len(places->strings + patch->head));
    put(pool, words->host_name, str_len(words->host_name));
    (void)put_word(pool, places->strings + patch->tail);
    memcpy(plan + patch->where, &at, sizeof at);
    return 1;
}

/* The most that the plan can become, 0 where that is more than the helper takes. */
static size_t room(const struct words *words, uint32_t first, const struct words_places *places, const struct plan_header *plan)
{
    size_t size = plan->size;

    for (uint32_t i = first; i < words->argument_count; i++)
        size += str_len(words->arguments[i]) + 1;
    for (uint32_t i = 0; i < words->variable_count; i++)
        size += str_len(words->variables[i]) + 1;
    size += places->patch_count * (2UL * places->strings_size + HOST_NAME_MAX + 1);
    size += 2UL * plan->pool_size; /* the arguments that are there, the environment */
    return size > PLAN_MAX_SIZE ? 0 : size;
}

static char *memory(size_t size)
{
    const long map = size == 0 ? -ENOMEM : sys_call6(__NR_mmap, 0, size, 3 /* read and write */, 0x22 /* private, anonymous */, -1, 0);

    return (unsigned long)map > -4096UL ? 0 : (char *)map;
}

char *words_record(const struct words *words, char *record, size_t *size, uint32_t place)
{
    const size_t more = str_len(words->app_name);
    char *made = place > *size ? 0 : memory(*size + more);

    if (made == 0)
        return 0;
    memcpy(made, record, place);
    memcpy(made + place, words->app_name, more);
    memcpy(made + place + more, record + place, *size - place);
    *size += more;
    return made;
}

char *words_plan(const struct words *words, char form, char *plan, size_t *size, const struct words_places *places)
{
    const struct plan_header *old = (const struct plan_header *)(void *)plan;
    const uint32_t first = form == RECIPE_PROGRAM;
    const int more = words->argument_count > first;
    struct plan_header *header;
    struct plan_op *op, *program = 0;
    struct pool pool;
    uint32_t variables = 0;
    if (places->variable_count != words->variable_count || words->argument_count > PLAN_MAX_LIST || plan_check(plan, *size) != 0)
        return 0;
    header = (struct plan_header *)(void *)memory(room(words, first, places, old));
    if (header == 0)
        return 0;
    memcpy(header, plan, old->pool + old->pool_size);
    pool = (struct pool){(char *)header + old->pool, (char *)header + old->pool + old->pool_size};
    for (op = (struct plan_op *)(header + 1); op < (struct plan_op *)(header + 1) + header->op_count; op++) {
        if (op->code != OP_EXEC)
            continue;
        if (more && program == 0)
            put_arguments(words, first, &pool, program = op);
        if (places->variable_count > 0)
            op->s2 = variables = variables != 0 ? variables : put_variables(words, places->variables, &pool, op);
    }
    for (uint32_t i = 0; i < places->patch_count; i++)
        if (!put_patch(words, places, &places->patches[i], &pool, (char *)header))
            return 0;
    if (program != 0 && program->n > PLAN_MAX_LIST)
        return 0;
    header->pool_size = offset(&pool);
    put(&pool, plan + old->pool + old->pool_size, old->size - old->pool - old->pool_size); /* the notes */
    header->size = (uint32_t)(pool.at - (char *)header);
    *size = header->size;
    return (char *)header;
}
