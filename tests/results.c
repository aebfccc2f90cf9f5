/* What the launcher reads of the answer of a CNI plug-in on standard input: families, default routes, MAC, then each address and its
 * length, a line each.  Exit code 1: that is for Python. */
#include "net_plugin.h"

static void say(const char *text)
{
    (void)sys_write(1, text, str_len(text));
    (void)sys_write(1, "\n", 1);
}

int program(int argc, char **argv, char **envp)
{
    static char data[NET_ANSWER + 1];
    static struct net_value values[NET_OF_RESULT];
    struct net_result result;
    size_t size = 0;
    long n;

    (void)argc, (void)argv, (void)envp;
    while ((n = sys_read(0, data + size, NET_ANSWER - size)) > 0)
        size += (size_t)n;
    if (!net_read_result(&result, data, size) || net_take_result(values, &result) < 0)
        return 1;
    say((const char *)values[0].raw);
    for (int i = 1; i < NET_OF_RESULT; i++)
        say(values[i].text);
    for (uint32_t i = 0; i < result.address_count; i++)
        (void)sys_write(1, values[3 + 2 * i].raw, values[3 + 2 * i].size);
    return 0;
}
