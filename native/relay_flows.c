/* What goes through the relay: connections, and conversations of datagrams.
 *
 *   asker on ::1  ==== side 0  [room of way 0] -->  side 1 ====  pod        way: from the side of its number to the other one
 *                              <-- [room of way 1]
 *
 * Nothing blocks: of a side that cannot take more nothing is read on the other.  A room is read into only when it is empty.  Conversations
 * have the port's own socket as side 0 and end when nothing was said for a while; room 0 keeps a question until there was an answer, for
 * the pod's other address, where its first one refuses. */
#include "relay.h"

enum { IN = 1, OUT = 4, GONE = 8 | 16, ADD = 1, MODIFY = 3 }; /* epoll(7); GONE: error, hang-up */
static const uint32_t ONCE = 1U << 31; /* EPOLLET */
enum { FREE, CONNECTING, OPEN };
enum { SILENCE = 180, LOOK = 5, ROUNDS = 16 }; /* seconds, seconds, rooms before others have their turn */
enum { MOST_TALKS = MOST_FLOWS / 2 };          /* a datagram needs no asker who answers: connections are not to want for room by them */
enum { TAKE = 0x40, GIVE = 0x4040 };           /* MSG_DONTWAIT, with MSG_NOSIGNAL */

struct way {
    uint32_t start, end;
    uint8_t ended, gone; /* gone: who has said it hears nothing any more */
};

/* The address of the host that was asked, which is the one that answers: IPV6_PKTINFO of ipv6(7), for IPv4 too. */
struct asked {
    size_t length;
    int level, type;
    unsigned char address[16];
    uint32_t link;
};

struct vector { /* struct iovec */
    void *base;
    size_t length;
};

struct message { /* struct msghdr of recvmsg(2) */
    struct address *peer;
    uint32_t peer_length;
    struct vector *vector;
    size_t count;
    struct asked *asked;
    size_t asked_length;
    int flags;
};

struct flow {
    int fd[2];
    uint32_t wanted[2];
    struct way way[2];
    struct address asker;
    struct asked asked;
    uint64_t last;
    struct port *port;
    uint8_t state, kind, target, tries, answered;
};

static struct flow flows[MOST_FLOWS];
static char rooms[MOST_FLOWS][2][ROOM] __attribute__((aligned(4096)));
static char datagram[65536];
static unsigned open_flows, conversations;

static uint64_t seconds(void)
{
    struct __kernel_timespec now = {0, 0};

    (void)sys_call2(__NR_clock_gettime, 1 /* CLOCK_MONOTONIC */, &now);
    return (uint64_t)now.tv_sec;
}

/* With `reset` the peers learn that it went wrong (SO_LINGER of socket(7)). */
static void close_flow(struct flow *flow, int reset)
{
    static const int at_once[2] = {1, 0};

    for (int side = flow->kind == STREAM ? 0 : 1; side < 2; side++)
        if (flow->fd[side] >= 0) {
            if (reset)
                (void)sys_call5(__NR_setsockopt, flow->fd[side], 1, 13, at_once, sizeof at_once);
            sys_close(flow->fd[side]);
        }
    give_back(rooms[flow - flows], sizeof rooms[0]);
    conversations -= flow->kind == DATAGRAM;
    flow->state = FREE;
    if (open_flows-- == MOST_FLOWS)
        (void)watch_for(relay.poll, MODIFY, relay.streams, IN, EVENT(STREAMS, 0));
}

static struct flow *new_flow(struct port *port, int fd)
{
    struct flow *flow = flows;

    while (flow < flows + MOST_FLOWS && flow->state != FREE)
        flow++;
    if (flow == flows + MOST_FLOWS)
        return 0;
    *flow = (struct flow){.fd = {fd, -1}, .port = port, .kind = port->kind, .target = port->target, .state = CONNECTING};
    if (++open_flows == MOST_FLOWS)
        (void)watch_for(relay.poll, MODIFY, relay.streams, 0, EVENT(STREAMS, 0));
    conversations += port->kind == DATAGRAM;
    return flow;
}

/* A new socket to the pod. */
static long reach(struct flow *flow)
{
    struct address to = relay.target[flow->target];
    long r;

    if (flow->fd[1] >= 0)
        sys_close(flow->fd[1]);
    to.port = flow->port->inner;
    r = flow->fd[1] = (int)sys_call3(__NR_socket, to.family, flow->kind | NONBLOCK_CLOEXEC, 0);
    if (r >= 0 && ((r = sys_call3(__NR_connect, flow->fd[1], &to, sizeof to)) == 0 || r == -EINPROGRESS)) {
        flow->wanted[1] = flow->kind == STREAM ? OUT : IN;
        r = watch_for(relay.poll, ADD, flow->fd[1], flow->wanted[1], EVENT(FLOW, (flow - flows) * 2 + 1));
    }
    return r;
}

