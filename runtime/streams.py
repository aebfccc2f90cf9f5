"""Standard input, output and error of an app, as callers of `subprocess` know them, and the bytes that move through them.

    a number, or anything with fileno()   that descriptor, which stays the caller's
    PIPE                                  a pipe; its other end is the container's attribute of that name
    DEVNULL, INHERIT                      /dev/null; this process's own
    STDOUT                                for standard error: where standard output goes

The constants are those of `subprocess`, INHERIT apart, which that has no name for.
"""

from __future__ import annotations

import contextlib
import os
import select
import time

from pyrun.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO, Protocol

    from pyrun.engine.launch import Supervisor

    class HasFileno(Protocol):
        """A file, a socket, anything with a descriptor."""

        def fileno(self) -> int: ...

    Stream = int | HasFileno | None

__all__ = ["DEVNULL", "INHERIT", "PIPE", "Piped", "Pump", "STDOUT", "Streams", "pump"]  # noqa: RUF022, as sorted() has it

PIPE, STDOUT, DEVNULL, INHERIT = -1, -2, -3, -4
_CHUNK = 65536
_NAMES = ("stdin", "stdout", "stderr")


class Streams:
    """What the app gets (`app`, None for a standard input that is not there) and what this process keeps (`stdin`, `stdout`, `stderr`).

    `sent` closes what only the app should have, once it is started; `close` everything that is left.
    """

    __slots__ = ("_sent", "app", "stderr", "stdin", "stdout")

    def __init__(self, stdin: Stream, stdout: Stream, stderr: Stream) -> None:
        self._sent: list[int] = []
        self.stdin: BinaryIO | None = None
        self.stdout: BinaryIO | None = None
        self.stderr: BinaryIO | None = None
        self.app: tuple[int | None, int, int] = (None, 1, 2)
        try:
            first = None if stdin is None or stdin == DEVNULL else self._one(0, stdin)
            second = self._one(1, stdout)
            self.app = (first, second, second if stderr == STDOUT else self._one(2, stderr))
        except BaseException:
            self.close()
            raise

    def _one(self, number: int, wanted: Stream) -> int:
        if wanted is None or wanted == INHERIT:
            return number
        if wanted == DEVNULL:
            self._sent.append(os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC))
            return self._sent[-1]
        if wanted == PIPE:
            read, write = os.pipe2(os.O_CLOEXEC)
            mine, theirs = (write, read) if number == 0 else (read, write)
            self._sent.append(theirs)
            setattr(self, _NAMES[number], os.fdopen(mine, "wb" if number == 0 else "rb", buffering=0))
            return theirs
        fd = wanted if isinstance(wanted, int) else wanted.fileno()
        if fd < 0:
            hint = "a descriptor, a file, pyrun.PIPE, pyrun.DEVNULL, pyrun.INHERIT, or for stderr pyrun.STDOUT"
            raise UsageError("use stream", _NAMES[number], f"{wanted} is none", hint=hint)
        return fd

    def sent(self) -> None:
        """The app has its ends: this process gives up its copies, so that an end of file is one."""
        for fd in self._sent:
            os.close(fd)
        self._sent.clear()

    def close(self) -> None:
        """Close every descriptor that was made here."""
        self.sent()
        for file in (self.stdin, self.stdout, self.stderr):
            if file is not None:
                file.close()


class Piped:
    """Something with streams: this process's ends of those that are PIPE, unbuffered binary files, else None."""

    __slots__ = ("_streams",)

    def __init__(self, streams: Streams) -> None:
        self._streams = streams

    @property
    def stdin(self) -> BinaryIO | None:
        """This process's end of its standard input."""
        return self._streams.stdin

    @property
    def stdout(self) -> BinaryIO | None:
        """This process's end of its standard output."""
        return self._streams.stdout

    @property
    def stderr(self) -> BinaryIO | None:
        """This process's end of its standard error."""
        return self._streams.stderr


