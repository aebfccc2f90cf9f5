"""OCI runtimes through their command lines: create, start and delete; exec; run with a filter; podman's run."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from pathlib import Path

from cases import BLOCKS, SEQUENTIAL, WIDTH, Bench, many
from clock import NULL, QUIET, Command, Failed, Sample, Series, Subject, interleave
from stage import ENVIRONMENT, call

OURS = "pyrun-oci"
IMAGE = "localhost/bench:1"
NAMES = (OURS, "crun", "runc")
LIFE, ENTER, FILTERED, PODMAN = "create, start, delete", "exec", "run, 300 calls allowed", "podman run --rm"
# name, case, what, other, limit; p50 of wall times
RATIOS = (
    ("oci-life-vs-runc", "containers", LIFE, "runc", 0.30),
    ("oci-life-vs-crun", "containers", LIFE, "crun", 1.3),
    ("oci-exec-vs-runc", "containers", ENTER, "runc", 0.6),
    ("oci-filtered-run-vs-crun", "containers", FILTERED, "crun", 0.8),
    ("oci-podman-vs-crun", "by-podman", PODMAN, "crun", 1.0),
)
TITLES = {"containers": ("OCI runtimes, ms", {}), "by-podman": ("OCI runtimes below podman, ms", {f"{PODMAN}, crun": "of crun"})}


def program(bench: Bench, name: str) -> str:
    """The path of a runtime: ours from the wheel that is measured."""
    return str(Path(bench.stage.pyrun).parent / OURS) if name == OURS else shutil.which(name, path=ENVIRONMENT["PATH"]) or ""


class Life:
    """create, start and delete --force of one container; the sum of the three."""

    def __init__(self, name: str, words: list[str], bundle: Path) -> None:
        self.name = name
        self.identity = f"bench-{os.getpid()}-{threading.get_ident():x}"
        self.steps = [
            [*words, "create", "--bundle", str(bundle), self.identity],
            [*words, "start", self.identity],
            [*words, "delete", "--force", self.identity],
        ]

    def once(self) -> Sample:
        wall = cpu = 0.0
        for step in self.steps:
            start = time.perf_counter_ns()
            pid = os.posix_spawn(step[0], step, ENVIRONMENT, file_actions=QUIET)
            _, status, usage = os.wait4(pid, 0)
            wall += (time.perf_counter_ns() - start) / 1e6
            cpu += (usage.ru_utime + usage.ru_stime) * 1e3
            if status:
                raise Failed(f"{self.name}: {' '.join(step)}: {status >> 8}")
        return Sample(wall, cpu)


class Containers:
    """The cases, for the runtimes that are installed."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.paths = {name: path for name in NAMES if (path := program(bench, name))}
        self.first = bench.oci_root / f"{OURS}-first"  # where nothing has been decided
        self.sleeping = bench.stage.bundle("oci-sleeping", program=("/bin/sleep", "600"))

    def words(self, name: str) -> list[str]:
        return [self.paths[name], "--root", str(self.bench.oci_root / f"{name}-oci")]

    def forget(self) -> None:
        """The next create has to decide again."""
        for path in (self.first / ".recipes").glob("*"):
            path.unlink()

    def measure(self, rounds: int) -> dict[str, Series]:
        filtered = self.bench.stage.bundle("oci-filtered", self.bench.stage.allowed_calls())
        subjects: list[Subject] = []
        for name in self.paths:
            words = self.words(name)
            subjects.append(Life(f"{LIFE}, {name}", words, self.sleeping))
            run = [*words, "run", "--bundle", str(filtered), f"bench-{os.getpid()}"]
            subjects.append(Command(f"{FILTERED}, {name}", run, ENVIRONMENT))
            if name == OURS:
                first = [self.paths[name], "--root", str(self.first), "run", "--bundle", str(filtered), f"bench-{os.getpid()}"]
                subjects.append(Command(f"{FILTERED}, {name}, recipes removed", first, ENVIRONMENT, self.forget))
            start = [*words, "run", "--detach", "--bundle", str(self.sleeping), "bench-exec"]
            subprocess.run(start, check=True, env=ENVIRONMENT, stdin=NULL, stdout=NULL, stderr=NULL)
            subjects.append(Command(f"{ENTER}, {name}", [*words, "exec", "bench-exec", "/bin/true"], ENVIRONMENT))
        try:
            return interleave(subjects, rounds, max(3, rounds // 10))
        finally:
            for name in self.paths:
                end = [*self.words(name), "delete", "--force", "bench-exec"]
                subprocess.run(end, check=True, env=ENVIRONMENT, stdin=NULL, stdout=NULL, stderr=NULL)

    def podman(self, rounds: int) -> dict[str, Series]:
        """podman run --rm of the same image by both runtimes."""
        podman = shutil.which("podman")
        if not podman or "crun" not in self.paths:
            return {}
        settings = self.bench.stage.directory / "containers.conf"
        settings.write_text('[containers]\npids_limit = 0\ndefault_ulimits = ["nofile=20000:20000", "nproc=20000:20000"]\n')
        env = {**ENVIRONMENT, "CONTAINERS_CONF": str(settings)}
        own = self.bench.stage.directory / "podman-run"
        storage = ["--root", str(own / "root"), "--runroot", str(own / "run"), "--tmpdir", str(own / "tmp"), "--storage-driver", "overlay"]
        call("tar", "-C", self.bench.stage.rootfs, "-cf", own.with_suffix(".tar"), ".")
        call(podman, *storage, "import", own.with_suffix(".tar"), IMAGE)
        subjects: list[Subject] = []
        for name in (OURS, "crun"):
            # --privileged: this crun loads no device program where RLIMIT_MEMLOCK cannot be raised
            flags = ["--rm", "--pull=never", "--network=none", "--privileged", "--cgroups=enabled"]
            words = [podman, *storage, "--cgroup-manager", "cgroupfs", "--events-backend", "file", "--runtime", self.paths[name]]
            subjects.append(Command(f"{PODMAN}, {name}", [*words, "run", *flags, IMAGE, "/bin/true"], env))
        return interleave(subjects, max(10, rounds // 5), 2)

    def throughput(self) -> dict[str, dict[str, float]]:
        """Containers created, started and deleted a second, four at a time."""
        found = {}
        for name in self.paths:
            rates = [
                SEQUENTIAL / many(lambda name=name: Life(name, self.words(name), self.sleeping), SEQUENTIAL, WIDTH)  # type: ignore[misc]
                for _ in range(BLOCKS)
            ]
            found[name] = {"parallel": sorted(rates)[len(rates) // 2]}
        return found
