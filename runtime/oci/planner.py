"""config.json -> Plan: which operations, in which order.  Pure, but that it looks at sources, devices and /etc/passwd.

The order is that of `pyrun.plan.planner`; what differs is that the configuration names every mount itself, and that
the process waits at the end (PARK) until `start` lets it go.
"""

from __future__ import annotations

import os

from pyrun.errors import ConfigError
from pyrun.oci import devices, mounts
from pyrun.oci.process import held_capabilities, hooks, label_files, listens, process_ops, selinux, tells
from pyrun.plan import caps, ops, sysctl
from pyrun.plan.ops import Plan, op

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from pyrun.plan.ops import Op

__all__ = ["enter_plan", "home_of", "mounts_plan", "oci_plan"]

_NAMESPACES = {
    "pid": ops.CLONE_NEWPID,
    "network": ops.CLONE_NEWNET,
    "ipc": ops.CLONE_NEWIPC,
    "uts": ops.CLONE_NEWUTS,
    "cgroup": ops.CLONE_NEWCGROUP,
    "time": ops.CLONE_NEWTIME,
    "mount": ops.CLONE_NEWNS,
    "user": ops.CLONE_NEWUSER,
}
_ORDER = tuple(_NAMESPACES)  # of joining: the mount namespace takes paths away, the user namespace privileges
_SELF = {"pid": "pid", "network": "net", "ipc": "ipc", "uts": "uts", "cgroup": "cgroup", "time": "time", "mount": "mnt", "user": "user"}
_MASKED, _READONLY = 0, 1
_MOVE, _SHARES, _CHROOT = 1, 2, 3  # OP_PIVOT.n of native/plan.h
_UNBINDABLE, _PRIVATE, _SLAVE, _SHARED, _REC = 1 << 17, 1 << 18, 1 << 19, 1 << 20, 0x4000


def oci_plan(
    spec: dict[str, Any],
    bundle: str,
    *,
    seccomp: bytes = b"",
    bounding: int = caps.ALL,
    state: tuple[str, str] = ("", ""),
    pivot: bool = True,
    group: str = "",
    user: bool = False,
    notify: tuple[str, str] = ("", ""),
) -> Plan:
    """Return the plan that creates the container of a checked configuration.

    `seccomp` is its compiled filter, `bounding` the caller's own bounding set, `state` the JSON for hooks before and
    behind the pid (status creating), `pivot` False for a root that cannot be pivoted from, `group` the directory of its cgroup,
    `user` that the caller is root in a user namespace at most, who can make no device nodes, `notify` what pyrun.oci.notify arranges.
    ConfigError for what the kernel or the host cannot do.
    """
    linux = spec.get("linux", {})
    kinds = {one["type"]: one.get("path", "") for one in linux.get("namespaces", ())}
    _check_mount_namespace(linux, kinds, user)
    if not pivot and "mount" in kinds:
        _check_no_pivot(linux, kinds)
    todo: list[Op] = []
    flags = _namespaces(linux, kinds, todo)
    maps = mounts.extents(linux.get("uidMappings", ())), mounts.extents(linux.get("gidMappings", ()))
    mounter = mounts.Mounter(bundle, kinds, maps, group=group, user=user, root=spec["root"]["path"])
    mounter.shares = _is_shared(linux)
    spread = mounter.spreads(spec)
    _root(spec, linux, kinds, mounter, todo)
    if flags & ops.CLONE_NEWNET:
        todo.append(op(ops.NETWORK, origin=_where(linux, "network")))
    if linux.get("mountLabel"):
        _label(linux["mountLabel"], mounter)
    todo += _mounts(spec.get("mounts", ()), mounter, notify)
    todo += devices.device_ops(spec, mounter)
    todo += mounter.late
    _kernel(spec, linux, kinds, todo)
    _leave(spec, linux, todo, state, pivot)
    bounding = held_capabilities(spec, bounding)
    home = _home(spec["process"], os.path.join(bundle, spec["root"]["path"]))
    process_ops(spec, todo, seccomp=seccomp, bounding=bounding, state=state, home=home, spread=spread)
    plan = Plan(todo, clone_flags=flags, flags=ops.OCI)
    if "user" in kinds and not kinds["user"]:
        plan.uid_map, plan.gid_map = maps
    plan.timens = _offsets(linux)
    plan.warnings = mounter.warnings
    return plan


