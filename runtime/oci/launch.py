"""The helper's half of create and exec, as seen from here (native/oci_start.c draws who speaks when)."""

from __future__ import annotations

import os
from struct import Struct

from pyrun import native
from pyrun.errors import HostError
from pyrun.plan import ops

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from collections.abc import Callable

    from pyrun.plan.ops import Plan

__all__ = ["Launch", "failure_of", "launched"]

_REPORT = Struct("=IIiIiiQ")
_FAILED, _RUNNING, _CHECKPOINT, _PARKED = 1, 2, 4, 5
_CONTROL_SPACE = 64
_ABOVE = 16  # SLOT_COUNT of native/plan.h, and some


class Launch:
    """A plan that is being carried out: `pid` is the container's process, once it is there."""

    __slots__ = ("_block", "_helper", "_socket", "pid")

    def __init__(self, plan: Plan, fds: dict[int, int], preserved: int, *more: str, environment: dict[str, str] | None = None) -> None:
        import _socket

        block = ops.encode(plan)
        flags = preserved << ops.LISTEN_SHIFT | (ops.HAS_CGROUP if fds.get(7, -1) >= 0 else 0)
        self._block = ops.add_flags(block, flags)
        self.pid = 0
        memfd = native.memfd_sealed("pyrun-plan", self._block)
        ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
        try:
            slots = [memfd, theirs.fileno(), *(fds.get(slot, -1) for slot in range(5, 10))]
            self._helper = _spawn(["pyrun-oci: container", *more], slots, environment or {})
        finally:
            theirs.close()
            os.close(memfd)
        self._socket: _socket.socket = ours

    def run(self, *, terminal: Callable[[int], None], checkpoint: Callable[[int], None] | None = None, held: bool = False) -> bool:
        """Go on until the process is parked (True) or, without PARK, executes its program (False).

        `terminal` gets the master of its terminal, `checkpoint` its pid while it waits before the pivot.
        SetupError for a step that failed; when signals are held, SystemExit for one that ends this process.
        """
        while True:
            if held:
                _look(self._socket.fileno())
            data, ancillary, _, _ = self._socket.recvmsg(_REPORT.size, _CONTROL_SPACE, 0x40000000)  # MSG_CMSG_CLOEXEC
            if len(data) == 1 and ancillary:
                terminal(int.from_bytes(ancillary[0][2][:4], "little"))
            elif len(data) == _REPORT.size:
                kind, index, error, detail, _, pid, _ = _REPORT.unpack(data)
                if kind == _FAILED:
                    self.close()
                    raise _failure(self._block, index, error, detail)
                if kind == _RUNNING:
                    self.pid = pid
                elif kind == _CHECKPOINT:
                    self._need_pid()
                    if checkpoint is not None:
                        checkpoint(self.pid)
                    self.go_on()
                elif kind == _PARKED:
                    self._need_pid()
                    return True
            else:
                self._need_pid()
                return False

    def settle(self) -> None:
        """Go on until the checkpoint, and end the process there; SetupError for a step that failed."""
        data = self._socket.recv(_REPORT.size)
        self.close()
        if len(data) != _REPORT.size:
            raise HostError("enter the container", "", "the process that does was killed")
        kind, index, error, detail, _, _, _ = _REPORT.unpack(data)
        if kind == _FAILED:
            raise _failure(self._block, index, error, detail)

    def _need_pid(self) -> None:
        """The helper tells the pid on the same socket, and may be slower than the process itself."""
        while self.pid == 0:
            data = self._socket.recv(_REPORT.size)
            if len(data) != _REPORT.size:
                self.close()
                raise HostError("start the container", "", "its process was killed")
            report = _REPORT.unpack(data)
            if report[0] == _FAILED:
                self.close()
                raise _failure(self._block, *report[1:4])
            if report[0] == _RUNNING:
                self.pid = report[5]

    def go_on(self) -> None:
        """Let the process go on behind CHECKPOINT, or wait for its start behind PARK."""
        self._socket.send(b"G")

    def close(self) -> None:
        """Stop listening, which ends a process that is not parked yet, and reap the helper."""
        self._socket.close()
        if self._helper:
            os.waitpid(self._helper, 0)
            self._helper = 0

    @property
    def block(self) -> bytes:
        """The encoded plan, which names an operation that fails."""
        return self._block


def launched(plan: Plan, fds: dict[int, int], preserved: int, bundle: str) -> Launch:
    """Return the Launch of a plan whose process begins in `bundle`, and with it its hooks; where this one is without."""
    if not bundle:
        return Launch(plan, fds, preserved)
    from pyrun.oci.hooks import InBundle

    with InBundle(bundle):
        return Launch(plan, fds, preserved)


def _look(fd: int) -> None:
    from pyrun.oci import attend

    attend.comes_first(fd, 1)  # POLLIN


def _spawn(argv: list[str], slots: list[int], environment: dict[str, str]) -> int:
    """Start the helper with `slots` from descriptor 3 on; returns its pid.

    By Python's own call: this process is small, and the extension with cffi takes longer to be imported than all of this.
    """
    import fcntl

    actions: list[tuple[int, int] | tuple[int, int, int]] = []
    # none stands where another is to go, the program included
    copies = [fd if fd < 0 else fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _ABOVE) for fd in (*slots, native.helper())]
    try:
        for slot, fd in enumerate(copies[:-1], 3):
            actions.append((os.POSIX_SPAWN_DUP2, fd, slot) if fd >= 0 else (os.POSIX_SPAWN_CLOSE, slot))
        return os.posix_spawn(f"/proc/self/fd/{copies[-1]}", argv, environment, file_actions=actions)
    finally:
        for fd in copies:
            if fd >= 0:
                os.close(fd)


def _failure(block: bytes, index: int, error: int, detail: int) -> Exception:
    from pyrun.oci.explain import failure

    return failure(ops.notes(block), index, error, detail)


def failure_of(data: bytes, notes: list[ops.Op]) -> Exception | None:
    """Return what the fifo of a container holds, None for nothing."""
    if len(data) < _REPORT.size:
        return None
    from pyrun.oci.explain import failure

    _, index, error, detail, _, _, _ = _REPORT.unpack(data[: _REPORT.size])
    return failure(notes, index, error, detail)
