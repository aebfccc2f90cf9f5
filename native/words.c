/* What a command line of `pyrun run` says that decides nothing: the app's arguments and the values of its variables.
 *
 * split() in pyrun.pod.cache does the same, and the recipe is right for every line with the same key because the parser never
 * takes the name of an option, or `--`, for the value of another option. */
#include "words.h"
#include "decode.h"

static int is_option(const char *word)
{
    return str_eq(word, "--set-env") || str_eq(word, "--env") || str_eq(word, "-e");
}

static const char *behind(const char *word, const char *start)
{
    while (*start != '\0' && *word == *start) {
        word++;
        start++;
    }
    return *start == '\0' ? word : 0;
}

/* The NAME=VALUE in a word, 0 where there is none or it decides. */
static const char *variable_in(const char *word, const char *before)
{
    const char *text = is_option(before) ? word : behind(word, "--set-env="), *end;

    if (text == 0)
        text = behind(word, "--env=");
    for (end = text; end != 0 && *end != '\0' && *end != '='; end++)
        ;
    return text == 0 || end == text || *end == '\0' || behind(text, "PATH=") != 0 ? 0 : text;
}

static char *add(char *at, const char *end, const char *word, size_t size)
{
    if (at == 0 || size + 1 > (size_t)(end - at))
        return 0;
    memcpy(at, word, size);
    at[size] = '\0';
    return at + size + 1;
}

int words_split(struct words *words, int argc, char **argv, char **envp)
{
    const char *end = words->key + sizeof words->key, *text;
    char directory[PATH_SIZE], *at = words->key + 2; /* the form comes first */
    int several = 0, i;

    if (sys_call2(__NR_getcwd, directory, sizeof directory) < 0)
        return 0;
    for (i = 1; i < argc; i++)
        several |= str_eq(argv[i], "---");
    at = add(at, end, directory, str_len(directory));
    text = from_environment(envp, "PYRUN_ROOT");
    at = add(at, end, text, str_len(text));
    for (i = 1; at != 0 && i < argc; i++) {
        size_t size = str_len(argv[i]);

        if (!several && str_eq(argv[i], "--")) {
            at = add(at, end, argv[i++], size);
            break;
        }
        text = several || i == 1 ? 0 : variable_in(argv[i], argv[i - 1]);
        if (text != 0) {
            if (words->variable_count == WORDS_VARIABLES)
                return 0;
            words->variables[words->variable_count++] = text;
            for (size = (size_t)(text - argv[i]); argv[i][size] != '='; size++)
                ;
            size++;
        }
        at = add(at, end, argv[i], size);
    }
    words->arguments = argv + i;
    words->argument_count = (uint32_t)(argc - i);
    words->key_size = at == 0 ? 0 : (size_t)(at - words->key);
    return at != 0;
}

int words_key(struct words *words, char form)
{
    words->key[0] = form;
    words->key[1] = '\0';
    if ((form == RECIPE_EXACT) != (words->argument_count == 0))
        return 0;
    if (form == RECIPE_PROGRAM) {
        const char *program = words->arguments[0];
        char *at = add(words->key + words->key_size, words->key + sizeof words->key, program, str_len(program));

        if (at == 0)
            return 0;
        words->key_size = (size_t)(at - words->key);
    }
    return 1;
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

char *words_plan(const struct words *words, char form, char *plan, size_t *size, const uint32_t *places, uint32_t place_count)
{
    const struct plan_header *old = (const struct plan_header *)(void *)plan;
    const uint32_t first = form == RECIPE_PROGRAM;
    const int more = words->argument_count > first;
    struct plan_header *header;
    struct plan_op *op, *program = 0;
    struct pool pool;
    uint32_t variables = 0;
    size_t room = *size;
    long map;

    if (place_count != words->variable_count || words->argument_count > PLAN_MAX_LIST || plan_check(plan, *size) != 0)
        return 0;
    for (uint32_t i = first; i < words->argument_count; i++)
        room += str_len(words->arguments[i]) + 1;
    for (uint32_t i = 0; i < words->variable_count; i++)
        room += str_len(words->variables[i]) + 1;
    room += 2UL * old->pool_size; /* the arguments that are there, the environment */
    map = room > PLAN_MAX_SIZE ? -ENOMEM : sys_call6(__NR_mmap, 0, room, 3 /* read and write */, 0x22 /* private, anonymous */, -1, 0);
    if ((unsigned long)map > -4096UL)
        return 0;
    header = (struct plan_header *)map;
    memcpy(header, plan, old->pool + old->pool_size);
    pool = (struct pool){(char *)header + old->pool, (char *)header + old->pool + old->pool_size};
    for (op = (struct plan_op *)(header + 1); op < (struct plan_op *)(header + 1) + header->op_count; op++) {
        if (op->code != OP_EXEC)
            continue;
        if (more && program == 0)
            put_arguments(words, first, &pool, program = op);
        if (place_count > 0)
            op->s2 = variables = variables != 0 ? variables : put_variables(words, places, &pool, op);
    }
    if (program != 0 && program->n > PLAN_MAX_LIST)
        return 0;
    header->pool_size = offset(&pool);
    put(&pool, plan + old->pool + old->pool_size, old->size - old->pool - old->pool_size); /* the notes */
    header->size = (uint32_t)(pool.at - (char *)header);
    *size = header->size;
    return (char *)header;
}
