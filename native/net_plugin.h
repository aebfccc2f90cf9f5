/* Plug-ins of CNI (cni.dev, SPEC.md) as the launcher runs them; see net_plugin.c and net_result.c. */
#ifndef PYRUN_NET_PLUGIN_H
#define PYRUN_NET_PLUGIN_H

#include "net_script.h"

/* Some text of a result, not ended. */
struct net_span {
    const char *at;
    uint32_t size;
};

/* What counts of a result: its addresses, which of `0.0.0.0/0` and `::/0` it routes, and the MAC inside. */
struct net_result {
    uint32_t members, address_count, default_count;
    struct net_span address[NET_ADDRESSES], mac;
    unsigned char defaults[NET_DEFAULTS]; /* '4' or '6' */
    char room[1024];                      /* for what is not written as it is meant */
    uint32_t used;
};

/* Reads a result that ends in a NUL; 0 for anything that is none, or has what only Python could judge. */
int net_read_result(struct net_result *result, const char *text, size_t size);

/* ADDRESS/LENGTH, or an address alone; the family's digit, 0 for anything else. */
unsigned char net_take_address(struct net_value *address, struct net_span from);

/* Its values, from `first` on, and its addresses; minus an errno where one is none. */
long net_take_result(struct net_value *first, struct net_value *addresses, const struct net_result *result);

#endif