/* The other address of the pod, if it has one that was not tried. */
static int reach_elsewhere(struct flow *flow)
{
    while (++flow->tries < relay.targets) {
        flow->target = !flow->target;
        if (reach(flow) >= 0)
            return 1;
    }
    return 0;
}

/* A peer that has gone without a word is asked for by the kernel (tcp(7)): nobody else would find out, and its flow would stay. */
static void set_stream(int fd)
{
    static const int yes = 1, idle = SILENCE;

    (void)sys_call5(__NR_setsockopt, fd, 6, 1 /* TCP_NODELAY */, &yes, sizeof yes);
    (void)sys_call5(__NR_setsockopt, fd, 6, 4 /* TCP_KEEPIDLE */, &idle, sizeof idle);
    (void)sys_call5(__NR_setsockopt, fd, 1, 9 /* SO_KEEPALIVE */, &yes, sizeof yes);
}

static void accept_stream(struct port *port)
{
    static const struct __kernel_timespec moment = {0, 10000000};
    struct flow *flow;
    long fd = sys_call4(__NR_accept4, port->fd, 0, 0, NONBLOCK_CLOEXEC);

    if (fd < 0) {
        if (fd != -EAGAIN && fd != -ECONNABORTED) /* the host has no more files or memory: it would come again and again */
            (void)sys_call2(__NR_nanosleep, &moment, 0);
        return;
    }
    flow = new_flow(port, (int)fd);
    if (flow == 0) {
        sys_close((int)fd);
        return;
    }
    set_stream((int)fd);
    if (reach(flow) < 0 && !reach_elsewhere(flow))
        close_flow(flow, 1);
}

/* Carries what there is; below 0 when the flow has come to nothing. */
static int pump(struct flow *flow, int from)
{
    struct way *way = &flow->way[from];
    char *room = rooms[flow - flows][from];

    for (int round = 0; round < ROUNDS; round++) {
        long n = 0;

        while (way->start < way->end) {
            n = sys_call6(__NR_sendto, flow->fd[!from], room + way->start, way->end - way->start, GIVE, 0, 0);
            if (n == -EAGAIN)
                return 0;
            if (n < 0) { /* nobody reads there any more; what comes from there has its way yet */
                way->start = way->end;
                way->ended = 1;
                return 0;
            }
            way->start += (uint32_t)n;
        }
        if (way->ended)
            return 0;
        n = sys_call6(__NR_recvfrom, flow->fd[from], room, ROOM, TAKE, 0, 0);
        if (n == -EAGAIN)
            return 0;
        if (n < 0)
            return -1;
        way->start = 0;
        way->end = (uint32_t)n;
        if (n == 0) { /* passed on at once, also in the last round: nothing more comes that would be told of */
            (void)sys_call2(__NR_shutdown, flow->fd[!from], 1 /* SHUT_WR */);
            way->ended = 1;
        }
    }
    return 0;
}

/* epoll(7) tells of a hang-up even who asked for nothing, and again and again: who wants nothing hears of it once. */
static void want(struct flow *flow)
{
    for (int side = 0; side < 2; side++) {
        const struct way *here = &flow->way[side], *there = &flow->way[!side];
        uint32_t wanted = (here->ended || here->start < here->end ? 0 : IN) | (there->start < there->end ? OUT : 0);
        const int how = flow->wanted[side] == 0 ? ADD : MODIFY;

        wanted = wanted == 0 ? ONCE : wanted;
        if (wanted != flow->wanted[side])
            (void)watch_for(relay.poll, how, flow->fd[side], wanted, EVENT(FLOW, (flow - flows) * 2 + side));
        flow->wanted[side] = wanted;
    }
}

/* A side that has said all and is gone then takes no answer either: the other one is not to wait for more. */
static int in_vain(const struct flow *flow, int side)
{
    return flow->way[side].gone && flow->way[side].ended && !flow->way[!side].ended;
}

static void serve_stream(struct flow *flow, int side, uint32_t events)
{
    int error = 0, size = sizeof error;

    if (flow->state == CONNECTING) {
        (void)sys_call5(__NR_getsockopt, flow->fd[1], 1, 4 /* SO_ERROR */, &error, &size);
        if (error != 0) {
            if (!reach_elsewhere(flow))
                close_flow(flow, 1);
            return;
        }
        flow->state = OPEN;
        flow->port->target = flow->target;
        set_stream(flow->fd[1]);
    }
    flow->way[side].gone |= (events & GONE) != 0;
    if (pump(flow, 0) < 0 || pump(flow, 1) < 0 || in_vain(flow, 0) || in_vain(flow, 1))
        close_flow(flow, 1);
    else if (flow->way[0].ended && flow->way[1].ended)
        close_flow(flow, 0);
    else
        want(flow);
}

