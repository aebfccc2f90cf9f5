"""A bus that is none: speaks enough of D-Bus for one client to ask systemd for a unit, and answers as a test wants.

with Bus(path, answer) as bus:     # answer(bus, body) gets the body of StartTransientUnit and sends what it likes
    ...                            # a client connects
    bus.calls                      # what came: (member, signature, body)
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path

Call = tuple[str, str, bytes]


def message(kind: int, answers: int, signature: str = "", body: bytes = b"") -> bytes:
    """A method return (2) or an error (3), from nobody, to the call of that serial."""
    fields = struct.pack("<BBsBI", 5, 1, b"u", 0, answers)
    if kind == 3:
        name = b"org.freedesktop.DBus.Error.Failed"
        fields += struct.pack("<BBsBI", 4, 1, b"s", 0, len(name)) + name + b"\0"
        fields += bytes(-len(fields) % 8)
    if signature:
        fields += struct.pack("<BBsBB", 8, 1, b"g", 0, len(signature)) + signature.encode() + b"\0"
    head = struct.pack("<cBBBIII", b"l", kind, 1, 1, len(body), 7, len(fields)) + fields
    return head + bytes(-len(head) % 8) + body


def string(text: str) -> bytes:
    return struct.pack("<I", len(text)) + text.encode() + b"\0"


def job(serial: int) -> bytes:
    """What systemd answers that has begun."""
    return message(2, serial, "o", string("/org/freedesktop/systemd1/job/1"))


class Bus:
    """Listens at `path` for one client after the other."""

    def __init__(self, path: Path, answer: Callable[[Bus, bytes], None], let_in: Callable[[], bytes] | None = None) -> None:
        self.answer, self.let_in = answer, let_in  # what a client is told that has said who it is, and all that it is told
        self.calls: list[Call] = []
        self.server = socket.socket(socket.AF_UNIX)
        self.server.bind(str(path))
        self.server.listen()
        self.thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Bus:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown(socket.SHUT_RDWR)
        self.server.close()
        self.thread.join()

    def send(self, data: bytes) -> None:
        self.client.sendall(data)

    def _serve(self) -> None:
        while True:
            try:
                self.client, _ = self.server.accept()
            except OSError:
                return
            try:
                with self.client, self.client.makefile("rb") as stream:
                    self._talk(stream)
            except (OSError, EOFError):
                continue

    def _talk(self, stream: object) -> None:
        read, line = stream.read, stream.readline  # type: ignore[attr-defined]
        words = [line()]
        while words[-1] not in (b"BEGIN\r\n", b""):
            words.append(line())
        self.send(b"DATA\r\n" * (b"DATA\r\n" in words))  # busctl says who it is in a line of its own
        if self.let_in is not None:
            self.send(self.let_in())
            return
        self.send(b"OK 0123456789abcdef0123456789abcdef\r\n" + b"AGREE_UNIX_FD\r\n" * (b"NEGOTIATE_UNIX_FD\r\n" in words))
        while head := read(16):
            order, kind, _, _, size, self.serial, fields = struct.unpack("<cBBBIII", head)
            assert (order, kind) == (b"l", 1)
            found = fields_of(read(fields + -fields % 8)[:fields])
            body = read(size)
            self.calls.append((found[3], found.get(8, ""), body))
            if found[3] == "Hello":
                self.send(message(2, self.serial, "s", string(":1.1")))
            elif found[3] == "StartTransientUnit":
                self.answer(self, body)


def fields_of(data: bytes) -> dict[int, str]:
    """The fields of a header that are texts."""
    found, at = {}, 0
    while at < len(data):
        at += -at % 8
        code, _, kind = data[at], data[at + 1], data[at + 2 : at + 3]
        at += 4
        if kind == b"g":
            size, at = data[at], at + 1
        else:
            size, at = struct.unpack_from("<I", data, at)[0], at + 4
        found[code] = data[at : at + size].decode()
        at += size + 1
    return found
