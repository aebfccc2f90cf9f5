"""Reading a pod's log: files in the format of the Kubernetes CRI, followed while they grow and are rotated.

    2026-11-25T19:04:18.123456789Z stdout F a whole line
    2026-11-25T19:04:18.123456789Z stderr P the beginning of a line

Parts are put together again; one line is held back at most, and never more than a mebibyte of it.
"""

from __future__ import annotations

import os

from pyrun.errors import StateError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyrun.pod.state import Pods

    Line = tuple[bytes, bytes, bytes]  # time as written, b"stdout" or b"stderr", text with the end of its line

__all__ = ["open_pod", "read_log"]

_CHUNK = 65536
_LONGEST = 1 << 20
_IN_MODIFY, _IN_MOVED_TO, _IN_CREATE, _IN_MOVE_SELF = 0x2, 0x80, 0x100, 0x800


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
    """Sleeps until the log may have grown, or the pod moved on."""

    __slots__ = ("fd",)

    def __init__(self, pod: int) -> None:
        from pyrun import native

        path = f"/proc/self/fd/{pod}".encode()
        self.fd, _ = native.inotify(path, _IN_MODIFY | _IN_MOVED_TO | _IN_CREATE | _IN_MOVE_SELF)

    def wait(self) -> None:
        import select

        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        poll.poll()
        os.read(self.fd, 4096)

    def close(self) -> None:
        os.close(self.fd)


def read_log(pod: int, *, follow: bool = False, tail: int = -1, since: str = "") -> Iterator[Line]:
    """Yield the lines of the log in the pod's directory `pod`, oldest first; with `follow` until the pod has ended.

    `tail` is how many of the lines that are there now, -1 for all; `since` a time in RFC 3339, UTC, before which lines are
    left out.  StateError when the pod has no log.
    """
    follower = _Follower(pod) if follow else None
    try:
        files = _files(pod)
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
            yield from _follow(pod, files[-1], reader, follower)
    finally:
        if follower:
            follower.close()


def _files(pod: int) -> list[int]:
    names = [name for name in os.listdir(pod) if name == "log" or (name[:4] == "log." and name[4:].isdecimal())]
    if not names:
        hint = "its output went elsewhere (--log-driver), or it ran in the foreground"
        raise StateError("read the log", "", "the pod has none", hint=hint)
    names.sort(key=lambda name: -int(name[4:] or 0))
    return [os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=pod) for name in names]


def _follow(pod: int, fd: int, reader: _Reader, follower: _Follower) -> Iterator[Line]:
    from pyrun.pod.status import is_locked

    while True:
        alive = is_locked(pod)
        yield from reader.lines(fd)
        try:
            newest = os.open("log", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=pod)
        except OSError:
            return  # the pod was removed
        if os.fstat(newest).st_ino != os.fstat(fd).st_ino:
            yield from reader.lines(fd)
            os.close(fd)
            fd = newest
            continue
        os.close(newest)
        if not alive:
            return
        follower.wait()


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
