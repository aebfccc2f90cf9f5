/* What the launcher makes of a command line: words FORM COMMAND-LINE... writes the key of that form without the current directory and
 * with it, and with a plan on standard input, as the end of a struct input, that plan with the line's words in it.  Exit code 1: that
 * is for Python. */
#include "words.h"

#include "plan.h"

struct input {
    uint32_t place_count, patch_count, place[126];
    struct recipe_patch patch[RECIPE_PATCHES];
    char strings[416];
    char plan[PLAN_MAX_SIZE];
};

static void out(const void *data, size_t size)
{
    const uint32_t head = (uint32_t)size;

    (void)sys_write(1, (const char *)&head, sizeof head);
    (void)sys_write(1, data, size);
}

int program(int argc, char **argv, char **envp)
{
    static struct words words;
    static struct input input __attribute__((aligned(8)));
    size_t size = 0;
    long n;

    if (!words_split(&words, argc - 1, argv + 1, envp))
        return 1;
    for (int here = 0; here < 2; here++) {
        if (!words_key(&words, argv[1][0], here))
            return 1;
        out(words.key, words.key_size);
    }
    while ((n = sys_read(0, (char *)&input + size, sizeof input - size)) > 0)
        size += (size_t)n;
    if (size > offsetof(struct input, plan)) {
        const struct words_places places = {input.place, input.patch, input.place_count, input.patch_count, input.strings, sizeof input.strings};
        char *plan;

        size -= offsetof(struct input, plan);
        plan = words_plan(&words, argv[1][0], input.plan, &size, &places);
        if (plan == 0)
            return 1;
        out(plan, size);
    }
    return 0;
}
