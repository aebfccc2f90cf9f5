/* Fuzz target of what the launcher reads of a CNI plug-in's answer (native/net_result.c): no byte that is not there, and what it takes lies
 * inside. */
#include "../../native/net_address.c"
#undef is_hex
#define is_hex is_hex_too
#include "../../native/net_result.c"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int within(const char *text, size_t size, struct net_span span)
{
    return span.at >= text && span.size <= size && span.at - text <= (long)(size - span.size);
}

static void look(const char *text, size_t size, const struct net_result *result, struct net_span span)
{
    if (span.size > 0 && !within(text, size, span) && !within(result->room, result->used, span))
        __builtin_trap();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct net_value values[NET_OF_RESULT], addresses[NET_ADDRESSES];
    char *text = __builtin_malloc(size + 1); /* its very size */
    struct net_result result;

    memcpy(text, data, size);
    text[size] = '\0';
    if (net_read_result(&result, text, size)) {
        if (result.address_count > NET_ADDRESSES || result.default_count > NET_DEFAULTS)
            __builtin_trap();
        for (uint32_t i = 0; i < result.address_count; i++)
            look(text, size, &result, result.address[i]);
        look(text, size, &result, result.mac);
        if (net_take_result(values, addresses, &result) == 0)
            for (uint32_t i = 0; i < result.address_count; i++)
                if (addresses[i].size > sizeof addresses[i].raw || str_len(addresses[i].text) >= sizeof addresses[i].text)
                    __builtin_trap();
    }
    __builtin_free(text);
    return 0;
}
