"""Writing the bundle of what this process has imported (`pyrun.cli.bundle` says what it is).  Cold: once in each installation."""

from __future__ import annotations

import marshal
import posix
import sys
from struct import Struct

from pyrun import native
from pyrun.cli.bundle import INCLUDED, path
from pyrun.engine.installed import stamps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from types import CodeType, ModuleType

    from pyrun.cli.bundle import Entry
    from pyrun.cli.options import Option

__all__ = ["called", "save"]

_MAGIC, _VERSION = 0x706D7473, 2
_HEADER = Struct("=8I")
_MOST = 48 << 10
_ORDINARY = ("__future__", "struct")  # of Python's own, what a start imports from source
_EXTENSION = "_json"  # and what from a shared object: finding it is half the cost
_MAIN = {"run": "pyrun.cli.main", "oci": "pyrun.cli.oci"}
_FIRST = "pyrun.cli.bundle"
_BEGIN = "pyrun.start"  # what reads the file
_TABLE, _OPTIONS = "pyrun.cli.table", "pyrun.cli.options"
_VERBS = """
_NAMES = frozenset({names!r})
class _Verbs(dict):
    def __missing__(self, verb):
        from pyrun.cli.options import VERBS
        return VERBS[verb]
    def __contains__(self, verb):
        return verb in _NAMES
VERBS = _Verbs(run=_RUN)
Values = object
"""
_LAST = ("pyrun.native", "become")  # nothing is written once that is called
_LIMITS = ("engine.placement", "images.types", "plan.dbus", "plan.resources", "plan.version1", "pod.limits", "pod.place")  # what these take
_NOT_TO_DECIDE = ("pyrun.engine.cgroup", "pyrun.engine.launch", "pyrun.pod.create")
_DECIDE = (("pyrun.cli.main", "decide"), ("pyrun.cli.run", "decide"))  # nor by who calls these


def called() -> set[CodeType]:
    """Return a set to which all is added that is called from now on; sys.setprofile(None) ends it."""
    found: set[CodeType] = set()
    sys.setprofile(lambda frame, event, _: found.add(frame.f_code) if event == "call" else None)
    return found


def save(command: str = "run", called: Collection[CodeType] | None = None) -> None:
    """Write it; whatever prevents it is no loss, so no error is raised.

    `called` is what a decision calls: other functions are put where they cost it nothing; with None none are.
    A run that had to do something out of the ordinary, and imported more of Python's own modules for it, writes none; nor does one of
    an installation that was made a moment ago, which keeps no recipe either and so does not call what a start calls.
    """
    for name in _LIMITS if command == "run" else ():
        __import__("pyrun." + name)
    modules = {
        name: module for name, module in sys.modules.items() if _is_source(module) and name != __name__ and not name.startswith(_BEGIN)
    }
    if [name for name in modules if name not in _ORDINARY and name.partition(".")[0] != "pyrun"]:
        return
    try:
        if not stamps():
            return
        files = {name: module.__file__ or "" for name, module in modules.items() if name != "__future__"}
        entries = list(_entries(files, called))
        pieces = b"".join(data for _, data in entries)
        place, first = next((place, entry) for place, (entry, _) in enumerate(entries) if entry[0] == _FIRST)
        entries[place] = (*first[:3], compile("", first[1], "exec"), *first[4:]), b""  # it runs by then
        included = [name for name in INCLUDED if name in sys.modules]
        lists = list(_lists([entry for entry, _ in entries]))
        data = marshal.dumps((first[3], _MAIN[command], included, [len(one) for one in lists]))
        code = b"".join((data, *lists))
        head = _sources(sorted({native.HELPER, *[entry[1] for entry, _ in entries]}), len(code), len(pieces), len(data))
        _write(path(files["pyrun"].rpartition("/")[0], command), head + code + pieces)
    except OSError:
        pass


