"""Config -> Plan: which operations, in which order.  Pure; the kernel hears of it in the helper only.

Order of a plan, and why:

1. the root is staged in the new mount namespace, so that no mount is ever visible on the host;
2. mount points and generated files are made while the root can be written;
3. volumes, then kernel file systems, so that a volume which an image bends into /proc by a link ends up below
   the real one (CVE-2019-16884); devices, masks: everything that names the host, before
4. the pivot, after which the host has no name any more;
5. the app's process: limits, identity, then no_new_privs and the system call filter last.
"""

from __future__ import annotations

from pyrun.plan import mounts, ops, rlimits
from pyrun.plan.ops import Plan, caps_blob, op

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrun.plan.config import Config, Mount
    from pyrun.plan.ops import Op

__all__ = ["run_plan"]

_CHARACTER = 0o020000
_CAP_MKNOD = 1 << 27
_CAP_SYS_PTRACE = 1 << 19
# The namespaces that every pod has; the network's and the user's are its own when asked for.
_NAMESPACES = ops.CLONE_NEWPID | ops.CLONE_NEWNS | ops.CLONE_NEWIPC | ops.CLONE_NEWUTS | ops.CLONE_NEWCGROUP
# Those that apps of one pod have together; the keeper makes them (native/keep_pod.c).
_SHARED = ops.CLONE_NEWIPC | ops.CLONE_NEWUTS | ops.CLONE_NEWNET


def run_plan(config: Config) -> Plan:
    """Return the plan that starts `config`."""
    flags = _NAMESPACES
    if config.network != "host":
        flags |= ops.CLONE_NEWNET
    if config.idmap:
        flags |= ops.CLONE_NEWUSER
    if config.time_offsets:
        flags |= ops.CLONE_NEWTIME
    if config.share:
        flags &= ~(_SHARED | ops.CLONE_NEWPID if config.share == "pod" else _SHARED)
    todo: list[Op] = [op(ops.LIMIT, file, text, flags=ops.POD, origin=origin) for file, text, origin in config.limits_pod]
    todo += [op(ops.LIMIT, file, text, origin=origin) for file, text, origin in config.limits]
    for whose, limits in ((ops.POD, config.limits_pod_1), (0, config.limits_1)):
        todo += [op(ops.LIMIT, file, text, a=where, flags=whose, origin=origin) for where, file, text, origin in limits]
    if config.device_rules:
        _device_rules(config, todo)
    todo.append(op(ops.PROPAGATION, n=ops.MS_PRIVATE | ops.MS_REC, origin="default mounts"))
    _stage_root(config, todo)
    _volumes(config, todo)
    _kernel_mounts(config, todo)
    if config.mask_paths:
        todo += [op(ops.READONLY, path, origin="read-only paths") for path in mounts.READONLY]
        todo += [op(ops.MASK, path, origin="masked paths") for path in mounts.PROC_MASKED]
    _network(config, todo)
    _leave(config, todo)
    _identity(config, todo)
    for handler in config.handlers:
        _handler(config, handler, todo)
    plan = Plan(todo, clone_flags=flags, flags=_plan_flags(config, flags))
    if config.idmap:
        plan.uid_map = config.idmap.text(config.idmap.uids)
        plan.gid_map = config.idmap.text(config.idmap.gids)
    plan.timens = config.time_offsets
    plan.pod_name = config.uuid
    plan.cgroup_name = config.group
    return plan


def _plan_flags(config: Config, namespaces: int) -> int:
    flags = ops.RELAY_STDIN if config.tty and config.interactive else 0
    if config.no_setgroups:
        flags |= ops.SETGROUPS_DENY
    if config.network == "own":
        flags |= ops.NETNS
    elif config.inner and config.network == "host":
        flags |= ops.HOST_NETWORK
    elif config.inner and namespaces & ops.CLONE_NEWNET:
        flags |= ops.CLONE_NETWORK
    if config.share:
        flags |= ops.SHARED | (ops.SHARED_PID if config.share == "pod" else 0)
    if config.remove:
        flags |= ops.REMOVE
    if config.notify != "exec":
        flags |= ops.NOTIFY_APP if config.notify == "app" else ops.NOTIFY_NONE
    return flags


