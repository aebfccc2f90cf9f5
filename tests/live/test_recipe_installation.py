"""Recipes are of one installation, and as good as its modules: another one, or one that was edited, decides for itself."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from bundles import Runtime, recipes
from harness import Pyrun
from prefixes import Prefix


def decided(command: list[str | Path], log: Path, code: int, **more: object) -> bool:
    """Whether an interpreter had to decide."""
    words = ["strace", "-f", "-qq", "-e", "trace=execve", "-o", str(log), *map(str, command)]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, **more)  # type: ignore[call-overload]
    assert done.returncode == code, done.stderr
    return any("python3" in line and "= 0" in line for line in log.read_text().splitlines())


def known(run: Callable[[Prefix], bool], one: Prefix) -> bool:
    """Whether a run needs no interpreter soon: one that begins in the moment of an edit keeps nothing."""
    return any(not run(one) for _ in range(9))


def edit(path: Path) -> None:
    """In place, as editors do that keep the file."""
    with path.open("a") as file:
        file.write("# edited\n")


@pytest.fixture
def two(tmp_path: Path) -> tuple[Prefix, Prefix]:
    return Prefix(tmp_path / "one"), Prefix(tmp_path / "two")


def test_recipes_of_run(pyrun: Pyrun, two: tuple[Prefix, Prefix], tmp_path: Path) -> None:
    pyrun("fetch", pyrun.probe_image, code=0)

    def run(one: Prefix) -> bool:
        command = [one.command, "run", "example.com/probe", "--exec", "/probe", "--", "exit", "7"]
        return decided(command, tmp_path / "execs", 7, env=pyrun.environment())

    assert all(run(one) for one in two)
    assert all(known(run, one) for one in two)
    edit(two[0].package / "plan" / "planner.py")
    assert [run(one) for one in two] == [True, False]
    assert known(run, two[0])


def test_recipes_of_an_oci_runtime(two: tuple[Prefix, Prefix], tmp_path: Path, probe: Path) -> None:
    oci = Runtime(tmp_path, probe)
    oci.command("/probe", "exit", "7")

    def run(one: Prefix) -> bool:
        return decided([one.oci, "--root", oci.root, "run", "one"], tmp_path / "execs", 7, cwd=oci.bundle)

    assert all(run(one) for one in two)
    assert all(known(run, one) for one in two) and len(recipes(oci)) == 2
    edit(two[0].package / "oci" / "planner.py")
    assert [run(one) for one in two] == [True, False]
    assert known(run, two[0]) and not oci.leftovers()