/* A datagram between a port and one who asks; sent with what came. */
static long exchange(long call, int fd, size_t size, struct address *peer, struct asked *asked)
{
    struct vector vector = {datagram, size};
    const size_t control = call == __NR_recvmsg || asked->length != 0 ? sizeof *asked : 0;
    struct message message = {peer, sizeof *peer, &vector, 1, asked, control, 0};
    const long n = sys_call3(call, fd, &message, GIVE);

    if (message.asked_length < sizeof *asked)
        asked->length = 0;
    asked->link = 0; /* answers go where they have to */
    return n;
}

static struct flow *conversation(struct port *port, const struct address *asker)
{
    struct flow *oldest = 0, *made;

    for (struct flow *flow = flows; flow < flows + MOST_FLOWS && conversations > 0; flow++)
        if (flow->state != FREE && flow->kind == DATAGRAM) {
            if (flow->port == port && memcmp(&flow->asker, asker, sizeof *asker) == 0)
                return flow;
            oldest = oldest == 0 || flow->last < oldest->last ? flow : oldest;
        }
    if ((open_flows == MOST_FLOWS || conversations == MOST_TALKS) && oldest != 0)
        close_flow(oldest, 0);
    made = new_flow(port, port->fd);
    if (made == 0)
        return 0;
    made->asker = *asker;
    if (reach(made) < 0 && !reach_elsewhere(made)) {
        close_flow(made, 0);
        return 0;
    }
    return made;
}

/* From the asker.  A refusal of what was said before may come with the next sending, udp(7). */
static void ask(struct port *port)
{
    struct address asker = {0};
    struct asked asked = {0};
    long n = exchange(__NR_recvmsg, port->fd, sizeof datagram, &asker, &asked);
    struct flow *flow = n < 0 ? 0 : conversation(port, &asker);

    if (flow == 0)
        return;
    flow->asked = asked;
    flow->last = seconds();
    flow->tries = 0;
    flow->way[0].end = 0;
    if (!flow->answered && n <= ROOM) {
        memcpy(rooms[flow - flows][0], datagram, (size_t)n);
        flow->way[0].end = (uint32_t)n + 1;
    }
    if (sys_call6(__NR_sendto, flow->fd[1], datagram, n, GIVE, 0, 0) == -ECONNREFUSED)
        (void)sys_call6(__NR_sendto, flow->fd[1], datagram, n, GIVE, 0, 0);
}

/* From the pod. */
static void answer(struct flow *flow)
{
    long n = sys_call6(__NR_recvfrom, flow->fd[1], datagram, sizeof datagram, TAKE, 0, 0);

    if (n >= 0) {
        flow->last = seconds();
        flow->answered = 1;
        flow->port->target = flow->target;
        (void)exchange(__NR_sendmsg, flow->port->fd, (size_t)n, &flow->asker, &flow->asked);
    } else if (n != -EAGAIN && !flow->answered && flow->way[0].end > 0 && reach_elsewhere(flow)) {
        (void)sys_call6(__NR_sendto, flow->fd[1], rooms[flow - flows][0], flow->way[0].end - 1, GIVE, 0, 0);
    }
}

static void forget_silent(uint64_t now)
{
    for (struct flow *flow = flows; flow < flows + MOST_FLOWS && conversations > 0; flow++)
        if (flow->state != FREE && flow->kind == DATAGRAM && now - flow->last > SILENCE)
            close_flow(flow, 0);
}

void serve(void)
{
    struct __attribute__((packed)) {
        uint32_t events;
        uint64_t data;
    } event;
    uint64_t looked = 0, now;

    give_back_stack();
    for (;;) { /* one event at a time: a flow that it closes may be in the next one */
        const long n = sys_call4(__NR_epoll_wait, relay.poll, &event, 1, conversations > 0 ? LOOK * 1000 : -1);
        const uint32_t index = (uint32_t)event.data;

        if (conversations > 0 && (now = seconds()) - looked >= LOOK)
            forget_silent(looked = now);
        if (n != 1)
            continue;
        if (event.data >> 32 == STREAMS) {
            if (sys_call4(__NR_epoll_wait, relay.streams, &event, 1, 0) == 1)
                accept_stream(&relay.port[(uint32_t)event.data]);
        } else if (event.data >> 32 == PORT) {
            ask(&relay.port[index]);
        } else if (event.data >> 32 == FLOW) {
            if (flows[index / 2].state == FREE)
                continue;
            if (flows[index / 2].kind == STREAM)
                serve_stream(&flows[index / 2], index % 2, event.events);
            else
                answer(&flows[index / 2]);
        } else if (relay.watch < 0 || sys_call6(__NR_recvfrom, relay.watch, datagram, sizeof datagram, TAKE, 0, 0) > 0) {
            sys_exit(0);
        }
    }
}
