/* Mounts as the OCI runtime specification has them (config.md, "Mounts"; config-linux.md).
 *
 * A mount is made as a detached tree, gets its attributes there, and is moved onto a descriptor that was resolved beneath
 * the root: what the image or another container swaps meanwhile can neither redirect it nor see it half done
 * (CVE-2021-30465).  Trees with a number are made by the helper before it clones, with the runtime's own privileges:
 * in a user namespace the source may be out of reach, and nobody in there may map ids (mount_setattr(2)). */
#include <linux/magic.h>

#include "oci_ops.h"

#define FSCONFIG_TEXT_MAX 255

static int trees[OCI_TREES]; /* of PLAN_OCI only: made before the clone, 0 for none */

struct names names_of(const struct context *ctx, const struct plan_op *op)
{
    const char *at[6] = {pool_string(ctx, op->s1)};

    for (int i = 1; i < 6; i++)
        at[i] = at[i - 1] + str_len(at[i - 1]) + 1;
    return (struct names){at[0], at[1], at[2], at[3], at[4], at[5], op->n - 5};
}

static struct plan_oci_mount how_of(const struct context *ctx, const struct plan_op *op)
{
    struct plan_oci_mount how;

    memcpy(&how, ctx->pool + op->s2, sizeof how);
    return how;
}

long set_attributes(int tree, unsigned deep, const struct mount_attr *attr)
{
    return sys_call5(__NR_mount_setattr, tree, "", AT_EMPTY_PATH | deep, attr, sizeof *attr);
}

/* A detached copy of what is mounted on the source. */
static long copy_tree(struct context *ctx, const struct plan_op *op)
{
    const struct names names = names_of(ctx, op);
    const unsigned deep = op->a & OCIM_DEEP ? AT_RECURSIVE : 0;
    const int inside = (op->a & OCIM_INSIDE) != 0, nofollow = (op->a & OCIM_SOURCE_NOFOLLOW) != 0;
    const unsigned how = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | deep | (inside ? AT_EMPTY_PATH : nofollow ? AT_SYMLINK_NOFOLLOW : 0U);
    OWNED_FD at = inside ? (int)open_in_root(ctx, names.source, O_PATH | (nofollow ? O_NOFOLLOW : 0), 0) : AT_FDCWD;
    long tree = at < 0 && inside ? at : sys_call3(__NR_open_tree, at, inside ? "" : names.source, how), r = 0;

    if (tree < 0)
        return with_detail(ctx, DETAIL_SOURCE, tree);
    if (names.uid_map[0] != '\0')
        r = oci_map_tree(ctx, op, (int)tree);
    if (r < 0)
        sys_close(tree);
    return r < 0 ? r : tree;
}

static long root_tree(const struct context *ctx, const struct plan_op *op)
{
    return sys_call3(__NR_open_tree, AT_FDCWD, pool_string(ctx, op->s1), OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE);
}

long oci_trees(struct context *ctx, uint32_t *at)
{
    for (*at = 0; *at < ctx->plan->op_count; (*at)++) {
        const struct plan_op *op = &ctx->ops[*at];
        const uint64_t at_tree = op->code == OP_OCI_DEVICE ? op->n >> OCI_DEVICE_TREE : op->b;
        long r;

        if ((op->code != OP_OCI_MOUNT && op->code != OP_OCI_ROOT && op->code != OP_OCI_DEVICE) || at_tree == 0)
            continue;
        r = op->code == OP_OCI_ROOT ? root_tree(ctx, op) : op->code == OP_OCI_DEVICE ? node_tree(op) : copy_tree(ctx, op);
        if (r < 0 && r != -ENOENT && op->code == OP_OCI_MOUNT && names_of(ctx, op).uid_map[0] != '\0')
            return r;
        /* out of the way of the slots; a source that is not there is a failure of its operation, which may have another way */
        trees[at_tree] = (int)(r < 0 ? r : sys_call3(__NR_fcntl, r, F_DUPFD_CLOEXEC, OCI_TREES));
        if (r >= 0)
            sys_close(r);
    }
    return 0;
}

long configure(int fs, const char *option)
{
    char key[FSCONFIG_TEXT_MAX + 1];
    size_t n = 0;

    while (option[n] != '\0' && option[n] != '=')
        n++;
    if (option[n] == '\0')
        return sys_call5(__NR_fsconfig, fs, FSCONFIG_SET_FLAG, option, 0, 0);
    if (n > FSCONFIG_TEXT_MAX)
        return -EINVAL;
    memcpy(key, option, n);
    key[n] = '\0';
    return sys_call5(__NR_fsconfig, fs, FSCONFIG_SET_STRING, key, option + n + 1, 0);
}

