/* The script of a pod's network: what pyrun.net.attach did for one pod, for the launcher to do for others like it.
 *
 * Written by pyrun.net.script, as the file `net.script` of a prepared pod or as a part of a recipe; carried out by net_script.c.
 *
 *     struct net_script | struct net_op[count] | pool
 *
 * Offsets count from the start of the pool, 0 is none.  In messages the launcher puts values where struct net_patch says, in texts where
 * a byte NET_TEXT, NET_HEX, NET_COLONS or NET_RESULT stands with the value's number behind it, in two digits of NET_BASE from NET_FIRST on.  The last byte of the file is NUL. */
#ifndef PYRUN_NET_SCRIPT_H
#define PYRUN_NET_SCRIPT_H

#include "sys.h"

#include "recipe.h"

#define NET_SCRIPT "net.script"
#define NET_ELEMENTS "net.elements" /* what the pod has in the table, as it was sent: pyrun.net.elements */
#define NET_MAGIC 0x74656e70
#define NET_VERSION 6
/* What no pod asks for: whoever writes a script down refuses that (pyrun.net.ops).  Only what is used becomes memory. */
#define NET_RECORD (1 << 22) /* bytes of what is said of a pod */
#define NET_SIZE (1 << 24)   /* bytes of a script, or of a transaction */
#define NET_OPS 65536
#define NET_VALUES 1024
#define NET_WORDS 16384         /* of a command */
#define NET_WORDS_SIZE (1 << 20)

#define NET_TEXT 1
#define NET_HEX 2
#define NET_COLONS 3
#define NET_RESULT 4 /* what the plug-ins of the network with that number said */
#define NET_LIST 5   /* its addresses, as members of a list */
#define NET_EACH 6   /* what follows, for each of them: up to NET_END, the address alone where NET_THIS is */
#define NET_END 7
#define NET_THIS 8
#define NET_FIRST 0x20
#define NET_BASE 128

#define NET_PLUGGED 64    /* networks of plug-ins */
#define NET_ADDRESSES 256 /* of each */
#define NET_DEFAULTS 4   /* default routes that one may name */
#define NET_OF_RESULT 3  /* values of each: which addresses there are, IPv4, IPv6, any; default routes; MAC */
#define NET_ANSWER (1 << 20) /* bytes that a plug-in may say */

struct net_script {
    uint32_t magic;
    uint32_t version;
    uint32_t size;
    uint32_t count;
    uint32_t pool; /* where it starts in the file */
    uint32_t uuid; /* of the pod that it was written for */
    uint32_t table; /* our table of nf_tables, "": none */
    uint32_t unused;
};

struct net_op {
    uint32_t what;
    uint32_t word[7];
};

enum net_what {
    NET_FAIL,       /* port, in words: the pod has no address of that family */
    NET_CHECK,      /* path, struct net_stamp, what it said, size: the file is as it was, or with zeros is not there; of a prepared pod, if there is
                     * a size, it says the same */
    NET_LOCK,       /* that of networks, pyrun.net.networks */
    NET_UNLOCK,
    NET_LEASE,      /* network and, behind its NUL, subnet, name of what says where to begin, first address, its size, how many there are, a fixed one, value */
    NET_LINK_LOCAL, /* value, another one, byte: the link-local address of the MAC 06:BYTE and the four bytes of the first value */
    NET_PORT,       /* name of the link, socket addresses (32 bytes each) that must be free, how many, type and protocol */
    NET_FILE,       /* name, text, size: of the pod's directory */
    NET_NAMESPACE,  /* value: a new network namespace */
    NET_ASK,        /* enum net_socket, message, size, struct net_patch, how many, acknowledgements, value + 1: the link's number */
    NET_RELAY,      /* words, a NUL behind each, size; two values: its process and when that started; 1 for a user's network */
    NET_SETTING,    /* path, text */
    NET_NAME,       /* network, lines, size: the pod's names there, pyrun.net.names */
    NET_HOSTS,      /* text, size, networks with a NUL behind each: the pod's /etc/hosts */
    NET_RANDOM,     /* value: four random bytes */
    NET_UNLESS,     /* as NET_ASK, for something that may be there: then the next word[6] operations are left out */
    NET_RULES,      /* name: a file of pyrun.net.snapshot's, which makes the table; with what is living pods' in it */
    NET_FORWARD,    /* the host passes packets on, as pyrun.net.bridges has it */
    NET_PROGRAM,    /* words behind PATH=..., size; two values as for NET_RELAY; 1: it says on NET_TOLD that it is ready */
    NET_PLUGIN,     /* network, type and where that may be, with a NUL behind each; environment, size; configuration without its end,
                     * size; enum net_turn; the first of NET_OF_RESULT values */
    NET_WHEN,       /* value, place in it, bytes, size: else the next word[6] operations are left out */
    NET_INTACT,     /* questions for chains, size, how many, a byte for each: so many rules and jumps there are at least, and then the next
                     * word[6] operations are left out */
    NET_PICK,       /* value, another one, place in that, 4 or 6, sources, how many: the first address of that family, and whether there is one; a
                     * source is a uint16_t, a value's number, or NET_PLUGGED_SOURCE and a network's */
};

#define NET_PLUGGED_SOURCE 0x8000U /* above all numbers of networks; those of values are below */

enum net_turn {
    NET_LAST = 1,          /* of its network: then there is the result */
    NET_WITH_RESULT = 2,   /* DEL gets that too, from 0.4.0 on */
    NET_NETWORK_SHIFT = 2, /* its number */
};

