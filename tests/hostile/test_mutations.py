"""Legal archives with bytes changed: an answer or one clean error, quickly, and nothing outside staging."""

from __future__ import annotations

import io
import os
import random
import time
from pathlib import Path

import pytest
from archives import COMPRESS, END, aci, correct_checksums, directory, file, gnu_long, hardlink, manifest, node, pax, symlink
from canary import Canary
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scale import scaled

from pyrun.errors import ImageError
from pyrun.images import codec
from pyrun.images.aci import read_aci
from pyrun.images.limits import MIB, Limits
from pyrun.images.remove import remove_tree
from pyrun.images.tar import Members
from pyrun.images.unpack import Policy

SEEDS = [
    aci(file(b"rootfs/a", b"hello" * 300), directory(b"rootfs/d", mode=0o2755), file(b"rootfs/d/b", b"x"), symlink(b"rootfs/l", b"d/b")),
    aci(hardlink(b"rootfs/h", b"rootfs/a"), node(b"rootfs/p", b"6"))[:-1024] + file(b"rootfs/a") + END,
    aci(pax((b"path", b"rootfs/" + b"n" * 200), (b"mtime", b"1.5"), (b"SCHILY.xattr.user.x", b"1")) + file(b"x", b"data")),
    aci(
        gnu_long(b"rootfs/" + b"g" * 180) + file(b"x", b"y", magic=b"ustar  \0"),
        pax((b"uid", b"0"), (b"size", b"3")) + file(b"rootfs/s", b"abc"),
    ),
    directory(b"./") + manifest() + directory(b"./rootfs/") + file(b"./rootfs/deep/er/f", b"z" * 1500) + END,
]
FORMATS = ("tar", "gzip", "bzip2", "xz", "zstd")
LIMITS = Limits(total=8 * MIB, ratio_floor=8 * MIB, window=8 * MIB, entries=200)
SLOW = 2  # seconds
EXAMPLES = scaled(400)


def mutate(data: bytes, choose: random.Random) -> bytes:
    """A few small or structural changes: bits, bytes, numbers, blocks moved, repeated, dropped, and cuts."""
    buffer = bytearray(data)
    for _ in range(choose.randint(1, 4)):
        if not buffer:
            break
        at = choose.randrange(len(buffer))
        block = at // 512 * 512
        kind = choose.randrange(8)
        if kind == 0:
            buffer[at] ^= 1 << choose.randrange(8)
        elif kind == 1:
            buffer[at : at + 4] = choose.choice([b"\0" * 4, b"\xff" * 4, b"7777", b"../.", b"\x80\0\0\0", b"-1 \0"])
        elif kind == 2:
            buffer[block:block] = buffer[block : block + 512 * choose.randint(1, 3)]
        elif kind == 3:
            del buffer[block : block + 512]
        elif kind == 4:
            del buffer[at:]
        elif kind == 5:
            buffer[block + 156 : block + 157] = choose.choice([bytes([n]) for n in b"01234567gxLKSVDM\0"])
        elif kind == 6:
            other = choose.randrange(len(buffer)) // 512 * 512
            buffer[block : block + 512], buffer[other : other + 512] = buffer[other : other + 512], buffer[block : block + 512]
        else:
            buffer[block + 100 : block + 157] = buffer[choose.randrange(len(buffer)) :][:57].ljust(57, b"\0")
    if choose.random() < 0.8:
        correct_checksums(buffer)
    return bytes(buffer)


@pytest.mark.stress
@settings(max_examples=EXAMPLES)
@given(st.integers(0, 1 << 64), st.sampled_from(range(len(SEEDS))), st.sampled_from(FORMATS), st.booleans())
def test_sec_03_the_parser_survives_mutated_archives(seed: int, which: int, format: str, inside: bool) -> None:
    choose = random.Random(seed)
    data = COMPRESS[format](mutate(SEEDS[which], choose)) if inside else mutate(COMPRESS[format](SEEDS[which]), choose)
    started = time.monotonic()
    try:
        for member in Members(codec.reader(io.BytesIO(data), limits=LIMITS), LIMITS):
            while member.read(4096):
                pass
    except ImageError as exc:
        assert str(exc).isprintable()
        assert exc.hint
    assert time.monotonic() - started < SLOW


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a canary in it."""
    return tmp_path_factory.mktemp("mutations")


@pytest.fixture(scope="module")
def canary(place: Path) -> Canary:
    """What must not change."""
    return Canary(place / "canary")


@pytest.mark.stress
@settings(max_examples=EXAMPLES // 4, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 1 << 64), st.sampled_from(range(len(SEEDS))))
def test_sec_03_the_unpacker_survives_mutated_archives(place: Path, canary: Canary, seed: int, which: int) -> None:
    image, staging = place / "image", place / "staging"
    image.write_bytes(mutate(SEEDS[which], random.Random(seed)))
    staging.mkdir()
    staging_fd = os.open(staging, os.O_RDONLY | os.O_DIRECTORY)
    parent = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    started = time.monotonic()
    try:
        with image.open("rb") as source:
            read_aci(source.fileno(), staging_fd, LIMITS, Policy())
    except ImageError as exc:
        assert str(exc).isprintable()
        assert exc.hint
    finally:
        took, left = time.monotonic() - started, set(os.listdir(staging))
        remove_tree(parent, b"staging")  # whatever is found: the next archive needs an empty one
        os.close(staging_fd)
        os.close(parent)
    assert took < SLOW and left <= {"rootfs", "tree"}
    canary.assert_untouched()
    assert sorted(os.listdir(place)) == ["canary", "image"]
