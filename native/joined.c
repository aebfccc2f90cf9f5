/* The network namespace of a prepared pod: one that it joins, as pyrun.pod.joined finds it, by a path or that of another pod; or its own.
 *
 * The file `net.join` in the pod's directory names it: a path, or `container:` and what names the other pod when this one starts.  The
 * path is also that of its own network, where that was made ahead (pyrun.net.pin). */
#include "handover.h"
#include "live.h"
#include "files.h"
#include "net_script.h"
#include "prepared.h"
#include "refuse.h"
#include "say.h"
#include "shared.h"

#define NS_GET_NSTYPE 0xb703 /* ioctl_ns(2) */

static int is_network(int fd)
{
    return sys_call3(__NR_ioctl, fd, NS_GET_NSTYPE, 0) == CLONE_NEWNET;
}

/* Not the host's: that would be another thing than was asked for. */
static int is_another(int fd)
{
    struct stat own, other;

    return sys_call4(__NR_newfstatat, AT_FDCWD, "/proc/self/ns/net", &own, 0) == 0 && sys_fstat(fd, &other) == 0 &&
           own.st_ino != other.st_ino;
}

/* Of a pod of several apps it has to be said which one is meant, which --net has no word for. */
static void refuse_several(int pod, const char *uuid)
{
    static char why[8192];
    char hint[128] = "name one: --app ", first[96] = "";
    struct say to = {why, why + sizeof why};
    unsigned count;

    say_text(&to, "it has several: ");
    count = say_apps(pod, &to, first, sizeof first);
    (void)str_add(hint + str_len(hint), hint + sizeof hint, first);
    if (count > 1)
        refuse_usage("choose an app of pod", uuid, why, hint, "");
    else if (count == 1) /* of a pod manifest, which Python finds */
        forget_refusal();
}

/* That of a running pod; -1, and that is noted, where there is none.  Its process 1 is asked for a signal last: it lives, so that was its. */
static int of_pod(int pods, const char *reference)
{
    static const char step[] = "share the network of pod";
    char uuid[UUID_LENGTH + 1], path[64];
    struct live live;
    int network = -1;

    if (!find_pod(pods, reference, uuid))
        return -1;
    if (!stands(pods, "running/", uuid)) {
        if (stands(pods, "prepared/", uuid) || stands(pods, "exited/", uuid))
            refuse(step, uuid, stands(pods, "prepared/", uuid) ? "it is prepared" : "it is exited", "start it first", "");
        else
            refuse_none(reference);
        return -1;
    }
    if (find_live(&live, pods, uuid))
        network = (int)sys_openat(AT_FDCWD, process_path(path, live.pid, "/ns/net"), O_RDONLY, 0);
    else
        refuse("find the processes of pod", uuid, "its app does not run", "it starts or ends just now: try again", "");
    if (live.init < 0)
        refuse_several(live.pod, uuid);
    if (network >= 0 && sys_call4(__NR_pidfd_send_signal, live.init, 0, 0, 0) != 0) {
        refuse(step, uuid, "it has just ended", "see `pyrun list`", "");
        sys_close(network);
        network = -1;
    } else if (network >= 0 && !is_another(network)) {
        refuse(step, uuid, "it has the host's", "write --net host if that is what is wanted", "--net");
        sys_close(network);
        network = -1;
    }
    close_live(&live);
    return network;
}

/* What somebody else was to keep there. */
static void refuse_path(const char *path, int fd)
{
    static const char step[] = "join the network namespace";

    if (fd < 0)
        refuse(step, path, errno_text(fd), "`ip netns add NAME` makes /run/netns/NAME", "--net");
    else if (!is_network(fd))
        refuse(step, path, "that is something else", "name a file as in /run/netns", "--net");
}

static int has(int pod, const char *name)
{
    return sys_call3(__NR_faccessat, pod, name, 0) != -ENOENT;
}

/* The process that relays to its ports (pyrun.net.relay) may have ended with the session or the unit that made it. */
static int lacks_relay(int pod)
{
    char text[TEXT + MARGIN], *at = text;
    uint64_t pid;

    if (!read_text(pod, "net.relay", text, TEXT))
        return 0;
    pid = next_number(&at);
    return start_time((int32_t)pid) != next_number(&at);
}

static void refuse_taken(const char *uuid)
{
    refuse("start pod", uuid, "somebody else is starting or removing it", "a prepared pod runs once", "");
}

/* As claim() of pyrun.pod.starter: until the keeper has the lock nobody holds it.  1 where another one did so, and is gone. */
static long say_who(int pod, const char *uuid)
{
    const long pid = sys_call0(__NR_getpid);
    char held[64 + MARGIN] = "", text[64], *at = held;
    uint64_t other = 0, began = 0;

    if (read_text(pod, STARTER, held, 64)) {
        other = next_number(&at);
        began = next_number(&at);
    }
    if (other != 0 && other <= 0x7fffffff && start_time((int32_t)other) == began) {
        refuse_taken(uuid);
        return -EBUSY;
    }
    at = str_add(str_add_number(text, text + sizeof text, (uint64_t)pid), text + sizeof text, " ");
    at = str_add_number(at, text + sizeof text, start_time((int32_t)pid));
    began = (uint64_t)write_file(pod, STARTER, O_CREAT | O_TRUNC, 0600, text, (size_t)(at - text));
    return (long)began < 0 ? (long)began : other != 0;
}

