"""This installation, for decisions that are kept: another one, or another version of this one, decides otherwise."""

from __future__ import annotations

import os
import sys
import time

from pyrun import native
from pyrun.host import read_small

__all__ = ["Stamp", "apart", "launcher", "stamps"]

_BUNDLE = "pyrun.cli.bundle"
Stamp = tuple[int, int, int, int, int]  # device, inode, size, times of modification and change in nanoseconds: stat(2)
_TICK = 10_000_000  # nanoseconds, of /proc/PID/stat (proc(5)) and at most of the clock that files get their times by


def launcher() -> bytes:
    """Return the path of the program that became this interpreter (native/launcher.c), b"" where it was none of pyrun's."""
    path = getattr(sys.modules["__main__"], "launcher", "")
    return os.fsencode(path) if isinstance(path, str) else b""


def stamps() -> list[tuple[str, Stamp]]:
    """Return the helper and every module that has decided in this process, as they are now.

    None at all when one of them has changed since the process began: what was loaded may have been another.  OSError when one is gone.
    Of what comes from a bundle (`pyrun.cli.bundle`) it is what its source was when it was loaded.
    """
    held, more = apart()
    if more is None:
        return []
    return [*(sys.modules[_BUNDLE].stamps(held).items() if held else ()), *more]


def apart() -> tuple[bytes, list[tuple[str, Stamp]] | None]:
    """Return the same in two parts: what the bundle in use says of what came from it, as it stands there, and all others.

    The others are None when one of them has changed since the process began.
    """
    bundle = sys.modules.get(_BUNDLE)
    held: bytes = bundle.sources() if bundle is not None else b""
    known: frozenset[str] = bundle.names if bundle is not None and held else frozenset()
    others = [module for name, module in sys.modules.items() if name not in known and name.partition(".")[0] == "pyrun"]
    files = {module.__file__ or "" for module in others if getattr(module, "__file__", None)}
    if not held:
        files.add(native.HELPER)
    found: list[tuple[str, Stamp]] = []
    for path in sorted(files):
        info = os.stat(path)
        found.append((path, (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)))
    if found and max(stamp[4] for _, stamp in found) >= _began():
        return b"", None
    return held, found


def _began() -> int:
    """When this process began, in nanoseconds since 1970, or a little earlier."""
    ticks = int(read_small("/proc/self/stat").rpartition(b")")[2].split()[19])
    return time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME) + (ticks - 1) * _TICK
