"""Reading a pod's log: files in the format of the Kubernetes CRI, followed while they grow and are rotated.

    2026-11-25T19:04:18.123456789Z stdout F a whole line
    2026-11-25T19:04:18.123456789Z stderr P the beginning of a line

Parts are put together again; one line is held back at most, and never more than a mebibyte of it.
"""

from __future__ import annotations

import contextlib
import os
import time

from pyrun.errors import StateError
from pyrun.pod.state import read_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyrun.pod.state import Pods

    Line = tuple[bytes, bytes, bytes]  # time as written, b"stdout" or b"stderr", text with the end of its line

__all__ = ["open_app", "open_pod", "read_log"]

_CHUNK = 65536
_LONGEST = 1 << 20
_PATIENCE, _FEW = 100, 10  # tries; the few are for a log of one file, which is away for a moment when it is begun again
_IN_MODIFY, _IN_MOVED_TO, _IN_CREATE = 0x2, 0x80, 0x100


def open_pod(pods: Pods, uuid: str) -> int:
    """Return a descriptor of a pod's directory in whatever phase; StateError when there is none."""
    from pyrun.pod.names import phase_of

    for _ in range(3):
        try:
            return os.open(f"{phase_of(pods, uuid)}/{uuid}", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=pods.fd)
        except OSError:
            continue
    raise StateError("find pod", uuid, "there is none of that name", hint="see `pyrun list`")


class _Follower:
    """Sleeps until the log may have grown, or the pod's keeper has ended."""

    __slots__ = ("fd", "keeper")

    def __init__(self, pod: int, own: int) -> None:
        from pyrun import native
        from pyrun.pod.live import start_time

        path = f"/proc/self/fd/{own}".encode()
        self.fd, _ = native.inotify(path, _IN_MODIFY | _IN_MOVED_TO | _IN_CREATE)
        self.keeper = -1
        run = read_json(pod, "run")
        pid = run.get("keeper")
        if isinstance(pid, int):
            with contextlib.suppress(OSError):
                self.keeper = os.pidfd_open(pid)
            if self.keeper >= 0 and start_time(pid) != run.get("keeper_start"):
                os.close(self.keeper)
                self.keeper = -1

    def wait(self) -> bool:
        """Whether the keeper still lives after something happened."""
        import select

        if self.keeper < 0:
            return False
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        poll.register(self.keeper, select.POLLIN)
        ready = [fd for fd, _ in poll.poll()]
        if self.fd in ready:
            os.read(self.fd, 4096)
        return self.keeper not in ready

    def close(self) -> None:
        for fd in (self.fd, self.keeper):
            if fd >= 0:
                os.close(fd)


def open_app(pod: int, uuid: str, app: str | None) -> int:
    """Return a descriptor of the directory with the files of one app; of the only one that is the pod's.

    UsageError when it has no such app, or none is named of several.
    """
    from pyrun.pod.live import choose_app

    name = choose_app(pod, uuid, app)
    return os.open(f"apps/{name}" if name else ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=pod)


def read_log(pod: int, *, follow: bool = False, tail: int = -1, since: str = "", own: int = -1) -> Iterator[Line]:
    """Yield the lines of the log in the pod's directory `pod`, oldest first; with `follow` until the pod has ended.

    The log of one app of several lies in a directory of its own, `own` (`open_app`).

    `tail` is how many of the lines that are there now, -1 for all; `since` a time in RFC 3339, UTC, before which lines are
    left out.  StateError when the pod has no log.
    """
    follower = _Follower(pod, own if own >= 0 else pod) if follow else None
    pod = own if own >= 0 else pod
    files: list[int] = []
    try:
        files += _files(pod)
        if not files:
            hint = "its output went elsewhere (--log-driver), or it ran in the foreground"
            raise StateError("read the log", "", "the pod has none", hint=hint)
        held: list[Line] = []
        reader = _Reader()
        for fd in files:
            for line in reader.lines(fd):
                if line[0].decode("ascii", "replace") < since:
                    continue
                if tail < 0:
                    yield line
                else:
                    held = [*held[-(tail - 1) :], line] if tail > 1 else [line] if tail else []
        yield from held
        if follower:
            yield from _follow(pod, files, reader, follower)
    finally:
        for fd in files:
            os.close(fd)
        if follower:
            follower.close()


