"""The tar parser: every legal form gives the right member, every ambiguous one is refused."""

from __future__ import annotations

import io
import tarfile
from typing import Any

import pytest
from archives import END, base256, directory, file, gnu_long, hardlink, header, node, padded, pax, record, symlink

from pyrun.errors import ArchiveError
from pyrun.images import codec, tar
from pyrun.images.limits import Limits
from pyrun.images.tar import Member, Members

GNU = b"ustar  \0"


def parse(data: bytes, limits: Limits | None = None) -> list[tuple[Member, bytes]]:
    """Every member with its data."""
    limits = limits or Limits()
    found = []
    for member in Members(codec.reader(io.BytesIO(data), limits=limits), limits):
        content = b""
        while piece := member.read(100):
            content += piece
        found.append((member, content))
    return found


def one(data: bytes) -> tuple[Member, bytes]:
    ((member, content),) = parse(data + END)
    return member, content


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (file(b"a"), "file"),
        (file(b"a", type=b"\0"), "file"),
        (file(b"a", type=b"7"), "file"),
        (header(b"a/", b"\0"), "directory"),
        (directory(b"a"), "directory"),
        (directory(b"a/"), "directory"),
        (symlink(b"a", b"../../x"), "symlink"),
        (hardlink(b"a", b"b"), "hardlink"),
        (node(b"a", b"3", 1, 3), "char"),
        (node(b"a", b"4", 8, 1), "block"),
        (node(b"a", b"6"), "fifo"),
    ],
)
def test_kinds(data: bytes, kind: str) -> None:
    assert one(data)[0].kind == kind


def test_fields() -> None:
    member, content = one(file(b"a", b"hello", mode=0o104755, uid=7, gid=8, mtime=9))
    assert (member.path, member.mode, member.uid, member.gid, member.mtime_ns, member.size) == (b"a", 0o4755, 7, 8, 9 * 10**9, 5)
    assert content == b"hello"
    member = one(node(b"d", b"4", 259, 70000))[0]
    assert (member.devmajor, member.devminor) == (259, 70000)
    assert one(symlink(b"l", b"t\xff"))[0].linkname == b"t\xff"


NUMBERS = [
    (b"0000644\0", 0o644),
    (b"000644 \0", 0o644),
    (b"   644 \0", 0o644),
    (b"644\0junk", 0o644),
    (b"00000644", 0o644),
    (b"\0" * 8, 0),
    (b" " * 8, 0),
    (base256(5_000_000, 8), 5_000_000),
]


@pytest.mark.parametrize(("field", "value"), NUMBERS)
def test_number_forms(field: bytes, value: int) -> None:
    assert one(file(b"a", uid=field))[0].uid == value


def test_gnu_numbers() -> None:
    assert one(file(b"a", mtime=base256(-5, 12), magic=GNU))[0].mtime_ns == -5 * 10**9
    member, content = one(header(b"a", size=base256(3, 12), magic=GNU) + padded(b"abc"))
    assert (member.size, content) == (3, b"abc")


NAMES: dict[str, tuple[bytes, bytes]] = {
    "ustar-prefix": (file(b"name", prefix=b"pre/fix"), b"pre/fix/name"),
    "gnu-has-no-prefix": (file(b"name", prefix=b"12345670000", magic=GNU), b"name"),
    "star-prefix-is-shorter": (file(b"name", prefix=b"p" * 131 + b"12345670000\0", patch=(508, b"tar\0")), b"p" * 131 + b"/name"),
    "full-width": (file(b"n" * 100), b"n" * 100),
    "full-width-both": (file(b"n" * 100, prefix=b"p" * 155), b"p" * 155 + b"/" + b"n" * 100),
    "gnu-long": (gnu_long(b"l" * 3000) + file(b"l" * 100, magic=GNU), b"l" * 3000),
    "pax": (pax((b"path", b"x" * 2000)) + file(b"y"), b"x" * 2000),
    "pax-newline-equals": (pax((b"path", b"a=b\nc")) + file(b"y"), b"a=b\nc"),
    "pax-empty-takes-back": (pax((b"path", b"")) + file(b"y"), b"y"),
    "pax-last-counts": (pax((b"path", b"a"), (b"path", b"b")) + file(b"y"), b"b"),
    "not-utf8": (file(b"\xff\xfe"), b"\xff\xfe"),
    "longest": (pax((b"path", b"x" * 4096)) + file(b"y"), b"x" * 4096),
    "global-comment": (pax((b"comment", b"git hash"), type=b"g") + file(b"y"), b"y"),
}


