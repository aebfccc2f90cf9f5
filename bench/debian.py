"""A Debian-based image of about 500 MB in five layers, as an OCI layout below build/bench: what unpacking and pulling are measured with.

Made of the packages that are installed on this machine, so nothing has to be fetched: the essential ones, Python, a
compiler, others until the size is reached, and a layer of whiteouts and small files.  Once with gzip and once with
zstd, by the names `gzip` and `zstd`; `sibling-gzip` and `sibling-zstd` are other images of the same layers.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
import subprocess
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from stage import HERE, KEPT, key_of, once, tell

SIZE = 500 << 20  # bytes of files
SMALL = 2000  # files of the last layer
WHITEOUTS = 500
COMPRESS = {"gzip": ["gzip", "-6", "-n"], "zstd": ["zstd", "-q", "-3", "-T0"]}
_OCI = "application/vnd.oci.image"
_GROUPS = (("python3", "libpython3"), ("gcc", "cpp", "g++", "libgcc", "libstdc++", "binutils", "libc6-dev", "linux-libc-dev"))


def debian_layout() -> Path:
    """The layout's directory; made once and kept.  Takes about a minute the first time."""
    layout = KEPT / "debian"
    once("debian", key_of([HERE / "debian.py"]), lambda: _Maker(layout).make())
    return layout


def packages() -> dict[str, bool]:
    """Installed packages, in the order of their names, and whether each is essential."""
    show = ["dpkg-query", "-W", "-f", "${Package} ${Essential} ${Status}\n"]
    lines = subprocess.run(show, check=True, capture_output=True, text=True).stdout.splitlines()
    return {line.split()[0]: " yes " in line for line in sorted(lines) if line.endswith(" installed")}


def files_of(package: str) -> list[Path]:
    """What dpkg says belongs to a package and is there, directories before what is in them."""
    done = subprocess.run(["dpkg", "-L", package], capture_output=True, text=True)
    return [path for path in map(Path, done.stdout.splitlines()) if path.is_absolute() and path != Path("/") and os.path.lexists(path)]


class _Maker:
    """Writes the layout."""

    def __init__(self, layout: Path) -> None:
        self.layout = layout
        self.blobs = layout / "blobs/sha256"
        self.size = 0

    def make(self) -> None:
        """Layers, configurations, manifests, index."""
        tell("bench: making a Debian image of 500 MB in build/bench/debian")
        subprocess.run(["rm", "-rf", self.layout], check=True)
        self.blobs.mkdir(parents=True)
        layers = [self._layer(number, members) for number, members in enumerate(self._layers())]
        entries = []
        for name in COMPRESS:
            for prefix, command in (("", "/bin/true"), ("sibling-", "/bin/false")):
                entries.append(self._image(prefix + name, name, command, layers))
        (self.layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": entries}))
        (self.layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')

    def _layers(self) -> Iterator[Iterable[tuple[Path, str]]]:
        """The paths of each layer, with their names in it."""
        known = packages()
        essential = [name for name, is_essential in known.items() if is_essential]
        groups = [essential, *([name for name in known if name.startswith(group)] for group in _GROUPS)]
        taken = {name for group in groups for name in group}
        groups.append([name for name in known if name not in taken])
        seen: set[Path] = set()
        for group in groups:
            yield self._paths(group, seen)
        yield ()

    def _paths(self, group: list[str], seen: set[Path]) -> Iterator[tuple[Path, str]]:
        for package in group:
            for path in files_of(package):
                info = path.lstat()
                if path in seen or self.size + info.st_size > SIZE or not (stat.S_ISDIR(info.st_mode) or path.is_file()):
                    continue
                seen.add(path)
                if stat.S_ISREG(info.st_mode):
                    self.size += info.st_size
                yield path, str(path)[1:]

    def _layer(self, number: int, members: Iterable[tuple[Path, str]]) -> dict[str, tuple[str, int, str]]:
        """Writes one layer in every compression; by its name (digest, size, DiffID)."""
        plain = KEPT / f"debian-layer-{number}.tar"
        with tarfile.open(plain, "w", format=tarfile.PAX_FORMAT) as archive:
            for path, name in members:
                archive.add(path, name, recursive=False)
            if number == 4:
                self._whiteouts(archive)
        diff_id = hashlib.sha256(plain.read_bytes()).hexdigest()
        found = {}
        for kind, command in COMPRESS.items():
            packed = KEPT / f"debian-layer.{kind}"
            with plain.open("rb") as source, packed.open("wb") as target:
                subprocess.run(command, stdin=source, stdout=target, check=True)
            digest = hashlib.sha256(packed.read_bytes()).hexdigest()
            found[kind] = (digest, packed.stat().st_size, diff_id)
            packed.rename(self.blobs / digest)
        plain.unlink()
        return found

    def _whiteouts(self, archive: tarfile.TarFile) -> None:
        """Documentation of some packages goes, one directory is opaque, and small files come."""
        doc = sorted(path.name for path in Path("/usr/share/doc").iterdir())[:WHITEOUTS]
        for name in (*(f"usr/share/doc/.wh.{one}" for one in doc), "usr/share/locale/.wh..wh..opq"):
            archive.addfile(tarfile.TarInfo(name))
        for number in range(SMALL):
            data = f"file {number}\n".encode() * (number % 200)
            info = tarfile.TarInfo(f"srv/small/{number % 40}/{number}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))

    def _image(self, name: str, kind: str, command: str, layers: list[dict[str, tuple[str, int, str]]]) -> dict[str, Any]:
        config = {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Cmd": [command]},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer[kind][2]}" for layer in layers]},
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": f"{_OCI}.manifest.v1+json",
            "config": self._blob(config, f"{_OCI}.config.v1+json"),
            "layers": [
                {"mediaType": f"{_OCI}.layer.v1.tar+{kind}", "digest": f"sha256:{layer[kind][0]}", "size": layer[kind][1]}
                for layer in layers
            ],
        }
        annotations = {"org.opencontainers.image.ref.name": name}
        return {**self._blob(manifest, f"{_OCI}.manifest.v1+json"), "annotations": annotations}

    def _blob(self, document: dict[str, Any], media_type: str) -> dict[str, Any]:
        data = json.dumps(document).encode()
        digest = hashlib.sha256(data).hexdigest()
        (self.blobs / digest).write_bytes(data)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}
