"""Images that would fill the disk or the memory: stopped at the quota, in bounded memory, and removable."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import resource
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from archives import END, aci, base256, directory, file, hardlink, header, manifest, pax, symlink

from pyrun.errors import ArchiveError
from pyrun.images import worker
from pyrun.images.aci import unpack_aci
from pyrun.images.limits import MIB
from pyrun.images.remove import remove_tree

MAX_RSS = 150 * MIB
QUICK = 10  # seconds of processor time, which a loaded machine does not stretch

# Unpacks argv[1] into argv[2] with the limits argv[3], and says what came of it and what memory the worker took.
RUN = """
import json, os, resource, sys
from pyrun.errors import PyrunError
from pyrun.images.aci import unpack_aci
from pyrun.images.limits import Limits
try:
    unpack_aci(os.open(sys.argv[1], os.O_RDONLY), os.open(sys.argv[2], os.O_RDONLY), limits=Limits(**json.loads(sys.argv[3])))
    told, kind = "", ""
except PyrunError as exc:
    told, kind = str(exc), type(exc).__name__
caller = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps([kind, told, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024, caller * 1024]))
"""


def zeros(count: int, compress: Callable[[bytes], bytes]) -> bytes:
    """A compressed image whose one file holds `count` times 32 MiB of zeros."""
    size = count * 32 * MIB
    head = directory(b"rootfs") + manifest() + header(b"rootfs/zeros", size=base256(size, 12))
    return compress(head) + compress(bytes(32 * MIB)) * count + compress(END)


def xz_needing_4_gib() -> bytes:
    """A small xz stream whose header asks for the largest dictionary there is."""
    data = bytearray(lzma.compress(aci(), lzma.FORMAT_XZ, filters=[{"id": lzma.FILTER_LZMA2, "preset": 0}]))
    block = 12
    length = (data[block] + 1) * 4
    assert data[block + 2] == 0x21  # the LZMA2 filter; its property follows
    data[block + 4] = 40
    data[block + length - 4 : block + length] = struct.pack("<I", zlib.crc32(bytes(data[block : block + length - 4])))
    return bytes(data)


def compressed(data: bytes) -> bytes:
    return gzip.compress(data, 6, mtime=0)


def nested(levels: int) -> bytes:
    """Directories within each other, named in full by one member each."""
    names = [b"rootfs" + b"/d" * depth for depth in range(1, levels)]
    return aci(*(pax((b"path", name)) + directory(b"x") for name in names))


def many(make: Callable[[int], bytes], count: int) -> bytes:
    return compressed(aci(*(make(n) for n in range(count))))


def link_to_the_first(number: int) -> bytes:
    return hardlink(b"rootfs/%d" % number, b"rootfs/0") if number else file(b"rootfs/0")


XATTRS = [(b"SCHILY.xattr.user.%d" % n, b"v" * 900) for n in range(1000)]

# name -> (image, limits, part of the error; "" when the image is fine)
BOMBS: dict[str, tuple[Callable[[], bytes], dict[str, int], str]] = {
    "gzip-12-gib": (lambda: zeros(400, compressed), {}, "expands more than"),
    "bzip2-12-gib": (lambda: zeros(400, bz2.compress), {"ratio_floor": 32 * MIB}, "expands more than"),
    "xz-12-gib": (lambda: zeros(400, lambda data: lzma.compress(data, preset=0)), {}, "expands more than"),
    "gzip-total": (lambda: zeros(20, compressed), {"ratio": 1 << 40, "total": 1000 * MIB, "ratio_floor": 0}, ""),
    "gzip-over-total": (lambda: zeros(20, compressed), {"ratio": 1 << 40, "total": 640 * MIB}, "holds more than"),
    "size-over-total": (lambda: zeros(20, compressed), {"ratio": 1 << 40, "total": 600 * MIB}, "size of"),
    "xz-dictionary": (xz_needing_4_gib, {}, "needs more memory"),
    "pax-2-gib": (lambda: directory(b"rootfs") + header(b"x", b"x", size=2 << 30) + bytes(8 * MIB), {}, "extended header of"),
    "longname-2-gib": (lambda: directory(b"rootfs") + header(b"x", b"L", size=2 << 30) + bytes(8 * MIB), {}, "extended header of"),
    "trailing-zeros": (lambda: compressed(aci()) + compressed(bytes(200 * MIB)), {}, ""),
    "manifest-64-mib": (lambda: compressed(directory(b"rootfs") + file(b"manifest", b" " * (64 * MIB)) + END), {}, "4194304 are allowed"),
    "files": (lambda: many(lambda n: file(b"rootfs/%d" % n), 6000), {"entries": 5000}, "more than 5000"),
    "directories": (lambda: many(lambda n: directory(b"rootfs/%d" % n), 6000), {"entries": 5000}, "more than 5000"),
    "implied-directories": (lambda: many(lambda n: file(b"rootfs/%d" % n + b"/d" * 40 + b"/f"), 200), {"entries": 5000}, "more than 5000"),
    "symlinks": (lambda: many(lambda n: symlink(b"rootfs/%d" % n, b"x"), 6000), {"entries": 5000}, "more than 5000"),
    "hardlinks": (lambda: many(link_to_the_first, 6000), {"entries": 5000}, "more than 5000"),
    "globals": (lambda: many(lambda _: pax((b"comment", b"x"), type=b"g"), 6000), {"entries": 5000}, "more than 5000"),
    "empty-gzip-members": (lambda: compressed(aci()) + compressed(b"") * 200_000, {}, ""),
    "nested": (lambda: nested(300), {}, "directories deep"),
    "xattrs": (lambda: aci(pax(*XATTRS) + file(b"rootfs/a")), {}, "unpack rootfs/a"),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_sec_04_bombs_stop_at_the_quota(name: str, tmp_path: Path) -> None:
    make, limits, reason = BOMBS[name]
    image, staging = tmp_path / "image", tmp_path / "staging"
    image.write_bytes(make())
    staging.mkdir()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", RUN, image, staging, json.dumps(limits)], capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    took = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    kind, told, worker_rss, caller_rss = json.loads(done.stdout)
    assert kind in (("ArchiveError", "ImageError") if reason else ("",))
    assert reason in told
    assert worker_rss < MAX_RSS
    assert caller_rss < MAX_RSS
    assert took < QUICK or not reason
    written = sum(path.lstat().st_size for path in staging.rglob("*") if path.is_file())
    assert written <= limits.get("total", 256 * MIB) + MIB
    parent = os.open(tmp_path, os.O_RDONLY)
    remove_tree(parent, b"staging")
    os.close(parent)
    assert not staging.exists()


def test_sec_04_what_a_worker_may_use_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last line of defence: with the address space used up, the image is refused and the caller lives on."""
    monkeypatch.setattr(
        worker,
        "_BOOT",
        "import sys; sys.path[:0] = sys.argv[1].split(':'); from pyrun.images import aci, worker\n"
        "aci.read_aci = lambda *order: [bytearray(1 << 26) for _ in range(1000)]\nworker.main(sys.argv[2])",
    )
    image = tmp_path / "image"
    image.write_bytes(aci())
    with image.open("rb") as source, pytest.raises(ArchiveError, match="needs more memory"):
        staging = os.open(tmp_path, os.O_RDONLY)
        try:
            unpack_aci(source.fileno(), staging)
        finally:
            os.close(staging)
