"""Pulling from a registry on this machine, over TLS, against podman: Debian's docker-registry, the image of `debian`."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path

from clock import Command, Series
from debian import debian_layout
from stage import ENVIRONMENT, TOP, Stage

sys.path.insert(0, str(TOP / "tests" / "support"))
from registries import Authority
from world import Registry

__all__ = ["FORMATS", "pull"]

FORMATS = ("gzip", "zstd")


class _Bench:
    """The registry with both images, and one command for each pull, into a store of its own."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.folder = stage.directory / "registry"
        self.numbers = itertools.count()
        for folder in (self.folder, self.folder / "served", self.folder / "known"):
            folder.mkdir()
        self.authority = Authority(self.folder)
        shutil.copy(self.authority.certificate, self.folder / "known" / "ca.crt")
        self.registry = Registry(self.folder / "served", self.authority, {})
        self.env = {**ENVIRONMENT, "SSL_CERT_FILE": str(self.authority.certificate)}
        for name in FORMATS:
            copy = ["skopeo", "--insecure-policy", "copy", "--quiet", f"oci:{debian_layout()}:{name}", f"docker://{self.place(name)}"]
            subprocess.run(copy, env=self.env, check=True)

    def place(self, name: str) -> str:
        return f"{self.registry.place}/{name}:1"

    def pyrun(self, name: str) -> tuple[Command, list[Path]]:
        root = self.stage.state(f"pulled-{next(self.numbers)}")
        words = [self.stage.pyrun, "--root", str(root), "fetch", "-q", "--insecure-options=image", f"docker://{self.place(name)}"]
        return Command(f"pyrun fetch, {name}", words, self.env), [root]

    def podman(self, name: str) -> tuple[Command, list[Path]]:
        top = self.stage.directory / f"podman-{next(self.numbers)}"
        run = Path(f"/run/bench-{os.getpid()}-{next(self.numbers)}")  # podman wants it short
        where = ["--root", str(top), "--runroot", str(run), "--storage-driver", "overlay"]
        words = ["/usr/bin/podman", *where, "pull", "-q", "--cert-dir", str(self.folder / "known"), f"docker://{self.place(name)}"]
        return Command(f"podman pull, {name}", words, self.env), [top, run]


def pull(stage: Stage, rounds: int = 2) -> dict[str, Series]:
    """Wall and CPU time of each; what one has pulled is removed before the next begins, off the clock."""
    bench = _Bench(stage)
    series: dict[str, Series] = {}
    try:
        for _ in range(rounds):
            for name in FORMATS:
                for make in (bench.pyrun, bench.podman):
                    command, made = make(name)
                    os.sync()  # nobody pays for what another left to be written
                    series.setdefault(command.name, Series()).samples.append(command.once())
                    for path in made:
                        shutil.rmtree(path, ignore_errors=True)
    finally:
        bench.registry.stop()
    return series
