"""A cgroup in which somebody starts pods with limits, and what of limits the cgroup2 tree of this host has."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from waiting import wait_until

TREE = Path("/sys/fs/cgroup")
LIMITS = {"pids": ("--pids-limit", "30", "pids.max", "30"), "hugetlb": ("--hugetlb", "2MB=4Mi", "hugetlb.2MB.max", "4194304")}
ENTER = 'echo $$ >"$0/cgroup.procs" && exec "$@"'  # sh -c ENTER GROUP COMMAND...


def processes(group: Path) -> list[str]:
    return (group / "cgroup.procs").read_text().split()


def move(source: Path, target: Path) -> None:
    """Some end, or begin, meanwhile."""
    while processes(source):
        for pid in processes(source):
            with contextlib.suppress(ProcessLookupError):
                (target / "cgroup.procs").write_text(pid)


@contextlib.contextmanager
def enabled() -> Iterator[str]:
    """A controller that this tree has, enabled for the children of its root, from which all processes have gone to a leaf."""
    found = [name for name in (TREE / "cgroup.controllers").read_text().split() if name in LIMITS]
    if not found:
        pytest.skip("no controller of limits is in this cgroup2 tree; the same is tested in the virtual machine")
    leaf = TREE / "rest"
    leaf.mkdir()
    try:
        move(TREE, leaf)
        (TREE / "cgroup.subtree_control").write_text(f"+{found[0]}")
        yield found[0]
    finally:
        (TREE / "cgroup.subtree_control").write_text(f"-{found[0]}")
        move(leaf, TREE)
        leaf.rmdir()


@contextlib.contextmanager
def place_for_pods() -> Iterator[Path]:
    """Nothing of a pod is left in it."""
    group = TREE / "place"
    group.mkdir()
    yield group
    for path in (group / "pyrun-supervisor", group):
        with contextlib.suppress(FileNotFoundError):
            wait_until(lambda: not processes(path))  # noqa: B023  # a keeper's child waits for the disk
            path.rmdir()