/* A tmpfs that says nothing else has the mode of the directory that it covers, as with crun and runc. */
static long keep_mode(const struct context *ctx, const struct plan_op *op, const struct names *names, int fs)
{
    OWNED_FD below = (int)open_in_root(ctx, names->target, O_PATH | O_DIRECTORY, op->flags & OPF_NOFOLLOW);
    struct stat st;
    char mode[5] = "";

    if (!str_eq(names->type, "tmpfs") || below < 0 || sys_fstat(below, &st) < 0)
        return 0;
    for (int i = 0; i < 4; i++)
        mode[i] = (char)('0' + (st.st_mode >> (9 - 3 * i) & 7));
    return sys_call5(__NR_fsconfig, fs, FSCONFIG_SET_STRING, "mode", mode, 0);
}

/* The queues of an ipc namespace are older than any mount of them, which takes no context as an option any more. */
static long label_root(long tree, const char *label)
{
    OWNED_FD root = (int)sys_openat(tree, ".", O_RDONLY | O_DIRECTORY, 0);
    long r = root < 0 ? root : sys_call5(__NR_fsetxattr, root, "security.selinux", label, str_len(label) + 1, 0);

    if (r < 0)
        sys_close(tree);
    return r < 0 ? r : tree;
}

/* Options one by one, so that no value can smuggle in another one (CVE-2024-9407). */
static long new_tree(struct context *ctx, const struct plan_op *op, const struct names *names, const struct plan_oci_mount *how)
{
    static const struct {
        uint32_t flag;
        char word[12];
    } words[] = {{MS_RDONLY, "ro"}, {MS_SYNCHRONOUS, "sync"}, {MS_DIRSYNC, "dirsync"}, {MS_LAZYTIME, "lazytime"}, {MS_MANDLOCK, "mand"}};
    OWNED_FD fs = (int)sys_call2(__NR_fsopen, names->type, FSOPEN_CLOEXEC);
    const char *option = names->options;
    const uint64_t later = op->a & (OCIM_COPY_UP | OCIM_LABEL) ? MOUNT_ATTR_RDONLY : 0;
    const uint32_t count = names->count - (op->a & OCIM_LABEL ? 1 : 0);
    long r = fs;

    if (r >= 0)
        r = sys_call5(__NR_fsconfig, fs, FSCONFIG_SET_STRING, "source", names->source, 0);
    if (r >= 0)
        r = keep_mode(ctx, op, names, fs); /* an option that comes later wins */
    for (unsigned i = 0; r >= 0 && i < sizeof words / sizeof *words; i++)
        if (how->superblock & words[i].flag)
            r = sys_call5(__NR_fsconfig, fs, FSCONFIG_SET_FLAG, words[i].word, 0, 0);
    for (uint32_t i = 0; r >= 0 && i < count; i++, option += str_len(option) + 1)
        if ((r = configure(fs, option)) < 0)
            return with_detail(ctx, DETAIL_OPTION, r);
    if (r >= 0)
        r = sys_call5(__NR_fsconfig, fs, FSCONFIG_CMD_CREATE, 0, 0, 0);
    if (r >= 0)
        r = sys_call3(__NR_fsmount, fs, FSMOUNT_CLOEXEC, how->set & ~later);
    if (r >= 0 && op->a & OCIM_LABEL)
        r = label_root(r, option);
    return with_detail(ctx, DETAIL_SOURCE, r);
}

static long make_point(const struct context *ctx, const char *path, const struct stat *st, int nofollow)
{
    const char *name;
    long dir;

    if ((st->st_mode & S_IFMT) == S_IFDIR)
        return make_in_root(ctx, path, nofollow);
    dir = parent_in_root(ctx, path, PARENT_MAKE | (nofollow ? PARENT_NOFOLLOW : 0U), &name);
    if (dir >= 0)
        dir = write_file((int)dir, name, O_CREAT | O_EXCL, 0644, "", 0);
    return dir < 0 ? dir : open_in_root(ctx, path, O_PATH, nofollow);
}

/* The mount point: what is there, or an empty file or directory made for it. */
static long mount_point(const struct context *ctx, const struct plan_op *op, const char *path, int source)
{
    const int on_link = op->flags & OPF_NOFOLLOW && op->a & OCIM_BIND; /* dest-nofollow: what is there is covered, be it a link */
    const int nofollow = op->flags & OPF_NOFOLLOW && !on_link;
    long target = open_in_root(ctx, path, O_PATH | (on_link ? O_NOFOLLOW : 0), nofollow), r;
    struct stat st = {.st_mode = S_IFDIR};
    char place[PATH_SIZE];

    if (target != -ENOENT)
        return target;
    if (source >= 0 && (r = sys_fstat(source, &st)) < 0)
        return r;
    if (str_add(place, place + sizeof place, path) == 0)
        return -ENAMETOOLONG;
    for (int links = 0; (r = nofollow || on_link ? 0 : behind_link(ctx, place)) > 0; links++)
        if (links == 40)
            return -ELOOP;
    return r < 0 ? r : make_point(ctx, place, &st, nofollow);
}

