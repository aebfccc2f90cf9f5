"""NOTIFY_SOCKET of whoever calls create, start and run: what the container says there goes on to him (sd_notify(3)).  Cold.

The container cannot reach the socket itself, whose path is the host's.  At that path it finds a directory instead, read-only, with a
socket `notify` in it, and in NOTIFY_SOCKET that name, as with crun.  Its other end is the runtime's: `run` in the foreground passes on
what comes as long as the container lives; `start` and `run --detach`, beside which nothing stays, until it says READY=1.
"""

from __future__ import annotations

import contextlib
import os

from pyrun.errors import HostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyrun.oci.state import Container

__all__ = ["Relay", "arrange", "passed"]

FOLDER = "notify"
_NAME = "notify"
_ELSEWHERE = "/run/notify"  # in the container, for a socket of the caller's that has no path
_LONGEST = 4096
_WAITING = 1024  # messages at once: more than wait at a socket (max_dgram_qlen of unix(7)), and an end to who writes without one
# As native/notify.c: nobody in there names a main process, stores descriptors, or says who else is to be believed.
_WHOLE = (b"READY=1", b"RELOADING=1", b"STOPPING=1", b"WATCHDOG=1", b"WATCHDOG=trigger")
_BEGINNINGS = (b"STATUS=", b"ERRNO=", b"EXIT_STATUS=", b"MONOTONIC_USEC=", b"EXTEND_TIMEOUT_USEC=")


def arrange(container: Container, config: dict[str, Any]) -> tuple[str, str]:
    """Make the directory of a container's socket, and tell its process; returns what is to be bound and where, twice "" for nothing.

    A process whose configuration has NOTIFY_SOCKET has been given one by the client.
    """
    process = config.get("process") or {}
    if _address() is None or any(word.startswith("NOTIFY_SOCKET=") for word in process.get("env", ())):
        return "", ""
    path = os.environ["NOTIFY_SOCKET"]
    target = path if path.startswith("/") else _ELSEWHERE
    os.mkdir(FOLDER, dir_fd=container.fd)
    os.chmod(FOLDER, 0o755, dir_fd=container.fd)  # whatever the umask, and whatever user the program is
    process["env"] = [*process.get("env", ()), f"NOTIFY_SOCKET={target}/{_NAME}"]
    return f"{container.root}/{container.id}/{FOLDER}", target


def _address() -> str | None:
    """unix(7), as sd_notify(3) reads it; None for nobody."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    return "\0" + path[1:] if path.startswith("@") else path if path.startswith("/") else None


def passed(datagram: bytes) -> bytes:
    """Return the lines of a message that go on to the caller."""
    lines = datagram.split(b"\n")
    return b"\n".join(line for line in lines if line in _WHOLE or line.startswith(_BEGINNINGS))


class Relay:
    """The runtime's end of a container's socket, from before its program starts."""

    __slots__ = ("_lock", "_pidfd", "_socket", "_to")

    def __init__(self, container: Container) -> None:
        """HostError when the socket cannot be made."""
        import _socket
        import _thread

        self._to = _address()
        self._lock = _thread.allocate_lock()
        self._socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK)
        try:
            folder = os.open(FOLDER, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=container.fd)
            try:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(_NAME, dir_fd=folder)
                self._socket.bind(f"/proc/self/fd/{folder}/{_NAME}")  # a path of any length
                os.chmod(_NAME, 0o666, dir_fd=folder)
            finally:
                os.close(folder)
            self._pidfd = os.pidfd_open(container.pid)
        except OSError as error:
            self._socket.close()
            raise HostError("make notify socket", container.id, errno=error.errno or 0, origin="NOTIFY_SOCKET") from None

    def until_ready(self) -> None:
        """Pass on what comes until the container is ready, or gone."""
        while self._wait() and not self.drain():
            pass
        self.drain()
        self._socket.close()

    def stay(self) -> None:
        """Pass on what comes from now on, beside this thread."""
        import _thread

        def relay() -> None:
            while self._wait():
                self.drain()

        _thread.start_new_thread(relay, ())

    def _wait(self) -> bool:
        """Wait for a message; False when the container has ended."""
        import select

        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        poll.register(self._pidfd, select.POLLIN)
        return self._pidfd not in [fd for fd, _ in poll.poll()]

    def drain(self) -> bool:
        """Pass on all that is there by now; whether READY=1 was among it."""
        import _socket

        ready = False
        with self._lock, contextlib.suppress(BlockingIOError):
            for _ in range(_WAITING):
                lines = passed(self._socket.recv(_LONGEST))
                ready = ready or b"READY=1" in lines.split(b"\n")
                if lines and self._to is not None:
                    client = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
                    with contextlib.suppress(OSError), contextlib.closing(client):
                        client.sendto(lines, _socket.MSG_NOSIGNAL | _socket.MSG_DONTWAIT, self._to)
        return ready
