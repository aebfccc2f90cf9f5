"""The library against crun and against the floor: a start, one more process, a whole life, many at once, what 200 take.

The floor (bench/floor_pod.c) makes the namespaces and mounts of pyrun's default plan straight from C, without a supervisor, a process 1, a
record or a filter: less than any runtime can do.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from cases import Bench, Library, many
from clock import NULL, Failed, Sample, Series, Subject, interleave
from stage import ENVIRONMENT, Stage

FLOOR = "C floor, same namespaces and mounts"
WIDTHS = (1, 2, 4, 8)
HELD = 200
LIFE, DETACHED, CRUN_LIFE = "library start, close", "library prepare, start, remove", "crun create, start, delete"
TITLES = {
    "life": ("create, start and delete of a sleeping container, ms", {CRUN_LIFE: "of crun"}),
    "floor": ("start of /bin/true against the floor, ms", {FLOOR: "of the floor", "crun run": "of crun"}),
}


class Floor:
    """One container by the floor; it times itself, so that its own start does not count."""

    name = FLOOR

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.state = stage.directory / "floor"
        self.state.mkdir(exist_ok=True)

    def words(self, count: int, width: int) -> list[str]:
        group = "/sys/fs/cgroup" if os.access("/sys/fs/cgroup/cgroup.procs", os.W_OK) else "-"
        return [str(self.stage.floor["floor_pod"]), str(self.stage.rootfs), str(self.state), group, str(count), str(width), "/bin/true"]

    def run(self, count: int, width: int) -> list[int]:
        """Nanoseconds of each container, and at last of all of them together."""
        done = subprocess.run(self.words(count, width), env=ENVIRONMENT, stdin=NULL, capture_output=True, text=True)
        shutil.rmtree(self.state)
        self.state.mkdir()
        if done.returncode:
            raise Failed(f"floor_pod: exit {done.returncode}: {done.stderr.strip()}")
        return [int(line) for line in done.stdout.split()]

    def once(self) -> Sample:
        return Sample(self.run(1, 1)[0] / 1e6)


class Life:
    """create, start, wait until it runs, delete by force: each a command."""

    def __init__(self, name: str, program: list[str], bundle: Path) -> None:
        self.name = name
        self.program = program
        self.bundle = bundle

    def once(self) -> Sample:
        begin = time.perf_counter_ns()
        for words in (["create", "-b", str(self.bundle), "bench-life"], ["start", "bench-life"], ["delete", "--force", "bench-life"]):
            subprocess.run([*self.program, *words], env=ENVIRONMENT, check=True, stdin=NULL, stdout=NULL, stderr=NULL)
        return Sample((time.perf_counter_ns() - begin) / 1e6)


def measure(bench: Bench, rounds: int) -> tuple[dict[str, dict[str, Series]], dict[str, dict[str, object]]]:
    """The series and the plain numbers, by case."""
    floor = Floor(bench.stage)
    start: list[Subject] = [Library("library, repeated", bench.small, "run", "disk"), floor]
    if bench.bundle:
        start.append(bench.oci("crun run", "crun", bench.bundle))
    series = {"floor": interleave(start, rounds, max(3, rounds // 10)), "life": lives(bench, rounds)}
    return series, {
        "containers a second, by how many at once": {**throughput(bench, floor)},
        f"beside {HELD} sleeping containers": {**held(bench)},
    }


def lives(bench: Bench, rounds: int) -> dict[str, Series]:
    subjects: list[Subject] = [Library(LIFE, bench.small, "life", "disk"), Library(DETACHED, bench.small, "detached", "disk")]
    crun = shutil.which("crun", path=ENVIRONMENT["PATH"])
    if bench.bundle and crun:
        bundle = bench.stage.bundle("life", program=("/bin/sleep", "600"))
        subjects.append(Life(CRUN_LIFE, [crun, "--root", str(bench.oci_root / "crun-life")], bundle))
    return interleave(subjects, max(5, rounds // 2), 3)


def throughput(bench: Bench, floor: Floor, count: int = 48, blocks: int = 3) -> dict[str, dict[str, float]]:
    """Containers a second, 1, 2, 4 and 8 at once; blocks of each kind take turns, the median counts."""
    kinds: dict[str, Callable[[int], float]] = {
        "library, one process": lambda width: bench.small.order("many", count, width)[0] / 1e3,
        FLOOR: lambda width: floor.run(count, width)[-1] / 1e9,
    }
    if bench.bundle:
        bundle = bench.bundle
        kinds["crun run"] = lambda width: many(lambda: bench.oci("crun run", "crun", bundle), count, width)
    rates: dict[str, dict[str, list[float]]] = {name: {str(width): [] for width in WIDTHS} for name in kinds}
    for _ in range(blocks):
        for width in WIDTHS:
            for name, kind in kinds.items():
                rates[name][str(width)].append(count / kind(width))
    return {name: {label: statistics.median(values) for label, values in row.items()} for name, row in rates.items()}


def held(bench: Bench) -> dict[str, float]:
    """What stays while 200 containers sleep that one process has started: KiB for each, and threads in all."""
    driver = bench.driver()
    heap, threads = driver.order("hold", HELD)
    sizes = [_pss(pid) for pid in driver.below()]
    driver.order("drop")
    return {"PSS of supervisor and init, KiB": sum(sizes) / HELD, "Python heap, KiB": heap * 1e6 / 1024, "threads": threads * 1e6}


def _pss(pid: int) -> float:
    if not Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"pyrun:"):
        return 0.0
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return float(line.split()[1])
    return 0.0


def gates(series: dict[str, dict[str, Series]], numbers: dict[str, dict[str, object]]) -> list[tuple[str, float | None, float]]:
    """What was asked for, as (name, value, limit): a value is met when it is at most the limit."""

    def ratio(case: str, one: str, other: str) -> float | None:
        found = series.get(case, {})
        return found[one].p50() / found[other].p50() if one in found and other in found else None

    rates = numbers.get("containers a second, by how many at once", {})
    beside = numbers.get(f"beside {HELD} sleeping containers", {})

    def inverse(other: str) -> float | None:
        own, theirs = rates.get("library, one process"), rates.get(other)
        return theirs["4"] / own["4"] if isinstance(own, dict) and isinstance(theirs, dict) else None

    heap, threads = beside.get("Python heap, KiB"), beside.get("threads")
    return [
        ("library-start-vs-crun", ratio("floor", "library, repeated", "crun run"), 0.33),
        ("library-start-vs-floor", ratio("floor", "library, repeated", FLOOR), 1.5),
        ("library-life-vs-crun", ratio("life", LIFE, CRUN_LIFE), 0.15),
        ("four-at-once-crun-vs-library", inverse("crun run"), 1 / 2.5),
        ("four-at-once-floor-vs-library", inverse(FLOOR), 1 / 0.6),
        ("python-heap-of-a-container-kib", float(str(heap)) if heap is not None else None, 32.0),
        ("threads-of-200-containers", float(str(threads)) if threads is not None else None, 1.0),
    ]
