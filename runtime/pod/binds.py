"""Volumes as the library's callers write them; the command line has a grammar of its own (`pyrun.cli.specs`)."""

from __future__ import annotations

import os

from pyrun.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Literal

__all__ = ["Volume", "volumes"]


class Volume:
    """A host file or directory, or a fresh directory, on the path `target` of the app.

    With `source`, an absolute path of the host, that is mounted; without, `kind` says whether the app gets an empty
    directory that ends with the pod ("empty") or one in memory ("tmpfs", of `size` bytes; 0: half of the memory).  `name`, instead of a
    `target`, is for the mount point of that name of an image.  `read_only` holds for all that is mounted below as well.
    """

    __slots__ = ("gid", "kind", "mode", "name", "origin", "read_only", "recursive", "size", "source", "target", "uid")

    def __init__(
        self,
        target: str | None = None,
        *,
        source: str | None = None,
        name: str | None = None,
        kind: Literal["host", "empty", "tmpfs"] | None = None,
        read_only: bool = False,
        recursive: bool = True,
        mode: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        size: int | None = None,
    ) -> None:
        if (target is None) == (name is None):
            raise UsageError(
                "use volume", target or name or "", "it needs either a target or a name", hint='Volume("/data", source="/srv/data")'
            )
        self.kind: str = kind or ("host" if source is not None else "empty")
        if (self.kind == "host") != (source is not None):
            raise UsageError("use volume", target or name or "", f"kind {self.kind} and source do not go together")
        if size is not None and self.kind != "tmpfs":
            raise UsageError("use volume", target or name or "", "only kind tmpfs has a size")
        self.target = target
        self.source = None if source is None else os.path.abspath(source)
        self.name = name
        self.read_only = read_only
        self.recursive: bool | None = recursive
        self.mode, self.uid, self.gid, self.size = mode, uid, gid, size
        self.origin = f"volume {target or name}"

    def __repr__(self) -> str:
        said = [f"{name}={value!r}" for name in self.__slots__ if (value := getattr(self, name)) is not None and name != "origin"]
        return f"pyrun.Volume({', '.join(said)})"


def volumes(wanted: Iterable[object]) -> list[Volume]:
    """Return volumes, of which some may be written short, "/SRC:/DST[:ro]"; UsageError for what is neither."""
    found: list[Volume] = []
    for one in wanted:
        if not isinstance(one, str):
            found.append(one)  # type: ignore[arg-type]  # has a volume's attributes: the command line's are others
            continue
        parts = one.split(":")
        if len(parts) not in (2, 3) or not all(parts[:2]) or parts[2:] not in ([], ["ro"], ["rw"]):
            raise UsageError("use volume", one, "not SRC:DST[:ro]", hint='write "/SRC:/DST", or a pyrun.Volume', origin="volume")
        found.append(Volume(parts[1], source=parts[0], read_only=parts[2:] == ["ro"]))
    return found
