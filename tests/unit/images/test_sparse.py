"""Sparse members: GNU tar's and tarfile's four forms come back whole, with their holes; maps that lie are refused."""

from __future__ import annotations

import io
import os
import random
import subprocess
from pathlib import Path

import pytest
from archives import END, base256, file, header, pax, snapshot

from pyrun.errors import ArchiveError
from pyrun.images import codec, tree
from pyrun.images.limits import MIB, Limits
from pyrun.images.tar import Members
from pyrun.images.unpack import Unpacker

GNU = b"ustar  \0"
FORMS = {
    "old": ["--format=gnu"],
    "0.0": ["--format=posix", "--sparse-version=0.0"],
    "0.1": ["--format=posix", "--sparse-version=0.1"],
    "1.0": ["--format=posix", "--sparse-version=1.0"],
}


class Trickle:
    """A stream that comes in pieces of odd sizes."""

    def __init__(self, data: bytes, step: int) -> None:
        self.data = data
        self.step = step
        self.at = 0

    def chunk(self) -> bytes:
        piece = self.data[self.at : self.at + self.step]
        self.at += len(piece)
        return piece


def unpack(data: bytes, top: Path, step: int = 1 << 18, limits: Limits | None = None) -> None:
    limits = limits or Limits()
    top.mkdir(exist_ok=True)
    fd, beside = os.open(top, os.O_RDONLY | os.O_DIRECTORY), os.open(top.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with Unpacker(fd, limits, listed=True) as unpacker:
            assert not list(unpacker.others(Members(Trickle(data, step), limits)))
            unpacker.finish()
            unpacker.list(beside)
        listing = (top.parent / "tree").read_bytes()
        (top.parent / "tree").unlink()
        assert tree.difference(str(top), listing) == ""
    finally:
        os.close(fd)
        os.close(beside)


def plant(top: Path) -> None:
    """Files with holes in every place, more pieces than one header holds, and a plain file behind them."""
    top.mkdir()
    choose = random.Random(1)
    for name, pieces, size in (
        ("few", 3, 1 << 20),
        ("many", 60, 1 << 23),
        ("hole", 0, 3 << 20),
        ("tail", 1, 70_001),
        ("n" * 120, 5, 1 << 20),
    ):
        with (top / name).open("wb") as out:
            for place in sorted(choose.sample(range(size // 65536 or 1), pieces)):
                out.seek(place * 65536)
                out.write(choose.randbytes(4096))
            out.truncate(size)
    (top / "after").write_text("after")
    for path in top.iterdir():
        os.utime(path, (10**9, 10**9))
    os.utime(top, (10**9, 10**9))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("step", [1 << 18, 500])
def test_what_tar_packs_sparsely_comes_back(tmp_path: Path, form: str, step: int) -> None:
    plant(tmp_path / "source")
    words = ["tar", *FORMS[form], "--sparse", "--numeric-owner", "-cf", tmp_path / "a.tar", "-C", tmp_path / "source", "."]
    subprocess.run(words, check=True)
    data = (tmp_path / "a.tar").read_bytes()
    assert len(data) < 1 << 20
    unpack(data, tmp_path / "ours", step)
    assert snapshot(tmp_path / "ours") == snapshot(tmp_path / "source")
    blocks = {path.name: path.stat().st_blocks for path in (tmp_path / "ours").iterdir()}
    assert blocks["hole"] == 0 and blocks["many"] <= 60 * 136


def octal(value: int) -> bytes:
    return b"%011o\0" % value


def old(*pieces: tuple[int, int], size: int, data: int = 512, name: bytes = b"a") -> bytes:
    """A header of the old form with up to four pieces."""
    entries = b"".join(octal(offset) + octal(length) for offset, length in pieces).ljust(97, b"\0") + octal(size)
    return header(name, b"S", magic=GNU, size=data, patch=(386, entries)) + bytes(-(-data // 512) * 512)


def map_1_0(text: bytes, data: int = 0, **more: bytes) -> bytes:
    block = text + bytes(-len(text) % 512)
    records = [(b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.name", b"a"), (b"GNU.sparse.realsize", b"4096")]
    return pax(*records, **more) + header(b"x", size=len(block) + data) + block + bytes(-(-data // 512) * 512)


def pax_0_1(pieces: bytes, size: bytes = b"4096", data: int = 0, *more: tuple[bytes, bytes]) -> bytes:
    return pax((b"GNU.sparse.size", size), (b"GNU.sparse.map", pieces), *more) + file(b"a", bytes(data))


def test_legal_maps(tmp_path: Path) -> None:
    for number, data in enumerate(
        [old((0, 512), size=512), map_1_0(b"1\n4096\n0\n"), map_1_0(b"1\n0\n9\n", 9), pax_0_1(b"0,5,100,4", data=9)]
    ):
        unpack(data + END, tmp_path / str(number))
        assert (tmp_path / str(number) / "a").stat().st_size in (512, 4096)


LIES = {
    "old-overlap": old((0, 512), (100, 512), size=4096, data=1024),
    "old-beyond": old((4000, 512), size=4096),
    "old-less-data": old((0, 512), (1024, 512), size=4096),
    "old-more-data": old((0, 512), size=4096, data=1024),
    "old-no-map": old(size=4096, data=0),
    "old-negative": header(b"a", b"S", magic=GNU, size=0, patch=(386, base256(-512, 12) + octal(512))),
    "old-huge": header(b"a", b"S", magic=GNU, size=512, patch=(386, base256((1 << 63) - 1, 12) + octal(512))) + bytes(512),
    "old-huge-file": old((0, 512), size=(1 << 33) - 1, data=512),
    "old-cut-map": header(b"a", b"S", magic=GNU, size=0, patch=(482, b"\1")),
    "1.0-no-number": map_1_0(b"x\n"),
    "1.0-empty-number": map_1_0(b"\n\n\n"),
    "1.0-no-pieces": map_1_0(b"0\n"),
    "1.0-too-many": map_1_0(b"131073\n"),
    "1.0-count-beyond-data": map_1_0(b"500\n0\n0\n"),
    "1.0-long-number": map_1_0(b"1\n" + b"9" * 30 + b"\n0\n"),
    "1.0-sum": map_1_0(b"1\n0\n8\n", 9),
    "0.1-odd": pax_0_1(b"0,5,9", data=5),
    "0.1-empty": pax_0_1(b"0,,5", data=5),
    "0.1-order": pax_0_1(b"100,4,0,5", data=9),
    "0.1-blocks": pax_0_1(b"0,5", b"4096", 5, (b"GNU.sparse.numblocks", b"2")),
    "0.1-no-size": pax((b"GNU.sparse.map", b"0,5")) + file(b"a", bytes(5)),
    "0.1-negative": pax_0_1(b"-1,5", data=5),
    "0.1-link": pax((b"GNU.sparse.size", b"9"), (b"GNU.sparse.map", b"0,0")) + header(b"a", b"2", link=b"b"),
    "0.0-two-offsets": pax((b"GNU.sparse.size", b"9"), (b"GNU.sparse.offset", b"0"), (b"GNU.sparse.offset", b"1")) + file(b"a"),
    "0.0-no-bytes": pax((b"GNU.sparse.size", b"9"), (b"GNU.sparse.offset", b"0")) + file(b"a"),
    "version-2": pax((b"GNU.sparse.major", b"2"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.realsize", b"9")) + file(b"a"),
}


@pytest.mark.parametrize("name", LIES)
def test_maps_that_lie_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ArchiveError) as caught:
        unpack(LIES[name] + END, tmp_path / "top", limits=Limits(total=1 << 32))
    assert caught.value.hint and str(caught.value).isprintable()


def test_the_sum_of_sparse_sizes_is_bounded(tmp_path: Path) -> None:
    """Holes take no room on the disk, but whoever checks or copies the files reads them."""
    limits = Limits(total=10 * MIB)
    one, two, three = (old((0, 512), size=4 * MIB, name=name) for name in (b"a", b"b", b"c"))
    unpack(one + two + END, tmp_path / "one", limits=limits)
    with pytest.raises(ArchiveError, match="a size of"):
        unpack(one + two + three + END, tmp_path / "three", limits=limits)


def test_python_reads_the_map_off_as_data() -> None:
    """`Member.read` gives what stands in the archive; only the writer of trees knows holes."""
    (member,) = Members(codec.reader(io.BytesIO(old((0, 512), size=4096) + END), limits=Limits()), Limits())
    assert (member.size, member.sparse) == (4096, True)
