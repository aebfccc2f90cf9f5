"""Turns what `bench/run.py --json FILE` wrote into docs/performance.md: bench/page.py FILE [DATE [SVG]] > docs/performance.md.

With SVG, docs/pictures/start.svg, it draws the first table there, and the page shows it.
"""

from __future__ import annotations

import datetime
import json
import sys
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any

COLUMNS = (("min ms", "min"), ("p50 ms", "p50"), ("p90 ms", "p90"), ("cpu ms", "cpu_p50"), ("gone ms", "gone_p50"))
HEAD = """\
# Performance

Measured on {date} with `make bench` ([how](../bench/README.md)): all subjects in turns in one run, {rounds} rounds of the short ones,
p50 unless it says otherwise. Compare ratios, not milliseconds, with another machine.

{machine}

Noise: load is that of the whole machine in front of the run and at its end, the run's own share included; the first table's `p90` tells
the rest. From run to run p50 moves by up to a half on a busy machine, ratios by a tenth or two.
"""
START = """
## Start to end of /bin/true

The library is called in a live Python process (`Runtime.call`; a pool by `Pool.run`), the others are commands.
pyrun has an overlay root, pid, mount, ipc, uts,
net and cgroup namespaces and its default system call filter in every row; crun and runc have the same namespaces, the same
files without an overlay and, but for one row, no filter. `cpu` is that of all processes; `gone` is when nothing is left.
"""
EXEC = """
## Exec of the helper

Started without a plan it ends at once: what is left is exec and reaping. Of the difference to a program
without libc a third is its static memory, which is a mapping of its own, a fifth the first page of that, a fifth the pages of its code,
and the rest eight system calls.
"""
NET = """
## With a network

`pyrun run` of /bin/true, repeated, or decided by Python with `cache/run` emptied. The first pod of a command line loads the modules of
networks; whoever runs the line again does without.
"""
FLOOR = """
## Against the floor

`bench/floor_pod.c` makes the namespaces and mounts of pyrun's default plan straight from C, without a supervisor, a process 1, a record or
a filter: less than any runtime can do.
"""
STOP = """
## Stopping

A program that ends at the first SIGTERM, from the signal until its last process is gone (`p50`) and nothing is left (`gone`). crun and
runc have to be asked to remove what is left, and again until they know that it has ended.
"""
IMPORT = """
## Import of an image

200 MB of files in one gzip layer, with a signature. `pyrun fetch` verifies signature and digests, unpacks in a confined process and
writes everything to the disk before it says so; `gzip -dc | tar -x` does none of that, `sync -f` writes to the disk.
"""
UNPACK = """
## Unpacking of an image of 500 MB

Five layers of Debian packages, the last one of whiteouts and 2,000 small files, from an OCI layout. pyrun and podman check every digest
and every DiffID and write to a store, umoci checks them and makes a bundle, tar checks nothing. Debian's umoci cannot read zstd.
"""
AFTERWARDS = """
## Once the image is there

A second image of the same layers, in a live process and as a command; the same layout again (`unchanged`), beside a command that
does nothing much (`python`); and until a live process has found the stored image by its layout (`resolve`, the best of a hundred).
"""

PROFILE = """
## Where the time of a start goes

What the gates above leave to explain: the system calls of a start by the library, of one more process and of a whole life, from the
kernel's tracer (case `profile` of the [benchmark](../bench/README.md)), microseconds of one round. Calls that only wait for another
process are left out; processes overlap, so the sums are not the wall time.
"""


def table(series: Mapping[str, Mapping[str, float]], peers: Mapping[str, str]) -> Iterator[str]:
    peers = {name: head for name, head in peers.items() if name in series}
    columns = [(head, key) for head, key in COLUMNS if any(row[key] is not None for row in series.values())]
    heads = ["", *[head for head, _ in columns], *peers.values()]
    yield "| " + " | ".join(heads) + " |"
    yield "|---" + "|--:" * (len(heads) - 1) + "|"
    for name, row in sorted(series.items(), key=lambda item: item[1]["p50"]):
        digits = 0 if row["p50"] > 500 else 2
        cells = ["" if row[key] is None else f"{row[key]:.{digits}f}" for _, key in columns]
        cells += [f"{row['p50'] / series[peer]['p50']:.2f}" for peer in peers]
        shown = name.replace("|", "\\|")
        yield f"| {shown} | " + " | ".join(cells) + " |"


def gates(results: Mapping[str, Any]) -> Iterator[str]:
    yield "\n## What was asked for\n"
    yield "| gate | measured | limit | |"
    yield "|---|--:|--:|---|"
    for gate in results["gates"]:
        value = "not measured" if gate["value"] is None else f"{gate['value']:.2f}"
        yield f"| {gate['name']} | {value} | {gate['limit']:g} | {'met' if gate['ok'] else '**missed**'} |"
    yield "\nWithout a limit, of the first call, of the run that has to decide in Python, and of the least instead of the median:\n"
    yield "| | |"
    yield "|---|--:|"
    yield from (f"| {name} | {value:.2f} |" for name, value in results["notes"].items())