def _stage_root(config: Config, todo: list[Op]) -> None:
    """Make the root and the mount points in it; a read-only root gets them from a layer of its own."""
    flags = ops.NOSUID if config.no_new_privs else 0
    stage = config.stage
    if config.copy_root:
        todo.append(op(ops.ROOT_BIND, stage, config.copy_root, flags=flags, origin="--no-overlay"))
        _skeleton(config, todo)
        if config.readonly:
            todo.append(op(ops.ROOT_READONLY, flags=flags, origin=config.origin("readonly")))
        return
    base = config.app_dir
    volatile = ops.VOLATILE if config.remove and not config.again else 0
    if config.upper == "tmpfs" or config.readonly:
        todo.append(op(ops.SCRATCH, stage, "mode=0700", origin="root file system"))
        base, stage, volatile = stage, stage + "/root", ops.VOLATILE
        todo.append(op(ops.HOST_DIR, stage, n=0o700, origin="root file system"))
    if config.inner:
        flags |= ops.USERXATTR
    upper, work = base + "/upper", base + "/work"
    todo.append(op(ops.HOST_DIR, upper, n=0o755, origin="root file system"))
    todo.append(op(ops.HOST_DIR, work, n=0o700, origin="root file system"))
    todo.append(op(ops.OVERLAY, stage, config.lowers, a=upper, b=work, flags=flags | volatile, origin="root file system"))
    _skeleton(config, todo)
    if config.readonly:
        origin = config.origin("readonly")
        todo.append(op(ops.UNMOUNT, stage, origin=origin))
        todo.append(op(ops.OVERLAY, stage, [upper, *config.lowers], flags=flags, origin=origin))


def _skeleton(config: Config, todo: list[Op]) -> None:
    """Mount points and generated files, while the root is writable.  What the image ships is left alone."""
    for path in ("/proc", "/dev", "/sys"):
        todo.append(op(ops.MKDIR, path, n=0o755, flags=ops.NOFOLLOW, origin="default mounts"))
    todo.append(op(ops.MKDIR, "/tmp", n=0o1777, origin="default mounts"))
    if config.hosts_bound:
        todo.append(op(ops.MKFILE, "/etc/hosts", n=0o644, origin="name look-ups"))
    elif config.hosts:
        keep = ops.KEEP if config.hosts_keep else 0
        todo.append(op(ops.WRITE, "/etc/hosts", config.hosts, n=0o644, flags=keep, origin="name look-ups"))
    if config.resolv:
        keep = ops.KEEP if config.resolv_keep else 0
        todo.append(op(ops.WRITE, "/etc/resolv.conf", config.resolv, n=0o644, flags=keep, origin="name look-ups"))
    if config.make_cwd and config.cwd != "/":
        todo.append(op(ops.MKDIR, config.cwd, n=0o755, origin=config.origin("cwd")))
    for mount in config.mounts:
        code = ops.MKDIR if mount.is_dir else ops.MKFILE
        todo.append(op(code, mount.target, n=0o755 if mount.is_dir else 0o644, origin=mount.origin))


def _kernel_mounts(config: Config, todo: list[Op]) -> None:
    for kind, target, flags, data in mounts.KERNEL_MOUNTS:
        if target == "/dev" and _nodes_are_bound(config):
            flags |= ops.MS_NODEV
        todo.append(op(ops.MOUNT, kind, target, n=data, a=flags, flags=ops.NOFOLLOW, origin="default mounts"))
    for name, major, minor in mounts.DEVICES:
        _device(config, todo, "/dev/" + name, major << 8 | minor, "/dev/" + name)
    if config.devices:
        _more_devices(config, todo)
    if config.tty:
        todo.append(op(ops.MKFILE, "/dev/console", n=0o600, origin="--tty"))
    else:
        _device(config, todo, "/dev/console", 1 << 8 | 3, "/dev/null")
    for kind, target, flags, data in mounts.DEV_MOUNTS:
        if kind == "devpts":
            data += "" if config.inner else ",gid=5"
        todo.append(op(ops.MKDIR, target, n=0o755, flags=ops.NOFOLLOW, origin="default mounts"))
        if config.share and target == "/dev/shm":
            attrs = ops.ATTR_NOSUID | ops.ATTR_NODEV | ops.ATTR_NOEXEC
            todo.append(op(ops.BIND, f"{config.pod_dir}/shm", target, a=attrs, flags=ops.NOFOLLOW, origin="shared memory"))
            continue
        todo.append(op(ops.MOUNT, kind, target, n=data, a=flags, flags=ops.NOFOLLOW, origin="default mounts"))
    for path, to in mounts.DEV_LINKS:
        todo.append(op(ops.SYMLINK, path, to, origin="default devices"))
    if config.notify == "app":  # the supervisor listens there; in /dev no volume can hide it, and nothing of it stays
        todo.append(op(ops.MKFILE, mounts.NOTIFY, n=0o600, origin="--notify app"))
        todo.append(op(ops.BIND, f"{config.app_dir}/notify", mounts.NOTIFY, origin="--notify app"))
    if config.tty:
        todo.append(op(ops.TTY, a=config.uid, origin="--tty"))


