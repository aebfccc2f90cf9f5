"""Which layers make up a directory of a merged tree, by the rules of overlayfs(5).  Cold.

Layers are complete and nobody writes to them, so plain paths are safe: every component of one is looked at
before the next is.
"""

from __future__ import annotations

import os
import stat

__all__ = ["OPAQUE", "providers"]

OPAQUE = ("trusted.overlay.opaque", "user.overlay.opaque")


def providers(layer_dirs: list[str], path: bytes, known: dict[bytes, list[int]] | None = None) -> list[int]:
    """Positions in `layer_dirs` (top first) of the layers whose directory `path` shows; empty when it is no directory.  OSError.

    `known` remembers the answers for the same layers, and those for the directories above.
    """
    known = {} if known is None else known
    found = list(range(len(layer_dirs)))
    place = b""
    for part in path.split(b"/"):
        if part:
            place += b"/" + part
            if place not in known:
                known[place] = _level([(number, os.fsencode(layer_dirs[number]) + place) for number in found])
            found = known[place]
    return found


def _level(candidates: list[tuple[int, bytes]]) -> list[int]:
    found: list[int] = []
    for number, path in candidates:
        try:
            info = os.lstat(path)
        except FileNotFoundError:
            continue
        if not stat.S_ISDIR(info.st_mode):
            break  # a whiteout, or something that hides what is below as well
        found.append(number)
        if _is_opaque(path):
            break
    return found


def _is_opaque(path: bytes) -> bool:
    for key in OPAQUE:
        try:
            if os.getxattr(path, key, follow_symlinks=False) == b"y":
                return True
        except OSError:
            pass  # the usual case: no such attribute
    return False
