"""How the command begins: what the launcher's interpreter finds in place of the package `encodings`, with UTF-8 and no other.

Each interpreter imports `encodings` before it does anything else.  The library's own costs it a tenth of its start: a search along
the path, lists of two large directories, three modules, one of them a table of five hundred names.  So the launcher (native/launcher.c)
calls the interpreter by a name beside which `python3._pth` says where modules are, here (sys.path initialization, "_pth files", in the
documentation of Python), and `begin` puts everything else back to what it would have been.  Who asks for another encoding, or for
something of the package, gets the library's own, from then on also by name.

For what an ordinary `pyrun run` decides there need be neither standard streams nor handlers of signals, which the interpreter makes after
it has imported this.  Where the launcher wants no more than a recipe (native/decide.c), `_decide` is all that happens.

Nothing can be imported here that is not part of the interpreter: even `__future__` is a file.
"""

import _imp
import posix
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import codecs
    from collections.abc import Callable
    from types import ModuleType
    from typing import Any, NoReturn

_NAMES = ("utf-8", "utf_8", "utf8")
_LOADER = "pyrun.cli.bundle"
_WORDS = 7  # that the launcher puts before the command line, the interpreter's `-c` among them
_BUNDLE = 3  # which of them


def search_function(name: str) -> "codecs.CodecInfo | None":
    """Return what converts by that name, as codecs.register() wants it."""
    found: codecs.CodecInfo | None = _UTF_8 if name in _NAMES else _library().search_function(name)
    return found


def _library(name: str = "") -> "ModuleType":
    """Return the library's own package, or a module of it; it has the name from now on."""
    own = sys.modules["encodings"]
    if own.__dict__ is globals():
        if "__path__" not in own.__dict__:
            raise LookupError("nothing but UTF-8 before the start")
        del sys.modules["encodings"]
        try:
            library = __import__("encodings")
        except BaseException:
            sys.modules["encodings"] = own
            raise
        for key, value in own.__dict__.items():  # what was imported of it by now
            if sys.modules.get(f"encodings.{key}") is value:
                setattr(library, key, value)
    return __import__(f"encodings.{name}" if name else "encodings", fromlist=("",))


def __getattr__(name: str) -> object:
    if name[:2] == "__":
        raise AttributeError(f"module 'encodings' has no attribute {name!r}")
    return getattr(_library(), name)


def begin() -> "Callable[[], object]":
    """Return what runs the command of sys.argv, and leave nothing of the launcher's words there; ImportError without pyrun's modules.

    Behind the interpreter's own `-c` these are: the text that begins where this module is not in the place of `encodings`, the module
    whose entry() it is, the bundle of modules (`pyrun.cli.bundle`) for such a command, the interpreter, the directory of its
    library or nothing where another one is in use, and the launcher.  The bundle is nothing, its name, or an open one whose sources the
    launcher has seen to be as they were.
    """
    _, text, module, bundle, python, library, launcher = sys.argv[:_WORDS]
    package = __file__.rpartition("/")[0].rpartition("/")[0]
    main = sys.modules["__main__"].__dict__
    main["launcher"] = launcher
    if __name__ == "encodings":
        _restore(python, library)
        sys.path.insert(0, package.rpartition("/")[0])
    fd = int(bundle) if bundle.isdigit() else -1
    entry = _bundled(f"{package}/__pycache__/{bundle}.{sys.implementation.cache_tag}.bundle", fd) if bundle else None
    if entry is None:
        try:
            entry = __import__(module, fromlist=("entry",)).entry
        except ImportError:
            if __name__ != "encodings":
                raise
            exec(text, main)  # it says what is missing
    del sys.argv[:_WORDS]
    assert entry is not None
    return entry


class NotNow(BaseException):
    """It takes a whole interpreter."""


def _refuse(*words: object, **named: object) -> "Any":
    raise NotNow(words)


class _Refusal:
    """In place of a standard stream, and of what looks for modules that are neither in the bundle nor in the interpreter."""

    find_spec = staticmethod(_refuse)
    __getattr__ = _refuse


