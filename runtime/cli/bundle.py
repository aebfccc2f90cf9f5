"""Everything that a start of `pyrun run` imports, as one file beside Python's own caches: the code objects in the order of their need.

Finding, opening and checking forty modules costs the import system more than running them.  What begins a
command (`pyrun.start.encodings`) reads this file instead and executes the first thing in it, this module, to `load` the rest.  It is a
cache like __pycache__, of the same trust: written beside the package by a run that had none (`pyrun.cli.bundling`), removed when any
source has another time or size.  Modules that are not in it are imported as ever.

    struct recipe_stamps of native/recipe.h: which sources | marshal: (this module, *what `load` gets), lists of modules | pieces

A piece is the code of those functions of one module that the run that wrote the file did not call, or of a whole module.  It is read
when one of them is called, or something of the module is asked for: making functions takes a start longer than calling them.
"""

from __future__ import annotations

import _imp
import marshal
import posix
import sys
from _thread import RLock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType, ModuleType
    from typing import Any

    from pyrun.engine.installed import Stamp

    # name, file, is it a package, code; functions in its piece, where that is behind the start of the first one, its size.  Without code
    # it is all in the piece, without both it is an extension module.
    Entry = tuple[str, str, bool, CodeType | None, tuple[str, ...], int, int]

__all__ = ["INCLUDED", "load", "names", "path", "sources", "stamps"]

INCLUDED = ("fcntl", "binascii", "_sha256", "_struct")  # what starts import of the interpreter's own
_OBJECTS = 20_000  # that a start may make before the garbage collector looks at them
_ASIDE = 192  # above SLOT_LISTEN + SLOT_LISTEN_MAX of native/plan.h
_KIND, _DIRECTORY, _FILE = 0o170000, 0o040000, 0o100000  # of st_mode: inode(7)
_making = RLock()
_sources = b""  # what the bundle in use begins with, if all that it says of its sources is true
_quick: ModuleType | None = None  # what its modules have in place of `os`
names: frozenset[str] = frozenset()  # of the modules that came from it, likewise


def path(package: str, command: str = "run") -> str:
    """Return the bundle's file for the package directory `package` and this interpreter; `command` is whose."""
    return f"{package}/__pycache__/{command}.{sys.implementation.cache_tag}.bundle"


class Later:
    """In place of a function or method that is in a piece."""

    __slots__ = ("name", "piece")

    def __init__(self, piece: Piece, name: str) -> None:
        self.piece = piece
        self.name = name

    def __call__(self, *words: object, **named: object) -> object:
        return self.piece.functions()[self.name](*words, **named)

    def __get__(self, one: object, kind: object = None) -> object:
        method: Any = type(self.__call__)
        return self if one is None else method(self, one)

    def __getattr__(self, name: str) -> object:
        return getattr(self.piece.functions()[self.name], name)


class Piece:
    """What of one module is in the file at `at`; `space` is the module's namespace."""

    __slots__ = ("at", "code", "fd", "made", "size", "space")

    def __init__(self, fd: int, at: int, size: int, space: dict[str, Any]) -> None:
        self.fd = fd
        self.at = at
        self.size = size
        self.space = space
        self.code: CodeType | None = None
        self.made: dict[str, Callable[..., object]] = {}

    def __call__(self, name: str) -> Later:
        return Later(self, name)

    def attribute(self, name: str) -> object:
        """Return what a module that is all here has under that name (PEP 562)."""
        with _making:
            if name[:2] != "__" and self.code is None:
                self.code = self._read()
                alone = _quick is not None and sys.modules.setdefault("os", _quick) is _quick
                try:
                    exec(self.code, self.space)
                finally:
                    if alone and sys.modules.get("os") is _quick:
                        del sys.modules["os"]
        if name not in self.space:
            raise AttributeError(f"module {self.space['__name__']!r} has no attribute {name!r}")
        return self.space[name]

    def functions(self) -> dict[str, Callable[..., object]]:
        """Return the functions by their qualified names; they are where they belong from now on."""
        if self.made:
            return self.made
        made: dict[str, Callable[..., object]] = {}
        exec(self._read(), self.space, made)
        for name, function in made.items():
            kind, _, last = name.rpartition(".")
            place = self.space.get(kind) if kind else None
            if kind and isinstance(getattr(place, "__dict__", {}).get(last), Later):
                setattr(place, last, function)
            elif not kind and isinstance(self.space.get(name), Later):
                self.space[name] = function
        self.made = made
        return made

    def _read(self) -> CodeType:
        code: CodeType = marshal.loads(posix.pread(self.fd, self.size, self.at))
        return code