@pytest.mark.parametrize(("data", "path"), NAMES.values(), ids=NAMES)
def test_names(data: bytes, path: bytes) -> None:
    assert one(data)[0].path == path


def test_links_with_long_targets() -> None:
    assert one(gnu_long(b"t" * 3000, b"K") + symlink(b"a", b"t" * 100))[0].linkname == b"t" * 3000
    assert one(pax((b"linkpath", b"t" * 3000)) + symlink(b"a", b"x"))[0].linkname == b"t" * 3000
    both = gnu_long(b"t" * 300, b"K") + gnu_long(b"n" * 300) + symlink(b"n" * 100, b"t" * 100)
    assert (one(both)[0].path, one(both)[0].linkname) == (b"n" * 300, b"t" * 300)


PAX: list[tuple[tuple[bytes, bytes], str, Any]] = [
    ((b"uid", b"3000000000"), "uid", 3000000000),
    ((b"gid", b"0"), "gid", 0),
    ((b"mtime", b"1234567890.123456789"), "mtime_ns", 1234567890123456789),
    ((b"mtime", b"1.5"), "mtime_ns", 1500000000),
    ((b"mtime", b"-1.5"), "mtime_ns", -1500000000),
    ((b"mtime", b"1.0000000019"), "mtime_ns", 1000000001),
    ((b"mtime", b"7"), "mtime_ns", 7000000000),
    ((b"SCHILY.xattr.user.a=b", b"v"), "xattrs", {b"user.a": b"b=v"}),
    ((b"SCHILY.xattr.user.n", b"\0\n\xff"), "xattrs", {b"user.n": b"\0\n\xff"}),
    ((b"SCHILY.xattr.user.e", b""), "xattrs", {b"user.e": b""}),
    ((b"atime", b"rubbish"), "xattrs", {}),
    ((b"VENDOR.key", b"x"), "xattrs", {}),
]


@pytest.mark.parametrize(("pair", "field", "value"), PAX)
def test_pax_fields(pair: tuple[bytes, bytes], field: str, value: Any) -> None:
    assert getattr(one(pax(pair) + file(b"a"))[0], field) == value


def test_pax_size_counts_instead_of_the_header() -> None:
    member, content = one(pax((b"size", b"5")) + header(b"a", size=0) + padded(b"hello"))
    assert (member.size, content) == (5, b"hello")


def test_extended_headers_are_for_one_member_only() -> None:
    members = parse(pax((b"uid", b"7"), (b"SCHILY.xattr.user.a", b"1")) + file(b"a", uid=1) + file(b"b", uid=2) + END)
    assert [(m.uid, m.xattrs) for m, _ in members] == [(7, {b"user.a": b"1"}), (2, {})]


def test_unread_data_is_skipped() -> None:
    data = file(b"a", b"x" * 1000) + file(b"b", b"y" * 600) + file(b"c") + END
    limits = Limits()
    paths = []
    for member in Members(codec.reader(io.BytesIO(data), limits=limits), limits):
        paths.append(member.path)
        member.read(10)
    assert paths == [b"a", b"b", b"c"]


