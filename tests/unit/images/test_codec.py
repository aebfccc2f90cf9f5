"""Decompression: by content, all members or an error, and never more than the quotas."""

from __future__ import annotations

import io
import lzma
import os
import random
import struct
import zlib
from collections.abc import Callable

import pytest
import zstandard
from archives import COMPRESS, END, aci, file
from isal import isal_zlib

from pyrun.errors import ArchiveError
from pyrun.images import codec
from pyrun.images.limits import MIB, Limits

TAR = file(b"rootfs/a", bytes(range(256)) * 40) + file(b"rootfs/b", os.urandom(5000)) + END
COMPRESSED = [name for name in codec.FORMATS if name != "tar"]
PARTS = (TAR[:7000], b"", TAR[7000:])


def read_all(data: bytes, limits: Limits | None = None, **options: tuple[str, ...]) -> bytes:
    reader = codec.reader(io.BytesIO(data), limits=limits or Limits(), **options)
    out = bytearray()
    while chunk := reader.chunk():
        out += chunk
    return bytes(out)


@pytest.fixture(params=["isal", "zlib"])
def inflate(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """gzip through both decoders."""
    if request.param == "zlib":
        monkeypatch.setattr(codec, "_inflate", zlib)


@pytest.mark.parametrize("format", codec.FORMATS)
def test_aci_10_formats_are_told_by_content(format: str) -> None:
    data = COMPRESS[format](TAR)
    assert codec.sniff(data[:512]) == format
    assert read_all(data) == TAR


@pytest.mark.parametrize("format", COMPRESSED)
def test_aci_11_every_member_is_decoded(format: str, inflate: None) -> None:
    assert read_all(b"".join(COMPRESS[format](part) for part in PARTS)) == TAR


@pytest.mark.parametrize("format", codec.FORMATS)
def test_small_reads_give_the_same(format: str) -> None:
    class Trickle(io.BytesIO):
        def read(self, n: int | None = -1, /) -> bytes:
            return super().read(min(n or 1, random.Random(self.tell()).randint(1, 97)))

    reader = codec.reader(Trickle(b"".join(COMPRESS[format](part) for part in PARTS)), limits=Limits())
    out = bytearray()
    while data := reader.read(333):
        assert len(data) <= 333
        out += data
    assert out == TAR


def test_skippable_zstd_frames_are_skipped() -> None:
    skippable = b"\x53\x2a\x4d\x18" + struct.pack("<I", 300) + bytes(300)
    assert read_all(skippable + COMPRESS["zstd"](TAR) + skippable) == TAR


def test_zstd_frames_of_every_header() -> None:
    long = bytes(3 * MIB) + os.urandom(200_000)
    for checksum in (False, True):
        for size in (False, True):
            compressor = zstandard.ZstdCompressor(level=1, write_checksum=checksum, write_content_size=size)
            for content in (b"", b"x", b"x" * 255, b"x" * 256, b"x" * 70_000, long):
                assert read_all(TAR_HEAD + compressor.compress(content)) == content


TAR_HEAD = b"\x50\x2a\x4d\x18\0\0\0\0"  # an empty skippable frame


@pytest.mark.parametrize("padding", [4, 512])
def test_xz_stream_padding_is_legal(padding: int) -> None:
    data = COMPRESS["xz"](PARTS[0]) + bytes(padding) + COMPRESS["xz"](PARTS[2]) + bytes(padding)
    assert read_all(data) == TAR


TRAILING = {
    "byte": b"x",
    "zero": b"\0",
    "zeros": bytes(512),
    "text": b"hello, world, this is text",
    "magic-alone": b"\x1f\x8b\x08",
    "other-format": COMPRESS["bzip2"](b"evil"),
}


@pytest.mark.parametrize("tail", [*TRAILING, "own-magic"])
@pytest.mark.parametrize("format", COMPRESSED)
def test_b18_other_trailing_bytes_are_refused(format: str, tail: str, inflate: None) -> None:
    data = COMPRESS[format](TAR)
    extra = data[:7] if tail == "own-magic" else TRAILING[tail]
    if format == "bzip2" and tail == "other-format":
        extra = COMPRESS["gzip"](b"evil")
    if format == "xz" and tail == "zeros":
        extra = bytes(511)
    with pytest.raises(ArchiveError):
        read_all(data + extra)


@pytest.mark.parametrize("format", COMPRESSED)
def test_truncated_streams_are_refused(format: str, inflate: None) -> None:
    data = COMPRESS[format](TAR)
    for at in {1, 2, 3, 5, 9, 11, 17, len(data) // 3, len(data) // 2, *range(len(data) - 13, len(data))}:
        with pytest.raises(ArchiveError) as caught:
            read_all(data[:at])
        assert caught.value.hint


@pytest.mark.parametrize("format", COMPRESSED)
def test_damage_is_found(format: str, inflate: None) -> None:
    """Every codec here has a checksum over the content, so no flipped bit may go by."""
    data = zstandard.ZstdCompressor(write_checksum=True).compress(TAR) if format == "zstd" else COMPRESS[format](TAR)
    start = 10 if format == "gzip" else 0  # time, system and flags of the gzip header mean nothing
    for at in random.Random(1).sample(range(start, len(data)), 300):
        broken = bytearray(data)
        broken[at] ^= 1 << at % 8
        try:
            assert read_all(bytes(broken)) == TAR
        except ArchiveError as exc:
            assert str(exc).isprintable()


FOREIGN: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty"),
    "short": (b"abc", "unknown type"),
    "zeros": (bytes(1024), "unknown type"),
    "lzma": (lzma.compress(TAR, lzma.FORMAT_ALONE), "old kind"),
    "zip": (b"PK\x03\x04" + bytes(600), "zip"),
    "pgp": (b"-----BEGIN PGP MESSAGE-----\n", "PGP"),
    "json": (b'{"acKind": 1}', "JSON"),
    "raw-deflate": (zlib.compress(TAR), "unknown type"),
    "v7": (b"a" + bytes(99) + b"0000644\0" * 3 + b"00000000000\0" * 2 + b"\0" * 8 + bytes(356), "before POSIX"),
}


def with_checksum(block: bytes) -> bytes:
    block = block[:148] + b" " * 8 + block[156:]
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


@pytest.mark.parametrize(("data", "reason"), FOREIGN.values(), ids=FOREIGN)
def test_aci_10_other_files_are_refused(data: bytes, reason: str) -> None:
    if "POSIX" in reason:
        data = with_checksum(data)
    with pytest.raises(ArchiveError, match=reason) as caught:
        read_all(data)
    assert caught.value.hint


def test_a_format_can_be_left_out() -> None:
    with pytest.raises(ArchiveError, match="compressed with zstd") as caught:
        read_all(COMPRESS["zstd"](TAR), allow=("tar", "gzip", "bzip2", "xz"))
    assert "tar, gzip, bzip2, xz" in caught.value.hint


@pytest.mark.parametrize("format", codec.FORMATS)
def test_total_quota(format: str) -> None:
    data = COMPRESS[format](aci(file(b"rootfs/a", bytes(3 * MIB))))
    assert read_all(data, Limits(total=4 * MIB))
    with pytest.raises(ArchiveError, match="holds more than"):
        read_all(data, Limits(total=2 * MIB))


@pytest.mark.parametrize("format", COMPRESSED)
def test_ratio_quota(format: str) -> None:
    data = COMPRESS[format](bytes(8 * MIB))
    assert read_all(data, Limits(ratio=10, ratio_floor=8 * MIB))
    with pytest.raises(ArchiveError, match="expands more than 10 times"):
        read_all(data, Limits(ratio=10, ratio_floor=MIB))


def xz_with_dictionary(size: int) -> bytes:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": size}]
    return lzma.compress(TAR, lzma.FORMAT_XZ, filters=filters)


def zstd_with_window(log: int) -> bytes:
    parameters = zstandard.ZstdCompressionParameters(window_log=log, enable_ldm=False)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return compressor.compress(TAR) + compressor.flush()


@pytest.mark.parametrize(("make", "good", "bad"), [(xz_with_dictionary, 4 * MIB, 16 * MIB), (zstd_with_window, 22, 24)], ids=["xz", "zstd"])
def test_window_quota(make: Callable[[int], bytes], good: int, bad: int) -> None:
    assert read_all(make(good), Limits(window=8 * MIB)) == TAR
    with pytest.raises(ArchiveError, match=r"needs (more memory|a window)"):
        read_all(make(bad), Limits(window=8 * MIB))


def test_zstd_dictionaries_are_refused() -> None:
    samples: list[bytes | bytearray | memoryview] = [b"manifest rootfs/%d " % n * 20 + os.urandom(50) for n in range(200)]
    dictionary = zstandard.train_dictionary(4096, samples)
    with pytest.raises(ArchiveError, match="dictionary"):
        read_all(zstandard.ZstdCompressor(dict_data=dictionary).compress(TAR))


@pytest.mark.parametrize("format", COMPRESSED)
def test_many_tiny_members_take_linear_time(format: str) -> None:
    count = 2000 if format == "xz" else 20_000
    assert read_all(COMPRESS[format](TAR) + COMPRESS[format](b"") * count) == TAR


def test_isal_and_zlib_read_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one of them accepts, the other must not read as something else."""
    choose = random.Random(7)
    data = COMPRESS["gzip"](TAR[:3000])
    for _ in range(400):
        broken = bytearray(data)
        for _ in range(choose.randint(1, 3)):
            broken[choose.randrange(len(broken))] = choose.randrange(256)
        results: list[bytes | None] = []
        for module in (isal_zlib, zlib):
            monkeypatch.setattr(codec, "_inflate", module)
            try:
                results.append(read_all(bytes(broken)))
            except ArchiveError:
                results.append(None)
        assert None in results or results[0] == results[1]