def enter_plan(
    spec: dict[str, Any],
    process: dict[str, Any],
    *,
    seccomp: bytes = b"",
    bounding: int = caps.ALL,
    state: tuple[str, str] = ("", ""),
    root: str = "/",
) -> Plan:
    """Return the plan of one more process in the container of `spec`, as native/oci_start.c enters it.

    `state` is the container's, before and behind its pid, for a listener of the filter, `root` a path to its root.
    ConfigError where a listener cannot be had.
    """
    linux = spec.get("linux", {})
    listener = linux["seccomp"]["listenerPath"] if seccomp and listens(linux["seccomp"]) else ""
    if listener and not process.get("noNewPrivileges"):
        _refuse_tracers(spec)
    todo: list[Op] = []
    if process.get("terminal"):
        todo.append(op(ops.TTY, a=process.get("user", {}).get("uid", 0), origin="process.terminal"))
    todo += label_files(process)
    if listener:
        todo.append(op(ops.OCI_LISTENER, listener, origin="linux.seccomp.listenerPath"))
    own = {one["type"] for one in linux.get("namespaces", ())}
    todo.append(op(ops.PIVOT, origin="root.path") if "mount" in own else op(ops.PIVOT, root, n=_CHROOT, origin="root.path"))
    todo.append(op(ops.KEYRING, origin="session keyring"))
    bounding = held_capabilities(spec, bounding)
    one = {"process": process, "linux": linux}
    process_ops(one, todo, seccomp=seccomp, bounding=bounding, state=state, entering=True, home=_home(process, root))
    flags = (ops.CLONE_NEWUSER if "user" in own else 0) | (ops.CLONE_NEWTIME if "time" in own else 0)
    return Plan(todo, clone_flags=flags, flags=ops.OCI | ops.ENTER)


def mounts_plan(
    spec: dict[str, Any], bundle: str, wanted: Sequence[dict[str, Any]], *, group: str = "", user: bool = False, remove: bool = False
) -> Plan:
    """Return the plan that mounts more in a running container, or with `remove` takes such mounts away, the last one first.

    It ends at its checkpoint, in a process that is in none of the container's own view: the program behind it is never begun.
    ConfigError for what the kernel or the host cannot do.
    """
    linux = spec.get("linux", {})
    kinds = {one["type"]: one.get("path", "") for one in linux.get("namespaces", ())}
    todo: list[Op] = []
    mounter = mounts.Mounter(bundle, kinds, ("", ""), group=group, user=user, root=spec["root"]["path"])
    if remove:
        places = [(mounts.below(mounter.root, mount["destination"]), f"mounts[{index}]") for index, mount in enumerate(wanted)]
        for place, where in reversed(places):
            if place == "/":
                raise ConfigError("unmount", "/", "it is the root itself", hint="delete the container", origin=f"{where}.destination")
            todo.append(op(ops.UNMOUNT, place, origin=where))
    else:
        mounter.maps = mounts.extents(linux.get("uidMappings", ())), mounts.extents(linux.get("gidMappings", ()))
        mounter.early = mounter.shares = True  # sources are the host's, and the root stays
        if linux.get("mountLabel"):
            _label(linux["mountLabel"], mounter)
        todo += _mounts(wanted, mounter, ("", ""))
        for index, mount in enumerate(wanted):  # by the pid namespace of who mounts procfs is made, who is in none of the container's
            if mount.get("type") == "proc" and {"bind", "rbind", "remount"}.isdisjoint(mount.get("options", ())):
                hint = "the container has its own on /proc: bind that, if it is wanted elsewhere"
                where = f"mounts[{index}].type"
                raise ConfigError("mount proc on", mount["destination"], "would show the host's processes", hint=hint, origin=where)
    todo += [op(ops.CHECKPOINT, origin="mounts"), op(ops.PIVOT, origin="root.path"), op(ops.APP, origin="process")]
    todo.append(op(ops.EXEC, ["true"], [], b=["/"], origin="process"))
    plan = Plan(todo, clone_flags=0, flags=ops.OCI | ops.ENTER)
    plan.warnings = mounter.warnings
    return plan


def _mounts(wanted: Sequence[dict[str, Any]], mounter: mounts.Mounter, notify: tuple[str, str]) -> list[Op]:
    todo: list[Op] = []
    for index, mount in enumerate(wanted):
        todo += mounter.mount(mount, f"mounts[{index}]")
    if notify[0]:
        options = ["bind", "ro", "nosuid", "nodev", "noexec"]
        todo += mounter.mount({"source": notify[0], "destination": notify[1], "options": options}, "NOTIFY_SOCKET")
    return todo


def _label(label: str, mounter: mounts.Mounter) -> None:
    """Without SELinux no file has a label and nothing looks for one, so nothing is lost that holds a container."""
    from pyrun.pod.labels import module_off

    off = module_off("label")
    if off:
        mounter.warnings.append(f"linux.mountLabel: {off}")
        return
    selinux(label, "linux.mountLabel")
    mounter.label = label


