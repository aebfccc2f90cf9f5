"""The compressed file under a decoder, and the errors that all decoders share."""

from __future__ import annotations

from typing import NoReturn, Protocol

from pyrun.errors import ArchiveError

CHUNK = 256 << 10  # most bytes that one step of decoding yields, give or take a block
BLOCK = 64 << 10  # bytes read from the file at a time


class Source(Protocol):
    """What compressed bytes are read from."""

    def read(self, n: int, /) -> bytes: ...


class Input:
    """The compressed file with its bytes counted and the ones looked at put back."""

    __slots__ = ("_file", "buffer", "consumed", "position")

    def __init__(self, file: Source) -> None:
        self._file = file
        self.buffer = b""
        self.position = 0
        self.consumed = 0

    def fill(self, wanted: int = 1) -> int:
        """Reads until `wanted` bytes are buffered or the file ends; returns how many are."""
        while (have := len(self.buffer) - self.position) < wanted:
            data = self._file.read(BLOCK)
            if not data:
                return have
            self.consumed += len(data)
            self.buffer = self.buffer[self.position :] + data if have else data
            self.position = 0
        return have

    def peek(self, n: int) -> bytes:
        """Up to `n` bytes, left in place."""
        self.fill(n)
        return self.buffer[self.position : self.position + n]

    def take(self, n: int) -> bytes:
        """Up to `n` bytes of what one read brings."""
        self.fill()
        data = self.buffer[self.position : self.position + n]
        self.position += len(data)
        return data


def refuse(format: str, reason: str, hint: str) -> NoReturn:
    """Raises the ArchiveError of a stream."""
    raise ArchiveError("decompress", f"{format} stream", reason, hint=hint)


def truncated(format: str) -> NoReturn:
    """Raises the ArchiveError of a stream that stops early."""
    refuse(format, "ends in the middle", "the file was cut short: fetch it again")


def trailing(format: str) -> NoReturn:
    """Raises the ArchiveError of bytes that belong to no member, stream or frame."""
    refuse(format, "is followed by bytes that do not belong to it", "remove what was appended to the file, or fetch it again")
