"""Everything that a start of `pyrun run` imports, as one file beside Python's own caches: the code objects in the order of their need.

Finding, opening and checking forty modules costs the import system more than running them.  The launcher's
boot code (native/launcher.c) reads this file instead and hands it to `load`, whose code is in it as well.  It is a
cache like __pycache__, of the same trust: written beside the package by a run that had none, removed when any
source has another time or size.  Modules that are not in it are imported as ever.
"""

from __future__ import annotations

import marshal
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType, ModuleType

    Entry = tuple[str, str, int, int, bool, CodeType]  # name, file, its mtime in nanoseconds and size, is it a package, code

__all__ = ["load", "path", "save"]

_ORDINARY = ("__future__", "struct")  # of Python's own, what a start imports from source


def path(package: str, command: str = "run") -> str:
    """Return the bundle's file for the package directory `package` and this interpreter; `command` is whose."""
    return f"{package}/__pycache__/{command}.{sys.implementation.cache_tag}.bundle"


def load(entries: list[Entry]) -> None:
    """Put the modules into sys.modules; ImportError when a source has changed.  Uses nothing of this module: the boot code has none.

    `os` costs a millisecond, nearly all of it for what a start has no use for.  These modules get one that has what is the same
    in `posix`; when one of them asks for more, and for everybody else, it is the real one.
    """
    import posix
    import sys

    stat, modules = posix.stat, sys.modules
    for entry in entries:
        now = stat(entry[1])
        if now.st_mtime_ns != entry[2] or now.st_size != entry[3]:
            raise ImportError(entry[1])

    def missing(name: str) -> object:
        if modules.get("os") is quick:
            del modules["os"]
        return getattr(__import__("os"), name)

    def encode(name: str | bytes) -> bytes:
        path = posix.fspath(name)
        return path.encode("utf-8", "surrogateescape") if isinstance(path, str) else path

    module_type, spec_type, quick = type(sys), modules["_frozen_importlib"].ModuleSpec, None
    try:
        if "os" not in modules:
            quick = modules["os"] = module_type("os")
            same = {name: value for name, value in posix.__dict__.items() if name[0] != "_" and name != "environ"}
            quick.__dict__.update(same, __getattr__=missing, fsencode=encode)
            quick.__dict__["path"] = __import__("posixpath")
        for name, file, _, _, is_package, code in entries:
            module = modules[name] = module_type(name)
            spec = module.__spec__ = spec_type(name, None, origin=file, is_package=is_package)
            module.__file__ = file
            parent, _, last = name.rpartition(".")
            module.__package__ = parent
            if is_package:
                module.__package__ = name
                module.__path__ = spec.submodule_search_locations = [file.rpartition("/")[0]]
            exec(code, module.__dict__)
            if parent:
                setattr(modules[parent], last, module)
    except BaseException:
        for entry in entries:
            modules.pop(entry[0], None)
        raise
    finally:
        if modules.get("os") is quick:
            modules.pop("os", None)


def save(command: str = "run") -> None:
    """Write the bundle of what this process has imported so far; whatever prevents it is no loss, so no error is raised.

    A run that had to do something out of the ordinary, and imported more of Python's own modules for it, writes none.
    """
    modules = {name: module for name, module in sys.modules.items() if _is_source(module)}
    if [name for name in modules if name not in _ORDINARY and name.partition(".")[0] != "pyrun"]:
        return
    from pyrun.cli.strip import in_order

    try:
        package = os.path.dirname(sys.modules["pyrun"].__file__ or "")
        files = {name: module.__file__ or "" for name, module in modules.items() if name != "__future__"}
        entries = []
        for name, code in in_order(files):
            info = os.stat(files[name])
            entries.append((name, files[name], info.st_mtime_ns, info.st_size, hasattr(modules[name], "__path__"), code))
        _write(path(package, command), sys.hexversion.to_bytes(4, "little") + marshal.dumps((load.__code__, entries)))
    except OSError:
        pass


def _is_source(module: ModuleType) -> bool:
    """Whether it came from a file of Python code, and not with the interpreter itself."""
    spec = getattr(module, "__spec__", None)
    return spec is not None and (spec.origin or "").endswith(".py") and spec.name.partition(".")[0] != "encodings"


def _write(target: str, data: bytes) -> None:
    temporary = f"{target}.{os.getpid()}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)
    os.rename(temporary, target)
