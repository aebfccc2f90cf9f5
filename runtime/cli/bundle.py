"""Everything that a start of `pyrun run` imports, as one file beside Python's own caches: the code objects in the order of their need.

Finding, opening and checking forty modules costs the import system more than running them.  The launcher's
boot code (native/launcher.c) reads this file instead and executes the first thing in it, this module, to `load` the rest.  It is a
cache like __pycache__, of the same trust: written beside the package by a run that had none, removed when any
source has another time or size.  Modules that are not in it are imported as ever.
"""

from __future__ import annotations

import marshal
import posix
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType, ModuleType

    from pyrun.engine.installed import Stamp

    # name, file, its mtime in nanoseconds and size, is it a package, code: none for an extension module
    Entry = tuple[str, str, int, int, bool, CodeType | None]

__all__ = ["load", "path", "save"]

_ORDINARY = ("__future__", "struct")  # of Python's own, what a start imports from source
_EXTENSION = "_json"  # and what from a shared object: finding it is half the cost
_MAIN = {"run": "pyrun.cli.main", "oci": "pyrun.cli.oci"}


def path(package: str, command: str = "run") -> str:
    """Return the bundle's file for the package directory `package` and this interpreter; `command` is whose."""
    return f"{package}/__pycache__/{command}.{sys.implementation.cache_tag}.bundle"


def load(entries: list[Entry], main: str) -> Callable[[], object]:
    """Put the modules into sys.modules and return what starts the command; ImportError when a source has changed.

    The boot code has switched the garbage collector off, and put two words of its own before the command line.
    """
    import gc

    stamps: list[Stamp] = []
    for entry in entries:
        now = posix.stat(entry[1])
        if now.st_mtime_ns != entry[2] or now.st_size != entry[3]:
            raise ImportError(entry[1])
        stamps.append((now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns))
    quick = None if "os" in sys.modules else _quick_os()
    try:
        for entry, stamp in zip(entries, stamps, strict=True):
            _execute(entry, stamp)
    except BaseException:
        for entry in entries:
            sys.modules.pop(entry[0], None)
        raise
    finally:
        if sys.modules.get("os") is quick:
            sys.modules.pop("os", None)
    del sys.argv[:2]
    sys.path.insert(0, sys.modules["pyrun"].__path__[0].rpartition("/")[0])
    gc.freeze()
    gc.enable()
    start: Callable[[], object] = sys.modules[main].entry
    return start


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
    same = {name: value for name, value in posix.__dict__.items() if name[0] != "_" and name != "environ"}
    quick.__dict__.update(same, __getattr__=missing, fsencode=encode)
    quick.__dict__["path"] = __import__("posixpath")
    return quick


def _execute(entry: Entry, stamp: Stamp) -> None:
    """Make one module, as the import system would; `stamp` is for `pyrun.engine.installed`."""
    name, file, _, _, is_package, code = entry
    spec = sys.modules["_frozen_importlib"].ModuleSpec(name, None, origin=file, loader_state=stamp, is_package=is_package)
    if code is None:
        import _imp

        sys.modules[name] = extension = _imp.create_dynamic(spec)
        _imp.exec_dynamic(extension)
        return
    module = sys.modules[name] = type(sys)(name)
    module.__spec__ = spec
    module.__file__ = file
    parent, _, last = name.rpartition(".")
    module.__package__ = parent
    if is_package:
        module.__package__ = name
        module.__path__ = spec.submodule_search_locations = [file.rpartition("/")[0]]
    exec(code, module.__dict__)
    if parent:
        setattr(sys.modules[parent], last, module)


def save(command: str = "run") -> None:
    """Write the bundle of what this process has imported so far; whatever prevents it is no loss, so no error is raised.

    A run that had to do something out of the ordinary, and imported more of Python's own modules for it, writes none.
    """
    modules = {name: module for name, module in sys.modules.items() if _is_source(module)}
    if [name for name in modules if name not in _ORDINARY and name.partition(".")[0] != "pyrun"]:
        return
    from pyrun.cli.strip import in_order

    try:
        files = {name: module.__file__ or "" for name, module in modules.items() if name != "__future__"}
        extension = getattr(sys.modules.get(_EXTENSION), "__file__", None)
        entries = [_entry(_EXTENSION, extension, False, None)] if extension else []
        entries += [_entry(name, files[name], hasattr(modules[name], "__path__"), code) for name, code in in_order(files)]
        (first,) = [entry[5] for entry in entries if entry[0] == __name__]
        data = marshal.dumps((first, entries, _MAIN[command]))
        target = path(files["pyrun"].rpartition("/")[0], command)
        _write(target, sys.hexversion.to_bytes(4, "little") + data)
    except OSError:
        pass


def _entry(name: str, file: str, is_package: bool, code: CodeType | None) -> Entry:
    info = posix.stat(file)
    return name, file, info.st_mtime_ns, info.st_size, is_package, code


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
