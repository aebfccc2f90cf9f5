"""`pyrun logs`: what a pod in the background wrote."""

from __future__ import annotations

import os
import sys
import time

from pyrun.cli.references import references
from pyrun.errors import EXIT_FAILED, StateError, UsageError
from pyrun.pod.live import apps_of
from pyrun.pod.logs import open_app, open_pod, read_log
from pyrun.pod.names import phase_of, resolve
from pyrun.pod.state import Pods, read_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyrun.cli.parse import Args
    from pyrun.pod.logs import Line

__all__ = ["run"]

_OF_ERRORS = "3"  # the priority that the keeper gives standard error, native/keep_log.c


def run(args: Args) -> int:
    """Write the app's standard output to standard output and its standard error to standard error, or JSON lines."""
    words = references(args)
    if len(words) != 1:
        raise UsageError("logs", "", "takes one pod", hint="`pyrun logs --help` shows how")
    pods = Pods(args.root)
    uuid = resolve(pods, words[0])[1]
    pod = open_pod(pods, uuid)
    own = open_app(pod, uuid, args.app)
    if not os.access("log", os.F_OK, dir_fd=own):
        return _elsewhere(args, pods, pod, uuid)
    tail = -1 if args.tail is None else args.tail
    for line in read_log(pod, follow=args.follow, tail=tail, since=_since(args.since), own=own):
        _write(args, line)
    return 0


def _write(args: Args, line: Line) -> None:
    when, stream, text = line
    if args.format == "json":
        from pyrun.images import fastjson

        found = {"time": when.decode(), "stream": stream.decode(), "text": text.decode("utf-8", "replace")}
        sys.stdout.write(fastjson.dumps(found) + "\n")
        sys.stdout.flush()
        return
    out = sys.stdout.buffer if stream == b"stdout" else sys.stderr.buffer
    out.write((when + b" " if args.timestamps else b"") + text)
    out.flush()


def _since(text: str | None) -> str:
    """A time as the log has it: a span before now such as 10m, or a date and time in UTC."""
    if not text:
        return ""
    if text[:1] in "0123456789" and "-" not in text:
        from pyrun.plan.numbers import duration

        begin = max(0, time.time_ns() - int(duration(text, "option --since") * 1e9))
        return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(begin // 10**9)) + f".{begin % 10**9:09d}"
    from datetime import UTC, datetime

    whole, dot, rest = text.partition(".")
    zone = rest.lstrip("0123456789")
    fraction = rest[: len(rest) - len(zone)][:9]  # nanoseconds, as --timestamps has them
    try:
        when = datetime.fromisoformat(whole + zone)
        if not dot or fraction:
            return (when if when.tzinfo else when.replace(tzinfo=UTC)).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S") + dot + fraction
    except (ValueError, OverflowError):
        pass
    raise UsageError("option --since", "", f"'{text}' is not a time", hint="write 10m for a span, or 2026-11-25T19:04:18Z")


def _elsewhere(args: Args, pods: Pods, pod: int, uuid: str) -> int:
    """A journal has it, or nobody has."""
    record = read_json(pod, "pod")
    identifier, created = record.get("journal"), record.get("created")
    for app in apps_of(record):
        identifier = app.get("journal") if app["name"] == args.app else identifier
    if record.get("log") not in ("auto", "journald") or not isinstance(identifier, str) or not isinstance(created, int):
        hint = "its output went elsewhere (--log-driver), or it ran in the foreground"
        raise StateError("read the log of pod", uuid, "it has none", hint=hint)
    since = f"{_since(args.since).replace('T', ' ')} UTC" if args.since else f"@{created // 10**9}"
    own = [f"SYSLOG_IDENTIFIER={identifier}"]
    lines = [f"--lines={args.tail}"] if args.tail is not None and args.tail >= 0 else []
    begin = [f"--since={since}"]
    try:
        if args.follow and phase_of(pods, uuid) != "exited":
            cursor = _Journal(args, [*own, *lines, *begin, "--follow"]).print(pods, uuid)
            lines, begin = ([], [f"--after-cursor={cursor}"]) if cursor else (lines, begin)
        journal = _Journal(args, [*own, *lines, *begin])
        journal.print()
    except OSError as error:
        raise StateError("read the journal of pod", uuid, errno=error.errno or 0, hint="journalctl is part of systemd") from None
    return EXIT_FAILED if journal.process.returncode > 0 else 0  # it has said why


class _Journal:
    """A journalctl(1) that prints lines as JSON, which says which stream each is of."""

    def __init__(self, args: Args, words: list[str]) -> None:
        import subprocess

        self.args = args
        self.process = subprocess.Popen(["journalctl", "--quiet", "--all", "--no-pager", "--output=json", *words], stdout=subprocess.PIPE)

    def print(self, pods: Pods | None = None, uuid: str = "") -> str:
        """Print lines until it ends, or the pod that is named does; return where it was then."""
        import json
        import threading

        cursor = ""
        if pods is not None:
            threading.Thread(target=self._end, args=(pods, uuid), daemon=True).start()
        with self.process as process:
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    one = json.loads(line)
                    cursor = one.get("__CURSOR") or cursor
                    _write(self.args, _line(one))
                process.wait()
            finally:
                process.terminate()  # it would notice a reader who went away with the next line only
        return cursor

    def _end(self, pods: Pods, uuid: str) -> None:
        import subprocess

        from pyrun.pod.control import wait

        try:
            wait(pods, uuid)
        except StateError:
            return  # it was not started
        subprocess.run(["journalctl", "--sync"], stderr=subprocess.DEVNULL, check=False)  # what comes after this is read once more
        self.process.terminate()


def _line(one: dict[str, Any]) -> Line:
    """What the journal tells (systemd.journal-fields(7)) as a line of a log file."""
    message, micros = one.get("MESSAGE") or "", int(one["__REALTIME_TIMESTAMP"])
    text = message.encode("utf-8", "surrogateescape") if isinstance(message, str) else bytes(message)  # numbers where it is not UTF-8
    when = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(micros // 10**6))}.{micros % 10**6 * 1000:09d}Z"
    return when.encode(), b"stderr" if one.get("PRIORITY") == _OF_ERRORS else b"stdout", text + b"\n"
