/* What the launcher reads of the answer of a CNI plug-in on standard input: default routes, MAC, then each address with its length, a line each,
 * an empty one, which families there are, and the addresses as bytes.  Exit code 1: that is for Python. */
#include "net_plugin.h"

static void say(const char *text)
{
    (void)sys_write(1, text, str_len(text));
    (void)sys_write(1, "\n", 1);
}

int program(int argc, char **argv, char **envp)
{
    static char data[NET_ANSWER + 1];
    static struct net_value values[NET_OF_RESULT], addresses[NET_ADDRESSES];
    struct net_result result;
    size_t size = 0;
    long n;

    (void)argc, (void)argv, (void)envp;
    while ((n = sys_read(0, data + size, NET_ANSWER - size)) > 0)
        size += (size_t)n;
    if (!net_read_result(&result, data, size) || net_take_result(values, addresses, &result) < 0)
        return 1;
    for (int i = 1; i < NET_OF_RESULT; i++)
        say(values[i].text);
    for (uint32_t i = 0; i < result.address_count; i++)
        say(addresses[i].text);
    say("");
    for (int i = 0; i < 3; i++)
        (void)sys_write(1, values[0].raw[i] ? "1" : "0", 1);
    for (uint32_t i = 0; i < result.address_count; i++)
        (void)sys_write(1, addresses[i].raw, addresses[i].size);
    return 0;
}
