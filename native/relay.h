/* What the two files of the relay share: see relay.c. */
#ifndef PYRUN_RELAY_H
#define PYRUN_RELAY_H

#include "sys.h"

enum { MOST_PORTS = 8192, MOST_FLOWS = 1024, ROOM = 16384 };
enum { STREAM = 1, DATAGRAM = 2, NONBLOCK_CLOEXEC = 0x80800 }; /* socket(2) */

enum { INET = 2, INET6 = 10 };

struct address { /* struct sockaddr_in6 of ipv6(7); that of ip(7) has its address where the flow is */
    uint16_t family, port;
    uint32_t flow;
    unsigned char bytes[16];
    uint32_t scope;
};

struct port {
    struct address at; /* of the host, all zeros for every one */
    int fd;
    uint16_t inner;       /* in the order of the network */
    uint8_t kind, target; /* which of the pod's addresses answered last */
};

struct relay {
    int poll;    /* epoll(7) of everything */
    int streams; /* epoll(7) of the ports that listen, inside the first: one word stops accepting by all of them */
    int watch;   /* rtnetlink(7): the pod's interface has gone; -1 where another process is watched */
    unsigned targets, ports;
    struct address target[2];
    struct port port[MOST_PORTS];
};

extern struct relay relay;

/* Which descriptor an event is of; below it the port, or the flow and its side. */
enum what { WATCH, STREAMS, PORT, FLOW };
#define EVENT(what, number) ((uint64_t)(what) << 32 | (uint64_t)(number))

long watch_for(int poll, int how, int fd, uint32_t events, uint64_t data);
__attribute__((noreturn)) void serve(void);

#endif
