"""Recipes on disk, for the launcher: the format of native/recipe.h.  Written after a decision, read by fast.c only.

What is the same for those of `pyrun-oci` (`pyrun.oci.recipe`): `keep`, `own_checks`, `pack_check`, `Strings`.
"""

from __future__ import annotations

import os
import posix
from struct import Struct

from pyrun.engine.installed import apart, launcher, stamps
from pyrun.host import write_all
from pyrun.images.locks import private_dirs
from pyrun.plan import ops

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from pyrun.plan.ops import Op
    from pyrun.pod.recipe import Check, Recipe

    Patch = tuple[int, str, str]  # where in the plan, what stands before the host name, what behind it

__all__ = [
    "CHECK",
    "KEPT",
    "Line",
    "Strings",
    "keep",
    "key_of",
    "name_of",
    "own_checks",
    "pack_check",
    "place_of",
    "refuse",
    "save",
    "split",
]

MAGIC = 0x72797065
VERSION = 9
VARIABLE = ("--set-env", "--env", "-e")  # the options that set one
OPTIONS = (*VARIABLE, "--name", "--hostname", "--uuid-file-save")
_HEADER = Struct("=20I")
_PATCH = Struct("=3I")
CHECK = Struct("=3Q2q2I")  # times before 1970 are negative
_HERE = 3  # RECIPE_HERE
_CHECKS = 256  # at most, for recipe.c
KEPT = 512  # recipes below one root; each is about 20 kB
_NOWHERE = 0xFFFFFFFF
_NAME_MAX = 64
_HOST = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-.")
_APP = _HOST | {"_"}
_NAMED = '"app":"'


class Line:
    """A command line taken apart: `words` are those that decide.

    The others go into the plan as they are: `variables` (NAME=VALUE; --name sets one too, which is number `app`), `arguments`,
    `host_name`, and `uuid_file`, which is only written to.
    """

    __slots__ = ("app", "arguments", "host_name", "uuid_file", "variables", "words")

    def __init__(self, words: list[str], arguments: list[str]) -> None:
        self.words = words
        self.arguments = arguments
        self.variables: list[str] = []
        self.app = -1
        self.host_name = self.uuid_file = ""


def split(argv: list[str]) -> Line | None:
    """Take a command line apart, without parsing it, as native/words.c does: what is not plainly handed on decides.

    That is right because the parser never takes an option's name or `--` for the value of another option.  None for a line that
    is not for the launcher: names that have to be looked at, or an option twice.
    """
    if "---" in argv:
        return Line(argv, [])
    end = argv.index("--") if "--" in argv else len(argv)
    line = Line(argv[: end + 1], argv[end + 1 :])
    for place in range(1, end):
        name, text, known = argv[place - 1], argv[place], ""
        if name not in OPTIONS:
            name, equals, text = text.partition("=")
            if name not in OPTIONS or name[:2] != "--" or not equals:
                continue
            known = name + equals
        if name not in VARIABLE:
            if not _take(line, name, text):
                return None
            line.words[place] = known
            continue
        variable, equals, _ = text.partition("=")
        if variable and equals and variable != "PATH":
            line.variables.append(text)
            line.words[place] = f"{known}{variable}="
    return line


def _take(line: Line, option: str, text: str) -> bool:
    """Take what may be given once; whether that is possible."""
    if option == "--name":
        if line.app >= 0 or not _plain(text, _APP):
            return False
        line.app = len(line.variables)
        line.variables.append(f"AC_APP_NAME={text}")
    elif option == "--hostname":
        if line.host_name or not _plain(text, _HOST):
            return False
        line.host_name = text
    else:
        if line.uuid_file or not text or text[0] == "-":
            return False
        line.uuid_file = text
    return True


def _plain(name: str, letters: frozenset[str]) -> bool:
    """Whether a name has only these; its first and its last are neither dot nor dash, nor are there two dots."""
    return ".." not in name and 0 < len(name) <= _NAME_MAX and letters.issuperset(name) and name[0] not in "-." and name[-1] not in "-."


