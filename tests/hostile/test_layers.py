"""The corpus of hostile archives on every other way in, layers against umoci, and streams that are more than they seem."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import random
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard
from archives import COMPRESS, END, correct_checksums, directory, file, snapshot
from canary import Canary
from corpus import CORPUS, OUTSIDE
from mkoci import Layout
from scale import scaled
from treewriter import Writer

from pyrun.errors import ArchiveError, ImageError
from pyrun.images import oci_layer, resolve
from pyrun.images.limits import MIB, Limits
from pyrun.images.lower import LIST, link_lower
from pyrun.images.remove import remove_tree
from pyrun.images.store import Store
from pyrun.images.unpack import Policy

pytestmark = pytest.mark.needs_root  # layers keep the owners that the archive says

LIMITS = Limits(total=1 << 30, ratio_floor=64 * MIB)
SECONDS = 10  # of processor time for one archive


def unpack(data: bytes, place: Path, formats: tuple[str, ...] = ("tar", "gzip", "zstd"), *, box: bool = False) -> str:
    """Reads a layer (or the archive of an image) into `place`/staging; the DiffID, without "sha256-"."""
    (place / "image").write_bytes(data)
    (place / "staging").mkdir(mode=0o700)
    staging = os.open(place / "staging", os.O_RDONLY | os.O_DIRECTORY)
    try:
        with (place / "image").open("rb") as source:
            if box:
                oci_layer.read_box(source.fileno(), staging, LIMITS)
                return ""
            return str(oci_layer.read_layer(source.fileno(), staging, LIMITS, Policy(conflicts="replace"), formats)["diff_id"])[7:]
    finally:
        os.close(staging)


def clear(place: Path) -> None:
    parent = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    remove_tree(parent, b"staging")
    os.close(parent)


@pytest.fixture
def canary() -> Iterator[Canary]:
    """The directory that hostile members aim at."""
    yield Canary(OUTSIDE)
    parent = os.open(OUTSIDE.parent, os.O_RDONLY | os.O_DIRECTORY)
    remove_tree(parent, os.fsencode(OUTSIDE.name))
    os.close(parent)


def without_prefix(data: bytes) -> bytes:
    """The members of an image as those of a layer: rootfs/ is taken off the names and targets in headers."""
    buffer = bytearray(data)
    for at in range(0, len(buffer) - 511, 512):
        if buffer[at + 257 : at + 262] == b"ustar":
            for start, size in ((0, 100), (157, 100)):
                field = bytes(buffer[at + start : at + start + size])
                buffer[at + start : at + start + size] = field.removeprefix(b"rootfs/").ljust(size, b"\0")
    correct_checksums(buffer)
    return bytes(buffer)


WAYS: dict[str, Callable[[bytes], bytes]] = {
    "plain": lambda data: data,
    "gzip": lambda data: gzip.compress(data, 1, mtime=0),
    "zstd": COMPRESS["zstd"],
}


@pytest.mark.parametrize("way", [*WAYS, "box"])
@pytest.mark.parametrize("form", ["as it is", "without rootfs"])
def test_sec_01_the_corpus_in_layers_and_boxes(
    way: str, form: str, tmp_path: Path, canary: Canary, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some of it is legal in a layer; nothing of it leaves its directory, and every answer is quick."""
    monkeypatch.chdir(OUTSIDE)
    for name, shipped in CORPUS.items():
        data = shipped if form == "as it is" else without_prefix(shipped)
        started = time.process_time()
        try:
            unpack(data if way == "box" else WAYS[way](data), tmp_path, box=way == "box")
        except ImageError as error:
            assert str(error).isprintable() and error.hint, name
        assert time.process_time() - started < SECONDS, name
        assert set(os.listdir(tmp_path / "staging")) <= {"rootfs", "box", "tree", "opaque", "implied", LIST}, name
        if (tmp_path / "staging" / LIST).exists():  # links that only layers below could make good
            with pytest.raises(ArchiveError, match="nor in the layers below"):
                link_lower(str(tmp_path / "staging"), [], LIMITS, name)
        clear(tmp_path)
    canary.assert_untouched()
    assert os.listdir(tmp_path) == ["image"]


def test_sec_01_the_corpus_is_large() -> None:
    assert len({*CORPUS.values(), *map(without_prefix, CORPUS.values())}) >= 300


