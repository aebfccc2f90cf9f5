"""What an operation of a plan means, in words: for `pyrun plan`, error messages and their hints.  Cold."""

from __future__ import annotations

import os

from pyrun.plan import caps, ops, rlimits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyrun.plan.ops import Field, Op, Plan

__all__ = ["NAMES", "describe", "namespaces", "step"]

NAMES = {
    value: name.lower().replace("_", " ")
    for name, value in vars(ops).items()
    if name.isupper()
    and isinstance(value, int)
    and name
    in (
        "PROPAGATION SCRATCH HOST_DIR OVERLAY ROOT_BIND UNMOUNT MKDIR MKFILE WRITE SYMLINK MKNOD MOUNT BIND MASK READONLY ROOT_READONLY"
        " HOSTNAME DOMAINNAME NETWORK TTY OOM_SCORE PIVOT KEYRING APP SESSION STDIN_NULL UMASK RLIMIT IDS CAPS CHDIR NO_NEW_PRIVS"
        " SECCOMP EXEC LIMIT DEVICES HANDLER METADATA LABEL SYSCTL"
    ).split()
}

_NAMESPACES = (
    (ops.CLONE_NEWUSER, "user"),
    (ops.CLONE_NEWPID, "pid"),
    (ops.CLONE_NEWNS, "mount"),
    (ops.CLONE_NEWIPC, "ipc"),
    (ops.CLONE_NEWUTS, "uts"),
    (ops.CLONE_NEWNET, "net"),
    (ops.CLONE_NEWCGROUP, "cgroup"),
    (ops.CLONE_NEWTIME, "time"),
)
_MOUNT_FLAGS = ((ops.MS_RDONLY, "ro"), (ops.MS_NOSUID, "nosuid"), (ops.MS_NODEV, "nodev"), (ops.MS_NOEXEC, "noexec"))


def namespaces(plan: Plan) -> list[str]:
    """Return the names of the namespaces that a plan makes."""
    return [name for bit, name in _NAMESPACES if plan.clone_flags & bit]


def _text(field: Field) -> str:
    return field if isinstance(field, str) else repr(field)


def _number(field: Field) -> int:
    assert isinstance(field, int)
    return field


def _flags(value: object) -> str:
    assert isinstance(value, int)
    words = [word for bit, word in _MOUNT_FLAGS if value & bit]
    return f" ({','.join(words)})" if words else ""


def _overlay(one: Op) -> str:
    _, flags, _, stage, lowers, upper, _, _ = one
    assert isinstance(lowers, list)
    how = f"changes in {_text(upper)}" if upper else "read-only"
    volatile = ", never synced" if flags & ops.VOLATILE else ""
    return f"mount overlay of {len(lowers)} layer{'s' if len(lowers) != 1 else ''} on {_text(stage)}, {how}{volatile}: {' '.join(lowers)}"


def _node(one: Op) -> str:
    number = _number(one[5])
    return f"make device {_text(one[3])} {os.major(number)}:{os.minor(number)} mode {_number(one[2]) & 0o7777:04o}"


def _limit(one: Op) -> str:
    own = "the cgroup of all apps" if one[1] & ops.POD else "the pod's cgroup"
    where = _text(one[5]) if one[5] else own  # of version 1, or the one of the tree
    return f"limit {_text(one[3])} of {where} to {_text(one[4])}"


def _bind(one: Op) -> str:
    deep = " with what is mounted below" if one[1] & ops.RECURSIVE else ""
    return f"bind {_text(one[3])} on {_text(one[4])}{deep}{_flags(one[5])}"


def _mount(one: Op) -> str:
    data = f" {_text(one[2])}" if one[2] else ""
    return f"mount {_text(one[3])} on {_text(one[4])}{data}{_flags(one[5])}"


def _ids(one: Op) -> str:
    blob = one[3]
    groups = [str(int.from_bytes(blob[i : i + 4], "little")) for i in range(0, len(blob), 4)] if isinstance(blob, bytes) else []
    return f"become uid {_text(one[5])} gid {_text(one[6])}, supplementary groups {' '.join(groups) or 'none'}"


def _caps(one: Op) -> str:
    blob = one[3]
    assert isinstance(blob, bytes)
    sets = [int.from_bytes(blob[i : i + 8], "little") for i in range(0, 40, 8)]
    if one[2] == 0:
        return f"bound capabilities to {' '.join(caps.names(sets[0])) or 'none'}"
    return f"hold capabilities {' '.join(caps.names(sets[2])) or 'none'}"


def _rlimit(one: Op) -> str:
    _, _, number, _, _, soft, hard, _ = one
    assert isinstance(number, int) and isinstance(soft, int) and isinstance(hard, int)
    return f"limit {rlimits.describe((number, soft, hard))}"


def _address(field: Field) -> str:
    number = _number(field)
    return ".".join([str(number >> shift & 255) for shift in (40, 32, 24, 16)]) + f":{number & 0xFFFF}"


def _exec(one: Op) -> str:
    paths = one[6]
    assert isinstance(one[3], list) and isinstance(one[4], list) and isinstance(paths, list)
    tried = f", looked for as {' '.join(paths)}" if paths != one[3][:1] else ""
    return f"execute {one[3]!r} with {len(one[4])} variables{tried}"


