"""The command `pyrun-oci`: parse, hand over to the verb, tell errors as conmon, containerd's shim and dockerd read them.

An error goes to standard error and, as a line of JSON or of logfmt, to the file of `--log`.  Exit codes: 1 for an
error, 255 for one of exec (so that it is not taken for the program's), 2 for wrong usage; run and exec have the program's own.
"""

from __future__ import annotations

import posix
import sys

from pyrun.errors import ExecError, PyrunError, UsageError
from pyrun.oci.arguments import Arguments, listening, parse, program

__all__ = ["debug", "main", "warn"]

_MODULES = {
    "create": "start", "run": "start", "start": "start", "delete": "control", "kill": "control", "pause": "control", "resume": "control",
    "mounts": "more", "state": "show", "list": "show", "ps": "show", "exec": "enter", "spec": "template",
    "features": "features", "update": "limits", "events": "limits", "checkpoint": "criu", "restore": "restore",
}  # fmt: skip
_LIKE = " (command line of crun version 1.28, runc version 1.5.0)"  # who looks for a peer's version decides by it which options there are
_EACCES = 13
_NAMES = {"exec": "execute", "list": "show_list", "mounts": "change_mounts", "spec": "write", "state": "state_verb"}


def main(argv: list[str]) -> int:
    """Run one command line (without the program's name) and return the exit code; never raises an `Exception`."""
    import _signal  # type: ignore[import-not-found]

    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, (_signal.SIGINT,))  # see native/launcher.c
    args = Arguments()
    try:
        args = parse(argv)
        return _dispatch(args)
    except UsageError as error:
        _tell(args, error)
        return 2
    except PyrunError as error:
        _tell(args, error)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 141
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        _tell(args, PyrunError(args.verb or "pyrun-oci", str(error.filename or ""), reason))
    except Exception as error:
        if "debug" in args.options:
            import traceback

            traceback.print_exception(error)
        _tell(args, PyrunError("internal error", type(error).__name__, str(error)))
    return 255 if args.verb == "exec" else 1


def _dispatch(args: Arguments) -> int:
    if "version" in args.options and not args.verb:
        from pyrun import __version__
        from pyrun.oci.features import words

        commit = f"v{__version__}"
        if program() == "crun":
            from pyrun.oci.ascrun import commit_of

            commit = commit_of()
        sys.stdout.write(f"pyrun-oci version {__version__}{_LIKE}\ncommit: {commit}\nspec: 1.3.0\n{words(args)}\n")
        return 0
    if b"PYRUN_OCI_KEY" in posix.environ:  # of the launcher's
        from pyrun.oci.recipe import take_key

        args.key = take_key()
    _close_leaks(args)
    _check_log(args)
    if not args.verb or "help" in args.options:
        from pyrun.oci.usage import usage

        (sys.stdout if "help" in args.options else sys.stderr).write(usage(args.verb))
        return 0 if "help" in args.options else 2
    module = __import__("pyrun.oci." + _MODULES[args.verb], fromlist=("run",))
    code: int = getattr(module, _NAMES.get(args.verb, args.verb))(args)
    return code


def _check_log(args: Arguments) -> None:
    """Before anything is done: who asks for a log is told when there is none."""
    form, path = args.get("log-format"), args.get("log")
    if form not in ("", "json", "text"):
        raise UsageError("choose log format", form, "no such format", hint="json or text", origin="--log-format")
    if path:
        try:
            posix.close(_open_log(path))
        except OSError as error:
            args.options["log"] = ""
            raise UsageError("open log", path, errno=error.errno or 0, hint="a path of a file", origin="--log") from None


def _open_log(path: str) -> int:
    flags = posix.O_WRONLY | posix.O_CREAT | posix.O_APPEND | posix.O_CLOEXEC | posix.O_NOCTTY
    return posix.open(path.removeprefix("file:"), flags, 0o644)


def _close_leaks(args: Arguments) -> None:
    """Descriptors that the caller leaked (conmon does) are no business of a hook or a container."""
    first = 3 + args.number("preserve-fds") + listening(posix.environ.get(b"LISTEN_FDS", b"").decode("ascii", "replace"))
    from os import closerange, set_inheritable

    for number in sorted(_named(args)):
        if number >= first:
            closerange(first, number)
            first = number + 1
            try:
                set_inheritable(number, False)
            except OSError:  # whoever reads it will tell
                break
    closerange(first, 1 << 20)
    if first > 3 and args.verb in ("create", "run", "exec"):
        from pyrun.oci.streams import keep_descriptors

        args.kept = keep_descriptors(args)


def _named(args: Arguments) -> set[int]:
    """Descriptors that options name, as a shell's <(...) does."""
    found = set()
    for option in ("process", "resources", "config"):
        front, _, number = args.get(option).rpartition("/")
        if front in ("/dev/fd", "/proc/self/fd") and number.isascii() and number.isdigit() and len(number) < 7:
            found.add(int(number))
    if args.get("status-fd").isdecimal():
        found.add(int(args.get("status-fd")[:6]))
    return found


def _tell(args: Arguments, error: PyrunError) -> None:
    text = str(error)
    if error.origin:
        text += f" (from {error.origin})"
    name = program()
    if name == "runc":
        from pyrun.oci.asrunc import front

        text = front(args.verb, error) + text
    log = args.get("log")
    if log:
        _log(log, args.get("log-format"), "error", text)
    late = isinstance(error, ExecError) and error.step == "exec" and error.subject[:1] != '"'
    # in the program's place, for what reads its output; who refuses permission is not in these words
    if late and args.verb == "run" and error.errno != _EACCES and not _is_terminal():
        text = f"exec {error.subject}: {error.reason.partition(': ')[0]}"
    else:
        text = ("" if name == "runc" else f"{name}: ") + text + (f"\nhint: {error.hint}" if error.hint else "")
    try:
        sys.stderr.write("".join(c if c.isprintable() or c == "\n" else "?" for c in text) + "\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        pass


def _is_terminal() -> bool:
    try:
        return posix.isatty(2)
    except OSError:
        return False


def warn(args: Arguments, text: str) -> None:
    """Tell of what is done otherwise than asked for: in the file of `--log`, else on standard error."""
    log = args.get("log")
    if log:
        _log(log, args.get("log-format"), "warning", text)
    else:
        sys.stderr.write(f"{program()}: warning: {''.join(c if c.isprintable() else '?' for c in text)}\n")


def debug(args: Arguments, text: str) -> None:
    """Tell of a step with `--debug`: a line in the file of `--log`, else on standard error, worded as readers of runc's log know it."""
    if "debug" in args.options:
        _log(args.get("log"), args.get("log-format"), "debug", text)


def _log(path: str, form: str, level: str, text: str) -> None:
    import os
    import time

    from pyrun.images import fastjson

    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    if form == "json":
        line = fastjson.dumps({"level": level, "msg": text, "time": now})
    else:
        line = f'time="{now}" level={level} msg={fastjson.dumps(text)}'
    try:
        fd = _open_log(path) if path else os.dup(2)
    except OSError:
        return
    try:
        os.write(fd, line.encode() + b"\n")
    finally:
        os.close(fd)