def test_signed_checksums_are_accepted() -> None:
    block = header(b"\xe9\xe9")
    signed = sum(c - 256 if c > 127 else c for c in block[:148] + block[156:]) + 256
    assert one(header(b"\xe9\xe9", checksum=b"%06o\0 " % signed))[0].path == b"\xe9\xe9"


def test_what_tarfile_writes_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for format in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=format) as archive:
            for length in (1, 99, 100, 101, 120, 200):
                info = tarfile.TarInfo("d/" * (length // 4) + "n" * (length // 3 + 1))
                info.size = length
                archive.addfile(info, io.BytesIO(b"z" * length))
        assert [len(content) for _, content in parse(out.getvalue())] == [1, 99, 100, 101, 120, 200]


@pytest.mark.parametrize("tail", [END, bytes(1024 + 512), bytes(10240), bytes(1024 + 100)])
def test_zeros_may_follow(tail: bytes) -> None:
    assert len(parse(file(b"a") + tail)) == 1


def refused(data: bytes, limits: Limits | None = None) -> str:
    with pytest.raises(ArchiveError) as caught:
        parse(data, limits)
    assert caught.value.hint
    assert str(caught.value).isprintable()
    return str(caught.value)


BAD: dict[str, bytes] = {
    "checksum": header(b"a", checksum=b"000000\0 "),
    "checksum-not-octal": header(b"a", checksum=b"99999999"),
    "no-name": header(b""),
    "slash-file": file(b"a/", b"x"),
    "v7-second": file(b"a") + header(b"b", magic=bytes(8)),
    "sparse-gnu": header(b"a", b"S", magic=GNU),
    "sparse-pax": pax((b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0")) + file(b"a"),
    "sparse-star": pax((b"SCHILY.realsize", b"1000")) + file(b"a"),
    "multivolume": header(b"a", b"M", magic=GNU),
    "dumpdir": header(b"a", b"D", magic=GNU),
    "unknown-type": header(b"a", b"Z"),
    "solaris-pax": header(b"a", b"X"),
    "directory-with-data": header(b"a", b"5", size=512) + bytes(512),
    "symlink-with-data": header(b"a", b"2", link=b"x", size=512) + bytes(512),
    "hardlink-with-data": header(b"a", b"1", link=b"x", size=512) + bytes(512),
    "fifo-with-data": header(b"a", b"6", size=1) + bytes(512),
    "symlink-without-target": symlink(b"a", b""),
    "hardlink-without-target": hardlink(b"a", b""),
    "negative-size": header(b"a", size=base256(-1, 12)),
    "huge-size": header(b"a", size=base256(1 << 62, 12)),
    "huge-octal-size": header(b"a", size=b"7" * 12),
    "size-with-sign": header(b"a", size=b"-1\0"),
    "size-hex": header(b"a", size=b"0x10\0"),
    "size-underscore": header(b"a", size=b"1_0\0"),
    "size-binary": header(b"a", size=b"\x81" + bytes(11)),
    "pax-size-negative": pax((b"size", b"-1")) + file(b"a"),
    "pax-size-huge": pax((b"size", b"9" * 19)) + file(b"a"),
    "pax-size-float": pax((b"size", b"1.0")) + file(b"a"),
    "pax-size-arabic": pax((b"size", "٣".encode())) + file(b"a"),
    "pax-uid": pax((b"uid", b"root")) + file(b"a"),
    "pax-mtime": pax((b"mtime", b"now")) + file(b"a"),
    "pax-mtime-exponent": pax((b"mtime", b"1e9")) + file(b"a"),
    "pax-path-nul": pax((b"path", b"a\0b")) + file(b"a"),
    "pax-linkpath-nul": pax((b"linkpath", b"a\0b")) + symlink(b"a", b"x"),
    "pax-no-length": pax(raw=b"path=a\n") + file(b"a"),
    "pax-length-zero": pax(raw=b"0 path=a\n") + file(b"a"),
    "pax-length-padded": pax(raw=b"010 path=a\n") + file(b"a"),
    "pax-length-long": pax(raw=b"99 path=a\n") + file(b"a"),
    "pax-length-short": pax(raw=b"5 path=a\n") + file(b"a"),
    "pax-length-tiny": pax(raw=b"2 \n") + file(b"a"),
    "pax-length-enormous": pax(raw=b"99999999999999999999 path=a\n") + file(b"a"),
    "pax-no-equals": pax(raw=b"8 patha\n") + file(b"a"),
    "pax-no-key": pax(raw=b"5 =a\n") + file(b"a"),
    "pax-no-newline": pax(raw=b"9 path=ab") + file(b"a"),
    "pax-rest": pax(raw=record(b"path", b"a") + b"x") + file(b"a"),
    "pax-empty": header(b"x", b"x") + file(b"a"),
    "pax-twice": pax((b"uid", b"1")) + pax((b"uid", b"2")) + file(b"a"),
    "pax-and-gnu": pax((b"path", b"a")) + gnu_long(b"b") + file(b"c"),
    "gnu-and-pax": gnu_long(b"b") + pax((b"path", b"a")) + file(b"c"),
    "gnu-twice": gnu_long(b"a") + gnu_long(b"b") + file(b"c"),
    "gnu-empty": gnu_long(b"") + file(b"c"),
    "gnu-too-long": gnu_long(b"x" * 4097) + file(b"c"),
    "pax-too-long": pax((b"path", b"x" * 4097)) + file(b"c"),
    "pax-too-large": pax((b"comment", b"x" * (1 << 20))) + file(b"c"),
    "global-path": pax((b"path", b"evil"), type=b"g") + file(b"a"),
    "global-size": pax((b"size", b"0"), type=b"g") + file(b"a"),
    "global-uid": pax((b"uid", b"0"), type=b"g") + file(b"a"),
    "pax-at-the-end": file(b"a") + pax((b"path", b"b")),
    "pax-alone": pax((b"path", b"b")),
    "gnu-at-the-end": file(b"a") + gnu_long(b"b"),
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD)
def test_refuses(data: bytes) -> None:
    refused(data + END)


@pytest.mark.parametrize(
    "tail", [b"", bytes(512), bytes(1023), END + b"x", END + file(b"b") + END, bytes(512) + file(b"b") + END, b"x" * 512]
)
def test_b18_an_archive_has_one_clear_end(tail: bytes) -> None:
    refused(file(b"a", b"data") + tail)


def test_truncation_anywhere_is_refused() -> None:
    data = pax((b"path", b"x" * 600)) + file(b"y", b"z" * 700) + file(b"b") + END
    for at in range(1, len(data), 61):
        refused(data[:at])


def test_entry_quota() -> None:
    assert len(parse(file(b"a") * 3 + END, Limits(entries=3))) == 3
    refused(file(b"a") * 4 + END, Limits(entries=3))
    refused(pax((b"comment", b"x"), type=b"g") * 4 + END, Limits(entries=3))


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        (b"a", (b"a",)),
        (b"./a//b/./c/", (b"a", b"b", b"c")),
        (b".", ()),
        (b"./", ()),
        (b"...", (b"...",)),
        (b"a\\..\\b", (b"a\\..\\b",)),
        (b".wh.x", (b".wh.x",)),
        (b"\xff" * 255, (b"\xff" * 255,)),
    ],
)
def test_aci_02_paths_are_cleaned(path: bytes, parts: tuple[bytes, ...]) -> None:
    assert tar.clean(path) == parts


@pytest.mark.parametrize("path", [b"/a", b"//a", b"/", b"..", b"../a", b"a/../b", b"a/..", b"./..", b"x" * 256])
def test_b01_paths_that_leave_are_refused(path: bytes) -> None:
    with pytest.raises(ArchiveError) as caught:
        tar.clean(path)
    assert caught.value.hint
