"""What the host offers, probed once and passed around as a value, so that decisions can be tested anywhere."""

from __future__ import annotations

import os

__all__ = ["Host", "own_cgroup", "probe", "put", "read_small", "set_file", "version_1_cgroups", "write_all"]

CGROUP_ROOTS = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified")  # pure cgroup2, hybrid
LEAF = "pyrun-supervisor"  # beside the pods', for the processes of pyrun's own, as in native/handover.h
_MAX_FILE = 1 << 20
_CHUNK = 8192  # a buffer of the largest size would cost every start a mapping and its page faults


class Host:
    """Facts about this host and this process.

    `uid` and `gid` are the effective user and group; `cgroup` the directory of the process's own cgroup in a cgroup2
    hierarchy, "" where there is none; `bounding` the capability bounding set as a mask; `inner` whether the process is root of a
    user namespace only, which is what an ordinary user's command becomes.
    """

    __slots__ = ("bounding", "cgroup", "gid", "inner", "uid")

    def __init__(self, *, uid: int = 0, gid: int = 0, cgroup: str = "", bounding: int = 0, inner: bool = False) -> None:
        self.uid = uid
        self.inner = inner
        self.gid = gid
        self.cgroup = cgroup
        self.bounding = bounding


def probe() -> Host:
    """Return the facts about this host (cgroups(7), proc(5))."""
    from pyrun.native.users import is_root

    return Host(
        uid=os.geteuid(), gid=os.getegid(), cgroup=own_cgroup(), bounding=_bounding_set(), inner=os.geteuid() == 0 and not is_root()
    )


def write_all(fd: int, data: bytes) -> None:
    """Write all of it: on a disk that is nearly full write(2) takes a part first.  OSError, with the file's name, when it does not fit."""
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(fd, view) :]
    except OSError as error:
        error.filename = os.readlink(f"/proc/self/fd/{fd}")
        raise


def put(path: str, text: str) -> bool:
    """Write `text` into a file of the kernel's, as of a cgroup; whether it took it."""
    try:
        set_file(path, text)
    except OSError:
        return False
    return True


def set_file(path: str, text: str) -> None:
    """Likewise; OSError when it did not."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def read_small(path: str) -> bytes:
    """Return a host file of at most 1 MiB, or b"" when it is not there; never waits for a FIFO or a device."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return b""
    try:
        data = part = os.read(fd, _CHUNK)
        while part and len(data) < _MAX_FILE:
            part = os.read(fd, _CHUNK)
            data += part
        return data[:_MAX_FILE]
    except OSError:
        return b""
    finally:
        os.close(fd)


def own_cgroup() -> str:
    """Return the directory of this process's own cgroup if children can be made there, else ""; of a leaf of pyrun's own, the one above.

    A pure cgroup2 host mounts the hierarchy on /sys/fs/cgroup, a hybrid one below that, beside the v1 controllers.
    """
    for line in read_small("/proc/self/cgroup").decode("utf-8", "surrogateescape").splitlines():
        if not line.startswith("0::/"):
            continue
        for base in CGROUP_ROOTS:
            path = (base + line[3:]).rstrip("/").removesuffix("/" + LEAF)
            if os.access(path + "/cgroup.procs", os.W_OK):
                return path
    return ""


def version_1_cgroups() -> dict[str, str]:
    """Return this process's own directory for each controller that has a cgroup v1 hierarchy, where it can be written to; cgroups(7)."""
    own: dict[str, str] = {}
    for line in read_small("/proc/self/cgroup").decode("utf-8", "surrogateescape").splitlines():
        _, names, path = line.split(":", 2)
        own.update((name, path) for name in names.split(",") if name and "=" not in name)
    found: dict[str, str] = {}
    for line in read_small("/proc/self/mounts").decode("utf-8", "surrogateescape").splitlines() if own else ():
        _, where, kind, flags, *_ = line.split(" ")
        for name in flags.split(",") if kind == "cgroup" else ():
            if name in own and name not in found and os.access(where + own[name], os.W_OK):
                found[name] = (where + own[name]).rstrip("/")
    return found


def _bounding_set() -> int:
    for line in read_small("/proc/self/status").split(b"\n"):
        if line.startswith(b"CapBnd:"):
            return int(line[7:], 16)
    return 0
