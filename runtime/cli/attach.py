"""`pyrun attach`: the caller's terminal on that of a pod in the background; native/keep_tty.c is the other side."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import socket
import struct
import sys
import termios
import tty

from pyrun.cli.references import one_pod
from pyrun.errors import StateError, UsageError
from pyrun.pod.names import resolve
from pyrun.pod.state import Pods

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrun.cli.parse import Args

__all__ = ["detach_keys", "run"]

_CHUNK = 4096
_SECONDS = 5  # to be let in
_LEFT = b"l"  # no message of the keeper's
_GIVEN_UP = {  # by the keeper, for want of descriptors or not
    True: (
        "the pod's keeper has no descriptor for one more client",
        "wait until another leaves, or start the pod with a higher limit on open files (ulimit -n, LimitNOFILE=)",
    ),
    False: ("the pod's keeper let go of this terminal", "attach again, if the pod still runs"),
}


def run(args: Args) -> int:
    """Carry out the verb; the exit code is the app's, 0 when the caller has left."""
    keys = detach_keys(args.detach_keys or "ctrl-p,ctrl-q")
    uuid, directory, link = _connect(Pods(args.root), one_pod(args))
    try:
        found = _facts(directory, uuid) if args.format == "json" else None
    finally:
        os.close(directory)
    wake, waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    for number in (signal.SIGWINCH, signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    saved = None
    try:
        if not args.no_stdin and os.isatty(0):
            saved = termios.tcgetattr(0)
            tty.setraw(0, termios.TCSADRAIN)  # what was typed already is kept
        message = _relay(link, wake, keys, typing=not args.no_stdin)
    finally:
        if saved is not None:
            termios.tcsetattr(0, termios.TCSADRAIN, saved)
        link.close()
    return _end(message) if found is None else _end_in_lines(message, found)


def detach_keys(text: str) -> bytes:
    """Return the bytes that KEYS of --detach-keys stand for, b"" for none; UsageError for anything that is not a key."""
    found = bytearray()
    for word in [] if text == "none" else text.split(","):
        key = word.removeprefix("ctrl-")
        if len(key) != 1 or not key.isascii() or (key != word and not 64 <= ord(key.upper()) <= 95):
            hint = "write characters or ctrl-X with commas between, as in ctrl-p,ctrl-q, or none"
            raise UsageError("option --detach-keys", "", f"'{word}' is not a key", hint=hint)
        found.append(ord(key.upper()) & 31 if key != word else ord(key))
    return bytes(found)


def _connect(pods: Pods, word: str) -> tuple[str, int, socket.socket]:
    """The pod's UUID, its directory, and a connection to its keeper."""
    phase, uuid = resolve(pods, word)
    if phase != "running":
        raise StateError("attach to pod", uuid, "it does not run", hint="see `pyrun list`")
    directory = os.open(pods.running(uuid), os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("=qq", _SECONDS, 0))  # a time-out of Python's waits for no place
        link.connect(f"/proc/self/fd/{directory}/attach")  # the whole path may be too long for a socket's
        link.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, bytes(16))
    except OSError as error:
        link.close()
        os.close(directory)
        if error.errno in (errno.ENOENT, errno.ECONNREFUSED):
            hint = "start it with `pyrun run --detach --tty`; what an app without a terminal writes is in `pyrun logs`"
            raise StateError("attach to pod", uuid, "it has no terminal in the background", hint=hint) from None
        raise StateError("attach to pod", uuid, errno=error.errno or errno.ETIMEDOUT, hint="its keeper does not answer") from None
    return uuid, directory, link


