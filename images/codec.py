"""Decompression of hostile streams: sniffed by content, whole or not at all, bounded in memory and output.

A file may be several gzip members, bzip2 or xz streams, or zstd frames after one another; all of them are
decoded (ACI-11), and anything else behind the last is refused, zeros included: tools disagree about what
such a file contains.  Only xz's own stream padding is legal.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import ModuleType
from typing import Any, NoReturn

from pyrun.errors import ArchiveError
from pyrun.images.input import BLOCK, CHUNK, Input, Source, refuse, trailing, truncated
from pyrun.images.limits import MIB, Limits

_inflate: ModuleType = zlib
with suppress(ImportError):  # twice as fast, but only built for some machines
    from isal import isal_zlib as _inflate

_FIRST_STEP = 1 << 10

GZIP, BZIP2, XZ, ZSTD = b"\x1f\x8b\x08", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"
FORMATS = ("tar", "gzip", "bzip2", "xz", "zstd")

_FOREIGN = (
    (b"PK\x03\x04", "a zip archive"),
    (b"\x5d\x00\x00", "an lzma file of the old kind"),
    (b"\x04\x22\x4d\x18", "an lz4 file"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"-----BEGIN PGP", "an armoured PGP message"),
    (b"\x7fELF", "a program"),
    (b"{", "a JSON document"),
    (b"hsqs", "a squashfs image"),
)


def sniff(head: bytes) -> str:
    """The format of a file that begins with `head` (at least 262 bytes of it): one of FORMATS or "unknown"."""
    if head.startswith(GZIP):
        return "gzip"
    if head.startswith(BZIP2):
        return "bzip2"
    if head.startswith(XZ):
        return "xz"
    if head.startswith(ZSTD) or (head[1:4] == b"\x2a\x4d\x18" and head[0] & 0xF0 == 0x50):
        return "zstd"
    return "tar" if head[257:262] == b"ustar" else "unknown"


class Reader:
    """The decompressed stream; ArchiveError for damage, for trailing bytes, and beyond the quotas."""

    __slots__ = ("_chunks", "_input", "_limits", "_rest", "format", "produced")

    def __init__(self, source: Input, format: str, chunks: Iterator[bytes], limits: Limits) -> None:
        self.format = format
        self.produced = 0
        self._input = source
        self._chunks = chunks
        self._limits = limits
        self._rest = b""

    def chunk(self) -> bytes:
        """The next piece of the stream, as large as decoding made it; empty at the end."""
        data = next(self._chunks, b"")
        self.produced += len(data)
        limits = self._limits
        if self.produced > limits.total:
            refuse(self.format, f"holds more than {limits.total} bytes", "build a smaller image: this quota guards the disk of the host")
        if self.produced > limits.ratio_floor and self.produced > limits.ratio * self._input.consumed:
            refuse(self.format, f"expands more than {limits.ratio} times", "this looks like a decompression bomb")
        return data

    def read(self, n: int) -> bytes:
        """Up to `n` bytes (n > 0); empty only at the end."""
        data = self._rest or self.chunk()
        self._rest = data[n:]
        return data[:n] if self._rest else data


def reader(file: Source, *, limits: Limits, allow: tuple[str, ...] = FORMATS) -> Reader:
    """Opens a stream by its content; ArchiveError unless its format is one of `allow`."""
    source = Input(file)
    head = source.peek(512)
    format = sniff(head)
    if format not in allow:
        _unsupported(head, format, allow)
    return Reader(source, format, _CODECS[format](source, limits), limits)


def _unsupported(head: bytes, format: str, allow: tuple[str, ...]) -> NoReturn:
    what = f"is compressed with {format}" if format in FORMATS else "is of an unknown type"
    if not head:
        what = "is empty"
    for magic, name in _FOREIGN:
        if head.startswith(magic):
            what = f"is {name}"
    if len(head) == 512 and what == "is of an unknown type" and _is_v7(head):
        what = "is a tar archive of the form before POSIX"
    raise ArchiveError("read archive", "", what, hint=f"an image is a POSIX tar archive ({', '.join(allow)} are read)")


def _is_v7(head: bytes) -> bool:
    digits = head[148:156].strip(b" \0")
    return digits.isdigit() and format(sum(head) - sum(head[148:156]) + 256, "o").encode() == digits.lstrip(b"0")


class _Gzip:
    """zlib's decompressor with the interface of bz2's and lzma's."""

    __slots__ = ("_z",)

    def __init__(self) -> None:
        self._z = _inflate.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return bool(self._z.eof)

    @property
    def needs_input(self) -> bool:
        return not self._z.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return bytes(self._z.unused_data)

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return bytes(self._z.decompress(data or self._z.unconsumed_tail, max_length))


def _streams(source: Input, make: Callable[[], Any], format: str, magic: bytes, padding: int = 0) -> Iterator[bytes]:
    """Decodes every member or stream; `padding` zeros and multiples of it may stand between and after."""
    while True:
        yield from _one_stream(source, make(), format)
        zeros = 0
        while padding and source.peek(padding) == bytes(padding):
            zeros += len(source.take(padding))
        if not source.fill():
            return
        if source.peek(len(magic)) != magic:
            trailing(format)


def _one_stream(source: Input, decoder: Any, format: str) -> Iterator[bytes]:
    # Small steps first: what a decoder did not use is copied, and a file of tiny members would copy it often.
    step = _FIRST_STEP
    while not decoder.eof:
        data = b""
        if decoder.needs_input:
            data = source.take(step)
            if not data:
                truncated(format)
            step = min(step * 4, BLOCK)
        try:
            out = decoder.decompress(data, CHUNK)
        except (_inflate.error, lzma.LZMAError, ValueError, EOFError, OSError) as exc:
            _damaged(format, exc)
        if out:
            yield out
    source.position -= len(decoder.unused_data)


def _damaged(format: str, exc: Exception) -> NoReturn:
    reason = str(exc)
    if "emory usage limit" in reason:
        refuse(format, "needs more memory to decode than is allowed", "compress the image with a smaller dictionary (xz -6)")
    reason = reason.lower() or type(exc).__name__.lower()
    raise ArchiveError("decompress", f"{format} stream", f"is damaged ({reason})", hint="fetch the file again") from None


def _tar(source: Input, _limits: Limits) -> Iterator[bytes]:
    while data := source.take(BLOCK):
        yield data


def _gzip(source: Input, _limits: Limits) -> Iterator[bytes]:
    return _streams(source, _Gzip, "gzip", GZIP)


def _bzip2(source: Input, _limits: Limits) -> Iterator[bytes]:
    return _streams(source, bz2.BZ2Decompressor, "bzip2", BZIP2)


def _xz(source: Input, limits: Limits) -> Iterator[bytes]:
    memory = limits.window + MIB  # the dictionary and the decoder's own tables
    return _streams(source, lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=memory), "xz", XZ, padding=4)


def _zstd(source: Input, limits: Limits) -> Iterator[bytes]:
    from pyrun.images import zstd

    return zstd.frames(source, limits)


_CODECS: dict[str, Callable[[Input, Limits], Iterator[bytes]]] = {"tar": _tar, "gzip": _gzip, "bzip2": _bzip2, "xz": _xz, "zstd": _zstd}