def sources() -> bytes:
    """Return what the bundle in use begins with, struct recipe_stamps of native/recipe.h; nothing where that is not all true."""
    return _sources


def stamps(held: bytes) -> dict[str, Stamp]:
    """Return which sources, and how they were, by their paths; of what `sources` returns."""
    from struct import Struct

    found = {}
    for device, inode, size, modified, changed, place, _ in Struct("=3Q2q2I").iter_unpack(
        held[32 : 32 + 48 * int.from_bytes(held[12:16], "little")]
    ):
        found[held[place : held.index(0, place)].decode("utf-8", "surrogateescape")] = device, inode, size, modified, changed
    return found


def load(main: str, included: list[str], sizes: list[int], fd: int, at: int, held: bool) -> Callable[[], object]:
    """Put the modules into sys.modules and return what starts the command; ImportError when a source has changed.

    `included` are those of `INCLUDED` that are needed, `fd` is the file, `at` where its first list of modules is, `sizes` the bytes of
    these lists, `held` whether its sources are known to be as they were.
    It stays open, since its name may be another's by then.  The garbage collector is off.
    """
    import gc

    global _quick, _sources, names
    begins = posix.pread(fd, int.from_bytes(posix.pread(fd, 4, 8), "little"), 0)
    held = held or _verify(fd, begins)
    start, end = at + sum(sizes), int.from_bytes(begins[24:28], "little")
    if start > end:
        raise ImportError
    entries: list[Entry] = []
    _quick = None if "os" in sys.modules else _quick_os()
    try:
        for name in included:
            if name not in sys.modules:
                _include(name)
        fd = _aside(fd, needed=start < end)
        for size in sizes:
            more = marshal.loads(posix.pread(fd, size, at))
            entries += more
            at += size
            for entry in more:
                _execute(entry, fd, start)
    except BaseException:
        for entry in entries:
            sys.modules.pop(entry[0], None)
        raise
    finally:
        if sys.modules.get("os") is _quick:
            sys.modules.pop("os", None)
    if held:
        _sources, names = begins, frozenset([entry[0] for entry in entries])
    gc.freeze()
    gc.set_threshold(_OBJECTS, 10, 10)
    gc.enable()
    entry_point: Callable[[], object] = sys.modules[main].entry
    return entry_point


def _quick_os() -> ModuleType:
    """`os` costs a millisecond, nearly all of it for what a start has no use for.

    These modules get one that has what is the same in `posix`; when one of them asks for more, and for everybody else, it is
    the real one.
    """

    def missing(name: str) -> object:
        if sys.modules.get("os") is quick:
            del sys.modules["os"]
        return getattr(__import__("os"), name)

    def encode(name: str | bytes) -> bytes:
        path = posix.fspath(name)
        return path.encode("utf-8", "surrogateescape") if isinstance(path, str) else path

    quick = sys.modules["os"] = type(sys)("os")
    own = dict(quick.__dict__, __getattr__=missing, fsencode=encode)
    quick.__dict__.update(posix.__dict__)
    quick.__dict__.update(own)
    del quick.__dict__["environ"]
    quick.__dict__["path"] = _quick_path()
    return quick


