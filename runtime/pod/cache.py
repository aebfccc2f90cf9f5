"""Recipes on disk, for the launcher: the format of native/recipe.h.  Written after a decision, read by fast.c only."""

from __future__ import annotations

import os
import posix
from struct import Struct

from pyrun.images.locks import private_dirs
from pyrun.plan.ops import fill

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from pyrun.pod.recipe import Recipe

__all__ = ["VARIABLE", "key_of", "name_of", "save", "split"]

MAGIC = 0x72797065
VERSION = 3
VARIABLE = ("--set-env", "--env", "-e")  # the options that set one
_HEADER = Struct("=12I")
_CHECK = Struct("=5Q2I")
_KEPT = 512  # recipes below one root; each is about 20 kB
_NOWHERE = 0xFFFFFFFF


def split(argv: list[str]) -> tuple[list[str], list[str], list[str]]:
    """Return the words of a command line that decide, the variables (NAME=VALUE) whose values do not, and the app's arguments.

    Without parsing, as native/words.c does it: what is not plainly of the latter decides.  That is right because the parser never
    takes an option's name or `--` for the value of another option.
    """
    if "---" in argv:
        return argv, [], []
    end = argv.index("--") if "--" in argv else len(argv)
    words, variables = argv[: end + 1], []
    for place in range(1, end):
        option, text = "", argv[place]
        if argv[place - 1] not in VARIABLE:
            option, equals, text = text.partition("=")
            option += equals
            if option[:2] != "--" or option[:-1] not in VARIABLE:
                continue
        name, equals, _ = text.partition("=")
        if name and equals and name != "PATH":
            variables.append(text)
            words[place] = f"{option}{name}="
    return words, variables, argv[end + 1 :]


def key_of(argv: list[str], form: int) -> bytes:
    """Return what must be the same for a recipe to apply: form, directory, $PYRUN_ROOT and the words that decide, a NUL behind each.

    The form is 0 without arguments of the app, 1 where none of them decides, 2 where the first does.
    """
    words, _, arguments = split(argv)
    raw = [os.fsencode(word) for word in [*words, *arguments[: max(form - 1, 0)]]]
    return b"".join(word + b"\0" for word in [b"%d" % form, os.getcwdb(), posix.environ.get(b"PYRUN_ROOT", b""), *raw])


def name_of(key: bytes) -> str:
    """Return the file name of a key: FNV-1a, 64 bits."""
    value = 0xCBF29CE484222325
    for byte in key:
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return f"{value:016x}"


def save(root: str, argv: list[str], recipe: Recipe, helper: str, variables: Mapping[str, str]) -> None:
    """Keep a recipe for `argv`, which sets `variables`, and every command line that differs in nothing that decides.

    Whatever prevents it is no loss, so no error is raised.  The file is root's alone, and arguments and values are not in it.
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
        key = key_of(argv, 1 + recipe.kept if split(argv)[2] else 0)
        _write(directory, name_of(key), _encode(key, recipe, *_open(argv, recipe, variables), helper))
    except OSError:
        pass


def _open(argv: list[str], recipe: Recipe, variables: Mapping[str, str]) -> tuple[bytes, list[int]]:
    """Return the plan to keep, and where in its environment the variables of the command line go.

    Values that are part of the key, as in -eNAME=VALUE, are in that plan.
    """
    if "---" in argv:
        return recipe.block, []
    names = [text.partition("=")[0] for text in split(argv)[1]]
    fixed = {at: f"{name}={variables[name]}" for name, at in recipe.places.items() if name not in names}
    return fill(recipe.plain, [], fixed), [recipe.places.get(name, _NOWHERE) for name in names]


def _encode(key: bytes, recipe: Recipe, block: bytes, places: list[int], helper: str) -> bytes:
    assert recipe.checks is not None
    record = recipe.record.encode("utf-8", "surrogateescape")
    start = _HEADER.size + _CHECK.size * len(recipe.checks) + 4 * len(places)
    plan = start + len(key) + -(start + len(key)) % 8
    strings = plan + len(block) + len(record)
    tail = bytearray()
    head = bytearray(_HEADER.size)
    for path, known, kind in recipe.checks:
        head += _CHECK.pack(*known, strings + len(tail), kind)
        tail += os.fsencode(path) + b"\0"
    where = strings + len(tail)
    tail += os.fsencode(helper) + b"\0"
    head += b"".join([place.to_bytes(4, "little") for place in places])
    spans = (start, len(key), plan, len(block), plan + len(block), len(record))
    _HEADER.pack_into(head, 0, MAGIC, VERSION, strings + len(tail), len(recipe.checks), *spans, where, len(places))
    return b"".join((head, key.ljust(plan - start, b"\0"), block, record, tail))


def _write(directory: str, name: str, data: bytes) -> None:
    temporary = f"{directory}/.{name}.{os.getpid()}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)
    os.rename(temporary, f"{directory}/{name}")
