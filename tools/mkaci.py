#!/usr/bin/env python3
"""Writes small App Container Images; the same input gives the same bytes.

    tools/mkaci.py OUT.aci --name example.com/demo --version 1.0 --busybox /bin/busybox \\
        --file examples/demo/report:/bin/report:755 -- /bin/report

For demonstrations and tests only: it knows no app section beyond what --app (JSON) merges in.
Tests import it and use `Image` directly.
"""

from __future__ import annotations

import argparse
import bz2
import gzip
import io
import json
import lzma
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

EPOCH = 1577836800  # 2020-01-01, the time of every member
COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: gzip.compress(data, 6, mtime=0),
    "bzip2": bz2.compress,
    "xz": lambda data: lzma.compress(data, preset=1),
    "none": lambda data: data,
}


class Image:
    """An image in the making: a manifest and a tree of members, keyed by path."""

    def __init__(self, name: str, command: Iterable[str] = (), *, version: str = "1.0", app: dict[str, Any] | None = None) -> None:
        self.manifest: dict[str, Any] = {
            "acKind": "ImageManifest",
            "acVersion": "0.8.11",
            "name": name,
            "labels": [
                {"name": "version", "value": version},
                {"name": "os", "value": "linux"},
                {"name": "arch", "value": "amd64"},
            ],
        }
        exec_ = list(command)
        if exec_ or app:
            self.manifest["app"] = {"exec": exec_, "user": "0", "group": "0", **(app or {})}
        self.members: dict[str, tuple[tarfile.TarInfo, bytes]] = {}
        self.text = b""  # instead of the manifest, where the very bytes matter

    def add(self, path: str, data: bytes = b"", *, type: bytes = tarfile.REGTYPE, mode: int = 0o644, **fields: Any) -> None:
        """Adds one member below the root file system, with the directories above it; `fields` go to the TarInfo."""
        path = path.strip("/")
        if "/" in path:
            self.directory(path.rpartition("/")[0])
        info = tarfile.TarInfo(f"rootfs/{path}")
        info.type, info.mode, info.size, info.mtime = type, mode, len(data), EPOCH
        for key, value in fields.items():
            setattr(info, key, value)
        self.members[path] = info, data

    def directory(self, path: str, mode: int = 0o755, **fields: Any) -> None:
        """Adds a directory unless it is there."""
        if path.strip("/") not in self.members:
            self.add(path, type=tarfile.DIRTYPE, mode=mode, **fields)

    def symlink(self, path: str, target: str) -> None:
        self.add(path, type=tarfile.SYMTYPE, mode=0o777, linkname=target)

    def program(self, path: str, source: Path) -> None:
        """Adds a copy of a host file, executable."""
        self.add(path, source.read_bytes(), mode=0o755)

    def busybox(self, source: Path = Path("/bin/busybox")) -> None:
        """Adds the (static) busybox of the host with a link for each of its applets."""
        self.program("/bin/busybox", source)
        for applet in subprocess.run([source, "--list"], check=True, capture_output=True, text=True).stdout.split():
            if applet != "busybox":
                self.symlink(f"/bin/{applet}", "busybox")

    def accounts(self, **users: int) -> None:
        """Adds /etc/passwd and /etc/group with root and the given users (name=id)."""
        everyone = {"root": 0, **users}
        self.add("/etc/passwd", "".join(f"{name}:x:{uid}:{uid}:{name}:/:/bin/sh\n" for name, uid in everyone.items()).encode())
        self.add("/etc/group", "".join(f"{name}:x:{gid}:\n" for name, gid in everyone.items()).encode())

    def tar(self) -> bytes:
        """The uncompressed archive: manifest first, then the tree in the order of addition."""
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
            text = self.text or json.dumps(self.manifest, indent=2, sort_keys=True).encode()
            head = tarfile.TarInfo("manifest")
            head.size, head.mtime = len(text), EPOCH
            archive.addfile(head, io.BytesIO(text))
            root = tarfile.TarInfo("rootfs")
            root.type, root.mode, root.mtime = tarfile.DIRTYPE, 0o755, EPOCH
            archive.addfile(root)
            for info, data in self.members.values():
                archive.addfile(info, io.BytesIO(data))
        return out.getvalue()

    def write(self, path: Path, compression: str = "gzip") -> Path:
        path.write_bytes(COMPRESSORS[compression](self.tar()))
        return path


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description="write a small App Container Image", epilog="after --: the app's command")
    parser.add_argument("out", type=Path)
    parser.add_argument("--name", required=True)
    parser.add_argument("--version", default="1.0")
    parser.add_argument("--busybox", type=Path, metavar="FILE", help="static busybox to put in, with its applets")
    parser.add_argument("--file", action="append", default=[], metavar="SOURCE:PATH:MODE")
    parser.add_argument("--user", action="append", default=[], metavar="NAME:ID", help="line of /etc/passwd and /etc/group")
    parser.add_argument("--app", type=json.loads, default={}, metavar="JSON", help="members of the app section")
    parser.add_argument("--compression", choices=COMPRESSORS, default="gzip")
    cut = argv.index("--") if "--" in argv else len(argv)
    options = parser.parse_args(argv[:cut])
    image = Image(options.name, argv[cut + 1 :], version=options.version, app=options.app)
    image.directory("/tmp", 0o1777)
    if options.busybox:
        image.busybox(options.busybox)
    for spec in options.file:
        source, path, mode = spec.rsplit(":", 2)
        image.add(path, Path(source).read_bytes(), mode=int(mode, 8))
    image.accounts(**{name: int(number) for name, _, number in (user.partition(":") for user in options.user)})
    image.write(options.out, options.compression)


if __name__ == "__main__":
    main(sys.argv[1:])
