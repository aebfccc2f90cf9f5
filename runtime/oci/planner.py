"""config.json -> Plan: which operations, in which order.  Pure, but that it looks which sources of binds are directories.

The order is that of `pyrun.plan.planner`; what differs is that the configuration names every mount itself, and that
the process waits at the end (PARK) until `start` lets it go.
"""

from __future__ import annotations

import os

from pyrun.errors import ConfigError
from pyrun.plan import caps, ops, rlimits
from pyrun.plan.ops import Plan, caps_blob, op

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyrun.plan.ops import Op

__all__ = ["enter_plan", "oci_plan"]

_NAMESPACES = {
    "pid": ops.CLONE_NEWPID,
    "network": ops.CLONE_NEWNET,
    "ipc": ops.CLONE_NEWIPC,
    "uts": ops.CLONE_NEWUTS,
    "mount": ops.CLONE_NEWNS,
    "user": ops.CLONE_NEWUSER,
    "cgroup": ops.CLONE_NEWCGROUP,
    "time": ops.CLONE_NEWTIME,
}
_FLAGS = {
    "ro": (1, 0), "rw": (0, 1), "nosuid": (2, 0), "suid": (0, 2), "nodev": (4, 0), "dev": (0, 4), "noexec": (8, 0), "exec": (0, 8),
    "sync": (16, 0), "async": (0, 16), "dirsync": (128, 0), "noatime": (1024, 0), "nodiratime": (2048, 0),
    "relatime": (1 << 21, 0), "strictatime": (1 << 24, 0), "defaults": (0, 0), "bind": (0, 0), "rbind": (0, 0),
    "private": (0, 0), "rprivate": (0, 0), "slave": (0, 0), "rslave": (0, 0), "shared": (0, 0), "rshared": (0, 0),
}  # fmt: skip
_DEVICES = (("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0))
_LINKS = (("fd", "/proc/self/fd"), ("stdin", "/proc/self/fd/0"), ("stdout", "/proc/self/fd/1"), ("stderr", "/proc/self/fd/2"))


def oci_plan(
    spec: dict[str, Any],
    bundle: str,
    *,
    seccomp: bytes = b"",
    bounding: int = caps.ALL,
    state: tuple[str, str] = ("", ""),
    pivot: bool = True,
) -> Plan:
    """Return the plan that creates the container of a checked configuration.

    `seccomp` is its compiled filter, `bounding` the caller's own bounding set, `state` the JSON for hooks before and
    behind the pid (status creating), `pivot` False for a root that cannot be pivoted from.
    """
    linux = spec.get("linux") or {}
    root = os.path.join(bundle, spec["root"]["path"])
    todo: list[Op] = []
    flags = _namespaces(linux, todo)
    todo.append(op(ops.PROPAGATION, n=ops.MS_SLAVE | ops.MS_REC, origin="linux.rootfsPropagation"))
    todo.append(op(ops.ROOT_BIND, root, root, flags=ops.KEEP, origin="root.path"))
    if flags & ops.CLONE_NEWNET:
        todo.append(op(ops.NETWORK, origin="linux.namespaces"))
    for index, mount in enumerate(spec.get("mounts") or []):
        _mount(mount, bundle, f"mounts[{index}]", todo)
    _devices(spec, linux, todo)
    _leave(spec, linux, todo, state, pivot)
    _process_ops(spec, todo, seccomp=seccomp, bounding=bounding, state=state)
    plan = Plan(todo, clone_flags=flags, flags=ops.OCI)
    for name, attribute in (("uidMappings", "uid_map"), ("gidMappings", "gid_map")):
        rows = linux.get(name) or []
        setattr(plan, attribute, "".join(f"{row['containerID']} {row['hostID']} {row['size']}\n" for row in rows))
    return plan


def _namespaces(linux: dict[str, Any], todo: list[Op]) -> int:
    flags = 0
    for index, one in enumerate(linux.get("namespaces") or []):
        kind, path = _NAMESPACES[one["type"]], one.get("path")
        if path:
            todo.append(op(ops.JOIN, path, n=kind, origin=f"linux.namespaces[{index}]"))
        else:
            flags |= kind
    return flags


def _mount(mount: dict[str, Any], bundle: str, where: str, todo: list[Op]) -> None:
    target, kind, options = os.path.join("/", mount["destination"]), mount.get("type", ""), mount.get("options") or []
    flags, data = 0, []
    for option in options:
        setting = _FLAGS.get(option)
        if setting is None:
            data.append(option)
        else:
            flags = (flags | setting[0]) & ~setting[1]
    if "bind" in options or "rbind" in options or kind == "bind":
        source = os.path.join(bundle, mount["source"])
        if not os.path.exists(source):
            raise ConfigError("bind", source, "no such file or directory", origin=f"{where}.source")
        code = ops.MKDIR if os.path.isdir(source) else ops.MKFILE
        todo.append(op(code, target, n=0o755, origin=where))
        recursive = 0 if "bind" in options else ops.RECURSIVE
        todo.append(op(ops.BIND, source, target, a=flags & 15, flags=recursive, origin=where))
        return
    todo.append(op(ops.MKDIR, target, n=0o755, origin=where))
    kind = "cgroup2" if kind == "cgroup" else kind
    todo.append(op(ops.MOUNT, kind, target, n=",".join(data), a=flags, origin=where))


def _devices(spec: dict[str, Any], linux: dict[str, Any], todo: list[Op]) -> None:
    bound = any(one["type"] == "user" for one in linux.get("namespaces") or [])
    for name, major, minor in _DEVICES:
        if bound:
            todo.append(op(ops.MKFILE, "/dev/" + name, n=0o666, origin="default devices"))
            todo.append(op(ops.BIND, "/dev/" + name, "/dev/" + name, origin="default devices"))
        else:
            todo.append(op(ops.MKNOD, "/dev/" + name, n=0o020666, a=major << 8 | minor, origin="default devices"))
    for name, to in (*_LINKS, ("ptmx", "pts/ptmx")):
        todo.append(op(ops.SYMLINK, "/dev/" + name, to, origin="default devices"))
    if (spec.get("process") or {}).get("terminal"):
        todo.append(op(ops.MKFILE, "/dev/console", n=0o600, origin="process.terminal"))
        todo.append(op(ops.TTY, a=spec["process"]["user"]["uid"], origin="process.terminal"))


def _leave(spec: dict[str, Any], linux: dict[str, Any], todo: list[Op], state: tuple[str, str], pivot: bool) -> None:
    process = spec.get("process") or {}
    if process.get("cwd", "/") != "/":
        todo.append(op(ops.MKDIR, process["cwd"], n=0o755, origin="process.cwd"))
    if spec.get("hostname"):
        todo.append(op(ops.HOSTNAME, spec["hostname"], origin="hostname"))
    if spec.get("domainname"):
        todo.append(op(ops.DOMAINNAME, spec["domainname"], origin="domainname"))
    todo.append(op(ops.CHECKPOINT, origin="hooks"))
    hooks(spec, "createContainer", todo, state)
    todo += [op(ops.READONLY, path, origin=f"linux.readonlyPaths[{i}]") for i, path in enumerate(linux.get("readonlyPaths") or [])]
    todo += [op(ops.MASK, path, origin=f"linux.maskedPaths[{i}]") for i, path in enumerate(linux.get("maskedPaths") or [])]
    if spec["root"].get("readonly"):
        todo.append(op(ops.ROOT_READONLY, flags=ops.KEEP, origin="root.readonly"))
    if process.get("oomScoreAdj") is not None:
        todo.append(op(ops.OOM_SCORE, n=process["oomScoreAdj"], origin="process.oomScoreAdj"))
    todo.append(op(ops.PIVOT, n=int(not pivot), origin="root.path"))
    todo.append(op(ops.KEYRING, origin="session keyring"))


def hooks(spec: dict[str, Any], kind: str, todo: list[Op], state: tuple[str, str]) -> None:
    """Append the hooks of one kind that run in the container's own process."""
    head, tail = state
    for index, hook in enumerate((spec.get("hooks") or {}).get(kind) or []):
        argv = [hook["path"], *(hook.get("args") or [hook["path"]])]
        where = f"hooks.{kind}[{index}]"
        todo.append(op(ops.HOOK, argv, hook.get("env") or [], a=hook.get("timeout") or 0, b=[head, tail], origin=where))


def _mask(names: list[str], where: str, bounding: int) -> int:
    return sum({caps.bit(name, where) for name in names}) & bounding


def enter_plan(spec: dict[str, Any], process: dict[str, Any], *, seccomp: bytes = b"", bounding: int = caps.ALL) -> Plan:
    """Return the plan of one more process in the container of `spec`, as native/oci_start.c enters it."""
    todo: list[Op] = []
    if process.get("terminal"):
        todo.append(op(ops.TTY, a=process["user"]["uid"], origin="process.terminal"))
    todo.append(op(ops.PIVOT, origin="root.path"))
    todo.append(op(ops.KEYRING, origin="session keyring"))
    _process_ops({"process": process}, todo, seccomp=seccomp, bounding=bounding, state=("", ""), entering=True)
    own = {one["type"] for one in (spec.get("linux") or {}).get("namespaces") or []}
    flags = (ops.CLONE_NEWUSER if "user" in own else 0) | (ops.CLONE_NEWTIME if "time" in own else 0)
    return Plan(todo, clone_flags=flags, flags=ops.OCI | ops.ENTER)


def _process_ops(
    spec: dict[str, Any], todo: list[Op], *, seccomp: bytes, bounding: int, state: tuple[str, str], entering: bool = False
) -> None:
    """Append what the process itself does: limits, identity, filter, program.

    One that enters is visible in the container from SESSION on only, hence with nothing more than it shall have.
    """
    process = spec["process"]
    user = process["user"]
    todo.append(op(ops.APP, origin="process"))
    if not entering:
        todo.append(op(ops.SESSION, origin="process"))
    todo.append(op(ops.UMASK, n=user.get("umask", 0o022), origin="process.user.umask"))
    for index, limit in enumerate(process.get("rlimits") or []):
        number = rlimits.NAMES.index(limit["type"].removeprefix("RLIMIT_").lower())
        todo.append(op(ops.RLIMIT, n=number, a=limit["soft"], b=limit["hard"], origin=f"process.rlimits[{index}]"))
    sets = process.get("capabilities") or {}
    names = ("bounding", "effective", "permitted", "inheritable", "ambient")
    held = [_mask(sets.get(name) or [], f"process.capabilities.{name}", bounding) for name in names]
    held[4] &= held[2] & held[3]  # the kernel raises no other (capabilities(7)), and clients name others
    blob = caps_blob(*held)
    todo.append(op(ops.CAPS, blob, n=0, origin="process.capabilities"))
    groups = user.get("additionalGids") or []
    ids = b"".join([gid.to_bytes(4, "little") for gid in groups])
    todo.append(op(ops.IDS, ids, n=len(groups), a=user["uid"], b=user["gid"], origin="process.user"))
    todo.append(op(ops.CHDIR, process.get("cwd", "/"), origin="process.cwd"))
    argv, env = process["args"], process.get("env") or []
    paths = _paths(argv[0], env)
    todo.append(op(ops.FIND, b=paths, origin="process.args"))
    locked = process.get("noNewPrivileges", False)
    if seccomp and not locked:
        todo.append(op(ops.RAISE, origin="linux.seccomp"))
        todo.append(op(ops.SECCOMP, seccomp, origin="linux.seccomp"))
    todo.append(op(ops.CAPS, blob, n=1, origin="process.capabilities"))
    if entering:
        todo.append(op(ops.SESSION, origin="process"))
    else:
        todo.append(op(ops.PARK, origin="process"))
        hooks(spec, "startContainer", todo, (state[0].replace('"creating"', '"created"'), state[1]))
    if locked:
        todo.append(op(ops.NO_NEW_PRIVS, origin="process.noNewPrivileges"))
        if seccomp:
            todo.append(op(ops.SECCOMP, seccomp, origin="linux.seccomp"))
    todo.append(op(ops.EXEC, argv, env, b=paths, origin="process.args"))


def _paths(name: str, env: list[str]) -> list[str]:
    if "/" in name:
        return [name]
    path = next((one[5:] for one in env if one.startswith("PATH=")), "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    return [f"{folder or '.'}/{name}" for folder in path.split(":")]
