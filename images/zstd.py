"""zstd frames, walked block by block (RFC 8878 section 3) and decoded by the `zstandard` library.

The library's incremental decoder puts no bound on what one call returns, and four bytes of input can stand
for 128 KiB of output; its bounded reader in turn does not tell a whole frame from a cut one.  So the block
headers are read here, and the library is handed a few blocks at a time.
"""

from __future__ import annotations

from collections.abc import Iterator

import zstandard

from pyrun.images.input import CHUNK, Input, refuse, trailing, truncated
from pyrun.images.limits import MIB, Limits

MAGIC = b"\x28\xb5\x2f\xfd"
_BLOCK_MAX = 128 << 10
_CONTENT_SIZE_BYTES = (0, 2, 4, 8)
_DICTIONARY_ID_BYTES = (0, 1, 2, 4)
_RLE, _COMPRESSED, _RESERVED = 1, 2, 3


def frames(source: Input, limits: Limits) -> Iterator[bytes]:
    """Decodes every frame of the file and skips skippable ones; ArchiveError for anything else."""
    while magic := source.peek(4):
        if magic == MAGIC:
            yield from _frame(source, limits)
        elif magic[1:] == b"\x2a\x4d\x18" and magic[0] & 0xF0 == 0x50:
            _exactly(source, 4)
            _skip(source, int.from_bytes(_exactly(source, 4), "little"))
        else:
            trailing("zstd")


def _frame(source: Input, limits: Limits) -> Iterator[bytes]:
    header, window, checksum = _header(source)
    if window > limits.window:
        refuse(
            "zstd",
            f"needs a window of {window // MIB} MiB, more than {limits.window // MIB}",
            "compress the image without --ultra or --long",
        )
    decoder = zstandard.ZstdDecompressor(max_window_size=max(limits.window, 1 << 10)).decompressobj()
    batch, budget, last = bytearray(header), 0, False
    while not last:
        block = _exactly(source, 3)
        word = int.from_bytes(block, "little")
        last, kind, size = bool(word & 1), word >> 1 & 3, word >> 3
        if kind == _RESERVED or size > _BLOCK_MAX:
            refuse("zstd", "is damaged (impossible block)", "fetch the file again")
        batch += block + _exactly(source, 1 if kind == _RLE else size)
        budget += _BLOCK_MAX if kind == _COMPRESSED else size
        if last and checksum:
            batch += _exactly(source, 4)
        if last or budget >= CHUNK:
            try:
                out = decoder.decompress(bytes(batch))
            except zstandard.ZstdError as exc:
                refuse("zstd", f"is damaged ({str(exc).lower()})", "fetch the file again")
            batch, budget = bytearray(), 0
            if out:
                yield out
    if not decoder.eof:
        refuse("zstd", "is damaged (the last block does not end the frame)", "fetch the file again")


def _header(source: Input) -> tuple[bytes, int, bool]:
    """Frame header with its magic, the window size in bytes, and whether a checksum follows the blocks."""
    header = _exactly(source, 5)
    descriptor = header[4]
    single_segment = bool(descriptor & 0x20)
    size_bytes = _CONTENT_SIZE_BYTES[descriptor >> 6] or int(single_segment)
    window = 0
    if not single_segment:
        header += _exactly(source, 1)
        base = 1 << 10 + (header[-1] >> 3)
        window = base + base // 8 * (header[-1] & 7)
    dictionary = _exactly(source, _DICTIONARY_ID_BYTES[descriptor & 3])
    if any(dictionary):
        refuse("zstd", "needs a dictionary", "compress the image without a dictionary")
    content = _exactly(source, size_bytes)
    if single_segment:
        window = int.from_bytes(content, "little") + (256 if size_bytes == 2 else 0)
    return header + dictionary + content, window, bool(descriptor & 4)


def _exactly(source: Input, n: int) -> bytes:
    if source.fill(n) < n:
        truncated("zstd")
    data = source.buffer[source.position : source.position + n]
    source.position += n
    return data


def _skip(source: Input, n: int) -> None:
    while n:
        data = source.take(n)
        if not data:
            truncated("zstd")
        n -= len(data)