class LayerWriter(Writer):
    """Legal layers, with nothing that umoci is known to do otherwise: it leaves devices to the caller's privileges, too."""

    def image(self) -> bytes:
        self.folders = ["."]
        for _ in range(self.choose.randint(1, 25)):
            self.member()
        self.archive.close()
        return self.out.getvalue()

    def add(self, name: str, kind: bytes) -> None:
        if ".wh." not in name:
            super().add(name, kind)


def facts(top: Path) -> dict[str, Any]:
    """What of a tree is compared: umoci keeps no nanoseconds, and the root is the caller's."""
    found = snapshot(top)
    del found["."]
    for path, entry in found.items():
        attributes = {key: value for key, value in entry[-1].items() if not key.startswith("user.rootlesscontainers")}
        found[path] = (*entry[:3], entry[3] // 10**9, *entry[4:-1], attributes)
    return found


@pytest.mark.stress
@pytest.mark.timeout(0)
def test_sec_02_layers_unpack_as_umoci_does_it(tmp_path: Path) -> None:
    """Ten archives at a time, each below a directory of its own."""
    for seed in range(scaled(3)):
        choose = random.Random(seed)
        place = tmp_path / str(seed)
        place.mkdir()
        layout = Layout(place / "layout")
        data = LayerWriter(choose.choice(["gnu", "pax"]), choose).image()
        layout.image(data, compression="gzip")
        unpack(data, place)
        subprocess.run(["umoci", "raw", "unpack", "--image", f"{layout.path}:latest", place / "theirs"], check=True, capture_output=True)
        assert facts(place / "staging/rootfs") == facts(place / "theirs"), seed
        clear(place)


WHOLE = directory(b"d") + file(b"d/a", b"x" * 3000) + file(b"b", b"y") + END
HALVES = (WHOLE[:1500], WHOLE[1500:])
ONE_FRAME = zstandard.ZstdCompressor(write_checksum=True)
SKIPPED = b"\x50\x2a\x4d\x18" + (9).to_bytes(4, "little") + b"chunked!!"  # zstd:chunked keeps its table of contents in one


def flush(level: int) -> bytes:
    """A gzip stream with empty blocks in it."""
    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb", compresslevel=level, mtime=0) as stream:
        for piece in HALVES:
            stream.write(piece)
            stream.flush()
    return out.getvalue()


GOOD = {
    "plain": WHOLE,
    "plain-zeros": WHOLE + bytes(10240),
    "plain-unclosed": WHOLE[: -len(END)],
    "gzip": gzip.compress(WHOLE),
    "gzip-members": gzip.compress(HALVES[0]) + gzip.compress(HALVES[1]),
    "gzip-empty-members": gzip.compress(b"") + gzip.compress(WHOLE) + gzip.compress(b""),
    "gzip-zeros-member": gzip.compress(WHOLE) + gzip.compress(bytes(1024)),
    "gzip-flushed": flush(6),
    "gzip-stored": gzip.compress(WHOLE, 0),
    "gzip-members-of-a-byte": b"".join(gzip.compress(bytes((byte,)), 1) for byte in WHOLE),
    "zstd": ONE_FRAME.compress(WHOLE),
    "zstd-frames": ONE_FRAME.compress(HALVES[0]) + ONE_FRAME.compress(HALVES[1]),
    "zstd-empty-frames": ONE_FRAME.compress(b"") + ONE_FRAME.compress(WHOLE) + ONE_FRAME.compress(b""),
    "zstd-skipped-first": SKIPPED + ONE_FRAME.compress(WHOLE),
    "zstd-skipped-between": ONE_FRAME.compress(HALVES[0]) + SKIPPED + ONE_FRAME.compress(HALVES[1]),
    "zstd-chunked": ONE_FRAME.compress(HALVES[0]) + ONE_FRAME.compress(HALVES[1]) + SKIPPED,
    "zstd-zeros-frame": ONE_FRAME.compress(WHOLE) + ONE_FRAME.compress(bytes(512)),
}
TAILS = {"byte": b"x", "zeros": bytes(512), "tar": WHOLE, "magic": b"\x1f\x8b\x08", "frame": b"\x28\xb5\x2f\xfd"}
BAD = {
    **{f"{form}+{name}": WAYS[form](WHOLE) + tail for form in ("gzip", "zstd") for name, tail in TAILS.items()},
    "plain+byte": WHOLE + b"x",
    "plain+tar": WHOLE + WHOLE,
    "plain+gzip": WHOLE + gzip.compress(WHOLE),
    **{f"{form}-second-garbage": WAYS[form](WHOLE) + WAYS[form](b"garbage") for form in ("gzip", "zstd")},
    **{f"{form}-second-tar": WAYS[form](WHOLE) + WAYS[form](WHOLE) for form in ("gzip", "zstd")},
    **{f"{form}-cut": WAYS[form](WHOLE)[:-3] for form in ("gzip", "zstd")},
    "gzip-then-zstd": gzip.compress(HALVES[0]) + ONE_FRAME.compress(HALVES[1]),
    "zstd-then-gzip": ONE_FRAME.compress(HALVES[0]) + gzip.compress(HALVES[1]),
    "zstd-skipped-cut": ONE_FRAME.compress(WHOLE) + SKIPPED[:-2],
}


def test_sec_08_there_are_36_shapes() -> None:
    assert len(GOOD) + len(BAD) >= 36


@pytest.mark.parametrize("name", GOOD)
def test_sec_08_the_diffid_is_that_of_the_whole_stream(name: str, tmp_path: Path) -> None:
    stream = WHOLE + (bytes(1024) if "gzip-zeros" in name else bytes(512) if "zstd-zeros" in name else b"")
    stream = GOOD[name] if name.startswith("plain") else stream
    assert unpack(GOOD[name], tmp_path) == hashlib.sha256(stream).hexdigest()
    assert sorted(os.listdir(tmp_path / "staging/rootfs")) == ["b", "d"]
    assert (tmp_path / "staging/rootfs/d/a").read_bytes() == b"x" * 3000


@pytest.mark.parametrize("name", BAD)
def test_sec_08_what_is_not_read_whole_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ArchiveError) as caught:
        unpack(BAD[name], tmp_path)
    assert caught.value.hint