enum net_socket { NET_HOST, NET_INSIDE, NET_FILTER, NET_SOCKETS };

struct net_patch {
    uint32_t at;
    uint32_t value;
};

struct net_stamp {
    uint64_t device, inode, size, modified, changed; /* nanoseconds since 1970 */
};

/* What a start takes. */
struct net_value {
    uint32_t size;
    unsigned char raw[16];
    char text[64];
};

/* A network that plug-ins make. */
struct net_plugged {
    struct net_value address[NET_ADDRESSES]; /* with its length behind the slash */
    uint32_t address_count;
    char *result;
    uint32_t size; /* 0: nobody has said anything */
    int asked;     /* ADD, of the first at least */
    int whole;     /* of all */
};

#define NET_TAKEN NET_WORDS

/* One start that is being made. */
struct net {
    int networks, pod; /* directories: `networks` of the state directory, the pod's own */
    const char *uuid, *table;
    char *pool;
    uint32_t pool_size;
    const struct net_op *ops;
    uint32_t op_count;
    int lock, ns, socket[NET_SOCKETS];
    struct net_value value[NET_VALUES];
    struct {
        const char *folder, *name;
    } taken[NET_TAKEN]; /* links that this start made, which are undone */
    uint32_t taken_count;
    struct net_plugged plugged[NET_PLUGGED];
    int32_t relay, program;
    uint32_t skip; /* operations that come next */
    int fresh;    /* this start has made the table: nothing of dead pods is in it */
    int recorded; /* the file `net` is there */
    int prepared; /* of a prepared pod: what was decided then holds */
    int told;     /* others were told of the pod: who undoes that is `net`'s reader */
};

/* Makes the network of the pod whose directory is `pod`: its namespace, or minus an errno; then nothing is left of it, unless the
 * file `net` says so.  The script is changed.  With `prepared` why it could not be made is noted (refuse.h), but where Python may know better. */
int net_make(const char *root, int pod, const char *uuid, char *script, size_t size, int prepared);

/* Takes back what an earlier start of it has made; 0, and why is noted, where plug-ins would not. */
int net_take_apart(const char *root, int pod, const char *uuid, char *script, size_t size);
int net_undo(struct net *net, const char *root); /* net_undo.c */
long net_lock(struct net *net); /* that of networks */
void net_unlock(struct net *net);
#define NET_BORDER 20 /* bytes of the first and the last request of a transaction of nf_tables: struct nlmsghdr and struct nfgenmsg */

/* Ends the process that relays to the pod's ports, which must be gone before its ports can be had again. */
void net_end_relay(const struct net *net);

/* net_clear.c: removes what a dead pod has in the table by that link, which is this one's now. */
void net_clear(struct net *net, const char *folder, const char *name);
int net_read_address(struct net_value *value, const char *text); /* 0 for what is none */

/* Memory for as long as the program runs, of which only what is used counts; 0 where there is none. */
char *net_room(size_t size);

/* A file of so many bytes at most, in such memory and with a NUL behind it; its size, or minus an errno. */
long net_read(int dir, const char *name, char **data, size_t most);

/* Whether so much of the pool stands there. */
int net_inside(const struct net *net, uint64_t at, uint64_t size);

/* A text with its values; its size, or minus an errno. */
long net_text(const struct net *net, uint32_t at, uint32_t size, char *to, size_t room);

long net_relay(struct net *net, const struct net_op *op); /* net_relay.c */

/* net_take.c; as all that follows: minus an errno where it cannot be. */
long net_lease(struct net *net, const struct net_op *op);
long net_port(struct net *net, const struct net_op *op);
long net_link_local(struct net *net, const struct net_op *op);
long net_random(struct net *net, const struct net_op *op);
void net_give_back(const struct net *net);
void net_number(struct net_value *value, uint32_t number);

/* net_ready.c */
long net_check(const struct net *net, const struct net_op *op);
long net_when(struct net *net, const struct net_op *op);
long net_pick(struct net *net, const struct net_op *op);
long net_unless(struct net *net, const struct net_op *op);
long net_rules(struct net *net, const struct net_op *op);
long net_intact(struct net *net, const struct net_op *op);
long net_forward(void);
int net_lives(const struct net *net, const char *uuid); /* whether a pod runs or is going to, as pyrun.net.leases has it */

/* net_script.c: sends what is `size` bytes long, and waits for so many acknowledgements; the number of the link they are about. */
long net_send(struct net *net, uint32_t where, char *data, size_t size, uint32_t awaited, uint32_t *number);
long net_ask(struct net *net, const struct net_op *op);
long net_open(struct net *net, uint32_t where); /* the socket of that kind */
int net_socket(int family);
void net_hear_no_advertisements(void);

/* net_user.c */
#define NET_NS 8 /* descriptors of the program */
#define NET_TOLD 9
long net_program(struct net *net, const struct net_op *op);
long net_make_user(struct net *net);            /* the namespace, by a child: who leaves the host's cannot come back */
void net_end_program(const struct net *net);
uint32_t net_split(char *words, long size, char *argv[NET_WORDS + 1]); /* words with a NUL behind each; how many */

/* net_plugin.c */
long net_plugin(struct net *net, const struct net_op *op);
int net_take_back(struct net *net); /* DEL; 0 where somebody has to ask again */

/* net_names.c */
long net_name(const struct net *net, const struct net_op *op);
long net_hosts(const struct net *net, const struct net_op *op);
long net_forget(const struct net *net, const char *network); /* the pod leaves it */

#endif