class Pump:
    """Moves bytes between an app and this process's memory until the app has ended; the loop is whoever has it.

    `outcome` is "" for an end of the app's own, "timeout", or "output" when it wrote more than `limit` bytes.
    """

    def __init__(self, supervisor: Supervisor, streams: Streams, data: bytes | None, limit: int | None) -> None:
        self.supervisor = supervisor
        self.streams = streams
        self.outcome = ""
        self.left = memoryview(data or b"")
        self.limit = limit
        self.taken: dict[int, bytearray] = {}
        for file in (streams.stdout, streams.stderr):
            if file is not None:
                os.set_blocking(file.fileno(), False)
                self.taken[file.fileno()] = bytearray()
        self.open = set(self.taken)
        self.feeds = streams.stdin is not None
        if streams.stdin is not None:
            os.set_blocking(streams.stdin.fileno(), False)
            if not self.left:
                self.no_more()

    def no_more(self) -> None:
        """The app's standard input is at its end."""
        self.feeds = False
        if self.streams.stdin is not None:
            self.streams.stdin.close()

    def feed(self) -> bool:
        """Write what the pipe takes; False when there is no more, for `no_more` to be called."""
        assert self.streams.stdin is not None
        try:
            self.left = self.left[os.write(self.streams.stdin.fileno(), self.left[:_CHUNK]) :]
        except BlockingIOError:
            return True
        except BrokenPipeError:  # the app does not read to the end
            return False
        return bool(self.left)

    def take(self, fd: int) -> bool:
        """Read what is there; False at the end of the stream."""
        try:
            piece = os.read(fd, _CHUNK)
        except BlockingIOError:
            return True
        if not piece:
            self.open.discard(fd)
            return False
        held = self.taken[fd]
        if self.limit is not None and sum(map(len, self.taken.values())) + len(piece) > self.limit:
            held += piece[: max(0, self.limit - sum(map(len, self.taken.values())))]
            self.give_up("output")
        elif self.outcome != "output":
            held += piece
        return True

    def drain(self) -> None:
        """All of the pod is dead: what it wrote is in the pipes, and nobody waits for somebody else who holds them."""
        for fd in list(self.open):
            before = -1
            while fd in self.open and before != len(self.taken[fd]) and not (self.outcome == "output" and before >= 0):
                before = len(self.taken[fd])
                self.take(fd)
            self.open.discard(fd)

    def give_up(self, outcome: str) -> None:
        """End the pod, once."""
        if not self.outcome:
            self.outcome = outcome
            with contextlib.suppress(ProcessLookupError):
                self.supervisor.kill(9)

    def output(self) -> tuple[bytes | None, bytes | None]:
        """What came out so far, None for a stream that was not a pipe."""
        out, err = self.streams.stdout, self.streams.stderr
        return None if out is None else bytes(self.taken[out.fileno()]), None if err is None else bytes(self.taken[err.fileno()])


def pump(moving: Pump, timeout: float | None) -> None:
    """Move bytes until the app has ended and its pipes are read; after `timeout` seconds it is killed."""
    supervisor = moving.supervisor
    end = None if timeout is None else time.monotonic() + timeout
    ended = False
    poll = select.poll()
    poll.register(supervisor.control, select.POLLIN)
    for fd in moving.open:
        poll.register(fd, select.POLLIN)
    stdin = moving.streams.stdin.fileno() if moving.feeds and moving.streams.stdin else -1
    if stdin >= 0:
        poll.register(stdin, select.POLLOUT)
    control, pidfd = supervisor.control, supervisor.pidfd
    while not ended or moving.open:
        for fd, _ in poll.poll(None if end is None else max(0.0, end - time.monotonic()) * 1000):
            if fd == control:
                if supervisor.next_report() is None or supervisor.status is not None:
                    ended = True
                    poll.unregister(control)
                    poll.register(pidfd, select.POLLIN)
            elif fd == pidfd:
                moving.drain()
            elif fd == stdin:
                if not moving.feed():
                    poll.unregister(stdin)
                    moving.no_more()
            elif fd in moving.open and not moving.take(fd):
                poll.unregister(fd)
        if end is not None and time.monotonic() >= end:
            end = None
            if not ended:
                moving.give_up("timeout")
