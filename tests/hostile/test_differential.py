"""Legal archives unpack to what GNU tar makes of them, in every attribute."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from archives import MANIFEST, snapshot, walk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scale import scaled
from treewriter import FORMATS, ROOT, Writer

from pyrun.images.aci import read_aci
from pyrun.images.limits import Limits
from pyrun.images.remove import remove_tree
from pyrun.images.unpack import Policy

TAR = [
    "/usr/bin/tar",
    "--delay-directory-restore",
    "--numeric-owner",
    "--same-owner",
    "--same-permissions",
    "--xattrs",
    "--xattrs-include=user.*",
]
EXAMPLES = scaled(50)


def ours(image: Path, target: Path) -> dict[str, Any]:
    target.mkdir()
    fd = os.open(target, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with image.open("rb") as source:
            read_aci(source.fileno(), fd, Limits(), Policy())
    finally:
        os.close(fd)
    return snapshot(target / "rootfs")


def theirs(image: Path, target: Path) -> dict[str, Any]:
    target.mkdir()
    subprocess.run([*TAR, "-xf", image, "-C", target], check=True, capture_output=True, env={"LC_ALL": "C.UTF-8"})
    return snapshot(target / "rootfs")


def clear(place: Path) -> None:
    parent = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    for name in os.listdir(place):
        remove_tree(parent, os.fsencode(name))
    os.close(parent)


@pytest.mark.stress
@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 1 << 64), st.sampled_from(sorted(FORMATS)))
def test_sec_02_what_tarfile_writes_unpacks_as_tar_does_it(tmp_path: Path, seed: int, format: str) -> None:
    clear(tmp_path)
    image = tmp_path / "image"
    image.write_bytes(Writer(format, random.Random(seed)).image())
    assert ours(image, tmp_path / "ours") == theirs(image, tmp_path / "theirs")


def plant(top: Path) -> None:
    """A tree with something of everything, made with system calls."""
    rootfs = top / "rootfs"
    (rootfs / "usr/bin").mkdir(parents=True)
    (rootfs / "usr/bin/su").write_bytes(b"\x7fELF" + os.urandom(9000))
    (rootfs / "usr/bin/su").chmod(0o4755)
    os.link(rootfs / "usr/bin/su", rootfs / "usr/bin/sudo")
    (rootfs / "bin").symlink_to("usr/bin")
    os.mkfifo(rootfs / "pipe", 0o622)
    deep = rootfs / "/".join("d" * 40 for _ in range(12)).strip("/")
    deep.mkdir(parents=True)
    (deep / ("n" * 200)).write_text("deep")
    (deep / "long").symlink_to("t" * 300)
    os.setxattr(rootfs / "usr", "user.note", b"\0\xff\n")
    (rootfs / "tmp").mkdir()
    (rootfs / "tmp").chmod(0o1777)
    if ROOT:
        os.mknod(rootfs / "null", 0o020666, os.makedev(1, 3))
        os.chown(rootfs / "tmp", 12345, 3_000_000_000)
        os.setxattr(rootfs / "usr/bin/su", "security.capability", bytes.fromhex("0100000200040000000000000000000000000000"))
    (top / "manifest").write_text(json.dumps(MANIFEST))
    for path in walk(rootfs):
        os.utime(path, ns=(10**18 + 123456789, 10**18 + 123456789), follow_symlinks=False)


@pytest.mark.parametrize("format", ["posix", "gnu"])
def test_sec_02_what_tar_writes_comes_back_whole(tmp_path: Path, format: str) -> None:
    """ACI-06: every attribute survives, nanoseconds where the format has them."""
    source, image = tmp_path / "source", tmp_path / "image"
    source.mkdir()
    plant(source)
    before = snapshot(source / "rootfs", times=format == "posix")
    options = ["--format", format, *(["--xattrs-include=*"] if format == "posix" else ["--no-xattrs"])]
    subprocess.run([*TAR, *options, "-cf", image, "-C", source, "./manifest", "./rootfs"], check=True, capture_output=True)
    ours(image, tmp_path / "ours")
    after = snapshot(tmp_path / "ours/rootfs", times=format == "posix")
    if format == "gnu":
        before = {path: (*entry[:-1], {}) for path, entry in before.items()}
    assert after == before
    shutil.copy(image, tmp_path / "kept")  # a plain file: the tree beside it may be removed without harm
    clear(tmp_path)