def _relay(link: socket.socket, wake: int, keys: bytes, *, typing: bool) -> bytes:
    """Pass on what is written and typed; return the keeper's last message, or `_LEFT` and the signal, 0 for the keys."""
    _send_size(link)
    poll = select.poll()
    poll.register(link, select.POLLIN)
    poll.register(wake, select.POLLIN)
    if typing:
        poll.register(0, select.POLLIN)
    held = b""  # typed keys that may become the detach keys
    while True:
        ready = [fd for fd, _ in poll.poll()]
        if link.fileno() in ready:
            message = _receive(link)
            if message[:1] != b"d":
                return message
            _write(message[1:])
        if wake in ready:
            for number in os.read(wake, 64):
                if number != signal.SIGWINCH:
                    return _LEFT + bytes((number,))
            _send_size(link)
        if 0 in ready:
            data = os.read(0, _CHUNK - len(keys))
            if not data:
                poll.unregister(0)
                continue
            data, held, left = _scan(held, data, keys)
            if data:
                _send(link, b"d" + data)
            if left:
                return _LEFT + b"\0"


def _scan(held: bytes, data: bytes, keys: bytes) -> tuple[bytes, bytes, bool]:
    """What is to be sent, what may be the beginning of the detach keys, and whether they are complete."""
    if not keys:
        return data, b"", False
    text = held + data
    at = text.find(keys)
    if at >= 0:
        return text[:at], b"", True
    size = next(size for size in range(len(keys) - 1, -1, -1) if text.endswith(keys[:size]) or size == 0)
    return text[: len(text) - size], text[len(text) - size :], False


def _send_size(link: socket.socket) -> None:
    for fd in (0, 1, 2):
        try:
            columns, rows = os.get_terminal_size(fd)
        except OSError:
            continue
        _send(link, b"w" + struct.pack("=HH", rows, columns))
        return


def _send(link: socket.socket, message: bytes) -> None:
    """What a keeper that has closed said before is read next."""
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        link.sendall(message)


def _receive(link: socket.socket) -> bytes:
    """A keeper that closed with something unread leaves an error, which is told once, in front of what it said."""
    with contextlib.suppress(ConnectionResetError):
        return link.recv(_CHUNK + 1)
    return link.recv(_CHUNK + 1)


def _write(data: bytes) -> None:
    while data:
        data = data[os.write(1, data) :]


def _end(message: bytes) -> int:
    if message[:1] == _LEFT:
        if not message[1]:
            sys.stderr.write("\r\npyrun: note: detached; the pod goes on\r\n")
        return _left(message)
    if message[:1] != b"x":
        what, hint = _GIVEN_UP[message == b"f"]
        sys.stderr.write(f"\r\npyrun: {what}\r\nhint: {hint}\r\n")
        return 125
    return _code(message)


def _facts(directory: int, uuid: str) -> dict[str, object]:
    from pyrun.cli.lines import facts

    return facts(directory, uuid)  # now: a pod that is not kept has none later


def _end_in_lines(message: bytes, found: dict[str, object]) -> int:
    """The same with one line of JSON: how the app ended, or that it goes on."""
    import json

    from pyrun.cli.output import say_line
    from pyrun.pod.status import ENDED

    if message[:1] == _LEFT:
        code = _left(message)
        say_line({**found, "detached": True, "exit_code": code})
    elif message[:1] != b"x":
        code = 125
        what, hint = _GIVEN_UP[message == b"f"]
        say_line({"error": what, "hint": hint, "exit_code": code})
    else:
        code = _code(message)
        end = json.loads(b"{%s}" % message[5:])
        signaled = os.WTERMSIG(_status(message)) if os.WIFSIGNALED(_status(message)) else 0
        how: dict[str, object] = {"code": 0 if signaled else code, "signal": signaled}
        how.update((name, end[name]) for name in ENDED if name in end)
        say_line({**found, "state": "exited", **how, "exit_code": code})
    return code


def _left(message: bytes) -> int:
    return 128 + message[1] if message[1] else 0


def _status(message: bytes) -> int:
    (status,) = struct.unpack("=i", message[1:5])
    return int(status)


def _code(message: bytes) -> int:
    code = os.waitstatus_to_exitcode(_status(message))
    return code if code >= 0 else 128 - code
