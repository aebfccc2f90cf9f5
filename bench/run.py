"""Measures pyrun against its peers, all in one run and in turns: bench/README.md says how to read it.

    bench/run.py [--rounds N] [--only CASE]... [--json FILE] [--gate]

Needs root; goes into a mount and a pid namespace of its own with a pure cgroup2 tree.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import containers
import library
import pods
from cases import LIST, OTHER, PODMAN_LIST, PREPARED, Bench
from clock import Failed, Series
from stage import TOP, Stage, tell
from unpacking import Unpacking
from unpacking import gates as unpacking_gates

CASES = (
    *(
        "lib",
        "parent",
        "cli",
        "enter",
        "net",
        "stop",
        "background",
        "exec",
        "memory",
        "throughput",
        "import",
        "pull",
        "list",
        "pods",
        "unpack",
        "library",
    ),
    "oci",
    "profile",
)
IN_LANE = "PYRUN_BENCH_IN_LANE"
LIBRARY, COMMAND, PYTHON = "library, repeated", "pyrun run, repeated", "python -I -S -E -c pass"
UNCACHED = "pyrun run, cache/run emptied"

# name, case, value, limit; a value is (numerator, denominator) of the p50 of wall times, or computed below
RATIOS = (
    ("library-vs-crun", "lib", LIBRARY, "crun run", 0.40),
    ("large-parent-vs-small", "parent", "library, 2 GB and 8 threads", LIBRARY, 1.2),
    ("cli-vs-runc", "cli", COMMAND, "runc run", 0.5),
    ("prepared-vs-crun", "cli", PREPARED, "crun run", 0.6),
    ("cli-vs-crun", "cli", COMMAND, "crun run", 1.8),
    ("cli-other-vs-runc", "cli", OTHER, "runc run", 0.55),
    ("cli-other-vs-crun", "cli", OTHER, "crun run", 1.8),
    ("cli-uncached-vs-runc", "cli", UNCACHED, "runc run", 0.55),
    ("cli-uncached-vs-crun", "cli", UNCACHED, "crun run", 1.8),
)
NOTES = (
    ("library-vs-crun", "lib", LIBRARY, "crun run"),
    ("library-first-vs-crun", "lib", "library, first", "crun run"),
    ("library-tmpfs-vs-crun", "lib", "library, repeated, tmpfs upper", "crun run"),
    ("cli-vs-crun", "cli", COMMAND, "crun run"),
    ("library-pool-vs-crun", "lib", "library, pool", "crun run"),
    ("prepared-vs-crun", "cli", PREPARED, "crun run"),
    ("cli-other-vs-crun", "cli", OTHER, "crun run"),
    ("cli-uncached-vs-runc", "cli", UNCACHED, "runc run"),
    ("cli-uncached-vs-crun", "cli", UNCACHED, "crun run"),
)
CPU_LIMIT = 6.0  # ms of `pyrun run` above an interpreter that does nothing
ENTER_LIMIT = 0.6  # of `runc exec`
LIBRARY_EXEC_LIMIT = 0.2  # of `crun exec`
NETWORK_LIMIT = 15.0  # ms of CPU time of `--net default` above `--net none`
EXEC_LIMIT = 1.2  # of a program without libc
PULL_LIMIT = 0.45  # of podman pull, the quickest of each
LIST_LIMIT = 0.5  # of podman images, for 1,000 of them
MEMORY_LIMIT = 150.0  # KiB, supervisor and init together


class Results:
    """Everything that was measured: `series` by case, plain numbers by case, gates."""

    def __init__(self) -> None:
        self.series: dict[str, dict[str, Series]] = {}
        self.numbers: dict[str, dict[str, object]] = {}
        self.gates: list[tuple[str, float | None, float]] = []
        self.notes: list[tuple[str, float]] = []

    def cpu(self, name: str) -> float:
        """The CPU time of a start, 0 when it was not measured."""
        found = self.series.get("start", {}).get(name)
        return (found.summary()["cpu_p50"] or 0.0) if found else 0.0

    def ratio(self, case: str, one: str, other: str, kind: str = "p50") -> float | None:
        found = self.series.get(case, {})
        if one not in found or other not in found:
            return None
        above, below = found[one].summary()[kind], found[other].summary()[kind]
        return above / below if above is not None and below else None


def table(title: str, series: dict[str, Series], peers: dict[str, str]) -> None:
    """Prints one series: milliseconds, and the p50 as a multiple of each peer's; `peers` maps names to column heads."""
    peers = {peer: head for peer, head in peers.items() if peer in series}
    columns = [
        key for key in ("min", "p50", "p90", "cpu_p50", "gone_p50") if any(one.summary()[key] is not None for one in series.values())
    ]
    heads = "".join(f"{key.removesuffix('_p50'):>8}" for key in columns)
    print(f"\n{title:<34}{heads}" + "".join(f"{head:>12}" for head in peers.values()))
    for name, one in sorted(series.items(), key=lambda item: item[1].p50()):
        row = one.summary()
        cells = "".join(f"{'':8}" if row[key] is None else f"{row[key]:8.2f}" for key in columns)
        print(f"{name:<34}{cells}" + "".join(f"{one.p50() / series[peer].p50():12.2f}" for peer in peers))


