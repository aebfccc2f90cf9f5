"""`pyrun cp` and `pyrun export`: files out of pods and into them."""

from __future__ import annotations

import os
import signal
import sys

from pyrun.cli.output import emit_json
from pyrun.cli.run import tell
from pyrun.errors import StateError, UsageError
from pyrun.pod.names import resolve
from pyrun.pod.state import Pods

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrun.cli.parse import Args

__all__ = ["run"]

_FROM_FILE = ":"


class _Ended(BaseException):
    """A signal asks this process to end, which takes back first what it has half written."""


def run(args: Args) -> int:
    """Carry out the verb; TERM and HUP end it without leaving half a file."""
    pods = Pods(args.root)
    asked = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) == signal.SIG_DFL]
    for number in asked:
        signal.signal(number, _end)
    try:
        return _copy(args, pods) if args.verb == "cp" else _export(args, pods)
    except _Ended as ended:
        return 128 + int(ended.args[0])


def _end(number: int, _: object) -> None:
    raise _Ended(number)


def _copy(args: Args, pods: Pods) -> int:
    from pyrun.pod.files import copy_in, copy_out

    sides = [_side(word) for word in args.paths]
    if len(sides) != 2 or (sides[0][0] == "") == (sides[1][0] == ""):
        raise UsageError(
            "cp", "", "takes a source and a target, one of them in a pod", hint="pyrun cp POD:/PATH PATH, or pyrun cp PATH POD:/PATH"
        )
    (pod, path), (other, target) = sides
    uuid = resolve(pods, _meant(args, pod or other))[1]
    left = copy_out(pods, uuid, path, target, args.app) if pod else copy_in(pods, uuid, path, target, args.app)
    for one in left:
        tell(f"{one} is neither a file nor a directory nor a link: not copied")
    if args.format == "json":
        emit_json({"uuid": uuid, "source": path, "target": target, "into": not pod, "left_out": left})
    return 0


def _meant(args: Args, word: str) -> str:
    """The pod before the colon, where a lone colon stands for that of --uuid-file."""
    from pyrun.cli.references import of_files

    if (word == _FROM_FILE) != (len(args.uuid_file) == 1):
        reason = "takes either a pod before the colon, or one --uuid-file and nothing before it"
        raise UsageError("cp", "", reason, hint="pyrun cp --uuid-file FILE :/PATH PATH")
    return of_files(args.uuid_file)[0] if args.uuid_file else word


def _side(word: str) -> tuple[str, str]:
    """POD:/PATH; a path of the host that has a colon is written with a slash before it, as in ./a:b."""
    pod, colon, path = word.partition(":")
    if not colon or "/" in pod:
        return "", word
    if not path.startswith("/"):
        raise UsageError("cp", word, "the path in the pod is not absolute", hint=f"write {pod}:/{path}")
    return pod or _FROM_FILE, path


def _export(args: Args, pods: Pods) -> int:
    from pyrun.cli.references import references
    from pyrun.images.store import Store
    from pyrun.pod.export import export

    words = references(args)
    if len(words) != 1:
        raise UsageError("export", "", "takes one pod", hint="`pyrun export --help` shows how")
    uuid = resolve(pods, words[0])[1]
    if args.format == "json" and not args.output:
        raise UsageError("option --format", "", "the archive itself goes to standard output", hint="write it to a file: --output FILE")
    if not args.output:
        if os.isatty(1):
            raise UsageError("export", "", "an archive is nothing for a terminal", hint="write it to a file: --output FILE")
        export(pods, Store(args.root), uuid, sys.stdout.buffer, changes=args.changes, app=args.app)
        return 0
    temporary = f"{args.output}.{os.getpid()}.tmp"
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StateError("write", args.output, errno=error.errno or 0, hint="name a file in a directory that can be written") from None
    try:
        with open(fd, "wb") as out:
            export(pods, Store(args.root), uuid, out, changes=args.changes, app=args.app)
        os.rename(temporary, args.output)
    except BaseException:
        os.unlink(temporary)
        raise
    if args.format == "json":
        emit_json({"uuid": uuid, "output": args.output, "bytes": os.stat(args.output).st_size})
    return 0
