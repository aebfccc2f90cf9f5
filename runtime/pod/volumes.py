"""Volumes of flags and mount points of the manifest -> `Mount`s in the order in which they are mounted.

A volume of a flag either says its own target (-v SRC:DST) or has a name, which the manifest's
mountPoints or a --mount place.  A mount point without a volume gets an empty one, as in rkt.
"""

from __future__ import annotations

import os

from pyrun.errors import ConfigError, PyrunError
from pyrun.plan.config import Mount
from pyrun.plan.mounts import RESERVED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyrun.pod.options import Options

__all__ = ["mounts_of"]

_KIND, _DIRECTORY, _LINK = 0o170000, 0o040000, 0o120000  # of st_mode: inode(7)


def mounts_of(options: Options, app: dict[str, Any], notes: list[str]) -> list[Mount]:
    """Return the app's mounts, parents before children; ConfigError names the flag or mount point at fault."""
    points = {point["name"]: point for point in app.get("mountPoints") or []}
    named = {volume.name: volume for volume in options.volume if volume.name}
    used = set()
    found = [_mount(volume, volume.target, False) for volume in options.volume if volume.target]
    found += [_document(options.root, text) for text in options.config]
    placed = {mount.target for mount in found}
    for spec in options.mount:
        if spec.volume not in named:
            hint = f"add --volume {spec.volume},kind=host,source=/DIR"
            raise ConfigError("mount volume", spec.volume, "no volume has that name", hint=hint, origin=spec.origin)
        used.add(spec.volume)
        found.append(_mount(named[spec.volume], spec.target, spec.read_only))
        placed.add(_normal(spec.target))
    for name, point in points.items():
        if _normal(point["path"]) in placed:
            continue  # a flag's mount on the same path wins
        if name in named:
            used.add(name)
            found.append(_mount(named[name], point["path"], bool(point.get("readOnly"))))
            continue
        what = "a copy of what the image holds there" if point.get("copyUp") else "an empty one"
        notes.append(f"no volume for mount point {name} on {point['path']}: the app gets {what} that ends with the pod")
        origin = f"app.mountPoints {name}"
        mount = Mount("empty", _checked(point["path"], origin), name=name, readonly=bool(point.get("readOnly")), origin=origin)
        mount.copy_up = bool(point.get("copyUp"))
        found.append(mount)
    for name, volume in named.items():
        if name not in used:
            have = ", ".join(points) or "none"
            hint = f"place it with --mount volume={name},target=/PATH; mount points of the image: {have}"
            raise ConfigError("use volume", name, "nothing mounts it", hint=hint, origin=volume.origin)
    return _ordered(found)


def _document(root: str, text: str) -> Mount:
    """A configuration document, as read-only files.  ConfigError or UsageError when there is none."""
    from pyrun.pod import documents

    name, _, path = text.partition(":")
    origin = f"--config {text}"
    try:
        documents.read(root, name)
    except PyrunError as error:
        error.origin = origin
        raise
    target = _checked(path or f"/run/config/{name}", origin)
    return Mount("host", target, source=documents.directory(root, name), readonly=True, recursive=False, origin=origin)


def _mount(volume: Any, target: str, readonly: bool) -> Mount:
    mount = Mount(
        volume.kind,
        _checked(target, volume.origin),
        source=volume.source or "",
        name=volume.name or "",
        readonly=readonly or volume.read_only,
        recursive=volume.recursive is not False,
        mode=0o755 if volume.mode is None else volume.mode,
        uid=volume.uid or 0,
        gid=volume.gid or 0,
        size=volume.size or 0,
        origin=volume.origin,
    )
    mount.volume = mount.name
    if volume.kind == "host":
        mount.is_dir = _look_at(mount.source, volume.origin)
    return mount


def _look_at(source: str, origin: str) -> bool:
    """Whether a host source is a directory.  A missing one is an error, and so is a symbolic link (appc-spec, "Volumes")."""
    try:
        info = os.lstat(source)
        linked = info.st_mode & _KIND == _LINK or os.path.realpath(os.path.dirname(source)) != os.path.dirname(source)
    except OSError as error:
        hint = "pyrun makes nothing on the host: create it first, or correct the path"
        raise ConfigError("use volume source", source, errno=error.errno or 0, hint=hint, origin=origin) from None
    if linked and os.path.realpath(source) != os.path.normpath(source):
        raise ConfigError(
            "use volume source", source, "leads through a symbolic link", hint=f"name {os.path.realpath(source)}", origin=origin
        )
    return info.st_mode & _KIND == _DIRECTORY


def _normal(target: str) -> str:
    return "/" + os.path.normpath(target).strip("/")


def _checked(target: str, origin: str) -> str:
    """An absolute target whose place is the app's to use: what the kernel's own file systems cover is not."""
    if not target.startswith("/") or ".." in target.split("/"):
        hint = "write an absolute path without .."
        raise ConfigError("mount volume on", target, "not a plain absolute path", hint=hint, origin=origin)
    path = _normal(target)
    for reserved in RESERVED:
        if path == reserved or (reserved != "/" and path.startswith(reserved + "/")):
            hint = "choose a path outside /proc, /sys and /dev" if reserved != "/" else "choose a path below /"
            raise ConfigError("mount volume on", path, "the runtime's own place", hint=hint, origin=origin)
    return path


def _ordered(found: list[Mount]) -> list[Mount]:
    found.sort(key=lambda mount: mount.target.count("/"))
    seen: dict[str, Mount] = {}
    for mount in found:
        if mount.target in seen:
            other = seen[mount.target].origin
            raise ConfigError(
                "mount volume on", mount.target, f"already taken by {other}", hint="mount one volume on each path", origin=mount.origin
            )
        seen[mount.target] = mount
    for number, mount in enumerate(found):
        mount.name = f"{number}-{mount.name}" if mount.name else str(number)
    return found
