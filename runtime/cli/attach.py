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


def run(args: Args) -> int:
    """Carry out the verb; the exit code is the app's, 0 when the caller has left."""
    keys = detach_keys(args.detach_keys or "ctrl-p,ctrl-q")
    link = _connect(Pods(args.root), one_pod(args))
    wake, waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    for number in (signal.SIGWINCH, signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    saved = None
    try:
        if not args.no_stdin and os.isatty(0):
            saved = termios.tcgetattr(0)
            tty.setraw(0, termios.TCSADRAIN)  # what was typed already is kept
        return _relay(link, wake, keys, typing=not args.no_stdin)
    finally:
        if saved is not None:
            termios.tcsetattr(0, termios.TCSADRAIN, saved)
        link.close()


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


def _connect(pods: Pods, word: str) -> socket.socket:
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
        if error.errno in (errno.ENOENT, errno.ECONNREFUSED):
            hint = "start it with `pyrun run --detach --tty`; what an app without a terminal writes is in `pyrun logs`"
            raise StateError("attach to pod", uuid, "it has no terminal in the background", hint=hint) from None
        raise StateError("attach to pod", uuid, errno=error.errno or errno.ETIMEDOUT, hint="its keeper does not answer") from None
    finally:
        os.close(directory)
    return link


def _relay(link: socket.socket, wake: int, keys: bytes, *, typing: bool) -> int:
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
                return _end(message)
            _write(message[1:])
        if wake in ready:
            for number in os.read(wake, 64):
                if number != signal.SIGWINCH:
                    return 128 + number
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
                sys.stderr.write("\r\npyrun: note: detached; the pod goes on\r\n")
                return 0


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
    if message == b"f":
        hint = "wait until another leaves, or start the pod with a higher limit on open files (ulimit -n, LimitNOFILE=)"
        sys.stderr.write(f"\r\npyrun: the pod's keeper has no descriptor for one more client\r\nhint: {hint}\r\n")
        return 125
    if message[:1] != b"x":
        sys.stderr.write("\r\npyrun: the pod's keeper let go of this terminal\r\nhint: attach again, if the pod still runs\r\n")
        return 125
    (status,) = struct.unpack("=i", message[1:5])
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code
