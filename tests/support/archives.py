"""Tar archives written byte by byte, so that they can be wrong in every way, and trees compared in every respect."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zstandard

UID, GID = os.geteuid(), os.getegid()
END = bytes(1024)
MANIFEST: dict[str, Any] = {"acKind": "ImageManifest", "acVersion": "0.8.11", "name": "example.com/app"}
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "tar": lambda data: data,
    "gzip": lambda data: gzip.compress(data, 6, mtime=0),
    "bzip2": bz2.compress,
    "xz": lambda data: lzma.compress(data, preset=0),
    "zstd": lambda data: zstandard.ZstdCompressor(level=3).compress(data),
}


def octal(value: int, width: int) -> bytes:
    """A numeric field as POSIX writes it."""
    return b"%0*o\0" % (width - 1, value)


def base256(value: int, width: int) -> bytes:
    """A numeric field as GNU tar writes numbers that are large or negative."""
    field = bytearray(value.to_bytes(width, "big", signed=True))
    field[0] = 0xFF if value < 0 else 0x80 | field[0]
    return bytes(field)


def header(
    name: bytes,
    type: bytes = b"0",
    *,
    size: int | bytes = 0,
    mode: int = 0o644,
    uid: int | bytes = UID,
    gid: int | bytes = GID,
    mtime: int | bytes = 1_600_000_000,
    link: bytes = b"",
    magic: bytes = b"ustar\x0000",
    device: tuple[int, int] = (0, 0),
    prefix: bytes = b"",
    checksum: bytes | None = None,
    patch: tuple[int, bytes] | None = None,
) -> bytes:
    """One header block; numbers given as bytes stand in it as they are, `patch` overwrites at an offset before the checksum is made."""

    def number(value: int | bytes, width: int) -> bytes:
        return octal(value, width) if isinstance(value, int) else value.ljust(width, b"\0")

    block = bytearray(512)
    for at, field in (
        (0, name[:100]), (100, octal(mode, 8)), (108, number(uid, 8)), (116, number(gid, 8)), (124, number(size, 12)),
        (136, number(mtime, 12)), (148, b" " * 8), (156, type), (157, link[:100]), (257, magic),
        (329, octal(device[0], 8)), (337, octal(device[1], 8)), (345, prefix),
        *([patch] if patch else []),
    ):  # fmt: skip
        block[at : at + len(field)] = field
    block[148:156] = b"%06o\0 " % sum(block) if checksum is None else checksum
    return bytes(block)


def correct_checksums(buffer: bytearray) -> None:
    """Makes headers valid again, so that mutations reach what lies behind the checksum."""
    for at in range(0, len(buffer) - 511, 512):
        if buffer[at + 257 : at + 262] == b"ustar":
            buffer[at + 148 : at + 156] = b" " * 8
            buffer[at + 148 : at + 156] = b"%06o\0 " % sum(buffer[at : at + 512])


def padded(data: bytes) -> bytes:
    """Data filled up with zeros to whole blocks."""
    return data + bytes(-len(data) % 512)


def file(name: bytes, data: bytes = b"", **fields: Any) -> bytes:
    """A regular file."""
    return header(name, fields.pop("type", b"0"), size=len(data), **fields) + padded(data)


def directory(name: bytes, **fields: Any) -> bytes:
    """A directory."""
    return header(name, b"5", mode=fields.pop("mode", 0o755), **fields)


def symlink(name: bytes, target: bytes, **fields: Any) -> bytes:
    """A symbolic link."""
    return header(name, b"2", link=target, mode=0o777, **fields)


def hardlink(name: bytes, target: bytes, **fields: Any) -> bytes:
    """A hard link."""
    return header(name, b"1", link=target, **fields)


def node(name: bytes, type: bytes, major: int = 0, minor: int = 0, **fields: Any) -> bytes:
    """A device (type 3 or 4) or a fifo (6)."""
    return header(name, type, device=(major, minor), **fields)


def record(key: bytes, value: bytes) -> bytes:
    """One pax record."""
    length = len(key) + len(value) + 3
    while length != len(key) + len(value) + 3 + len(str(length)):
        length = len(key) + len(value) + 3 + len(str(length))
    return b"%d %s=%s\n" % (length, key, value)


def pax(*records: tuple[bytes, bytes], type: bytes = b"x", raw: bytes | None = None) -> bytes:
    """An extended header; `raw` replaces its records."""
    payload = b"".join(record(*pair) for pair in records) if raw is None else raw
    return header(b"PaxHeaders/x", type, size=len(payload)) + padded(payload)


def gnu_long(name: bytes, type: bytes = b"L") -> bytes:
    """GNU's header for a long name (L) or link target (K)."""
    payload = name + b"\0"
    return header(b"././@LongLink", type, size=len(payload), magic=b"ustar  \0") + padded(payload)


def manifest(**changes: Any) -> bytes:
    """The member `manifest`."""
    return file(b"manifest", json.dumps({**MANIFEST, **changes}).encode())


def aci(*members: bytes, end: bytes = END) -> bytes:
    """A whole image whose rootfs holds `members` (with their prefix rootfs/)."""
    return directory(b"rootfs") + b"".join(members) + manifest() + end


def walk(top: Path) -> list[Path]:
    """Everything below `top`; unlike Path.rglob it looks behind no link."""
    return sorted(Path(folder, name) for folder, folders, files in os.walk(top) for name in (*folders, *files))


def snapshot(top: Path, *, times: bool = True) -> dict[str, tuple[Any, ...]]:
    """Everything about the tree at `top` that an archive can say: kind, mode, owner, times, content, links, attributes."""
    found: dict[str, tuple[Any, ...]] = {}
    inodes: dict[tuple[int, int], str] = {}
    for path in [top, *walk(top)]:
        info = path.lstat()
        is_file = stat.S_ISREG(info.st_mode)
        first = inodes.setdefault((info.st_dev, info.st_ino), str(path.relative_to(top)))
        found[str(path.relative_to(top))] = (
            oct(info.st_mode), info.st_uid, info.st_gid, info.st_mtime_ns if times else 0, info.st_rdev, info.st_size if is_file else 0,
            path.read_bytes() if is_file else os.readlink(path) if path.is_symlink() else b"", first,
            {name: os.getxattr(path, name, follow_symlinks=False) for name in os.listxattr(path, follow_symlinks=False)},
        )  # fmt: skip
    return found