def numbers(results: Mapping[str, Any]) -> Iterator[str]:
    for title, rows in results["numbers"].items():
        if title.startswith("system calls of a start"):
            yield PROFILE
        yield f"\n{'###' if title.startswith('system calls') else '##'} {title[0].upper()}{title[1:]}\n"
        labels = next((list(row) for row in rows.values() if isinstance(row, dict)), [])
        yield "| | " + " | ".join(labels) + " |"
        yield "|---" + "|--:" * max(1, len(labels)) + "|"
        for name, row in rows.items():
            cells = [f"{value:.0f}" for value in row.values()] if isinstance(row, dict) else [f"{row:.0f}"]
            yield f"| {name} | " + " | ".join(cells) + " |"


def page(results: Mapping[str, Any], date: str) -> Iterator[str]:
    machine = ["| | |", "|---|---|", *[f"| {name} | {value} |" for name, value in results["machine"].items()]]
    yield HEAD.format(date=date, rounds=results["rounds"], machine="\n".join(machine))
    yield from gates(results)
    series = results["series"]
    parts = (
        ("start", START, {"crun run": "of crun", "runc run": "of runc"}),
        ("enter", "\n## Entering a running container\n", {"crun exec": "of crun", "runc exec": "of runc"}),
        ("stop", STOP, {"crun kill TERM, gone, delete": "of crun", "runc kill TERM, gone, delete": "of runc"}),
        ("background", "\n## Starting in the background, and what podman takes\n", {"podman run --rm": "of podman"}),
        ("floor", FLOOR, {"C floor, same namespaces and mounts": "of the floor", "crun run": "of crun"}),
        ("life", "\n## Create, start, delete\n\nOf a container that sleeps.\n", {"crun create, start, delete": "of crun"}),
        ("net", NET, {"pyrun run --net none, repeated": "of none"}),
        ("exec", EXEC, {"static, no libc": "of no libc"}),
        ("import", IMPORT, {"gzip -dc | tar -x": "of tar"}),
        ("unpack", UNPACK, {"podman pull, gzip": "of podman", "umoci unpack, gzip": "of umoci", "gzip -dc | tar -x": "of tar"}),
        ("afterwards", AFTERWARDS, {}),
        ("pods", "\n## Listing pods\n", {"crun list, 1000 containers": "of crun"}),
        ("list", "\n## Listing images\n", {"python -I -S -E -c pass": "of python"}),
    )
    for name, text, peers in parts:
        if name in series:
            yield text
            if name == "start" and len(sys.argv) > 3:
                yield "![Start to end of /bin/true, milliseconds](pictures/start.svg)\n"
            yield from table(series[name], peers)
    yield from numbers(results)


def picture(series: Mapping[str, Mapping[str, float]]) -> str:
    """Bars of the median, with a line from the least to the 90th percentile, as SVG in the reader's colours."""
    rows = sorted(series.items(), key=lambda item: item[1]["p50"])
    most = max(row["p90"] for _, row in rows)
    left, width, step = 250, 420, 26
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 {step * len(rows) + 20}" role="img"><title>ms</title>']
    parts.append("<style>svg{font:13px sans-serif;color:#1a1a2e}@media(prefers-color-scheme:dark){svg{color:#e6e6f0}}</style>")
    for place, (name, row) in enumerate(rows):
        y = 10 + place * step
        low, middle, high = (left + width * row[key] / most for key in ("min", "p50", "p90"))
        colour = "#3f51b5" if name.startswith(("library", "pyrun")) else "#9e9e9e"
        parts.append(f'<text x="{left - 8}" y="{y + 14}" text-anchor="end" fill="currentColor">{escape(name)}</text>')
        parts.append(f'<rect x="{left}" y="{y + 2}" width="{middle - left:.1f}" height="16" fill="{colour}"/>')
        parts.append(f'<path d="M{low:.1f} {y + 10}H{high:.1f}" stroke="currentColor"/>')
        parts.append(f'<text x="{high + 6:.1f}" y="{y + 14}" fill="currentColor">{row["p50"]:.2f}</text>')
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    found = json.loads(Path(sys.argv[1]).read_text())
    today = sys.argv[2] if len(sys.argv) > 2 else datetime.date.today().isoformat()
    if len(sys.argv) > 3 and "start" in found["series"]:
        Path(sys.argv[3]).write_text(picture(found["series"]["start"]))
    print("\n".join(page(found, today)))
