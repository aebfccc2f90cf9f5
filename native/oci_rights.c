/* What the program will be allowed to, tried before it is there; and what it takes privileges for, which a change of ids hides. */
#include <linux/capability.h>

#include "oci_ops.h"

struct held { /* capabilities of this process */
    struct __user_cap_header_struct header;
    struct __user_cap_data_struct data[2];
};

/* Makes what is permitted effective, as far as `wanted` goes; before is how it was. */
static long raise_capabilities(struct held *before, uint64_t wanted)
{
    struct held now;
    long r;

    *before = (struct held){.header = {_LINUX_CAPABILITY_VERSION_3, 0}};
    r = sys_call2(__NR_capget, &before->header, before->data);
    if (r < 0)
        return r;
    now = *before;
    now.data[0].effective = now.data[0].permitted & (uint32_t)wanted;
    now.data[1].effective = now.data[1].permitted & (uint32_t)(wanted >> 32);
    return sys_call2(__NR_capset, &now.header, now.data);
}

/* After a change of ids only the permitted set is left, and a filter without no_new_privs wants CAP_SYS_ADMIN (seccomp(2)). */
long oci_raise(void)
{
    struct held before;

    return raise_capabilities(&before, ~0ULL);
}

/* The first of the paths that can be executed, by the real ids or, with AT_EACCESS, by the effective capabilities. */
static long find_program(const struct context *ctx, const struct plan_op *op, unsigned how)
{
    const char *path = pool_string(ctx, (uint32_t)op->b);
    long r = -ENOENT;

    for (uint64_t count = op->b >> 32; count > 0; count--, path += str_len(path) + 1) {
        struct stat st;
        long n = sys_call4(__NR_newfstatat, AT_FDCWD, path, &st, 0);

        if (n == 0)
            n = (st.st_mode & S_IFMT) != S_IFREG ? -EACCES : sys_call4(__NR_faccessat2, AT_FDCWD, path, 1 /* X_OK */, how);
        if (n == 0)
            return 0;
        if (n == -EACCES || r == -ENOENT)
            r = n == -ENOTDIR ? -ENOENT : n;
    }
    return r;
}

/* Told at create, while the user and the directory are the program's already, and with what the program will hold. */
long oci_find(const struct context *ctx, const struct plan_op *op)
{
    const struct plan_op *last = op, *end = ctx->ops + ctx->plan->op_count;
    struct plan_caps caps;
    struct held before;
    long r = find_program(ctx, op, 0);

    while (last < end && (last->code != OP_CAPS || last->n != 1))
        last++;
    if (r != -EACCES || last == end)
        return r;
    memcpy(&caps, ctx->pool + last->s1, sizeof caps);
    if (raise_capabilities(&before, caps.effective) == 0) {
        r = find_program(ctx, op, AT_EACCESS);
        (void)sys_call2(__NR_capset, &before.header, before.data);
    }
    return r;
}

/* A directory that the runtime may enter, and the program's user perhaps not. */
long oci_chdir(const char *path)
{
    struct held before;
    long r = sys_call1(__NR_chdir, path);

    if (r == -EACCES && raise_capabilities(&before, ~0ULL) == 0) {
        r = sys_call1(__NR_chdir, path);
        (void)sys_call2(__NR_capset, &before.header, before.data);
    }
    return r;
}
