"""The command's frame: parse, hand over to the verb's module, render errors, choose the exit code.

Exit codes: the app's own; 128+n when signal n ended it; 125 pyrun failed; 126 the program cannot be
executed; 127 it is not there; 2 wrong usage; 130 interrupted; 141 the reader of standard output went away.
Nothing else in pyrun renders an error.
"""

from __future__ import annotations

import posix
import sys

from pyrun.cli.parse import getenv, parse
from pyrun.cli.table import VERBS
from pyrun.errors import EXIT_FAILED, EXIT_USAGE, PyrunError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from pyrun.cli.parse import Args

EXIT_INTERRUPTED = 130
EXIT_PIPE = 141


def entry() -> NoReturn:
    """Runs the command line of this process and exits with its code.

    At once: taking the interpreter apart takes milliseconds, and everything is written out by now.
    """
    code = main(sys.argv[1:])
    try:
        if sys.stderr is not None:
            sys.stderr.flush()
    finally:
        posix._exit(code)


def decide(argv: list[str]) -> bool:
    """Leave a recipe for a command line, for the launcher; False, or any exception, where a run has to be tried."""
    args = parse(argv)
    if args.verb != "run" or args.help or args.version:
        return False
    from pyrun.cli.run import decide

    return decide(args)


def main(argv: list[str]) -> int:
    """Runs one command line (without the program's name) and returns the exit code; never raises an `Exception`."""
    import _signal  # type: ignore[import-not-found]  # `signal` would cost an import of enum

    args = None
    try:
        _signal.pthread_sigmask(_signal.SIG_UNBLOCK, (_signal.SIGINT,))  # see native/launcher.c
        args = parse(argv)
        code = _dispatch(args)
        flush()
        return code
    except PyrunError as error:
        code = render(error, _debug(args, argv), lines=_lines(args, argv))
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    except BrokenPipeError:
        code = EXIT_PIPE
    except OSError as error:
        code = EXIT_FAILED
        _render(error, _os_error(error), _os_hint(error), "", _debug(args, argv), code if _lines(args, argv) else None)
    except Exception as error:
        code = EXIT_FAILED
        what = f"internal error: {type(error).__name__}: {error}"
        hint = "run it again with --debug and report what it shows"
        _render(error, what, hint, "", _debug(args, argv), code if _lines(args, argv) else None)
    _drop_stdout()
    return code


def flush() -> None:
    """Writes out what a verb printed, while a full disk can still be reported."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        from pyrun.cli.output import unwritable

        raise unwritable(error) from error


def _dispatch(args: Args) -> int:
    if args.help or args.version or not args.verb:
        if args.version and not args.help:
            from pyrun.cli.version import show

            return show("text")
        from pyrun.cli.help import show_help

        show_help(args.verb, to_stderr=not args.help)
        return 0 if args.help else EXIT_USAGE
    if posix.geteuid():
        from pyrun.cli.user import settle

        settle(args)
    module = __import__("pyrun.cli." + VERBS[args.verb][0], fromlist=("run",))
    code: int = module.run(args)
    return code


def _debug(args: Args | None, argv: list[str]) -> bool:
    if getenv("PYRUN_DEBUG") not in ("", "0"):
        return True
    # A command line that did not parse has no `args`; what follows `--` is the app's.
    return args.debug if args is not None else "--debug" in argv[: argv.index("--") if "--" in argv else None]


def _lines(args: Args | None, argv: list[str]) -> bool:
    """Whether standard error is to have JSON; of a command line that did not parse what its words say."""
    from pyrun.cli.output import OWN, has_lines

    if args is not None:
        return has_lines(args)
    words = argv[: argv.index("--") if "--" in argv else None]
    asked = "--format=json" in words or " --format json " in f" {' '.join(words)} "
    return asked and any(word in OWN for word in words) and not {"--detach", "-d"}.intersection(words)


def render(error: PyrunError, debug: bool, *, lines: bool = False) -> int:
    """Writes one of pyrun's own errors to standard error, with `lines` as JSON, and returns its exit code."""
    _render(error, str(error), error.hint, error.origin, debug, error.exit_code if lines else None)
    return error.exit_code


def _render(error: BaseException, what: str, hint: str, origin: str, debug: bool, code: int | None = None) -> None:
    """Writes one error to standard error, each part on one line whatever an image or a file put into it; with `code` as JSON."""
    from pyrun.cli.output import colour, escape, say_line

    lines = []
    if debug:
        import traceback

        for part in traceback.format_exception(error):
            lines += [escape(line) for line in part.rstrip("\n").split("\n")]
    if code is not None:
        more = {"hint": hint, "origin": origin, "traceback": lines}
        say_line({"error": what, **{name: value for name, value in more.items() if value}, "exit_code": code})
        return
    stream = sys.stderr
    lines.append(colour("pyrun:", "31", stream) + " " + escape(what))
    if hint:
        lines.append(colour("hint:", "36", stream) + " " + escape(hint))
    if origin:
        lines.append(colour("from:", "2", stream) + " " + escape(origin))
    try:
        if stream is not None:
            stream.write("\n".join(lines) + "\n")
            stream.flush()
    except (OSError, ValueError):
        pass  # nobody is left to tell; the exit code still says it


def _os_error(error: OSError) -> str:
    """An operating system's error as `path: reason`, in the house style."""
    import os

    reason = (error.strerror or str(error) or "input/output error").lower()
    names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, (str, bytes))]
    return f"{' -> '.join(names)}: {reason}" if names else reason


def _os_hint(error: OSError) -> str:
    import errno
    import os

    if error.errno in (errno.EACCES, errno.EPERM):
        return "run it as root" if os.geteuid() else "a security module or the file system forbids it; `dmesg` may say more"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "free some space, or keep the state elsewhere with --root DIR"
    if error.errno == errno.EROFS:
        return "keep the state on a writable file system with --root DIR"
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return "raise the limit of open files, as with `ulimit -n`"
    return "run it again with --debug to see where this happened"


def _drop_stdout() -> None:
    """Points a broken standard output at /dev/null, so that the interpreter's last flush does not complain."""
    stream = sys.stdout
    if stream is None:
        return
    try:
        stream.flush()
    except (OSError, ValueError):
        import os

        null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        os.dup2(null, stream.fileno())
        os.close(null)
