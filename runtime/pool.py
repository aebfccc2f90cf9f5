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

    Shell = tuple[Container, socket]

__all__ = ["Pool", "Shells", "answer", "ended_by_themselves", "new_streams", "not_executed", "order_of", "tell"]

_PARK = "/.pyrun/park"
_NO_STDIN = 1
_MOST = 131072 - 1024  # bytes of one order, native/park.c


class Shells:
    """What pools are made of: shells of one kind, those that wait, and how they are told what to become.  They are this process's only."""

    __slots__ = ("_owner", "_waiting", "closed", "image", "options", "rootfs", "runtime", "size")

    def __init__(self, image: str | None, rootfs: str | None, size: int, root: str | None, options: Keywords) -> None:
        if size < 1:
            raise UsageError("make pool", "", f"{size} is no size", hint="1 or more")
        if options.get("exec"):
            raise UsageError("make pool", "", "exec is said by each run", hint='pool.run(["/bin/program", ...])')
        self.size = size
        self.runtime = runtime_of(root)
        self.image = image
        self.rootfs = rootfs
        park = Volume(_PARK, source=os.path.realpath(os.path.dirname(HELPER) + "/park"), read_only=True)
        self.options: Keywords = {**options, "exec": _PARK, "volume": [*options.get("volume", ()), park]}
        self.closed = False
        self._waiting: deque[Shell] = deque()
        self._owner = os.getpid()

    @property
    def waiting(self) -> deque[Shell]:
        """Those that wait; a process that was forked has none of its parent's."""
        if self._owner != os.getpid():
            self._owner = os.getpid()
            self._waiting = deque()
        return self._waiting

    def missing(self) -> bool:
        """Whether one more is to be made."""
        return len(self.waiting) < self.size and not self.closed

    def take(self) -> Shell | None:
        """Return one that waits, for one use, None when there is none; StateError when the pool is closed."""
        if self.closed:
            raise StateError("run container", "", "the pool is closed")
        try:
            return self.waiting.popleft()
        except IndexError:
            return None


def new_streams() -> tuple[socket, socket, Streams]:
    """Return the socket that a shell is told by, the shell's end of it, and the streams to start the shell with."""
    import socket

    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return ours, theirs, Streams(theirs, DEVNULL, DEVNULL)


def tell(ours: socket, order: bytes, streams: Streams) -> bool:
    """Hand a shell its order, a message of native/park.c; False when it has ended meanwhile."""
    import socket

    first, *others = streams.app
    try:
        socket.send_fds(ours, [order], [others[0] if first is None else first, *others])
    except (BrokenPipeError, ConnectionResetError):
        return False
    streams.sent()
    return True


def ended_by_themselves() -> StateError:
    """Return the error of a pool whose shells do not wait."""
    return StateError("run container", "", "the shells of the pool end by themselves", hint="something kills their processes")


def not_executed(program: str, code: int) -> ExecError:
    """Return the error of a program that could not be executed."""
    return ExecError("execute", program, errno=code, hint="the program is looked up in the pod: name it by its path there")


class Pool:
    """Shells of one kind: a stored image or a `rootfs`, and the keywords of `pyrun.run`.  Threads may share it; it ends with this process.

    `size` shells are kept ready; one that is used is replaced after its run.  The keywords hold for all of them; what differs from
    run to run are the program, variables, directory and streams.  Best in a `with` block, which ends all shells.
    """

    def __init__(
        self, image: str | None = None, *, rootfs: str | None = None, size: int = 4, root: str | None = None, **options: Unpack[Keywords]
    ) -> None:
        self._kind = Shells(image, rootfs, size, root, options)
        self.size = size
        self.fill()

    @property
    def _shells(self) -> deque[Shell]:
        return self._kind.waiting

    @property
    def ready(self) -> int:
        """How many shells wait."""
        return len(self._shells)

    def fill(self) -> None:
        """Start as many shells as are missing; PyrunError when that is not possible."""
        while self._kind.missing():
            self._shells.append(self._shell())

    def _shell(self) -> Shell:
        kind = self._kind
        ours, theirs, streams = new_streams()
        try:
            return kind.runtime._start(kind.image, (), kind.rootfs, streams, kind.options, ops.ACCOUNT), ours
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
        order = order_of(args, set_env or {}, working_dir or "", first is None or first == DEVNULL)
        for _ in range(self.size + 2):
            streams = Streams(first, stdout, stderr)
            try:
                done = self._once(order, args, streams, input, timeout, output_limit, started)
            finally:
                streams.close()
            if done is not None:
                break
        else:
            raise ended_by_themselves()
        result, failed = done
        with contextlib.suppress(OSError, PyrunError):  # the next run finds no shell and says why
            self.fill()
        if failed:
            raise not_executed(args[0], failed)
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
        container, ours = self._kind.take() or self._shell()
        with ours:
            try:
                if not tell(ours, order, streams):
                    container.close()
                    return None
                container._streams, container._started, container.args = streams, started, list(args)
                moving = Pump(container.release(), streams, data, limit)
                pump(moving, timeout)
                taken, failed = answer(ours)
                result = container._result(moving)
            except BaseException:
                container.close()
                raise
        self._kind.runtime._later(container)
        return (result, failed) if taken or moving.outcome else None

    def close(self) -> None:
        """End every shell and wait until it is gone."""
        self._kind.closed = True
        waiting = self._shells
        while waiting:
            container, ours = waiting.popleft()
            ours.close()
            container.close()

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def order_of(args: Sequence[str], env: Mapping[str, str], directory: str, no_stdin: bool) -> bytes:
    """Return the message of native/park.c; UsageError for words that cannot be handed on."""
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


def answer(order: socket) -> tuple[bool, int]:
    """Return whether the order was taken, and what execve(2) said when it failed, else 0."""
    order.setblocking(False)
    said = [b"", b""]
    for turn in range(2):
        try:
            said[turn] = order.recv(4)
        except (BlockingIOError, ConnectionResetError):
            break
    return bool(said[0]), int.from_bytes(said[1], "little")
