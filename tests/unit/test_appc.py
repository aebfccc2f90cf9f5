"""docs/appc.md tells the truth about the tests; and small rows of it that belong nowhere else."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

from pyrun.pod.state import new_uuid

TOP = Path(__file__).resolve().parents[2]


@cache
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("appc_tool", TOP / "tools" / "appc.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_required_row_has_a_test_or_a_reason() -> None:
    assert tool().gaps() == []


def test_parameters_are_names_of_tests() -> None:
    """What the tool reads in the sources is what pytest makes of them."""
    claims = {(test, one) for one, tests in tool().proofs().items() for test in tests if one not in tool().ids(test)}
    files = sorted({test.partition("::")[0] for test, _ in claims})
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "--noconftest", "-p", "no:cacheprovider", *files]
    done = subprocess.run(command, cwd=TOP, capture_output=True, text=True)
    assert done.returncode == 0 and len(claims) > 50, done.stdout
    there = {(line.partition("[")[0], one) for line in done.stdout.splitlines() for one in tool().ids(line.partition("[")[2])}
    assert claims - there == set()


def test_a_row_without_a_test_named_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mention does not help."""
    made = tool()
    there = {one: tests for one, tests in made.proofs().items() if one != "IM-" + "10"}
    monkeypatch.setattr(made, "proofs", lambda: there)
    assert made.gaps() == ["IM-" + "10: no test has it in its name"]


def test_the_page_is_true() -> None:
    """`tools/appc.py` writes it again."""
    made = tool()
    text = made.PAGE.read_text()
    assert made.stale(text) == [] == made.stale(made.page())
    assert made.stale(text.replace("test_ace_45", "test_gone")) and made.stale(text.replace("| ACI-", "| ACX-", 1))


def test_ids_are_found_in_names_ranges_and_words() -> None:
    found = tool().ids
    kinds = "A" + "CI-01", "I" + "M-18"
    assert list(found(f"{kinds[0]}..03, {kinds[1]}")) == [kinds[0], "ACI" + "-02", "ACI" + "-03", kinds[1]]


def test_ace_01_mds_15_uuids_are_version_4_and_unique() -> None:
    """Also for whoever compares signatures (MDS-15)."""
    made = {new_uuid() for _ in range(1000)}
    assert len(made) == 1000
    assert all(one[14] == "4" and one[19] in "89ab" and len(one) == 36 for one in made)