/* Takes back what an earlier start has left, then makes it as the script says.  What the kernel refuses it is asked again. */
static int make_as_written(const char *root, int pod, const char *uuid, int left)
{
    char *script;
    long n = net_read(pod, NET_SCRIPT, &script, NET_SIZE);
    int made = -1;

    if (n <= 0 || ((left || has(pod, "net")) && !net_take_apart(root, pod, uuid, script, (size_t)n)))
        return -1;
    for (int turn = 0; turn < 2 && made < 0; turn++) {
        n = net_read(pod, NET_SCRIPT, &script, NET_SIZE);
        if (turn > 0)
            forget_refusal();
        made = n <= 0 ? -1 : net_make(root, pod, uuid, script, (size_t)n, 1);
        if (made == -EADDRINUSE || made == -EADDRNOTAVAIL || made == -EEXIST || made == -ESTALE || made == -EREMOTEIO)
            break; /* whoever said so will say it again */
    }
    return made;
}

/* Of a pod that stands prepared only because it is to start now: what cannot be made is Python's to make. */
static int make_at_once(const char *root, int pod, const char *uuid)
{
    char *script;
    const long n = has(pod, "net") ? 0 : net_read(pod, NET_SCRIPT, &script, NET_SIZE);

    return n <= 0 ? -1 : net_make(root, pod, uuid, script, (size_t)n, 0);
}

/* The lock is this process's, or free. */
static int lock_pod(int pod, const char *uuid)
{
    const long r = sys_call2(__NR_flock, pod, LOCK_EX | LOCK_NB);
    int own;

    if (r != -EBADF) /* it is not O_PATH: this process has made it, and has the lock */
        return -1;
    own = (int)sys_openat(pod, ".", O_RDONLY | O_DIRECTORY, 0);
    if (own >= 0 && sys_call2(__NR_flock, own, LOCK_EX | LOCK_NB) == 0)
        return own;
    if (own >= 0)
        sys_close(own);
    refuse_taken(uuid);
    return -EBUSY;
}

/* One that is made as the pod's script says (net_script.c). */
static int make_own(const char *root, int pods, int pod, const char *uuid)
{
    OWNED_FD own = lock_pod(pod, uuid), made = -1; /* what a user's program holds until it can be found */
    int network;
    long left;

    if (own == -EBUSY || !has(pod, NET_SCRIPT))
        return NETWORK_FOR_PYTHON;
    if (!stands(pods, "prepared/", uuid)) {
        refuse_taken(uuid);
        return NETWORK_FOR_PYTHON;
    }
    left = say_who(pod, uuid);
    if (left < 0)
        return NETWORK_FOR_PYTHON;
    made = own < 0 ? make_at_once(root, pod, uuid) : make_as_written(root, own, uuid, left > 0);
    network = made < 0 ? made : out_of_the_way(made);
    if (network >= 0)
        return network;
    (void)sys_call3(__NR_unlinkat, pod, STARTER, 0);
    return NETWORK_FOR_PYTHON;
}

/* Its own, made ahead, unless the mount has gone, as with a boot, the relay has ended, or somebody was about to make another and was killed:
 * then that is made. */
static int open_ahead(const char *root, int pods, int pod, const char *uuid, const char *path)
{
    OWNED_FD network = has(pod, STARTER) || lacks_relay(pod) ? -1 : (int)sys_openat(AT_FDCWD, path, O_RDONLY | O_NONBLOCK | O_NOFOLLOW, 0);

    return network < 0 || !is_network(network) ? make_own(root, pods, pod, uuid) : out_of_the_way(network);
}

int find_network(const char *root, int pods, int pod, const char *uuid)
{
    static const char container[] = "container:";
    char name[PATH_SIZE + sizeof container];
    OWNED_FD file = (int)sys_openat(pod, "net.join", O_RDONLY | O_NOFOLLOW, 0), network = -1;
    const long n = file < 0 ? file : sys_read(file, name, sizeof name - 1);

    if (n == -ENOENT)
        return has(pod, "net.want") ? make_own(root, pods, pod, uuid) : NETWORK_NONE;
    name[n > 0 ? n : 0] = '\0';
    if (has(pod, "net")) /* made ahead */
        return open_ahead(root, pods, pod, uuid, name);
    if (memcmp(name, container, sizeof container - 1) == 0)
        network = of_pod(pods, name + sizeof container - 1);
    else if ((network = (int)sys_openat(AT_FDCWD, name, O_RDONLY | O_NONBLOCK, 0)) < 0 || !is_network(network))
        refuse_path(name, network);
    return network < 0 || !is_network(network) ? NETWORK_FOR_PYTHON : out_of_the_way(network);
}
