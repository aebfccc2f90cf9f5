/* A network namespace with nothing but lo, for the helper and, ahead of it, for the launcher. */
#include "shared.h"

long loopback_up(void)
{
    struct { /* struct ifreq of netdevice(7), whose header wants a libc */
        char name[16];
        short flags;
        char rest[22];
    } request = {"lo", 0, ""};
    OWNED_FD fd = (int)sys_call3(__NR_socket, 1 /* AF_UNIX: any socket will do, netdevice(7) */, 2 | O_CLOEXEC, 0);
    long r = fd < 0 ? fd : sys_call3(__NR_ioctl, fd, 0x8913 /* SIOCGIFFLAGS */, &request);

    if (r < 0)
        return r;
    request.flags |= 1; /* IFF_UP */
    return sys_call3(__NR_ioctl, fd, 0x8914 /* SIOCSIFFLAGS */, &request);
}

int new_network(void)
{
    OWNED_FD host = (int)sys_openat(AT_FDCWD, "/proc/self/ns/net", O_RDONLY, 0);
    long r = host < 0 ? host : sys_call1(__NR_unshare, CLONE_NEWNET), back;
    int made;

    if (r < 0)
        return (int)r;
    r = loopback_up();
    made = (int)sys_openat(AT_FDCWD, "/proc/self/ns/net", O_RDONLY, 0);
    back = sys_call2(__NR_setns, host, CLONE_NEWNET);
    if ((r < 0 || back < 0) && made >= 0)
        sys_close(made);
    return r < 0 ? (int)r : back < 0 ? (int)back : made;
}
