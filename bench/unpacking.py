"""Unpacking a Debian image of 500 MB, against podman, umoci and tar; and what costs next to nothing afterwards.

Everything starts from the same layout (bench/debian.py) and ends with files on the same file system.  What the last round
left is removed, and written back, off the clock.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

from clock import QUIET, Command, Failed, Sample, Series
from debian import debian_layout
from stage import ENVIRONMENT, Stage

FORMS = ("gzip", "zstd")
UNPACK = '{} -dc "$1" | tar -x --numeric-owner -C "$2"'

FIND = """
import sys, time
from pyrun.images import layered, resolve
from pyrun.images.store import Store

store = Store(sys.argv[1])

def once():
    begin = time.perf_counter()
    resolve.find(store, sys.argv[2], unsigned=True)
    return time.perf_counter() - begin

print(min(once() for _ in range(int(sys.argv[3]))) * 1e3)
"""


class Unpacking:
    """The case, on one stage."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.layout = debian_layout()
        self.place = stage.directory / "unpack"

    def fetch(self, form: str, root: Path) -> Command:
        words = [self.stage.pyrun, "--root", str(root), "fetch", "--insecure-options=image", f"oci:{self.layout}:{form}"]
        return Command(f"pyrun fetch, {form}", words, ENVIRONMENT)

    def commands(self, form: str) -> Iterator[Command]:
        """Every subject of one compression, each with a place of its own."""
        yield self.fetch(form, self.place / "pyrun")
        if shutil.which("podman"):
            stores = [f"--root={self.place}/podman", f"--runroot={self.place}/podman-run", "--storage-driver=overlay"]
            yield Command(f"podman pull, {form}", ["/usr/bin/podman", *stores, "pull", "-q", f"oci:{self.layout}:{form}"], ENVIRONMENT)
        if form == "gzip" and shutil.which("umoci"):  # Debian's cannot unpack zstd
            yield Command(
                "umoci unpack, gzip", ["/usr/bin/umoci", "unpack", "--image", f"{self.layout}:gzip", f"{self.place}/umoci"], ENVIRONMENT
            )
        script = f"mkdir {self.place}/tar; " + "; ".join(
            UNPACK.format(form).replace('"$1"', str(blob)).replace('"$2"', f"{self.place}/tar") for blob in self.blobs(form)
        )
        yield Command(f"{form} -dc | tar -x", ["/bin/sh", "-euc", script], ENVIRONMENT)

    def blobs(self, form: str) -> list[Path]:
        """The layers of an image, bottom first."""

        def read(digest: str) -> dict[str, object]:
            found: dict[str, object] = json.loads((self.layout / "blobs/sha256" / digest[7:]).read_text())
            return found

        index = json.loads((self.layout / "index.json").read_text())
        entry = next(one for one in index["manifests"] if form in one["annotations"].values())
        layers: list[dict[str, str]] = read(entry["digest"])["layers"]  # type: ignore[assignment]
        return [self.layout / "blobs/sha256" / layer["digest"][7:] for layer in layers]

    def clear(self) -> None:
        """Removes what there is and waits until everybody's files are on the disk."""
        subprocess.run(["rm", "-rf", self.place], check=True)
        self.place.mkdir()
        os.sync()

    def measure(self, rounds: int) -> dict[str, Series]:
        """Rounds in turns."""
        series: dict[str, Series] = {}
        for _ in range(rounds):
            for form in FORMS:
                for command in self.commands(form):
                    self.clear()
                    series.setdefault(command.name, Series()).samples.append(command.once())
        return series

    def memory(self) -> float:
        """MiB: the most that all processes of one import held together at one time, shared pages counted once."""
        self.clear()
        command = self.fetch("gzip", self.place / "pyrun")
        pid = os.posix_spawn(command.argv[0], command.argv, command.env, file_actions=QUIET)
        most = [0]
        over = threading.Event()

        def watch() -> None:
            while not over.wait(0.02):
                most[0] = max(most[0], sum(map(pss, family(pid))))

        watcher = threading.Thread(target=watch)
        watcher.start()
        _, status, _ = os.wait4(pid, 0)
        over.set()
        watcher.join()
        if status:
            raise Failed(f"{command.name}: {status}")
        return most[0] / 1024

    def afterwards(self, rounds: int) -> dict[str, Series]:
        """A second image of the same layers; the same file again; the stored image as `run` finds it."""
        series = {name: Series() for name in ("sibling", "sibling, command", "unchanged, command", "python", "resolve")}
        for number in range(rounds):
            self.clear()
            root = self.place / "pyrun"
            self.fetch("gzip", root).once()
            sibling = Command("sibling", [*self.fetch("sibling-gzip", root).argv], ENVIRONMENT)
            if number % 2:
                series["sibling, command"].samples.append(sibling.once())
            else:
                series["sibling"].samples.append(Sample(self.library(root, "sibling-gzip", 1)))
            for _ in range(10):
                series["unchanged, command"].samples.append(sibling.once())
                version = Command("start", [self.stage.pyrun, "--root", str(root), "image", "list"], ENVIRONMENT)
                series["python"].samples.append(version.once())
            series["resolve"].samples.append(Sample(self.library(root, "gzip", 100)))
        return series

    def library(self, root: Path, form: str, times: int) -> float:
        """Milliseconds, at best of `times`, until a live process has the image."""
        words = [self.stage.python, "-I", "-c", FIND, str(root), f"oci:{self.layout}:{form}", str(times)]
        return float(subprocess.run(words, env=ENVIRONMENT, check=True, capture_output=True, text=True).stdout)


def family(pid: int) -> list[int]:
    """A process and all below it."""
    found = [pid]
    for one in found:
        for children in Path(f"/proc/{one}/task").glob("*/children"):
            try:
                found += map(int, children.read_text().split())
            except OSError:
                continue
    return found


def pss(pid: int) -> int:
    """KiB of a process, its part of shared pages (proc(5), smaps_rollup)."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def gates(series: dict[str, Series], after: dict[str, Series], memory: float) -> list[tuple[str, float | None, float]]:
    """Name, value and limit of every gate; ratios are of the least wall time, since what is slower was disturbed."""

    def ratio(one: str, other: str) -> float | None:
        return series[one].of("wall")[0] / series[other].of("wall")[0] if other in series else None

    ours = {form: f"pyrun fetch, {form}" for form in FORMS}
    unchanged = after["unchanged, command"].p50() - after["python"].p50()
    return [
        ("unpack-gzip-vs-podman", ratio(ours["gzip"], "podman pull, gzip"), 0.40),
        ("unpack-gzip-vs-umoci", ratio(ours["gzip"], "umoci unpack, gzip"), 0.33),
        ("unpack-zstd-vs-podman", ratio(ours["zstd"], "podman pull, zstd"), 0.45),
        ("unpack-gzip-vs-tar", ratio(ours["gzip"], "gzip -dc | tar -x"), 0.8),
        ("unpack-memory-mib", memory, 150),
        ("second-image-ms", after["sibling"].of("wall")[0], 50),
        ("unchanged-above-start-ms", unchanged, 10),
        ("resolve-ms", after["resolve"].of("wall")[0], 1),
    ]