/* What hides a part of procfs would fool whatever relies on it, the runtime included (CVE-2019-16884). */
static long may_cover(struct context *ctx, const struct plan_op *op, int target)
{
    struct { /* struct statfs of statfs(2), of which only the type is looked at */
        long type, rest[32];
    } fs;
    long r = sys_call2(__NR_fstatfs, target, &fs);

    if (r == 0 && fs.type == PROC_SUPER_MAGIC && !(op->a & OCIM_IN_PROC))
        return with_detail(ctx, DETAIL_IN_PROC, -EPERM);
    return r;
}

/* A mount on "/" is the root from then on, for what follows and for pivot_root(2). */
static long new_root(struct context *ctx, int tree)
{
    const long root = sys_call3(__NR_fcntl, tree, F_DUPFD_CLOEXEC, OCI_TREES);

    if (root < 0)
        return root;
    sys_close(ctx->root);
    ctx->root = (int)root;
    return 0;
}

/* What is set on the mount once it stands, from the whole tree to itself: a later option wins. */
static long finish(int tree, const struct plan_oci_mount *how)
{
    struct mount_attr deep = {.attr_set = how->deep_set, .attr_clr = how->deep_clear};
    long r = deep.attr_set || deep.attr_clr ? set_attributes(tree, AT_RECURSIVE, &deep) : 0;

    for (int i = 0; r == 0 && i < 2; i++) {
        struct mount_attr spread = {.propagation = how->propagation[i] & ~(uint32_t)MS_REC};

        if (spread.propagation != 0)
            r = set_attributes(tree, how->propagation[i] & MS_REC ? AT_RECURSIVE : 0, &spread);
    }
    return r;
}

/* mount(2) for what the newer calls cannot say: a value of more than 255 bytes, iversion. */
static long mount_classic(struct context *ctx, const struct names *names, const struct plan_oci_mount *how, unsigned more, int target)
{
    char *at = arena, path[32];
    const char *option = names->options;

    *at = '\0';
    for (uint32_t i = 0; i < names->count; i++, option += str_len(option) + 1)
        at = str_add(str_add(at, arena + PAGE_SIZE, i > 0 ? "," : ""), arena + PAGE_SIZE, option);
    if (at == 0)
        return -E2BIG;
    fd_path(path, target);
    return with_detail(ctx, DETAIL_SOURCE, sys_mount(names->source, path, names->type, how->flags | more, arena));
}

/* remount: of what is mounted there already. */
static long mount_again(struct context *ctx, const struct plan_op *op, const struct names *names, const struct plan_oci_mount *how, int target)
{
    struct mount_attr attr = {.attr_set = how->set, .attr_clr = how->clear};
    long r = 0;

    if (!(op->a & OCIM_BIND))
        r = mount_classic(ctx, names, how, MS_REMOUNT, target);
    else if (attr.attr_set || attr.attr_clr)
        r = set_attributes(target, 0, &attr);
    return r < 0 ? r : finish(target, how);
}

/* Without privileges outside there were none to make it with: then it is made in here, as far as these privileges go.
 * What was not there may be by now, below the root. */
static int is_made(const struct plan_op *op)
{
    return op->b != 0 && trees[op->b] != -EPERM && trees[op->b] != -ENOENT;
}

/* A tree that the helper made is one of the host's mounts: it must not take what is mounted in here out there. */
static long take_tree(const struct plan_op *op, uint32_t again)
{
    struct mount_attr slave = {.propagation = MS_SLAVE};
    long tree = trees[op->b], r = tree < 0 || again & MS_SHARED ? tree : set_attributes((int)tree, AT_RECURSIVE, &slave);

    trees[op->b] = 0;
    return r < 0 ? r : tree;
}