def key_of(line: Line, form: int, *, here: bool) -> bytes:
    """Return what must be the same for a recipe to apply, as native/recipe.h has it, a NUL behind each part.

    The form is 0 without arguments of the app, 1 where none of them decides, 2 where the first does; `here` says that the current
    directory decides too.
    """
    raw = [os.fsencode(word) for word in [*line.words, *line.arguments[: max(form - 1, 0)]]]
    directory = [os.getcwdb()] if here else []
    return b"".join(word + b"\0" for word in [b"%d" % (form + _HERE * here), *place_of(), *raw, *directory])


def place_of() -> list[bytes]:
    """Return what is part of every key, where the command looks and what program it is."""
    return [posix.environ.get(b"PYRUN_ROOT", b""), launcher()]


def name_of(key: bytes) -> str:
    """Return the file name of a key: FNV-1a, 64 bits."""
    value = 0xCBF29CE484222325
    for byte in key:
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return f"{value:016x}"


def save(root: str, argv: list[str], recipe: Recipe, helper: str, variables: Mapping[str, str], *, here: bool = True) -> bool:
    """Keep a recipe for `argv`, which sets `variables`, and every command line that differs in nothing that decides.

    `here` says whether the current directory is part of the decision.

    Return whether it is there: whatever prevents it is no loss, so no error is raised.  The file is root's alone, and arguments and
    values are not in it.
    """
    line = split(argv)
    if recipe.checks is None or recipe.copy or line is None or not launcher():
        return False
    try:
        held, more = apart()
        if more is None or len(recipe.checks) + len(more) > _CHECKS:
            return False
        checks = [*recipe.checks, *[(path, stamp, 0) for path, stamp in more]]
        key = _key(line, recipe, here)
        # what is part of the key, as in -eNAME=VALUE or where `---` is, is in the plan
        names = [text.partition("=")[0] for text in line.variables]
        fixed = {at: f"{name}={variables[name]}" for name, at in recipe.places.items() if name not in names}
        block = recipe.block if "---" in argv else ops.fill(recipe.plain, [], fixed)
        places = [recipe.places.get(name, _NOWHERE) for name in names]
        patches: list[Patch] = []
        script = _script(root, recipe, line)
        if script is None:
            return False
        if line.app >= 0 or line.host_name:
            found = ops.notes(block)
            if line.app >= 0:
                places[line.app] = _place(found)
            if line.host_name:
                if all(one[0] != ops.NETWORK for one in found):
                    return False  # the file of names is the host's, which may have that name too
                patches = _patches(found, line.host_name)
        parts = held, _limits(recipe)
        keep(root + "/cache/run", KEPT, key, _encode(key, recipe, checks, block, places, patches, line.app >= 0, helper, script, *parts))
    except OSError:
        return False
    return True


def _key(line: Line, recipe: Recipe, here: bool) -> bytes:
    return key_of(line, 1 + recipe.kept if line.arguments else 0, here=here)


def refuse(root: str, argv: list[str], recipe: Recipe, *, here: bool) -> None:
    """Let the launcher know that this one and its like cannot be carried out by it, so that it asks for no decision again."""
    line = split(argv)
    if line is not None:
        keep(root + "/cache/run", KEPT, _key(line, recipe, here), b"")


def _script(root: str, recipe: Recipe, line: Line) -> bytes | None:
    """How the pod's network is made, nothing where the plan says it all; None where Python has to make it."""
    if recipe.net is None:
        return b""
    if line.host_name:
        return None  # other pods know it by that name
    from pyrun.net.script import write_down

    return write_down(root, recipe.blank, recipe.net) or None


def _limits(recipe: Recipe) -> bytes:
    """What a place is found by, as it would stand in the directory of a pod that is prepared."""
    if not recipe.controllers:
        return b""
    from pyrun.pod.place import scope_of

    scope = scope_of(recipe.blank, recipe.controllers, recipe.block).get("scope", b"")
    return " ".join(recipe.controllers).encode() + b"\0" + scope