def show_numbers(results: Results) -> None:
    for case, numbers in results.numbers.items():
        print(f"\n{case}")
        for name, value in numbers.items():
            text = "  ".join(f"{key} {one:.1f}" for key, one in value.items()) if isinstance(value, dict) else f"{value:.1f}"
            print(f"  {name:<32}{text}")


def judge(results: Results, wanted: set[str]) -> None:
    """Fills in gates and notes of the cases that were wanted; a value that could not be had is None."""
    for name, case, one, other, limit in RATIOS:
        if case in wanted:
            results.gates.append((name, results.ratio("start", one, other), limit))
    for name, case, one, other in NOTES:
        for kind in ("p50", "min"):
            value = results.ratio("start", one, other, kind)
            if case in wanted and value is not None:
                results.notes.append((f"{name}-{kind}", value))
    if "cli" in wanted:
        bare = results.cpu(PYTHON)
        results.gates.append(("cli-cpu-above-python-ms", results.cpu(COMMAND) - bare, CPU_LIMIT))
        results.gates.append(("cli-other-cpu-above-python-ms", results.cpu(OTHER) - bare, CPU_LIMIT))
        results.gates.append(("cli-uncached-cpu-above-python-ms", results.cpu(UNCACHED) - bare, CPU_LIMIT))
    if "net" in wanted:
        found = {name.rpartition(" ")[2]: one.summary()["cpu_p50"] for name, one in results.series.get("net", {}).items()}
        known = found.get("default") is not None and found.get("none") is not None
        more = (found["default"] or 0.0) - (found["none"] or 0.0) if known else None
        results.gates.append(("net-default-cpu-above-none-ms", more, NETWORK_LIMIT))
        again = [results.series.get("net", {}).get(f"pyrun run --net {name}, repeated") for name in ("default", "none")]
        walls = [one.p50() for one in again if one is not None]
        results.gates.append(("net-default-repeated-above-none-ms", walls[0] - walls[1] if len(walls) == 2 else None, NETWORK_LIMIT))
    if "enter" in wanted:
        results.gates.append(("enter-vs-runc", results.ratio("enter", "pyrun exec", "runc exec"), ENTER_LIMIT))
        results.gates.append(("library-exec-vs-crun", results.ratio("enter", "library exec", "crun exec"), LIBRARY_EXEC_LIMIT))
    results.gates += pods.gates(results.series)
    if "library" in wanted:
        results.gates += library.gates(results.series, results.numbers)
    for name, kind, one, other, limit in containers.RATIOS:
        if "oci" in wanted:
            results.gates.append((name, results.ratio(kind, f"{one}, {containers.OURS}", f"{one}, {other}"), limit))
    if "pull" in wanted:
        for name in ("gzip", "zstd"):
            value = results.ratio("pull", f"pyrun fetch, {name}", f"podman pull, {name}", "min")
            results.gates.append((f"pull-{name}-vs-podman", value, PULL_LIMIT))
            cpu = results.ratio("pull", f"pyrun fetch, {name}", f"podman pull, {name}", "cpu_min")
            results.notes += [(f"pull-{name}-vs-podman-cpu", cpu)] if cpu is not None else []
    if "exec" in wanted:
        results.gates.append(("helper-exec-vs-no-libc", results.ratio("exec", "helper without a plan", "static, no libc"), EXEC_LIMIT))
    if "list" in wanted:
        results.gates.append(("list-vs-podman", results.ratio("list", LIST, PODMAN_LIST), LIST_LIMIT))
    if "memory" in wanted:
        size = results.numbers["memory beside a sleeping container, KiB"]["PSS"]
        results.gates.append(("resident-pss-kib", float(str(size)), MEMORY_LIMIT))


