"""`pyrun logs`: what a pod in the background wrote."""

from __future__ import annotations

import os
import sys
import time

from pyrun.cli.references import references
from pyrun.errors import StateError, UsageError
from pyrun.pod.live import apps_of
from pyrun.pod.logs import open_app, open_pod, read_log
from pyrun.pod.names import resolve
from pyrun.pod.state import Pods, read_json

TYPE_CHECKING = False
if TYPE_CHECKING:
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
        return _elsewhere(args, pod, uuid)
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
        from pyrun.cli.specs import duration

        return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(time.time() - duration(text, "option --since")))
    for form in ("%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S", "%Y-%m-%d"):
        try:
            return time.strftime("%Y-%m-%dT%H:%M:%S", time.strptime(text, form))
        except ValueError:
            continue
    raise UsageError("option --since", "", f"'{text}' is not a time", hint="write 10m for a span, or 2026-11-25T19:04:18Z")


def _elsewhere(args: Args, pod: int, uuid: str) -> int:
    """A journal has it, or nobody has."""
    record = read_json(pod, "pod")
    identifier, created = record.get("journal"), record.get("created")
    for app in apps_of(record):
        identifier = app.get("journal") if app["name"] == args.app else identifier
    if record.get("log") not in ("auto", "journald") or not isinstance(identifier, str) or not isinstance(created, int):
        hint = "its output went elsewhere (--log-driver), or it ran in the foreground"
        raise StateError("read the log of pod", uuid, "it has none", hint=hint)
    since = f"{_since(args.since).replace('T', ' ')} UTC" if args.since else f"@{created // 10**9}"
    command = ["journalctl", "--quiet", f"--since={since}", f"SYSLOG_IDENTIFIER={identifier}"]
    command += ["--output=json" if args.format == "json" else "--output=short-iso-precise" if args.timestamps else "--output=cat"]
    command += ["--follow"] if args.follow else ["--no-pager"]
    command += [f"--lines={args.tail}"] if args.tail is not None and args.tail >= 0 else []
    sys.stdout.flush()
    try:
        if args.format == "json":
            return _translate(command)
        os.execvp(command[0], command)
    except OSError as error:
        raise StateError("read the journal of pod", uuid, errno=error.errno or 0, hint="journalctl is part of systemd") from None


def _translate(command: list[str]) -> int:
    """Print what the journal tells (systemd.journal-fields(7)) with the members that lines of a log file have."""
    import json
    import subprocess

    with subprocess.Popen(command, stdout=subprocess.PIPE) as journal:
        assert journal.stdout is not None
        try:
            for line in journal.stdout:
                one = json.loads(line)
                message, micros = one.get("MESSAGE") or "", int(one["__REALTIME_TIMESTAMP"])
                text = message if isinstance(message, str) else bytes(message).decode("utf-8", "replace")  # numbers where it is not UTF-8
                when = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(micros // 10**6))}.{micros % 10**6 * 1000:09d}Z"
                stream = "stderr" if one.get("PRIORITY") == _OF_ERRORS else "stdout"
                sys.stdout.write(json.dumps({"time": when, "stream": stream, "text": text + "\n"}) + "\n")
                sys.stdout.flush()
        finally:
            journal.terminate()  # it would notice a reader who went away with the next line only
    return 0
