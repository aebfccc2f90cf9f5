/* Messages that carry descriptors (unix(7), SCM_RIGHTS): what sendmsg and recvmsg take, without libc's types. */
#ifndef PYRUN_LINK_H
#define PYRUN_LINK_H

#include <stddef.h>

#define LINK_DESCRIPTORS 8

/* One byte with room for descriptors. */
struct link_message {
    struct {
        void *name;
        int name_length;
        void *vector;
        size_t vectors;
        void *control;
        size_t control_length;
        unsigned flags;
    } header;
    struct {
        char *base;
        size_t length;
    } vector;
    struct {
        size_t length;
        int level, type;
        int fds[LINK_DESCRIPTORS];
    } control;
    char kind;
};

/* A message with `count` descriptors, to be filled into control.fds, or with room for as many. */
static inline void link_message_init(struct link_message *message, char kind, unsigned count)
{
    *message = (struct link_message){.control = {.level = 1 /* SOL_SOCKET */, .type = 1 /* SCM_RIGHTS */}, .kind = kind};
    message->control.length = offsetof(struct link_message, control.fds) - offsetof(struct link_message, control) + sizeof(int) * count;
    message->vector.base = &message->kind;
    message->vector.length = 1;
    message->header.vector = &message->vector;
    message->header.vectors = 1;
    message->header.control = &message->control;
    message->header.control_length = message->control.length;
}

#endif
