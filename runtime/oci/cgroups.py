"""The container's cgroup (cgroups(7), version 2): where it is, made, frozen, killed, removed."""

from __future__ import annotations

import os

from pyrun.errors import HostError
from pyrun.host import CGROUP_ROOTS, put, read_small

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

__all__ = [
    "clean",
    "directory",
    "enable_all",
    "freeze",
    "furnish",
    "hand_over",
    "is_hybrid",
    "kill",
    "make",
    "outside",
    "own",
    "owner",
    "processes",
    "put",
    "remove",
    "tree",
]


def tree() -> str:
    """Return the mount point of the cgroup2 tree, "" without one."""
    for base in CGROUP_ROOTS:
        if os.path.exists(base + "/cgroup.controllers"):
            return base
    return ""


def is_hybrid() -> bool:
    """Whether the cgroup2 tree is where hosts have it that have controllers in version 1 too."""
    return tree() == CGROUP_ROOTS[1]


def own() -> str:
    """Return the cgroup of this process below the tree."""
    for line in read_small("/proc/self/cgroup").decode("utf-8", "surrogateescape").splitlines():
        if line.startswith("0::/"):
            return line[3:].rstrip("/")
    return ""


def directory(path: str | None, name: str) -> str:
    """Return the directory for `linux.cgroupsPath`; "" on a host without cgroup2.

    An absolute path counts from the tree's root, a relative one from the cgroup of this process, and none is the container's id there.
    """
    base = tree()
    if not base:
        return ""
    below = clean(path or name)
    return f"{base}/{below}" if path and path.startswith("/") else f"{base}{own()}/{below}"


