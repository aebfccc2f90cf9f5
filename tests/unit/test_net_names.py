"""The hosts files of pods that are on a network, while they move on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from pyrun.net import names

OTHER, POD = (f"{digit * 8}-0000-4000-8000-000000000000" for digit in "ab")


@pytest.mark.parametrize(("module", "step"), [(os, "open"), (names, "_read")])
def test_a_pod_that_is_started_meanwhile_learns_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: Any, step: str) -> None:
    """Its keeper renames its directory, and asks for no lock of networks: before it is found, or before it is read."""
    prepared, running = tmp_path / "pods" / "prepared" / POD, tmp_path / "pods" / "running" / POD
    prepared.mkdir(parents=True)
    running.parent.mkdir()
    (tmp_path / "networks" / "net").mkdir(parents=True)
    (tmp_path / "networks" / "net" / "10.0.0.2").symlink_to(POD)
    (prepared / "hosts").write_text("127.0.0.1\tlocalhost\n# network net\n")
    does = getattr(module, step)

    def moving(path: Any, *words: Any) -> Any:
        if prepared.exists() and str(path).endswith(("/hosts", POD)):
            prepared.rename(running)
        return does(path, *words)

    monkeypatch.setattr(module, step, moving)
    names.remember(str(tmp_path), "net", OTHER, ["10.0.0.3"], ["other"])
    monkeypatch.undo()
    assert (running / "hosts").read_text() == "127.0.0.1\tlocalhost\n# network net\n10.0.0.3\tother\n"