def show_gates(results: Results) -> bool:
    """Prints the gates; returns whether all were met."""
    print()
    for name, note in results.notes:
        print(f"note {name}: {note:.2f}")
    met = True
    for name, value, limit in results.gates:
        met = met and ok(value, limit)
        shown = "not measured" if value is None else f"{value:.2f}"
        print(f"gate {name}: {shown} limit {limit:g} {'ok' if ok(value, limit) else 'MISSED'}")
    return met


def ok(value: float | None, limit: float) -> bool:
    return value is not None and value <= limit


def first_line(*words: str) -> str:
    try:
        return subprocess.run(words, capture_output=True, text=True).stdout.split("\n")[0]
    except OSError:
        return ""


def stolen() -> tuple[int, int]:
    """Ticks that the hypervisor took away, and all ticks (proc(5), /proc/stat)."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
    return ticks[7], sum(ticks)


def machine() -> dict[str, object]:
    """What the numbers depend on."""
    model = [line.partition(": ")[2] for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "kernel": platform.release(),
        "cpus": f"{os.cpu_count()} x {model[0] if model else platform.machine()}",
        "state on": "ext4 with a journal, in a file",
        "python": first_line("/usr/bin/python3", "-V"),
        "crun": first_line("crun", "--version"),
        "runc": first_line("runc", "--version"),
        "bwrap": first_line("bwrap", "--version"),
        "systemd-nspawn": first_line("systemd-nspawn", "--version"),
        "commit": first_line("git", "-C", str(TOP), "describe", "--always", "--dirty"),
    }


def measure(bench: Bench, wanted: set[str], rounds: int) -> Results:
    results = Results()
    if wanted & {"lib", "parent", "cli"}:
        tell(f"bench: start of /bin/true, {rounds} rounds")
        results.series["start"] = bench.start(wanted, rounds)
    if "enter" in wanted:
        results.series["enter"] = bench.enter(rounds)
    if "net" in wanted:
        results.series["net"] = bench.network(rounds)
    if wanted & set(pods.TITLES):
        tell("bench: pods in the background")
        results.series.update(pods.measure(bench, wanted, rounds))
    if "oci" in wanted:
        tell("bench: OCI runtimes")
        case = containers.Containers(bench)
        results.series.update({"containers": case.measure(rounds), "by-podman": case.podman(rounds)})
        results.numbers["containers created, started and deleted a second, four at a time"] = {**case.throughput()}
    if "exec" in wanted:
        results.series["exec"] = bench.exec(rounds)
    if "memory" in wanted:
        results.numbers["memory beside a sleeping container, KiB"] = {**bench.memory()}
    if "throughput" in wanted:
        tell("bench: throughput")
        results.numbers["containers a second"] = {**bench.throughput()}
    if "library" in wanted:
        tell("bench: the library, the floor, many at once")
        series, numbers = library.measure(bench, rounds)
        results.series.update(series)
        results.numbers.update(numbers)
    if "profile" in wanted:
        from syscalls import measure as traced

        tell("bench: system calls of a start")
        results.numbers.update(traced(bench, rounds))
    if "import" in wanted:
        tell("bench: import of 200 MB")
        results.series["import"] = bench.unpack()
    if "pull" in wanted:
        from pull import pull

        tell("bench: pull of 500 MB")
        results.series["pull"] = pull(bench.stage)
    if "unpack" in wanted:
        tell("bench: unpacking 500 MB")
        measure_unpacking(results, bench, max(1, rounds // 33))
    if "list" in wanted:
        results.series["list"] = bench.listing(rounds)
    return results


def measure_unpacking(results: Results, bench: Bench, rounds: int) -> None:
    case = Unpacking(bench.stage)
    results.series["unpack"] = case.measure(rounds)
    results.series["afterwards"] = case.afterwards(rounds + 1)
    memory = case.memory()
    results.numbers["memory of an import of 500 MB, MiB"] = {"all processes together, at most": memory}
    results.gates += unpacking_gates(results.series["unpack"], results.series["afterwards"], memory)


def show(results: Results) -> None:
    titles = {
        "start": ("start of /bin/true, ms", {"crun run": "of crun", "runc run": "of runc"}),
        "net": ("/bin/true with a network, repeated or decided by Python, ms", {"pyrun run --net none": "of none"}),
        "enter": ("/bin/true in a running container, ms", {"crun exec": "of crun", "runc exec": "of runc"}),
        "exec": ("exec and reap, ms", {"static, no libc": "of no libc"}),
        "import": ("image of 200 MB, gzip, ms", {"gzip -dc | tar -x": "of tar", "gzip -dc | tar -x && sync -f": "of synced"}),
        "pull": ("pull of 500 MB, ms", {f"podman pull, {name}": f"of podman, {name}" for name in ("gzip", "zstd")}),
        "list": ("list, ms", {PYTHON: "of python", PODMAN_LIST: "of podman"}),
        "unpack": (
            "image of 500 MB, ms",
            {
                "podman pull, gzip": "of podman",
                "podman pull, zstd": "of zstd",
                "umoci unpack, gzip": "of umoci",
                "gzip -dc | tar -x": "of tar",
            },
        ),
        "afterwards": ("once the image is there, ms", {}),
        **pods.TITLES,
        **library.TITLES,
        **containers.TITLES,
    }
    for case, series in results.series.items():
        table(titles[case][0], series, titles[case][1])
    show_numbers(results)


def options(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench/run.py", description="measure pyrun against its peers")
    parser.add_argument("--rounds", type=int, default=100, metavar="N", help="rounds of the short measurements (default 100)")
    parser.add_argument("--only", action="append", choices=CASES, metavar="CASE", help=f"one of {' '.join(CASES)}; may be repeated")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there too")
    parser.add_argument("--gate", action="store_true", help="exit 1 unless every gate is met")
    return parser.parse_args(argv)


# Not the lane of the tests: in a cgroup namespace whose root holds processes crun waits two seconds for controllers.
PURE_TREE = """
if [ "$(stat -f -c %T /sys/fs/cgroup)" != cgroup2fs ]; then
    umount -R /sys/fs/cgroup
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
fi
if [ ! -d /run/systemd/system ]; then # systemd-nspawn clears up behind itself on a tmpfs only
    mkdir -p /run/systemd
    mount -t tmpfs tmpfs /run/systemd
