"""Mounts that come from the host: a checkpoint names them, and restore finds them again by config.json.  Cold."""

from __future__ import annotations

import os

from pyrun import native
from pyrun.errors import ConfigError, HostError
from pyrun.oci.mounts import clean
from pyrun.plan.mounts import DEVICES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["externals", "is_node", "make_targets", "outside", "sources"]

_STRAIGHT = 0x0E  # RESOLVE_NO_MAGICLINKS, NO_SYMLINKS, BENEATH: openat2(2)
_NODES = {"/dev/" + name for name, *_ in DEVICES}
_ESCAPES = {"\\040": " ", "\\011": "\t", "\\012": "\n", "\\134": "\\"}


class _Mount:
    """A line of /proc/PID/mountinfo (proc(5))."""

    __slots__ = ("device", "id", "point", "root")

    def __init__(self, line: str) -> None:
        fields = line.split(" ")
        self.id, self.device = int(fields[0]), fields[2]
        self.root, self.point = _plain(fields[3]), _plain(fields[4])


def _plain(text: str) -> str:
    for escape, character in _ESCAPES.items():
        text = text.replace(escape, character)
    return text


def _mounts(pid: int | str) -> list[_Mount]:
    with open(f"/proc/{pid}/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        return [_Mount(line) for line in file]


def outside(pid: int, fd: int) -> str:
    """Return by which name criu knows an open file that is on none of the process's mounts, "" for any other.

    HostError for one that criu could not open again: it wants size and mode of files to be as they were.
    """
    with open(f"/proc/{pid}/fdinfo/{fd}") as file:
        number = next(int(line.split()[1]) for line in file if line.startswith("mnt_id:"))
    if number in {mount.id for mount in _mounts(pid)}:
        return ""
    found = os.stat(f"/proc/{pid}/fd/{fd}")
    if found.st_mode & 0o170000 != 0o020000:
        hint = "start it with pipes, a terminal or /dev/null"
        raise HostError("checkpoint", f"descriptor {fd}", "is a file of the host, and would be another one at restore", hint=hint)
    return f"file[{number:x}:{found.st_ino:x}]"


def is_node(path: str) -> bool:
    """Whether it is one of the devices that every container has, and the host has it there."""
    try:
        return path in _NODES and os.stat(path, follow_symlinks=False).st_mode & 0o170000 == 0o020000
    except OSError:
        return False


def externals(pid: int, config: dict[str, Any]) -> dict[str, dict[str, str]]:
    """Return what the host gave, by mount point: {"mount": destination, "below": path} of config.json, or {"path": of the host}.

    ConfigError for a mount of the host that no restore could find again.
    """
    found: dict[str, dict[str, str]] = {}
    mounts = _mounts(pid)
    binds, native_ids = _configured(pid, config)
    root = next(mount for mount in mounts if mount.point == "/")
    known = {mount.device for mount in mounts if mount.id in native_ids}
    trees = {(mount.device, mount.root) for mount in _mounts("self")}
    hosts = {device for device, _ in trees}
    nodes = f"{os.major(os.stat('/dev').st_dev)}:{os.minor(os.stat('/dev').st_dev)}"
    starts = {mount.point: binds[mount.id] for mount in mounts if mount.id in binds}
    for mount in mounts:
        if mount.point == "/" or mount.id in native_ids:
            continue
        start = max((point for point in starts if _within(mount.point, point)), key=len, default="")
        if start and (mount.point == start or (mount.device, mount.root) in trees):  # else the container has made it there
            found[mount.point] = {"mount": starts[start], "below": mount.point[len(start.rstrip("/")) :]}
        elif mount.device == nodes and is_node("/dev" + mount.root):  # or the null device over a masked file
            found[mount.point] = {"path": "/dev" + mount.root}
        elif mount.device == root.device and _within(mount.root, root.root):
            continue
        elif mount.device in hosts and mount.device not in known:
            hint = "mounts of hooks are lost; name it in config.json"
            raise ConfigError("checkpoint", mount.point, "is mounted from the host, and not in `mounts`", hint=hint, origin="mounts")
    return found


def _within(path: str, top: str) -> bool:
    return path == top or path.startswith(top.rstrip("/") + "/")


def _configured(pid: int, config: dict[str, Any]) -> tuple[dict[int, str], set[int]]:
    """Bind mounts of config.json by the number of the mount, and the numbers of the others."""
    binds: dict[int, str] = {}
    others: set[int] = set()
    own = {one["type"] for one in config.get("linux", {}).get("namespaces", ())}
    root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for mount in config.get("mounts", ()):
            number = _number_at(root, clean(mount["destination"]))
            if number and (_is_bind(mount) or (mount.get("type") in ("cgroup", "cgroup2") and "cgroup" not in own)):
                binds[number] = clean(mount["destination"])
            elif number:
                others.add(number)
    finally:
        os.close(root)
    return binds, others - set(binds)


def _number_at(root: int, path: str) -> int:
    try:
        fd = native.openat2(root, os.fsencode(path).lstrip(b"/") or b".", os.O_PATH, resolve=native.RESOLVE_IN_ROOT)
    except OSError:  # covered by a later mount
        return 0
    try:
        with open(f"/proc/self/fdinfo/{fd}") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("mnt_id:"))
    finally:
        os.close(fd)