def _refuse_tracers(spec: dict[str, Any]) -> None:
    """Without no_new_privs the filter needs CAP_SYS_ADMIN, and its listener the pid of a process that is in the container already."""
    held = (spec["process"].get("capabilities") or {}).get("bounding") or ()
    kinds = {one["type"]: one.get("path", "") for one in spec.get("linux", {}).get("namespaces", ())}
    if "CAP_SYS_PTRACE" in held or kinds.get("pid"):
        reason = "its processes, or others in its pid namespace, could take over who enters before the filter and its listener are there"
        hint = "set process.noNewPrivileges, or give the container no CAP_SYS_PTRACE and a pid namespace of its own"
        raise ConfigError("enter container", "SCMP_ACT_NOTIFY", reason, hint=hint, origin="linux.seccomp.listenerPath")


def _check_mount_namespace(linux: dict[str, Any], kinds: dict[str, str], user: bool) -> None:
    """Who joins one changes the root of all that live there, and finds their /proc: not the host's, nor to map ids by."""
    path = kinds.get("mount", "")
    if "mount" not in kinds and user:
        hint = 'add {"type": "mount"}'
        raise ConfigError("create container", "linux.namespaces", "only root may mount for the host", hint=hint, origin="linux.namespaces")
    if not path:
        return
    where = _where(linux, "mount") + ".path"
    if os.path.exists(path) and os.path.samefile(path, "/proc/self/ns/mnt"):
        raise ConfigError("join namespace", path, "the root of the host would change", hint="leave out the path", origin=where)
    if kinds.get("user") == "":
        hint = "give the user namespace a path too, or neither"
        raise ConfigError("join namespace", path, "a mount namespace cannot be joined with a new user namespace", hint=hint, origin=where)


def _where(linux: dict[str, Any], kind: str) -> str:
    for index, one in enumerate(linux.get("namespaces", ())):
        if one["type"] == kind:
            return f"linux.namespaces[{index}]"
    return "linux.namespaces"


def _namespaces(linux: dict[str, Any], kinds: dict[str, str], todo: list[Op]) -> int:
    flags = 0
    for kind in _ORDER:
        if kinds.get(kind):
            if not os.path.exists(kinds[kind]):
                hint = "name a file such as /proc/PID/ns/net or one that is bound to it"
                raise ConfigError(
                    "join namespace", kinds[kind], "no such file or directory", hint=hint, origin=_where(linux, kind) + ".path"
                )
            todo.append(op(ops.JOIN, kinds[kind], n=_NAMESPACES[kind], origin=_where(linux, kind) + ".path"))
        elif kind in kinds:
            flags |= _NAMESPACES[kind]
    return flags


def _check_no_pivot(linux: dict[str, Any], kinds: dict[str, str]) -> None:
    """Without a pivot /proc and /sys are unmounted, which must reach neither the host nor who lives in a joined namespace."""
    hint, where = "do without --no-pivot", ""
    if _is_shared(linux):
        where = "linux.rootfsPropagation"
    elif kinds.get("mount"):
        where = _where(linux, "mount")
    if where:
        raise ConfigError("create container", "--no-pivot", "would unmount /proc and /sys for others too", hint=hint, origin=where)


def _is_shared(linux: dict[str, Any]) -> bool:
    return linux.get("rootfsPropagation") in ("shared", "rshared")


def _root(spec: dict[str, Any], linux: dict[str, Any], kinds: dict[str, str], mounter: mounts.Mounter, todo: list[Op]) -> None:
    """mount_namespaces(7): unless shared with the host on demand, its mounts come in, and none goes out."""
    spread = linux.get("rootfsPropagation", "")
    name = spread[1:] if spread.startswith("r") else spread
    where = "linux.rootfsPropagation"
    if name != "shared" and "mount" in kinds:
        todo.append(op(ops.PROPAGATION, n=_REC | (_PRIVATE if name in ("private", "unbindable") else _SLAVE), origin=where))
    top = _SLAVE if name in ("", "slave") and "mount" in kinds else _PRIVATE
    path = os.path.join(mounter.bundle, spec["root"]["path"])
    tree = mounter.tree("root.path") if mounter.early else 0
    over = "/" if name == "shared" or kinds.get("mount") else ""  # where it is, it would be the host's too, or another's path
    flags = 0 if "mount" in kinds else ops.KEEP
    todo.append(op(ops.OCI_ROOT, path, over, n=top, a=_SHARED if name == "shared" else 0, b=tree, flags=flags, origin="root.path"))


