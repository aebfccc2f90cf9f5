"""docs/appc.md tells the truth about the tests; and small rows of it that belong nowhere else."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from types import ModuleType

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


def test_ace_01_uuids_are_version_4_and_unique() -> None:
    """Also for whoever compares signatures (MDS-15)."""
    made = {new_uuid() for _ in range(1000)}
    assert len(made) == 1000
    assert all(one[14] == "4" and one[19] in "89ab" and len(one) == 36 for one in made)
