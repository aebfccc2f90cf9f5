"""Legal archives unpack to what GNU tar makes of them, in every attribute."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
from archives import GID, MANIFEST, UID, snapshot, walk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

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
FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "400")) // 8
ROOT = UID == 0
NAMES = ["a", "b", "c", "file", ".wh.a", "...", " ", "-rf", "\udcff\udcfe", "new\nline", "ü", "n" * 90, "m" * 120]


class Writer:
    """Makes up a legal tree, member by member, out of one random source."""

    def __init__(self, format: str, choose: random.Random) -> None:
        self.format = format
        self.choose = choose
        self.out = io.BytesIO()
        self.archive = tarfile.open(fileobj=self.out, mode="w", format=FORMATS[format])  # noqa: SIM115
        self.folders = ["rootfs"]
        self.files: list[str] = []
        self.taken: set[str] = {"rootfs"}

    def image(self) -> bytes:
        self.add("rootfs", tarfile.DIRTYPE)
        for _ in range(self.choose.randint(0, 25)):
            self.member()
        data = json.dumps(MANIFEST).encode()
        info = tarfile.TarInfo("manifest")
        info.uid, info.gid = UID, GID
        info.size = len(data)
        self.archive.addfile(info, io.BytesIO(data))
        self.archive.close()
        return self.out.getvalue()

    def member(self) -> None:
        folder = self.choose.choice(self.folders)
        name = f"{folder}/{self.choose.choice(NAMES)}"
        if name in self.taken or (self.format == "ustar" and len(name) > 90):
            return
        self.taken.add(name)
        kinds = [tarfile.REGTYPE] * 4 + [tarfile.DIRTYPE] * 3 + [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE]
        if ROOT:
            kinds += [tarfile.CHRTYPE, tarfile.BLKTYPE]
        kind = self.choose.choice(kinds)
        if kind == tarfile.LNKTYPE and not self.files:
            return
        self.add(name, kind)
        if kind == tarfile.DIRTYPE and name.count("/") < 6:
            self.folders.append(name)
        elif kind in (tarfile.REGTYPE, tarfile.SYMTYPE):
            self.files.append(name)

    def add(self, name: str, kind: bytes) -> None:
        choose = self.choose
        info = tarfile.TarInfo(name)
        info.type = kind
        info.mode = choose.choice([0o644, 0o755, 0o4755, 0o2711, 0o1777, 0o600, 0o7777, 0o440]) | (0o700 if kind == tarfile.DIRTYPE else 0)
        info.uid, info.gid = (choose.choice([0, 1, 1000, 65534]), choose.choice([0, 7, 70000])) if ROOT else (UID, GID)
        info.mtime = choose.choice([0, 1, 1_600_000_000, 4_000_000_000])
        data = b""
        if kind == tarfile.REGTYPE:
            data = choose.randbytes(choose.choice([0, 1, 511, 512, 513, 5000]))
            info.size = len(data)
        elif kind == tarfile.SYMTYPE:
            info.linkname = choose.choice(["a", "../b", "/etc/passwd", "x/../y", "t" * 99, "\udcff"])
        elif kind == tarfile.LNKTYPE:
            info.linkname = choose.choice(self.files)
        elif kind in (tarfile.CHRTYPE, tarfile.BLKTYPE):
            info.devmajor, info.devminor = choose.choice([(1, 3), (8, 1), (259, 70000)])
        if self.format == "pax":
            self.extend(info)
        self.archive.addfile(info, io.BytesIO(data))

    def extend(self, info: tarfile.TarInfo) -> None:
        headers: dict[str, str] = {}
        if self.choose.random() < 0.3:
            headers["mtime"] = f"{self.choose.randint(1, 10**9)}.{self.choose.randint(0, 10**9 - 1):09d}"
        writable = ROOT or info.mode & 0o200  # tar sets attributes after the mode, and then only root may
        if self.choose.random() < 0.3 and info.type in (tarfile.REGTYPE, tarfile.DIRTYPE) and writable:
            headers["SCHILY.xattr.user.note"] = "välue"
        info.pax_headers = headers


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


@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 1 << 64), st.sampled_from(sorted(FORMATS)))
def test_what_tarfile_writes_unpacks_as_tar_does_it(tmp_path: Path, seed: int, format: str) -> None:
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
def test_what_tar_writes_comes_back_whole(tmp_path: Path, format: str) -> None:
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