def test_sec_06_nobody_else_gets_below_the_store(tmp_path: Path) -> None:
    """Whatever the umask of root was: uid 1000 is told EACCES at the door, and the door is the store's root."""
    tmp_path.chmod(0o755)
    for path in (*tmp_path.parents, tmp_path):
        if path.stat().st_uid == os.geteuid() and "pytest" in str(path):
            path.chmod(path.stat().st_mode | 0o055)
    for mask in (0, 0o022, 0o077):
        layout = Layout(tmp_path / f"layout-{mask}")
        layout.image()
        before = os.umask(mask)
        try:
            store = Store(str(tmp_path / f"store-{mask}"))
            resolve.find(store, f"oci:{layout.path}", unsigned=True)
        finally:
            os.umask(before)
        code = "import os, sys\ntry:\n os.listdir(sys.argv[1])\nexcept PermissionError:\n sys.exit(13)"
        for below in ("", "/blobs", "/layers", "/tmp", "/images"):
            words = ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", "/usr/bin/python3", "-c", code, store.root + below]
            assert subprocess.run(words, cwd="/").returncode == 13, (mask, below)


def layer_of(data: bytes) -> bytes:
    """A layer of one file."""
    return file(b"f", data * 1000) + END


@pytest.mark.stress
@pytest.mark.timeout(0)
def test_sec_40_whoever_swaps_files_meanwhile_gets_nothing_in(tmp_path: Path) -> None:
    """A thread exchanges every blob for another of the same size all the time: what comes in is what the digests name."""
    layout = Layout(tmp_path / "layout")
    entry = layout.image(layer_of(b"good"))
    blobs = {path: path.read_bytes() for path in (layout.path / "blobs/sha256").iterdir()}
    over = threading.Event()

    def swap() -> None:
        turn = 0
        while not over.is_set():
            for path, data in blobs.items():
                spare = tmp_path / "spare"
                spare.write_bytes(data.replace(b"good", b"evil") if turn % 2 else data[::-1] if turn % 3 else data)
                spare.replace(path)
                turn += 1

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        for number in range(scaled(10)):
            store = Store(str(tmp_path / f"store-{number}"))
            try:
                image = resolve.find(store, f"oci:{layout.path}", unsigned=True)
            except ImageError as error:
                assert error.hint
                assert os.listdir(f"{store.root}/images") == []
                continue
            assert image.id[7:] == entry["digest"][7:]
            assert Path(store.layer_dir(image.layers[0]), "f").read_bytes() == b"good" * 1000
    finally:
        over.set()
        swapper.join()