static long attach_tree(struct context *ctx, const struct plan_op *op, const struct names *names, const struct plan_oci_mount *how, int tree)
{
    struct mount_attr attr = {.attr_set = how->set, .attr_clr = how->clear};
    OWNED_FD target = -1;
    long r = 0;

    if (op->a & OCIM_COPY_UP) {
        OWNED_FD below = (int)open_in_root(ctx, names->target, O_RDONLY | O_DIRECTORY, op->flags & OPF_NOFOLLOW);

        r = below == -ENOENT ? 0 : below < 0 ? below : copy_up(below, tree);
    }
    if (r == 0 && (attr.attr_set || attr.attr_clr) && op->a & (OCIM_BIND | OCIM_COPY_UP | OCIM_LABEL))
        r = set_attributes(tree, 0, &attr);
    if (r < 0)
        return with_detail(ctx, DETAIL_SOURCE, r);
    target = (int)mount_point(ctx, op, names->target, op->a & OCIM_BIND ? tree : -1);
    if (target < 0)
        return with_detail(ctx, DETAIL_TARGET, target);
    if ((r = may_cover(ctx, op, target)) < 0)
        return r;
    r = sys_call5(__NR_move_mount, tree, "", target, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
    if (r < 0 || (str_eq(names->target, "/") && (r = new_root(ctx, tree)) < 0))
        return with_detail(ctx, DETAIL_TARGET, r);
    return finish(tree, how);
}

long op_oci_mount(struct context *ctx, const struct plan_op *op)
{
    const struct names names = names_of(ctx, op);
    const struct plan_oci_mount how = how_of(ctx, op);
    OWNED_FD tree = -1;
    long r;

    if (!(op->a & (OCIM_CLASSIC | OCIM_AGAIN))) {
        if (is_made(op))
            tree = (int)take_tree(op, how.propagation[0] | how.propagation[1]);
        else
            tree = (int)(op->a & OCIM_BIND ? copy_tree(ctx, op) : new_tree(ctx, op, &names, &how));
        return tree < 0 ? with_detail(ctx, ctx->detail ? ctx->detail : DETAIL_SOURCE, tree) : attach_tree(ctx, op, &names, &how, tree);
    }
    OWNED_FD target = (int)mount_point(ctx, op, names.target, -1);
    if (target < 0)
        return with_detail(ctx, DETAIL_TARGET, target);
    if ((r = may_cover(ctx, op, target)) < 0)
        return r;
    if (op->a & OCIM_AGAIN)
        return mount_again(ctx, op, &names, &how, target);
    r = mount_classic(ctx, &names, &how, 0, target);
    if (r < 0)
        return r;
    tree = (int)open_in_root(ctx, names.target, O_PATH, op->flags & OPF_NOFOLLOW);
    return tree < 0 ? tree : finish(tree, &how);
}

/* A node that the helper has made. */
long oci_node(struct context *ctx, const struct plan_op *op)
{
    OWNED_FD tree = trees[op->n >> OCI_DEVICE_TREE];
    OWNED_FD target = tree < 0 ? tree : (int)mount_point(ctx, op, pool_string(ctx, op->s1), tree);
    const struct plan_op plain = {0};
    long r = target < 0 ? target : may_cover(ctx, &plain, target);

    trees[op->n >> OCI_DEVICE_TREE] = -1;
    return r < 0 ? r : sys_call5(__NR_move_mount, tree, "", target, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
}

/* The root is mounted where it is, so that hooks which enter this mount namespace find it there, and sources below it are what
 * is mounted in it by now.  Where nobody may reach the path, or the plan says so, it is mounted over "/".
 * pivot_root(2) wants a mount whose parent is private.  In the host's mount namespace (OPF_KEEP) nothing of the host's changes, and
 * what is mounted in the root is nobody else's. */
long op_oci_root(struct context *ctx, const struct plan_op *op)
{
    struct mount_attr alone = {.propagation = op->n};
    const int kept = op->flags & OPF_KEEP;
    const char *place = pool_string(ctx, op->s2);
    long tree = is_made(op) ? take_tree(op, (uint32_t)op->a) : root_tree(ctx, op), r; /* while "/" is a slave, so that it is one too */

    if (tree < 0)
        return tree;
    r = kept ? 0 : sys_mount("", "/", "", MS_PRIVATE, 0);
    if (r == 0 && (r = set_attributes((int)tree, 0, &alone)) == 0)
        r = sys_call5(__NR_move_mount, tree, "", AT_FDCWD, *place != '\0' ? place : pool_string(ctx, op->s1),
                      MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_SYMLINKS);
    if (r == -EACCES && !kept)
        r = sys_call5(__NR_move_mount, tree, "", AT_FDCWD, "/", MOVE_MOUNT_F_EMPTY_PATH);
    if (r == 0 && kept) /* below a shared mount it has become one too */
        r = set_attributes((int)tree, AT_RECURSIVE, &alone);
    if (r < 0)
        sys_close(tree);
    else
        ctx->root = (int)tree;
    return r;
}

/* What `mounts remove` names, beneath the root and behind no link: it may be a program of the container that put one there. */
long oci_unmount(const struct context *ctx, const struct plan_op *op)
{
    const char *name;
    long dir, r;

    forget_parent();
    dir = parent_in_root(ctx, pool_string(ctx, op->s1), PARENT_NOFOLLOW, &name);
    r = dir < 0 ? dir : sys_call1(__NR_fchdir, dir);
    return r < 0 ? r : sys_call2(__NR_umount2, name, MNT_DETACH | 8 /* UMOUNT_NOFOLLOW */);
}