def clean(path: str) -> str:
    """Return the path without parts that mean nothing; HostError for one that leads out of the tree."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise HostError("make cgroup", path, "leads out of the tree", origin="linux.cgroupsPath")
    return "/".join(parts)


def make(path: str) -> None:
    """Make the cgroup and those above it.  HostError when that is not possible, processes are in it, or it is frozen; none stays then."""
    made = [path]
    while not os.path.isdir(made[-1]):
        made.append(os.path.dirname(made[-1]))
    try:
        os.makedirs(path, 0o755, exist_ok=True)
        events = read_small(path + "/cgroup.events")  # the root of the tree has none
        # whoever removes the container kills all that is below
        if read_small(path + "/cgroup.procs") or b"populated 1" in events:
            reason = "container's cgroup is not empty: there are processes in it already"
            raise HostError("make cgroup", path, reason, origin="linux.cgroupsPath")
        if b"frozen 1" in events:  # by itself or from above: no step of the container's process would be carried out
            hint = "write 0 to its cgroup.freeze, or to that of the cgroup above that is frozen"
            raise HostError("make cgroup", path, "container's cgroup unexpectedly frozen", hint=hint, origin="linux.cgroupsPath")
    except (OSError, HostError) as error:
        for one in made[:-1]:  # those that were not there
            _rmdir(one)
        if isinstance(error, HostError):
            raise
        raise HostError("make cgroup", path, errno=error.errno or 0, origin="linux.cgroupsPath") from None


def enable_all(path: str) -> None:
    """Enable what controllers there are for the cgroup, from the root of the tree down, and leave those that are not to be had.

    Clients look at what a container takes, and limit it later, whether it had a limit to begin with or not.  A cgroup above that
    has processes stays as it is: what the kernel lets pass there makes one below that no process can enter (cgroups(7)).
    """
    above = tree()
    for part in path[len(above) :].strip("/").split("/"):
        enabled = read_small(above + "/cgroup.subtree_control").split()
        missing = ["+" + name.decode() for name in read_small(above + "/cgroup.controllers").split() if name not in enabled]
        if missing:
            if os.path.exists(above + "/cgroup.type") and read_small(above + "/cgroup.procs"):  # the root of all has no type
                return
            if not put(above + "/cgroup.subtree_control", " ".join(missing)):
                for one in missing:
                    put(above + "/cgroup.subtree_control", one)
        above += "/" + part


def furnish(path: str, uid: int) -> None:
    """Enable the controllers of a new cgroup, and give it to its owner, if it is to have another than root."""
    enable_all(path)
    if uid:
        hand_over(path, uid)


def owner(config: dict[str, Any]) -> int:
    """Return the uid of the host that a container's cgroup is to belong to (config-linux.md, "Cgroup ownership"); 0 for root, as it is.

    That is who the process is where it can manage its cgroup: in a cgroup namespace of its own with the tree to write to.
    """
    linux = config.get("linux", {})
    spaces = {one["type"]: one.get("path", "") for one in linux.get("namespaces", ())}
    if spaces.get("cgroup") != "" or is_hybrid() or not any(_is_writable_tree(one) for one in config.get("mounts", ())):
        return 0
    uid: int = config["process"].get("user", {}).get("uid", 0)
    if "user" not in spaces:
        return uid
    for row in linux.get("uidMappings", ()):
        if 0 <= uid - row["containerID"] < row["size"]:
            return int(row["hostID"] + uid - row["containerID"])
    return 0


def _is_writable_tree(mount: dict[str, Any]) -> bool:
    return (
        mount.get("source") == "cgroup"
        and os.path.normpath(mount["destination"]) == "/sys/fs/cgroup"
        and "ro" not in mount.get("options", ())
    )


def hand_over(path: str, uid: int, gid: int = -1) -> None:
    """Give a cgroup with the files for what is below it to somebody else (cgroups(7), "Delegation"); OSError when that cannot be."""
    names = read_small("/sys/kernel/cgroup/delegate").decode().split() or ["cgroup.procs", "cgroup.subtree_control", "cgroup.threads"]
    for one in (path, *(f"{path}/{name}" for name in names)):
        if os.path.exists(one):
            os.chown(one, uid, gid)


def kill(path: str) -> bool:
    """Kill every process in the cgroup and below; False when that cannot be."""
    return put(path + "/cgroup.kill", "1")


def processes(path: str) -> list[int]:
    """Return the processes in the cgroup and below."""
    found: list[int] = []
    for top, _, _ in os.walk(path):
        found += [int(word) for word in read_small(top + "/cgroup.procs").split()]
    return sorted(set(found))


def outside(path: str, other: str) -> list[int]:
    """Return the processes in the cgroup and below that are not in the group `other`, or below that."""
    there = set(processes(other))
    return [pid for pid in processes(path) if pid not in there]


def freeze(path: str, on: bool) -> None:
    """Pause the cgroup or let it go on, and wait until that is so; HostError when the kernel refuses."""
    if not put(path + "/cgroup.freeze", "1" if on else "0"):
        raise HostError("pause" if on else "resume", path, "the cgroup cannot be frozen")
    _wait(path, f"frozen {int(on)}".encode())


def thaw(pid: int) -> None:
    """Let a process go on that a freezer of cgroup version 1 holds, where not even SIGKILL ends it (freezer-subsystem.rst)."""
    for line in read_small(f"/proc/{pid}/cgroup").decode("utf-8", "surrogateescape").splitlines():
        kinds, _, path = line.partition(":")[2].partition(":")
        if kinds == "freezer" and path != "/":
            put(f"/sys/fs/cgroup/freezer{path}/freezer.state", "THAWED")


def _wait(path: str, wanted: bytes) -> None:
    """cgroup.events wakes who polls it for POLLPRI (cgroup-v2.rst)."""
    import select

    try:
        fd = os.open(path + "/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        poll = select.poll()
        poll.register(fd, select.POLLPRI)
        for _ in range(100):
            if wanted in os.pread(fd, 4096, 0).split(b"\n"):
                return
            poll.poll(100)
    finally:
        os.close(fd)


def remove(path: str, old: Iterable[str] = ()) -> None:
    """Kill what is left in the cgroup and remove it and those below; a busy one is tried for five seconds.

    Then its groups `old` in hierarchies of version 1, where no process of the container is left.
    """
    _remove(path)
    if old:
        from pyrun.oci import hybrid

        hybrid.remove(old)


def _remove(path: str) -> None:
    if not os.path.isdir(path):
        return
    if read_small(path + "/cgroup.procs") or b"populated 1" in read_small(path + "/cgroup.events"):
        kill(path)
        _wait(path, b"populated 0")
    for _ in range(50):
        for top, names, _ in os.walk(path, topdown=False):
            for one in names:
                _rmdir(f"{top}/{one}")
        if _rmdir(path):
            return
        kill(path)
        _wait(path, b"populated 0")
    raise HostError("remove cgroup", path, "it is still busy")


def _rmdir(path: str) -> bool:
    try:
        os.rmdir(path)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