def _is_bind(mount: dict[str, Any]) -> bool:
    options = mount.get("options", ())
    return mount.get("type") == "bind" or "bind" in options or "rbind" in options


def sources(found: dict[str, dict[str, str]], config: dict[str, Any], bundle: str, group: str) -> list[tuple[str, str]]:
    """Return (mount point, path of the host) for what `externals` found; ConfigError for a source that is not there."""
    places = {}
    for index, mount in enumerate(config.get("mounts", ())):
        if _is_bind(mount):
            source = _whole(os.path.join(bundle, mount.get("source", "")), mount.get("options", ()))
        elif mount.get("type") in ("cgroup", "cgroup2") and group:
            source = group
        else:
            continue
        places[clean(mount["destination"])] = source, f"mounts[{index}].source"
    made = []
    for point, what in found.items():
        if what.get("mount", "") not in places and "mount" in what:
            raise ConfigError("restore", what["mount"], "is no bind mount, as it was in the checkpoint", origin="mounts")
        source, origin = places[what["mount"]] if "mount" in what else (what["path"], "")
        below = what.get("below", "")
        if below:
            _check_below(source, below, origin)
        source += below
        if not os.path.exists(source):
            raise ConfigError("restore", source, "no such file or directory", hint=f"it is to be mounted on {point}", origin=origin)
        made.append((point, source))
    return made


def _whole(path: str, options: list[str]) -> str:
    """Return the path of a source as criu wants it: its last part is a name."""
    if "src-nofollow" in options:
        return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
    return os.path.realpath(path)


def _check_below(source: str, below: str, origin: str) -> None:
    """ConfigError for a way down that leads over a link, which the container may have made."""
    try:
        top = os.open(source, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.close(native.openat2(top, os.fsencode(below[1:]), os.O_PATH, resolve=_STRAIGHT))
        finally:
            os.close(top)
    except OSError as error:
        raise ConfigError("restore", source + below, errno=error.errno or 0, origin=origin) from None


def make_targets(rootfs: str, wanted: list[tuple[str, str]], config: dict[str, Any]) -> None:
    """Make the mount points that the root does not have, which may be another copy of it than was used before, or a source of the host."""
    others = [(clean(mount["destination"]), "/") for mount in config.get("mounts", ()) if not _is_bind(mount)]
    covered = [point for point, _ in others]
    for point, source in [*others, *wanted]:
        if any(point != top and _within(point, top) for top in covered):
            continue
        above = max(((top, place) for top, place in wanted if point != top and _within(point, top)), default=("/", rootfs))
        if os.path.isdir(above[1]):
            top = os.open(above[1], os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                _make_target(top, point[len(above[0].rstrip("/")) :], os.path.isdir(source))
            finally:
                os.close(top)


def _make_target(root: int, path: str, folder: bool) -> None:
    names = os.fsencode(path).strip(b"/").split(b"/")
    at = b"."
    for index, name in enumerate(names):
        above = native.openat2(root, at, os.O_PATH | os.O_DIRECTORY, resolve=native.RESOLVE_IN_ROOT)
        try:
            if folder or index < len(names) - 1:
                os.mkdir(name, 0o755, dir_fd=above)
            else:
                os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644, dir_fd=above))
        except FileExistsError:
            pass
        finally:
            os.close(above)
        at = b"/".join(names[: index + 1])