def _nodes_are_bound(config: Config) -> bool:
    """Where the app may make nodes of its own, none but the host's, bound one by one, may open, unless a program decides what may;

    in a user namespace none can be made.
    """
    return config.inner or bool(config.bounding & _CAP_MKNOD and not config.device_rules)


def _device_rules(config: Config, todo: list[Op]) -> None:
    from pyrun.plan.devices_bpf import device_program, text_of

    program = device_program(config.device_rules)
    if program:
        todo.append(op(ops.DEVICES, program, text_of(config.device_rules), origin=config.origin("devices")))


def _more_devices(config: Config, todo: list[Op]) -> None:
    """Nodes of the pod's own, as the host's are; in a user namespace none could be made, so those are the host's, guarded against chmod."""
    for one in config.devices:
        if not config.inner:
            todo.append(op(ops.MKNOD, one.path, n=one.mode, a=one.number, b=one.uid | one.gid << 32, origin=one.origin))
        else:
            todo.append(op(ops.MKFILE, one.path, n=0o600, origin=one.origin))
            todo.append(op(ops.BIND, one.source, one.path, a=ops.ATTR_RDONLY | ops.ATTR_NOSUID | ops.ATTR_NOEXEC, origin=one.origin))


def _device(config: Config, todo: list[Op], path: str, number: int, source: str) -> None:
    if not _nodes_are_bound(config):
        todo.append(op(ops.MKNOD, path, n=_CHARACTER | 0o666, a=number, origin="default devices"))
        return
    todo.append(op(ops.MKFILE, path, n=0o666, origin="default devices"))
    # read-only keeps the owner and the mode of the host's node as they are, and nobody from writing to the device
    todo.append(op(ops.BIND, source, path, a=ops.ATTR_RDONLY, origin="default devices"))


def _volumes(config: Config, todo: list[Op]) -> None:
    if config.hosts_bound:
        attrs = ops.ATTR_NOSUID | ops.ATTR_NODEV | ops.ATTR_NOEXEC | ops.ATTR_RDONLY
        todo.append(op(ops.BIND, f"{config.pod_dir}/hosts", "/etc/hosts", a=attrs, origin="name look-ups"))
    for mount in config.mounts:
        if mount.kind == "tmpfs":
            todo.append(_tmpfs(mount))
            continue
        attrs = ops.ATTR_NOSUID | ops.ATTR_NODEV | (ops.ATTR_RDONLY if mount.readonly else 0)
        if mount.device:  # opens for writing all the same, but its owner and mode on the host stay as they are
            attrs = ops.ATTR_NOSUID | ops.ATTR_RDONLY
        source, flags = mount.source, ops.NOFOLLOW | (ops.RECURSIVE if mount.recursive else 0)
        if mount.kind == "empty":
            shared = config.share and mount.volume
            source = f"{config.pod_dir}/volume-{mount.volume}" if shared else f"{config.app_dir}/volume-{mount.name}"
            if not mount.copy_up:
                todo.append(op(ops.HOST_DIR, source, n=mount.mode, a=mount.uid, b=mount.gid, origin=mount.origin))
        todo.append(op(ops.BIND, source, mount.target, a=attrs, flags=flags, origin=mount.origin))


def _tmpfs(mount: Mount) -> Op:
    data = f"mode={mount.mode:04o},uid={mount.uid},gid={mount.gid}" + (f",size={mount.size}" if mount.size else "")
    flags = ops.MS_NOSUID | ops.MS_NODEV | (ops.MS_RDONLY if mount.readonly else 0)
    return op(ops.MOUNT, "tmpfs", mount.target, n=data, a=flags, origin=mount.origin)


def _network(config: Config, todo: list[Op]) -> None:
    """The network, which the supervisor makes meanwhile, and last what has to wait for it."""
    if config.network != "host" and not config.share:
        todo.append(op(ops.NETWORK, origin="--net none" if config.network == "none" else "--net"))
    for kind, target, flags, data in mounts.SYS_MOUNTS:
        if kind == "sysfs" and config.inner and config.network == "host":
            # a sysfs of one's own takes a network of one's own (sysfs(5)); of the host's, all that is mounted in it comes along
            attrs = ops.ATTR_RDONLY | ops.ATTR_NOSUID | ops.ATTR_NODEV | ops.ATTR_NOEXEC
            todo.append(op(ops.BIND, target, target, a=attrs, flags=ops.NOFOLLOW | ops.RECURSIVE, origin="default mounts"))
            todo.append(op(ops.MASK, "/sys/fs/cgroup", origin="default mounts"))  # the host's tree, below the pod's own
            continue
        # cgroup2 has no directory of its own where sysfs is that of another user namespace's network: then there is none
        optional = ops.OPTIONAL if kind == "cgroup2" else 0
        todo.append(op(ops.MOUNT, kind, target, n=data, a=flags, flags=ops.NOFOLLOW | optional, origin="default mounts"))
    if config.mask_paths:
        bound = config.inner and config.network == "host"
        todo += [op(ops.MASK, path, origin="masked paths") for path in mounts.SYS_MASKED + (mounts.SYS_EMPTY if bound else ())]


