/* Standard input: texts, each behind its size (uint32_t).  Standard output: what the launcher takes each for, a line of JSON. */
#include "oci_exec.h"

/* libc's own headers do not go with the kernel's */
void *calloc(size_t count, size_t size);
void free(void *memory);
int printf(const char *format, ...);
int putchar(int c);
int puts(const char *text);
void abort(void);

static int take(void *to, size_t size)
{
    for (char *at = to; size > 0;) {
        const long n = sys_read(0, at, size);

        if (n <= 0)
            return 0;
        at += n;
        size -= (size_t)n;
    }
    return 1;
}

static void text(const char *word)
{
    putchar('"');
    for (; *word != '\0'; word++)
        if (*word == '"' || *word == '\\' || (unsigned char)*word < ' ')
            printf("\\u%04x", (unsigned)*word);
        else
            putchar(*word);
    putchar('"');
}

static void list(const char *name, const struct words *words)
{
    const char *at = words->start;

    printf("\"%s\":[", name);
    for (unsigned i = 0; i < words->count; i++, at += str_len(at) + 1) {
        if (i > 0)
            putchar(',');
        text(at);
    }
    printf("],");
    if (words->count > 0 && at != words->end)
        abort();
}

static void show(const struct process *process)
{
    putchar('{');
    list("args", &process->args);
    list("env", &process->env);
    printf("\"cwd\":");
    text(process->cwd);
    printf(",\"ids\":[%u,%u,%u", process->uid, process->gid, process->umask);
    for (unsigned i = 0; i < process->group_count; i++)
        printf(",%u", process->groups[i]);
    printf("],\"sets\":[");
    for (int i = 0; i < 5; i++)
        printf("%s%lu", i > 0 ? "," : "", process->sets[i]);
    printf("],\"limits\":[");
    for (unsigned i = 0; i < process->limit_count; i++)
        printf("%s[%u,%lu,%lu]", i > 0 ? "," : "", process->limits[i].kind, process->limits[i].soft, process->limits[i].hard);
    printf("],\"flags\":[%d,%d],\"size\":[%u,%u]}\n", process->locked, process->terminal, process->height, process->width);
}

int main(void)
{
    uint32_t size;

    while (take(&size, sizeof size)) {
        struct process *process = calloc(1, sizeof *process);
        char *data = calloc(size + 1UL, 1);
        struct json json = {.at = data, .out = data, .end = data + size};

        if (process == 0 || data == 0 || !take(data, size))
            abort();
        if (read_process(&json, process) && json_ended(&json))
            show(process);
        else
            puts("null");
        free(process);
        free(data);
    }
    return 0;
}