def _entries(files: dict[str, str], called: Collection[CodeType] | None) -> Iterator[tuple[Entry, bytes]]:
    """What is in the file, and the piece of each module."""
    from pyrun.cli.strip import ERRORS, in_order

    extension = getattr(sys.modules.get(_EXTENSION), "__file__", None)
    if extension:
        yield _entry(_EXTENSION, extension), b""
    if called is None:
        stripped = in_order(files, whole=files)
    else:
        names = {file: name for name, file in files.items()}
        kept = {_LAST, *_DECIDE, *[(names.get(code.co_filename, ""), code.co_qualname) for code in called]}
        aside = [name for name in files if name in _NOT_TO_DECIDE or name.removeprefix("pyrun.") in _LIMITS]
        tables = [name for name in files if name == _OPTIONS or name.startswith("pyrun.cli.verbs_")]
        stripped = in_order(files, kept, whole=[_FIRST], later=[ERRORS, *tables, *aside])
    at = 0
    for name, code, later, piece in stripped:
        if name == _TABLE and called is not None:
            code = compile(_table(), files[name], "exec", dont_inherit=True)
        data = marshal.dumps(piece) if piece is not None else b""
        yield _entry(name, files[name], hasattr(sys.modules[name], "__path__"), code, later, at, len(data)), data
        at += len(data)


def _lists(entries: list[Entry]) -> Iterator[bytes]:
    """The entries in lists of a size for which malloc(3) takes memory that it has, and not a mapping that is given back."""
    of: list[Entry] = []
    size = 0
    for entry in entries:
        length = len(marshal.dumps(entry))
        if size + length > _MOST:
            yield marshal.dumps(of)
            of, size = [], 0
        of.append(entry)
        size += length
    yield marshal.dumps(of)


def _table() -> str:
    """What `pyrun.cli.table` is in a bundle of `run`: that verb's options alone, and nothing for help."""
    from pyrun.cli.options import COMMON, GLOBAL, INSECURE, KINDS, VERBS

    module, positional, options, pairs, _ = VERBS["run"]
    values = {
        "KINDS": KINDS,
        "INSECURE": INSECURE,
        "COMMON": _short(COMMON),
        "GLOBAL": _short(GLOBAL),
        "_RUN": (module, positional, _short(options), pairs, ""),
    }
    return "".join(f"{name} = {value!r}\n" for name, value in values.items()) + _VERBS.format(names=set(VERBS))


def _short(options: tuple[Option, ...]) -> tuple[Option, ...]:
    """Of each what the parser looks at, in its place."""
    return tuple((*one[:4], "", "") for one in options)


def _entry(
    name: str,
    file: str,
    is_package: bool = False,
    code: CodeType | None = None,
    later: tuple[str, ...] = (),
    at: int = 0,
    size: int = 0,
) -> Entry:
    return name, file, is_package, code, later, at, size


def _sources(files: list[str], code: int, pieces: int, first: int) -> bytes:
    """What it begins with: native/recipe.h."""
    from pyrun.pod.cache import CHECK, Strings, pack_check  # of which not every command's modules know

    start = _HEADER.size + CHECK.size * len(files)
    tail = Strings(start)
    checks = []
    for file in files:
        info = posix.stat(file)
        stamp = info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns
        checks.append(pack_check((file, stamp, 0), tail))
    size = start + len(tail.data)
    head = _HEADER.pack(_MAGIC, _VERSION, size, len(files), sys.hexversion, code, size + code + pieces, first)
    return b"".join((head, *checks, tail.data))


def _is_source(module: ModuleType) -> bool:
    """Whether it came from a file of Python code, and not with the interpreter itself."""
    spec = getattr(module, "__spec__", None)
    return spec is not None and (spec.origin or "").endswith(".py") and spec.name.partition(".")[0] != "encodings"


def _write(target: str, data: bytes) -> None:
    temporary = f"{target}.{posix.getpid()}"
    fd = posix.open(temporary, posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_NOFOLLOW | posix.O_CLOEXEC, 0o644)
    try:
        posix.write(fd, data)
    finally:
        posix.close(fd)
    posix.rename(temporary, target)