def _leave(config: Config, todo: list[Op]) -> None:
    if config.metadata:
        own = config.metadata
        where = own.address << 16 | own.port
        todo.append(op(ops.METADATA, own.socket, own.command, n=len(own.command), a=where, b=config.app, origin="--mds"))
    todo += [op(ops.SYSCTL, name, value, origin=origin) for name, value, origin in config.sysctls]
    todo.append(op(ops.HOSTNAME, config.hostname, origin=config.origin("hostname")))
    if config.oom_score_adj is not None:
        todo.append(op(ops.OOM_SCORE, n=config.oom_score_adj, origin=config.origin("oom_score_adj")))
    todo.append(op(ops.PIVOT, origin="root file system"))
    todo.append(op(ops.KEYRING, origin="session keyring"))


def _identity(config: Config, todo: list[Op]) -> None:
    """The app's process.  Without no_new_privs the filter needs CAP_SYS_ADMIN, so it goes in before the drop (seccomp(2))."""
    todo.append(op(ops.APP, origin="app"))
    todo.append(op(ops.SESSION, origin="app"))
    if not config.interactive and not config.tty:
        todo.append(op(ops.STDIN_NULL, origin="app"))
    todo += _confinement(config, config.bounding, config.permitted)
    todo.append(op(ops.EXEC, config.argv, config.env, b=config.paths, origin=config.origin("argv")))


def _confinement(config: Config, bounding: int, permitted: int) -> list[Op]:
    todo: list[Op] = []
    caps = caps_blob(bounding, permitted, permitted)
    user = config.origin("user")
    todo.append(op(ops.UMASK, n=config.umask, origin=config.origin("umask")))
    for number, soft, hard, origin in config.rlimits:
        clamp = ops.CLAMP if origin == rlimits.DEFAULT_ORIGIN else 0
        todo.append(op(ops.RLIMIT, n=number, a=soft, b=hard, flags=clamp, origin=origin))
    seccomp = op(ops.SECCOMP, config.seccomp, origin=config.origin("seccomp"))
    early = config.seccomp and not config.no_new_privs
    labels = [op(ops.LABEL, f"self/attr/{file}", text, n=2, origin=origin) for file, text, origin in config.labels]
    if early:  # which may forbid what the labels take
        todo += [*labels, seccomp]
    todo.append(op(ops.CAPS, caps, n=0, origin=config.origin("caps")))
    groups = b"".join([gid.to_bytes(4, "little") for gid in config.groups])
    todo.append(op(ops.IDS, groups, n=len(config.groups), a=config.uid, b=config.gid, origin=user))
    todo.append(op(ops.CAPS, caps, n=1, origin=config.origin("caps")))
    todo.append(op(ops.CHDIR, config.cwd, origin=config.origin("cwd")))
    if not early:
        todo += labels
    if config.no_new_privs:
        todo.append(op(ops.NO_NEW_PRIVS, origin="no_new_privs"))
        if config.seccomp:
            todo.append(seccomp)
    return todo


def _handler(config: Config, handler: tuple[str, list[str], list[str], int], todo: list[Op]) -> None:
    """A program beside the app's, confined as that is.

    It may not trace others: the init of an app that has not started yet still has all privileges.  Where a filter or a label comes
    last, so does the session, as native/enter.c wants it; else nobody who could see the process is left in the pod.
    """
    name, argv, paths, seconds = handler
    origin = f"event handler {name}"
    kind = ops.PRE_START if name == "pre-start" else ops.POST_STOP
    todo.append(op(ops.HANDLER, name, n=kind, a=seconds, origin=f"app.eventHandlers {name}"))
    visible = [op(ops.SESSION, origin=origin), op(ops.STDIN_NULL, origin=origin)]
    steps = _confinement(config, config.bounding & ~_CAP_SYS_PTRACE, config.permitted & ~_CAP_SYS_PTRACE)
    codes = [one[0] for one in steps]
    last = [code for code in (ops.LABEL, ops.NO_NEW_PRIVS) if code in codes]
    place = codes.index(last[0]) if last else 0 if ops.SECCOMP in codes else len(codes)
    todo += [*steps[:place], *visible, *steps[place:], op(ops.EXEC, argv, config.env, b=paths, origin=origin)]
