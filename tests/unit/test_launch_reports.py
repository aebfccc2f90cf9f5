"""What a supervisor says on its control socket, and in what order the kernel hands it over."""

from __future__ import annotations

import os
import signal
import socket

from pyrun.engine.launch import EXITED, Supervisor
from pyrun.native._native import ffi


def test_the_end_of_an_app_is_told_though_a_signal_was_not_read() -> None:
    """Who closes a socket with something unread in it resets the connection: recv(2) says that first, and then what was sent before."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with open(os.devnull, "rb") as pidfd:
        supervisor = Supervisor(os.getpid(), os.dup(pidfd.fileno()), ours.detach(), b"")
    os.write(supervisor.control, bytes([signal.SIGTERM]))
    report = ffi.new("struct plan_report *", {"kind": EXITED, "status": signal.SIGTERM})
    theirs.send(bytes(ffi.buffer(report)))
    theirs.close()
    told = supervisor.next_report()
    assert told is not None and told.kind == EXITED and supervisor.status == signal.SIGTERM
    assert supervisor.next_report() is None
