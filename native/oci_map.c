/* Ids of mounts: who may map them, and by which user namespace (mount_setattr(2), MOUNT_ATTR_IDMAP).
 *
 * It takes privileges over the file system, which a process in a new user namespace does not have.  So it is done before the
 * clone, or, for what only earlier mounts of the container make, by the helper for the process:
 *
 *     process                                        helper
 *       |--- number of the operation, tree ------------>|
 *       |<-- errno -------------------------------------|   ... until the process closes its end */
#include <linux/wait.h>

#include "link.h"
#include "oci_ops.h"

static int mapper; /* the process's link to a helper that waits, 0 for none */

/* A user namespace with these ranges, held by nothing but its descriptor (user_namespaces(7)).
 * The child is looked for where /proc lists it: its pid there is another one than in a pid namespace of the container. */
static long id_mapping(const char *uids, const char *gids)
{
    static const char files[3][12] = {"/uid_map", "/gid_map", "/ns/user"};
    char child[24];
    long r = 0, fd = -1, pid = sys_call5(__NR_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0);

    if (pid == 0) {
        (void)sys_prctl(PR_SET_PDEATHSIG, SIGKILL, 0);
        for (;;)
            (void)sys_call0(__NR_pause);
    }
    if (pid < 0)
        return pid;
    OWNED_FD list = (int)sys_openat(AT_FDCWD, "/proc/thread-self/children", O_RDONLY, 0);
    r = list < 0 ? list : sys_read(list, child, sizeof child);
    child[r > 0 ? r - 1 : 0] = '\0'; /* a blank stands behind it */
    for (int i = 0; r >= 0 && i < 3; i++) {
        const char *text = i == 0 ? uids : gids;
        char path[64];

        (void)str_add(str_add(str_add(path, path + 64, "/proc/"), path + 64, child), path + 64, files[i]);
        r = i < 2 ? write_file(AT_FDCWD, path, 0, 0, text, str_len(text)) : (fd = sys_openat(AT_FDCWD, path, O_RDONLY, 0));
    }
    (void)sys_call2(__NR_kill, pid, SIGKILL);
    (void)sys_call4(__NR_wait4, pid, 0, __WALL, 0);
    return r < 0 ? r : fd;
}

static long map_tree(struct context *ctx, int tree, const struct plan_op *op)
{
    const struct names names = names_of(ctx, op);
    OWNED_FD users = (int)(names.uid_map[0] == '/' ? sys_openat(AT_FDCWD, names.uid_map, O_RDONLY, 0) /* that of a namespace */
                                                    : id_mapping(names.uid_map, names.gid_map));
    struct mount_attr attr = {.attr_set = MOUNT_ATTR_IDMAP};

    if (users < 0)
        return with_detail(ctx, DETAIL_IDMAP, users);
    attr.userns_fd = (unsigned)users;
    return with_detail(ctx, DETAIL_IDMAP, set_attributes(tree, op->a & OCIM_MAP_DEEP ? AT_RECURSIVE : 0, &attr));
}

/* The message with which the process asks for a tree of its own to be mapped as operation *at says; an errno comes back. */
static void ask_for_map(struct link_message *message, uint32_t *at, int tree)
{
    link_message_init(message, 0, 1);
    message->vector.base = (char *)at;
    message->vector.length = sizeof *at;
    message->control.fds[0] = tree;
}

static long map_outside(struct context *ctx, const struct plan_op *op, int tree)
{
    struct link_message message;
    uint32_t at = (uint32_t)(op - ctx->ops);
    int32_t answer;

    ask_for_map(&message, &at, tree);
    if (sys_call3(__NR_sendmsg, mapper, &message.header, 0x4000 /* MSG_NOSIGNAL */) < 0 ||
        sys_read(mapper, &answer, sizeof answer) != sizeof answer)
        answer = -EPIPE;
    return with_detail(ctx, DETAIL_IDMAP, answer);
}

long oci_map_tree(struct context *ctx, const struct plan_op *op, int tree)
{
    return mapper != 0 ? map_outside(ctx, op, tree) : map_tree(ctx, tree, op);
}

void oci_map(struct context *ctx)
{
    struct link_message message;
    uint32_t at;

    ask_for_map(&message, &at, -1);
    while (sys_call3(__NR_recvmsg, ctx->link, &message.header, 0x40000000 /* MSG_CMSG_CLOEXEC */) == sizeof at &&
           message.header.control_length != 0 && at < ctx->plan->op_count && ctx->ops[at].code == OP_OCI_MOUNT) {
        OWNED_FD tree = message.control.fds[0];
        const int32_t answer = (int32_t)map_tree(ctx, tree, &ctx->ops[at]);

        (void)sys_write(ctx->link, &answer, sizeof answer);
        ask_for_map(&message, &at, -1);
    }
}

void oci_map_by(int link)
{
    if (mapper != 0)
        sys_close(mapper);
    mapper = link;
}