def _quick_path() -> ModuleType:
    """What a start calls of `posixpath`, which takes as long as ten modules with what it imports; for anything else that is imported.

    Names are str here: of another type they are for the real one.
    """

    def real(name: str) -> Any:
        return getattr(__import__("posixpath"), name)

    def kind(name: Any, follow: bool = True) -> int:
        try:
            return posix.stat(name, follow_symlinks=follow).st_mode & _KIND
        except (OSError, ValueError):
            return 0

    normal: Callable[[str], str] | None = getattr(posix, "_path_normpath", None)

    def normpath(name: Any) -> Any:
        return normal(name) or "." if normal and name.__class__ is str else real("normpath")(name)

    def abspath(name: Any) -> Any:
        if name.__class__ is not str:
            return real("abspath")(name)
        return normpath(name if name[:1] == "/" else f"{posix.getcwd()}/{name}")

    def dirname(name: Any) -> Any:
        if name.__class__ is not str:
            return real("dirname")(name)
        head = name[: name.rfind("/") + 1]
        return head.rstrip("/") or head

    path = type(sys)("posixpath")
    path.__dict__.update(
        __getattr__=real,
        normpath=normpath,
        abspath=abspath,
        dirname=dirname,
        exists=lambda name: kind(name) != 0,
        lexists=lambda name: kind(name, False) != 0,
        isdir=lambda name: kind(name) == _DIRECTORY,
        isfile=lambda name: kind(name) == _FILE,
    )
    return path


def _verify(fd: int, begins: bytes) -> bool:
    """Whether all is as it was, where the launcher could not tell.

    ImportError when a source has another time or size, or a part of the file is missing; OSError when a source is gone.
    """
    if posix.fstat(fd).st_size != int.from_bytes(begins[24:28], "little"):
        raise ImportError
    same = True
    for path, stamp in stamps(begins).items():
        now = posix.stat(path)
        if stamp[2:4] != (now.st_size, now.st_mtime_ns):
            raise ImportError(path)
        same = same and stamp == (now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns)
    return same


def _aside(fd: int, *, needed: bool) -> int:
    """Move the file out of the way of the helper's descriptors and the sockets of a service manager: an error may still want it."""
    if not needed:
        posix.close(fd)
        return -1
    import fcntl

    try:
        aside = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _ASIDE)
    except OSError:  # fewer may be open
        posix.set_inheritable(fd, False)
        return fd
    posix.close(fd)
    return aside


def _include(name: str) -> None:
    """Import a module that is part of the interpreter, if it is, without asking all finders for it."""
    importlib = sys.modules["_frozen_importlib"]
    builtin = name in sys.builtin_module_names
    loader = importlib.BuiltinImporter if builtin else importlib.FrozenImporter
    spec = importlib.ModuleSpec(name, loader, origin="built-in" if builtin else "frozen")
    if builtin:
        module = sys.modules[name] = _imp.create_builtin(spec)
        _imp.exec_builtin(module)
    elif _imp.is_frozen(name):
        module = sys.modules[name] = type(sys)(name)
        exec(_imp.get_frozen_object(name), module.__dict__)
    else:
        return
    module.__spec__, module.__loader__ = spec, loader


def _execute(entry: Entry, fd: int, start: int) -> None:
    """Make one module, as the import system would."""
    name, file, is_package, code, later, at, size = entry
    spec = sys.modules["_frozen_importlib"].ModuleSpec(name, None, origin=file, is_package=is_package)
    if code is None and not size:
        sys.modules[name] = extension = _imp.create_dynamic(spec)
        _imp.exec_dynamic(extension)
        return
    module = sys.modules[name] = sys.modules[name] if name == __name__ else type(sys)(name)  # this one runs already
    space = module.__dict__
    parent, _, last = name.rpartition(".")
    space.update(__spec__=spec, __file__=file, __package__=parent, __errors__=sys.modules.get("pyrun.errors"))
    if is_package:
        module.__package__ = name
        module.__path__ = spec.submodule_search_locations = [file.rpartition("/")[0]]
    piece = space["__piece__"] = Piece(fd, start + at, size, space)
    for one in later:
        space[one] = Later(piece, one)
    if code is not None and name != __name__:
        exec(code, space)
    elif code is None:
        space["__getattr__"] = piece.attribute
    if parent:
        setattr(sys.modules[parent], last, module)