fi
"$@"
"""


def main(argv: Sequence[str]) -> int:
    args = options(argv)
    if IN_LANE not in os.environ:
        os.environ[IN_LANE] = "1"
        command = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc"]
        os.execvp(command[0], [*command, "sh", "-euc", PURE_TREE, "bench", sys.executable, str(Path(__file__).resolve()), *argv])
    wanted = set(args.only or CASES)
    facts = machine()
    with Stage() as stage:
        before, ticks = os.getloadavg()[0], stolen()
        started = time.monotonic()
        bench = Bench(stage)
        try:
            results = measure(bench, wanted, args.rounds)
        finally:
            bench.close()
        steal, total = (now - then for now, then in zip(stolen(), ticks, strict=True))
    facts.update({"load": f"{before:.1f} -> {os.getloadavg()[0]:.1f}", "stolen": f"{100 * steal / max(total, 1):.1f} %"})
    facts["seconds"] = round(time.monotonic() - started)
    print("\n".join(f"{name:<16}{value}" for name, value in facts.items()))
    show(results)
    judge(results, wanted)
    met = show_gates(results)
    if args.json:
        write_json(args.json, facts, args.rounds, results)
    return 0 if met or not args.gate else 1


def write_json(path: Path, facts: dict[str, object], rounds: int, results: Results) -> None:
    whole = {
        "machine": facts,
        "rounds": rounds,
        "series": {case: {name: one.summary() for name, one in series.items()} for case, series in results.series.items()},
        "numbers": results.numbers,
        "notes": dict(results.notes),
        "gates": [{"name": name, "value": value, "limit": limit, "ok": ok(value, limit)} for name, value, limit in results.gates],
    }
    path.write_text(json.dumps(whole, indent=1) + "\n")


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except Failed as error:
        sys.exit(f"bench: {error}")