def _files(pod: int, last: int = -1) -> list[int]:
    """Descriptors of the log's files, oldest first: all of them, or those newer than the one that is open as `last`.

    A rotation moves files to higher numbers, one after another from the highest, and then begins a new one.  Whoever goes
    upwards meanwhile may meet a file twice but misses none; when a new one was begun, it goes again.
    """
    known = os.fstat(last).st_ino if last >= 0 else 0
    found: list[int] = []
    for tries in range(_PATIENCE):
        found = _upwards(pod, known)
        newest = _inode(pod)
        if newest == (os.fstat(found[-1]).st_ino if found else known) or (newest == 0 and tries > _FEW):
            break
        while found:
            os.close(found.pop())
    return found


def _upwards(pod: int, known: int) -> list[int]:
    """Descriptors of the files below the one with the inode `known`, oldest first."""
    found: dict[int, int] = {}
    number = 0
    while True:
        fd = _open(pod, number)
        inode = os.fstat(fd).st_ino if fd >= 0 else 0
        if fd >= 0 and (inode == known or found.setdefault(inode, fd) != fd):
            os.close(fd)
        if (inode == known and known) or (fd < 0 and not _there(pod, number + 1)):
            return list(reversed(found.values()))
        number += 1


def _inode(pod: int) -> int:
    """That of the file that is written to, 0 when there is none: no pod, or the keeper was killed in a rotation."""
    try:
        return os.stat("log", dir_fd=pod, follow_symlinks=False).st_ino
    except OSError:
        return 0


def _name(number: int) -> str:
    return f"log.{number}" if number else "log"


def _there(pod: int, number: int) -> bool:
    return os.access(_name(number), os.F_OK, dir_fd=pod, follow_symlinks=False)


def _open(pod: int, number: int) -> int:
    """A descriptor of that file of the log, or -1; waits while a rotation has it between two numbers."""
    for tries in range(_PATIENCE):
        with contextlib.suppress(FileNotFoundError):
            return os.open(_name(number), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=pod)
        if not _there(pod, number + 1) and (number or tries > _FEW):
            break
        time.sleep(0.001)
    return -1


def _follow(pod: int, files: list[int], reader: _Reader, follower: _Follower) -> Iterator[Line]:
    alive = True
    while True:
        yield from reader.lines(files[-1])
        for fd in _files(pod, files[-1]):
            yield from reader.lines(files[-1])
            os.close(files[-1])
            files[-1] = fd
            yield from reader.lines(fd)
        if not alive:
            return
        alive = follower.wait()


class _Reader:
    """Lines out of files that grow; parts of a line wait for the rest, by stream."""

    __slots__ = ("parts", "rest")

    def __init__(self) -> None:
        self.rest = b""
        self.parts: dict[bytes, Line] = {}

    def lines(self, fd: int) -> Iterator[Line]:
        while data := os.read(fd, _CHUNK):
            *whole, self.rest = (self.rest + data).split(b"\n")
            for raw in whole:
                line = self._line(raw)
                if line:
                    yield line

    def _line(self, raw: bytes) -> Line | None:
        when, _, rest = raw.partition(b" ")
        stream, _, rest = rest.partition(b" ")
        tag, _, text = rest.partition(b" ")
        if stream not in (b"stdout", b"stderr") or tag not in (b"F", b"P"):
            return None  # not ours: a disk that was full in the middle of a line
        first, _, before = self.parts.pop(stream, (when, stream, b""))
        if tag == b"P" and len(before) + len(text) < _LONGEST:
            self.parts[stream] = first, stream, before + text
            return None
        return first, stream, before + text + (b"\n" if tag == b"F" else b"")