def _kernel(spec: dict[str, Any], linux: dict[str, Any], kinds: dict[str, str], todo: list[Op]) -> None:
    """Names, parameters and scores, while /proc is still the runtime's own."""
    for key, value in linux.get("sysctl", {}).items():
        _refuse_host(key, kinds, linux)
        todo.append(op(ops.SYSCTL, sysctl.path(key), value, origin=f"linux.sysctl[{key!r}]"))
    if spec.get("hostname"):
        todo.append(op(ops.HOSTNAME, spec["hostname"], origin="hostname"))
    if spec.get("domainname"):
        todo.append(op(ops.DOMAINNAME, spec["domainname"], origin="domainname"))
    score = spec["process"].get("oomScoreAdj")
    if score is not None:
        todo.append(op(ops.OOM_SCORE, n=score, origin="process.oomScoreAdj"))
    for name in ("intelRdt",):
        if linux.get(name):
            raise ConfigError("create container", f"linux.{name}", "is not supported", hint="leave it out", origin=f"linux.{name}")


def _refuse_host(key: str, kinds: dict[str, str], linux: dict[str, Any]) -> None:
    """A namespace that is joined may be the host's own."""
    kind = sysctl.namespace(sysctl.path(key))
    path = kinds.get(kind, "")
    if path and os.path.exists(path) and os.path.samefile(path, f"/proc/self/ns/{_SELF[kind]}"):
        hint = f"{_where(linux, kind)} is the host's own namespace"
        raise ConfigError("set", key, "would change the host", hint=hint, origin=f"linux.sysctl[{key!r}]")


def _leave(spec: dict[str, Any], linux: dict[str, Any], todo: list[Op], state: tuple[str, str], pivot: bool) -> None:
    process = spec["process"]
    if process["cwd"] != "/":
        todo.append(op(ops.MKDIR, process["cwd"], n=0o755, origin="process.cwd"))
    if tells(linux.get("seccomp") or {}):
        flags = 0 if listens(linux["seccomp"]) else ops.OPTIONAL
        todo.append(op(ops.OCI_LISTENER, linux["seccomp"]["listenerPath"], flags=flags, origin="linux.seccomp.listenerPath"))
    todo += label_files(process)
    todo.append(op(ops.CHECKPOINT, origin="hooks"))
    hooks(spec, "createContainer", todo, state)
    for name, how in (("readonlyPaths", _READONLY), ("maskedPaths", _MASKED)):
        paths = linux.get(name, ())
        for index, path in enumerate(paths):
            if path in paths[:index]:
                continue
            todo.append(op(ops.OCI_COVER, path, n=how, origin=f"linux.{name}[{index}]"))
    if spec["root"].get("readonly"):
        todo.append(mounts.read_only("/", "root.readonly"))
    own = any(one["type"] == "mount" for one in linux.get("namespaces", ()))
    how = _CHROOT if not own else _MOVE if not pivot else _SHARES if _is_shared(linux) else 0
    todo.append(op(ops.PIVOT, n=how, origin="root.path"))
    todo.append(op(ops.KEYRING, origin="session keyring"))


def _offsets(linux: dict[str, Any]) -> str:
    return "".join(
        f"{clock} {offset.get('secs', 0)} {offset.get('nanosecs', 0)}\n" for clock, offset in linux.get("timeOffsets", {}).items()
        if clock in ("monotonic", "boottime")
    )  # fmt: skip


def _home(process: dict[str, Any], path: str) -> Callable[[], str]:
    """Return what looks for the user's directory in the /etc/passwd below the root `path`."""

    def look() -> str:
        from pyrun import native

        try:
            root = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fd = native.openat2(root, b"etc/passwd", os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY, resolve=0x12)  # IN_ROOT, NO_MAGICLINKS
            finally:
                os.close(root)
            try:
                data = os.read(fd, 1 << 20) if os.fstat(fd).st_mode & 0o170000 == 0o100000 else b""
            finally:
                os.close(fd)
        except OSError:
            return "/"
        return home_of(data, process.get("user", {}).get("uid", 0))

    return look


def home_of(passwd: bytes, uid: int) -> str:
    """Return the directory of a user by the text of /etc/passwd (passwd(5)), "/" without one."""
    for line in passwd.split(b"\n"):
        fields = line.split(b":")
        if len(fields) > 5 and fields[2] == b"%d" % uid and fields[5].startswith(b"/") and b"\0" not in fields[5]:
            return fields[5].decode("utf-8", "surrogateescape")
    return "/"