def _decide() -> "NoReturn":
    """Leave a recipe for the command and tell the launcher so, which waits; else it lets a whole interpreter begin.

    In the place of the bundle it has said which one is open, and where it waits.
    """
    try:
        _, _, module, bundle, python, library, launcher = sys.argv[:_WORDS]
        del sys.argv[:_WORDS]
        fd, _, told = bundle.partition("!")
        modules = sys.modules
        modules["__main__"] = main = type(sys)("__main__")
        main.__dict__["launcher"] = launcher
        sys.stdin = sys.stdout = sys.stderr = refusal = _Refusal()
        _restore(python, library)
        sys.meta_path[1:] = [refusal]  # behind what is built in
        modules["builtins"].__dict__["open"] = _refuse
        modules["gc"] = gc = _imp.create_builtin(modules["_frozen_importlib"].ModuleSpec("gc", None))  # without asking who has it
        _imp.exec_builtin(gc)
        if _bundled("", int(fd)) is not None and sys.modules[module].decide(sys.argv[1:]):
            posix.write(int(told), b"\1".ljust(8, b"\0"))
    except BaseException:  # it will happen again, and be told then
        pass
    finally:
        posix._exit(0)


def _restore(python: str, library: str) -> None:
    """Let `sys` say what it says in an interpreter that was called by its own name."""
    prefix, _, version = library.rpartition("/")
    zipped = f"{prefix}/{version.replace('.', '')}.zip"
    prefix = prefix.rpartition("/")[0]
    sys.path[:] = [zipped, library, library + "/lib-dynload"]
    sys.prefix = sys.exec_prefix = sys.base_prefix = sys.base_exec_prefix = prefix
    sys.__dict__.update(executable=python, _base_executable=python, _stdlib_dir=library)
    sys.orig_argv[0] = python
    sys.modules["encodings"].__dict__["__path__"] = [library + "/encodings"]


def _bundled(path: str, fd: int) -> "Callable[[], object] | None":
    """Return what begins with the modules of a bundle, None without one; one that is of no use is removed, and the run makes another.

    The garbage collector finds nothing in them, and is on again when they are there.
    """
    import gc
    import marshal

    held = fd >= 0
    gc.disable()
    try:
        if held:
            path = ""
        else:
            fd = posix.open(path, posix.O_CLOEXEC)
        head = posix.pread(fd, 32, 0)
        size, _, python, _, _, first = [int.from_bytes(head[at : at + 4], "little") for at in range(8, 32, 4)]
        if python != sys.hexversion:
            raise ImportError
        code, *more = marshal.loads(posix.pread(fd, first, size))
        loader = sys.modules[_LOADER] = type(sys)(_LOADER)
        exec(code, loader.__dict__)
        entry: Callable[[], object] = loader.load(*more, fd, size + first, held)
        return entry
    except FileNotFoundError:
        if fd < 0:
            return None
    except Exception:
        pass
    finally:
        gc.enable()
    sys.modules.pop(_LOADER, None)
    try:
        posix.unlink(path or posix.readlink(f"/proc/self/fd/{fd}"))
        posix.close(fd)
    except OSError:
        pass
    return None


if __name__ == "encodings" and "!" in sys.argv[_BUNDLE]:
    _decide()

import codecs  # noqa: E402  # which only an interpreter that is to be whole needs


class IncrementalEncoder(codecs.IncrementalEncoder):
    """For standard output and error."""

    def encode(self, input: str, final: bool = False) -> bytes:
        """Return the bytes of a part of the text."""
        return codecs.utf_8_encode(input, self.errors)[0]


class IncrementalDecoder(codecs.BufferedIncrementalDecoder):
    """For standard input."""

    def _buffer_decode(self, input: "Any", errors: str, final: bool) -> tuple[str, int]:
        return codecs.utf_8_decode(input, errors, final)


def _decode(input: "Any", errors: str = "strict") -> tuple[str, int]:
    return codecs.utf_8_decode(input, errors, True)


def _reader(*words: "Any") -> "Any":
    return _library("utf_8").StreamReader(*words)


def _writer(*words: "Any") -> "Any":
    return _library("utf_8").StreamWriter(*words)


_UTF_8 = codecs.CodecInfo(
    name="utf-8",
    encode=codecs.utf_8_encode,
    decode=_decode,
    streamreader=_reader,
    streamwriter=_writer,
    incrementalencoder=IncrementalEncoder,
    incrementaldecoder=IncrementalDecoder,
)


if __name__ == "encodings":
    codecs.register(search_function)
