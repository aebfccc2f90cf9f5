"""Layers written as tar archives: Python's tarfile and our own strict reader agree on every member."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from pathlib import Path
from typing import Any

import pytest

from pyrun.errors import ImageError
from pyrun.images import tar
from pyrun.images.limits import Limits
from pyrun.images.tarwrite import END, header, padding, write_layer

pytestmark = pytest.mark.needs_root

MEMBERS: list[dict[str, Any]] = [
    {"path": b"plain", "size": 3},
    {"path": b"d" * 99 + b"/" + b"x" * 99, "kind": b"0"},
    {"path": b"l", "kind": b"2", "target": b"t" * 150},
    {"path": b"ids", "owner": (2**21, 2**32 - 2)},
    {"path": b"old", "mtime_ns": -1_500_000_000},
    {"path": b"late", "mtime_ns": (2**33 + 5) * 10**9 + 7},
    {"path": b"not-utf8-\xff" + b"n" * 120},
    {"path": b"xattrs", "xattrs": {b"user.b": b"\x00=\n", b"user.a": b"v" * 300}},
    {"path": b"null", "kind": b"3", "device": os.makedev(1, 3), "mode": 0o1666},
]


class Stream:
    def __init__(self, data: bytes) -> None:
        self.data = data

    def chunk(self) -> bytes:
        data, self.data = self.data, b""
        return data


def test_headers() -> None:
    data = b"".join(header(**made) + b"abc"[: made.get("size", 0)] + padding(made.get("size", 0)) for made in MEMBERS) + END
    ours = list(tar.Members(Stream(data), Limits()))
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        theirs = archive.getmembers()
    assert len(ours) == len(theirs) == len(MEMBERS)
    for made, one, other in zip(MEMBERS, ours, theirs, strict=True):
        assert one.path == made["path"] == other.name.encode("utf-8", "surrogateescape")
        assert (one.uid, one.gid) == made.get("owner", (0, 0)) == (other.uid, other.gid)
        assert one.mtime_ns == made.get("mtime_ns", 0) and int(other.mtime) - other.mtime <= 0.5
        assert one.linkname == made.get("target", b"") and one.xattrs == made.get("xattrs", {})
        assert one.mode == made.get("mode", 0o644) == other.mode
    assert (ours[-1].devmajor, ours[-1].devminor) == (1, 3)


@pytest.mark.parametrize("length", range(80, 1100, 17))
def test_records_count_themselves(length: int) -> None:
    path = b"p" * length
    assert [one.path for one in tar.Members(Stream(header(path) + END), Limits())] == [path]


def written(root: Path) -> tarfile.TarFile:
    pieces: list[bytes] = []
    write_layer(str(root), pieces.append)
    return tarfile.open(fileobj=io.BytesIO(b"".join(pieces)))


def test_a_layer(tmp_path: Path) -> None:
    root = tmp_path / "rootfs"
    (root / "b" / "deep").mkdir(parents=True)
    (root / "a").write_bytes(b"content")
    os.link(root / "a", root / "b" / "again")
    os.symlink("../a", root / "b" / "link")
    os.mknod(root / "gone", stat.S_IFCHR, 0)
    os.mkfifo(root / "fifo")
    os.setxattr(root / "a", "user.note", b"kept")
    os.setxattr(root / "a", "user.overlay.redirect", b"not ours")
    os.setxattr(root / "b", "trusted.overlay.opaque", b"y")
    os.utime(root / "a", ns=(0, 1_700_000_000_123_456_789))
    os.chown(root / "b", 5, 6)
    found = written(root)
    assert found.getnames() == [".", "a", "b", "b/.wh..wh..opq", "b/again", "b/deep", "b/link", "fifo", ".wh.gone"]
    members = {member.name: member for member in found.getmembers()}
    assert members["a"].pax_headers == {"SCHILY.xattr.user.note": "kept", "mtime": "1700000000.123456789"}
    assert members["b/again"].islnk() and members["b/again"].linkname == "a"
    assert (members["b"].uid, members["b"].gid, members["b/link"].linkname, members[".wh.gone"].size) == (5, 6, "../a", 0)
    content = found.extractfile("a")
    assert content is not None and content.read() == b"content"


def test_a_name_that_would_delete(tmp_path: Path) -> None:
    (tmp_path / ".wh.file").touch()
    with pytest.raises(ImageError, match="a name that no OCI layer can hold"):
        written(tmp_path)


def test_very_deep(tmp_path: Path) -> None:
    place = str(tmp_path)
    for _ in range(200):
        place += "/d"
        os.mkdir(place)
    assert len(written(tmp_path).getnames()) == 201