def _label(one: Op) -> tuple[str, str]:
    name = _text(one[4])
    return ("use AppArmor profile", name[5:]) if name.startswith("exec ") else ("use SELinux context", name)


_WORDS: dict[int, Callable[[Op], str]] = {
    ops.PROPAGATION: lambda one: "make every mount private",
    ops.SCRATCH: lambda one: f"mount tmpfs on {_text(one[3])} {_text(one[4])}",
    ops.HOST_DIR: lambda one: f"make host directory {_text(one[3])} mode {_number(one[2]):04o}",
    ops.OVERLAY: _overlay,
    ops.ROOT_BIND: lambda one: f"bind the copy {_text(one[4])} on {_text(one[3])} as root",
    ops.UNMOUNT: lambda one: f"unmount {_text(one[3])}",
    ops.MKDIR: lambda one: f"make directory {_text(one[3])} mode {_number(one[2]):04o} unless it is there",
    ops.MKFILE: lambda one: f"make file {_text(one[3])} unless it is there",
    ops.WRITE: lambda one: f"write {_text(one[3])} unless the image has it",
    ops.SYMLINK: lambda one: f"link {_text(one[3])} to {_text(one[4])}",
    ops.MKNOD: _node,
    ops.MOUNT: _mount,
    ops.BIND: _bind,
    ops.MASK: lambda one: f"hide {_text(one[3])}",
    ops.READONLY: lambda one: f"make {_text(one[3])} read-only",
    ops.ROOT_READONLY: lambda one: "make the root read-only",
    ops.HOSTNAME: lambda one: f"set host name {_text(one[3])}",
    ops.DOMAINNAME: lambda one: f"set domain name {_text(one[3])}",
    ops.NETWORK: lambda one: "enter a network of its own, with nothing but loopback",
    ops.TTY: lambda one: "make a terminal, /dev/console",
    ops.OOM_SCORE: lambda one: f"set oom_score_adj {_text(one[2])}",
    ops.PIVOT: lambda one: "pivot into the root and detach the host's",
    ops.KEYRING: lambda one: "join a new session keyring",
    ops.APP: lambda one: "start the app's process",
    ops.SESSION: lambda one: "start a session",
    ops.STDIN_NULL: lambda one: "connect standard input to /dev/null",
    ops.UMASK: lambda one: f"set umask {_number(one[2]):04o}",
    ops.RLIMIT: _rlimit,
    ops.IDS: _ids,
    ops.CAPS: _caps,
    ops.CHDIR: lambda one: f"enter directory {_text(one[3])}",
    ops.NO_NEW_PRIVS: lambda one: "give up gaining privileges (no_new_privs)",
    ops.SECCOMP: lambda one: f"install a system call filter of {len(one[3]) // 8 if isinstance(one[3], bytes) else 0} instructions",
    ops.EXEC: _exec,
    ops.DEVICES: lambda one: f"let the pod use these devices only: {_text(one[4])}",
    ops.METADATA: lambda one: f"offer the metadata service at {_address(one[5])}",
    ops.HANDLER: lambda one: f"run the event handler {_text(one[3])} as the app, for up to {_text(one[5])} seconds",
    ops.LIMIT: _limit,
    ops.LABEL: lambda one: " ".join(_label(one)),
    ops.SYSCTL: lambda one: f"set kernel parameter {_text(one[3]).replace('/', '.')}={_text(one[4])}",
}


def describe(one: Op) -> str:
    """Return one line that says what the operation does."""
    return _WORDS[one[0]](one)


def step(one: Op) -> tuple[str, str]:
    """Return what was tried and on what, for an error message."""
    code, _, _, s1, s2, _, _, _ = one
    if code in (ops.MOUNT, ops.BIND):
        return f"mount {_text(s1)} on", _text(s2)
    if code == ops.EXEC:
        assert isinstance(s1, list)
        return "execute", s1[0]
    if code == ops.METADATA:
        return "offer the metadata service at", _address(one[5])
    if code == ops.HANDLER:
        return "run event handler", _text(s1)
    if code == ops.LABEL:
        return _label(one)
    if code == ops.SYSCTL:
        return "set kernel parameter", f"{_text(s1).replace('/', '.')}={_text(s2)}"
    if code == ops.LIMIT:
        return "set limit", f"{_text(s1)} {_text(s2)}" + (f" of {_text(one[5])}" if one[5] else "")
    if code == ops.DEVICES:
        return "limit the devices to", _text(s2)
    if code == ops.OVERLAY:
        return "mount overlay on", _text(s1)
    if code == ops.IDS:
        return "become", f"uid {_text(one[5])} gid {_text(one[6])}"
    if code == ops.RLIMIT:
        return "set limit", _rlimit(one).removeprefix("limit ")
    if code in (ops.CHDIR, ops.HOSTNAME, ops.MASK, ops.READONLY, ops.MKDIR, ops.MKFILE, ops.MKNOD, ops.WRITE, ops.SYMLINK, ops.HOST_DIR):
        words = {ops.CHDIR: "enter directory", ops.HOSTNAME: "set host name", ops.MASK: "hide", ops.READONLY: "make read-only"}
        return words.get(code, "make"), _text(s1)
    return describe(one), ""
