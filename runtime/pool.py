"""Sandboxes that are ready before they are wanted: a pod costs milliseconds to make, and to become its app a fraction of one.

    with pyrun.Pool(rootfs="host", size=8, memory="64Mi") as pool:
        done = pool.run(["python3", "-c", code], capture_output=True, timeout=2)

A shell is a pod that is complete but for its app: namespaces, mounts, limits, user, capabilities and filter are made, and a small
program (native/park.c) waits where the app will be.  It is told what to execute, and with which streams; nothing else is left.
Each shell is used once: whatever the code in it did goes with it.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque

from pyrun.calls import runtime_of
from pyrun.errors import ExecError, PyrunError, StateError, UsageError
from pyrun.native import HELPER
from pyrun.plan import ops
from pyrun.pod.binds import Volume
from pyrun.streams import DEVNULL, INHERIT, PIPE, Pump, Streams, pump

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from socket import socket
    from types import TracebackType
    from typing import Unpack

    from pyrun.container import Container
    from pyrun.pod.keywords import Keywords
    from pyrun.result import Result
    from pyrun.streams import Stream

__all__ = ["Pool"]

_PARK = "/.pyrun/park"
_NO_STDIN = 1
_MOST = 131072 - 1024  # bytes of one order, native/park.c


class Pool:
    """Shells of one kind: a stored image or a `rootfs`, and the keywords of `pyrun.run`.  Threads may share it; it ends with this process.

    `size` shells are kept ready; one that is used is replaced after its run.  The keywords hold for all of them; what differs from
    run to run are the program, variables, directory and streams.  Best in a `with` block, which ends all shells.
    """

    def __init__(
        self, image: str | None = None, *, rootfs: str | None = None, size: int = 4, root: str | None = None, **options: Unpack[Keywords]
    ) -> None:
        if size < 1:
            raise UsageError("make pool", "", f"{size} is no size", hint="1 or more")
        if options.get("exec"):
            raise UsageError("make pool", "", "exec is said by each run", hint='pool.run(["/bin/program", ...])')
        self.size = size
        self._runtime = runtime_of(root)
        self._image = image
        self._rootfs = rootfs
        park = Volume(_PARK, source=os.path.realpath(os.path.dirname(HELPER) + "/park"), read_only=True)
        self._options: Keywords = {**options, "exec": _PARK, "volume": [*options.get("volume", ()), park]}
        self._shells: deque[tuple[Container, socket]] = deque()
        self._owner = os.getpid()
        self._closed = False
        self.fill()

    @property
    def ready(self) -> int:
        """How many shells wait."""
        return len(self._shells)

    def fill(self) -> None:
        """Start as many shells as are missing; PyrunError when that is not possible."""
        if self._owner != os.getpid():  # a process that was forked has none of its parent's
            self._owner = os.getpid()
            self._shells = deque()
        while len(self._shells) < self.size and not self._closed:
            self._shells.append(self._shell())

    def _shell(self) -> tuple[Container, socket]:
        import socket

        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        streams = Streams(theirs, DEVNULL, DEVNULL)
        try:
            return self._runtime._start(self._image, (), self._rootfs, streams, self._options, ops.ACCOUNT), ours
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
            streams.close()

    def run(
        self,
        args: Sequence[str],
        *,
        set_env: Mapping[str, str] | None = None,
        working_dir: str | None = None,
        stdin: Stream = None,
        input: bytes | None = None,
        stdout: Stream = INHERIT,
        stderr: Stream = INHERIT,
        capture_output: bool = False,
        timeout: float | None = None,
        output_limit: int | None = None,
        check: bool = False,
    ) -> Result:
        """Run a program in a shell of its own, to its end; see `pyrun.run`.  A program without a slash is looked up in the PATH of the pod.

        ExecError when it is not there; StateError when the pool is closed.
        """
        if input is not None and stdin is not None:
            raise UsageError("run container", "", "input and stdin exclude each other")
        if capture_output:
            stdout = stderr = PIPE
        started = time.monotonic()
        first = PIPE if input is not None else stdin
        order = _order(args, set_env or {}, working_dir or "", first is None or first == DEVNULL)
        for _ in range(self.size + 2):
            streams = Streams(first, stdout, stderr)
            try:
                done = self._once(order, args, streams, input, timeout, output_limit, started)
            finally:
                streams.close()
            if done is not None:
                break
        else:
            raise StateError("run container", "", "the shells of the pool end by themselves", hint="something kills their processes")
        result, failed = done
        with contextlib.suppress(OSError, PyrunError):  # the next run finds no shell and says why
            self.fill()
        if failed:
            hint = "the program is looked up in the pod: name it by its path there"
            raise ExecError("execute", args[0], errno=failed, hint=hint)
        if check:
            result.check_returncode()
        return result

    def _once(
        self,
        order: bytes,
        args: Sequence[str],
        streams: Streams,
        data: bytes | None,
        timeout: float | None,
        limit: int | None,
        started: float,
    ) -> tuple[Result, int] | None:
        """The result, and the errno of an execve that failed; None when the shell was killed before it took the order."""
        import socket

        container, ours = self._take()
        with ours:
            try:
                first, *others = streams.app
                try:
                    socket.send_fds(ours, [order], [others[0] if first is None else first, *others])
                except (BrokenPipeError, ConnectionResetError):
                    container.close()
                    return None
                streams.sent()
                container._streams, container._started, container.args = streams, started, list(args)
                moving = Pump(container.release(), streams, data, limit)
                pump(moving, timeout)
                taken, failed = _answer(ours)
                result = container._result(moving)
            except BaseException:
                container.close()
                raise
        self._runtime._later(container)
        return (result, failed) if taken or moving.outcome else None

    def _take(self) -> tuple[Container, socket]:
        if self._closed:
            raise StateError("run container", "", "the pool is closed")
        if self._owner != os.getpid():
            self.fill()
        try:
            return self._shells.popleft()
        except IndexError:
            return self._shell()

    def close(self) -> None:
        """End every shell and wait until it is gone."""
        self._closed = True
        if self._owner != os.getpid():
            return
        while self._shells:
            container, ours = self._shells.popleft()
            ours.close()
            container.close()

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _order(args: Sequence[str], env: Mapping[str, str], directory: str, no_stdin: bool) -> bytes:
    """The message of native/park.c."""
    if isinstance(args, str) or not args:
        raise UsageError("run container", str(args), "no list of words", hint="args begins with the program")
    words = [directory, *args, *[f"{name}={value}" for name, value in env.items()]]
    if any("\0" in word for word in words):
        raise UsageError("run container", args[0], "a word contains NUL")
    head = b"".join(number.to_bytes(4, "little") for number in (len(args), len(env), _NO_STDIN if no_stdin else 0, 0))
    order = head + b"".join(word.encode("utf-8", "surrogateescape") + b"\0" for word in words)
    if len(order) > _MOST:
        raise UsageError(
            "run container", args[0], "too many words", hint=f"arguments and variables together up to {_MOST} bytes; use a file or input"
        )
    return order


def _answer(order: socket) -> tuple[bool, int]:
    """Whether the order was taken, and what execve(2) said when it failed, else 0."""
    order.setblocking(False)
    said = [b"", b""]
    for turn in range(2):
        try:
            said[turn] = order.recv(4)
        except (BlockingIOError, ConnectionResetError):
            break
    return bool(said[0]), int.from_bytes(said[1], "little")