def _place(found: list[Op]) -> int:
    """Where in the environment the app's name is."""
    env = next(one[4] for one in found if one[0] == ops.EXEC)
    assert isinstance(env, list)
    return next(place for place, word in enumerate(env) if word.startswith("AC_APP_NAME="))


def _patches(found: list[Op], name: str) -> list[Patch]:
    """Where the host name is: itself, and in the file of names that pyrun makes."""
    patches: list[Patch] = []
    for place, one in enumerate(found):
        if one[0] == ops.HOSTNAME:
            patches.append((ops.S1 + place * ops.SIZE, "", ""))
        elif one[0] == ops.WRITE and one[3] == "/etc/hosts":
            head, middle, tail = str(one[4]).rpartition(f"127.0.1.1\t{name}\n")
            if middle:
                patches.append((ops.S2 + place * ops.SIZE, head + "127.0.1.1\t", "\n" + tail))
    return patches


def _encode(
    key: bytes,
    recipe: Recipe,
    checks: list[Check],
    block: bytes,
    places: list[int],
    patches: list[Patch],
    named: bool,
    helper: str,
    script: bytes,
    held: bytes,
    limits: bytes,
) -> bytes:
    record, name = recipe.record, 0
    if named:
        head, _, rest = record.partition(_NAMED)
        name = len(head + _NAMED)
        record = head + _NAMED + rest[rest.index('"') :]
    data = record.encode("utf-8", "surrogateescape")
    start = _HEADER.size + CHECK.size * len(checks) + _PATCH.size * len(patches) + 4 * len(places)
    plan = start + len(key) + -(start + len(key)) % 8
    size = len(data)
    net = plan + len(block) + size
    data += bytes(-net % 8)
    net += -net % 8
    own = net + len(script) + -len(script) % 8
    tail = Strings(own + len(held) + len(limits))
    parts = [pack_check(one, tail) for one in checks]
    parts += [_PATCH.pack(where, tail.add(before), tail.add(behind)) for where, before, behind in patches]
    parts += [place.to_bytes(4, "little") for place in places]
    spans = (start, len(key), plan, len(block), plan + len(block), size, tail.add(helper))
    counts = (len(places), len(patches), name, net, len(script), own, len(held), own + len(held), len(limits))
    header = _HEADER.pack(MAGIC, VERSION, tail.start + len(tail.data), len(checks), *spans, *counts)
    return b"".join((header, *parts, key.ljust(plan - start, b"\0"), block, data, script, bytes(-len(script) % 8), held, limits, tail.data))


class Strings:
    """The strings at the end of the file, from `start` on, while they grow."""

    __slots__ = ("data", "start")

    def __init__(self, start: int) -> None:
        self.start = start
        self.data = bytearray()

    def add(self, text: str) -> int:
        """Put one more there, and return its place in the file."""
        at = self.start + len(self.data)
        self.data += os.fsencode(text) + b"\0"
        return at


def keep(directory: str, most: int, key: bytes, data: bytes) -> None:
    """Write the recipe of a key, for root alone; where there are `most` already, all of them go.  OSError when that is not possible."""
    private_dirs(directory)
    held = os.listdir(directory)
    for name in held if len(held) >= most else ():
        os.unlink(f"{directory}/{name}")
    name = name_of(key)
    temporary = f"{directory}/.{name}.{os.getpid()}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        write_all(fd, data)
    finally:
        os.close(fd)
    os.rename(temporary, f"{directory}/{name}")


def own_checks(checks: list[Check]) -> list[Check]:
    """Return `checks` and those of this installation; none at all where a launcher would have to look at too many, or cannot judge."""
    own: list[Check] = [(path, stamp, 0) for path, stamp in stamps()]
    return [*checks, *own] if own and len(checks) + len(own) <= _CHECKS else []


def pack_check(check: Check, tail: Strings) -> bytes:
    """Return `struct recipe_check`, and put its path into `tail`."""
    path, stamp, kind = check
    return CHECK.pack(*stamp, tail.add(path), kind)
