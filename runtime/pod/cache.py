"""Recipes on disk, for the launcher: the format of native/recipe.h.  Written after a decision, read by fast.c only."""

from __future__ import annotations

import os
import posix
from struct import Struct

from pyrun.images.locks import private_dirs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrun.pod.recipe import Recipe

__all__ = ["key_of", "name_of", "save"]

MAGIC = 0x72797065
VERSION = 2
_HEADER = Struct("=12I")
_CHECK = Struct("=5Q2I")
_KEPT = 512  # recipes below one root; each is about 20 kB


def key_of(argv: list[str]) -> bytes:
    """Return what must be the same for a recipe to apply: directory, $PYRUN_ROOT and arguments, a NUL behind each."""
    words = [os.getcwdb(), posix.environ.get(b"PYRUN_ROOT", b""), *[os.fsencode(word) for word in argv]]
    return b"".join(word + b"\0" for word in words)


def name_of(key: bytes) -> str:
    """Return the file name of a key: FNV-1a, 64 bits."""
    value = 0xCBF29CE484222325
    for byte in key:
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return f"{value:016x}"


def save(root: str, argv: list[str], recipe: Recipe, helper: str) -> None:
    """Keep a recipe for the command line `argv`; whatever prevents it is no loss, so no error is raised.

    A key is an argument vector that is open to all in /proc anyway; the file is root's alone.
    """
    if recipe.checks is None or recipe.copy:
        return
    directory = root + "/cache/run"
    try:
        private_dirs(directory)
        held = os.listdir(directory)
        if len(held) >= _KEPT:
            for name in held:
                os.unlink(f"{directory}/{name}")
        key = key_of(argv)
        _write(directory, name_of(key), _encode(key, recipe, helper))
    except OSError:
        pass


def _encode(key: bytes, recipe: Recipe, helper: str) -> bytes:
    assert recipe.checks is not None
    record = recipe.record.encode("utf-8", "surrogateescape")
    start = _HEADER.size + _CHECK.size * len(recipe.checks)
    strings = start + len(key) + len(recipe.block) + len(record)
    tail = bytearray()
    checks = []
    for path, known, kind in recipe.checks:
        checks.append(_CHECK.pack(*known, strings + len(tail), kind))
        tail += os.fsencode(path) + b"\0"
    where = strings + len(tail)
    tail += os.fsencode(helper) + b"\0"
    plan = start + len(key)
    after = plan + len(recipe.block)
    size = strings + len(tail)
    head = _HEADER.pack(MAGIC, VERSION, size, len(checks), start, len(key), plan, len(recipe.block), after, len(record), where, 0)
    return b"".join((head, *checks, key, recipe.block, record, tail))


def _write(directory: str, name: str, data: bytes) -> None:
    temporary = f"{directory}/.{name}.{os.getpid()}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)
    os.rename(temporary, f"{directory}/{name}")
