"""Which pods use what: the files `pod` of all pods, searched for ids.

They are searched, not parsed, so that a damaged or newer one still protects what it names.
"""

from __future__ import annotations

import contextlib
import os

from pyrun.errors import StateError
from pyrun.images.locks import make_room
from pyrun.images.store import is_digest

__all__ = ["Users", "users"]

_MAX_POD = 4 << 20
# As a pod lives, so that one which moves on meanwhile is met in a later phase; phases of a newer pyrun come last.
_PHASES = ("preparing", "prepared", "running", "exited")


class Users:
    """What the pods' files said when they were read."""

    __slots__ = ("_files",)

    def __init__(self, files: dict[str, bytes]) -> None:
        self._files = files

    def names(self, digest: str) -> list[str]:
        """UUIDs of the pods that name an image or layer, sorted."""
        needle = digest.encode()
        return sorted(uuid for uuid, data in self._files.items() if needle in data)

    def of(self, digest: str) -> bool:
        """Whether any pod names an image or layer."""
        needle = digest.encode()
        return any(needle in data for data in self._files.values())

    def unclear(self, known: set[str]) -> str:
        """A pod whose image cannot be told, or is none of `known`; "" when it is clear what each of them uses."""
        for uuid, data in sorted(self._files.items()):
            named = _digests(data)
            if not named or not named <= known:
                return uuid
        return ""


def _digests(data: bytes) -> set[str]:
    found = set()
    for algorithm, digits in ((b"sha512-", 128), (b"sha256-", 64)):
        for piece in data.split(algorithm)[1:]:
            text = (algorithm + piece[:digits]).decode("ascii", "replace")
            found |= {text} if is_digest(text) else set()
    return found


def users(root: str) -> Users:
    """Reads the files of all pods but those in garbage; StateError when a directory cannot be read."""
    top = f"{root}/pods"
    phases = _listdir(top)
    phases.sort(key=lambda phase: (_PHASES.index(phase) if phase in _PHASES else len(_PHASES), phase))
    files: dict[str, bytes] = {}
    for phase in phases:
        if phase == "garbage":
            continue
        for uuid in _listdir(f"{top}/{phase}"):
            with contextlib.suppress(OSError), open(f"{top}/{phase}/{uuid}/pod", "rb") as file:
                files[uuid] = file.read(_MAX_POD)
    return Users(files)


def _listdir(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise StateError("read", path, errno=error.errno or 0, hint=make_room(error)) from None
