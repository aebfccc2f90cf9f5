"""What a container says to the service manager, and to what end (pyrun.oci.notify)."""

from __future__ import annotations

import _thread
from typing import Any

from pyrun.oci.notify import Relay, passed


class Endless:
    """A socket whose senders are quicker than who reads it."""

    def __init__(self) -> None:
        self.read = 0

    def recv(self, _: int) -> bytes:
        self.read += 1
        assert self.read < 100_000, "read without end"
        return b"READY=1" if self.read == 3 else b"STATUS=x"


def test_who_says_more_than_is_heard_keeps_nobody() -> None:
    relay: Any = Relay.__new__(Relay)
    relay._socket, relay._lock, relay._to = Endless(), _thread.allocate_lock(), None
    assert relay.drain(), "what came first counts"
    assert not relay.drain()


def test_lines_that_speak_for_the_caller_stay() -> None:
    assert passed(b"READY=1\nMAINPID=1\nSTATUS=a\nFDSTORE=1\nREADY=0\nREADY=1x\n") == b"READY=1\nSTATUS=a"
