"""Legal archives made up at random with tarfile, for comparisons with other readers."""

from __future__ import annotations

import io
import json
import random
import tarfile

from archives import GID, MANIFEST, UID

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
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
