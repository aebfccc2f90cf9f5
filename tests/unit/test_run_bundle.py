"""The file of modules that a run writes for those that decide later."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pyrun.cli import run
from pyrun.cli.parse import parse
from pyrun.errors import PyrunError


def test_an_image_that_is_gone_by_then_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pod is made already when the decision is made again to be watched."""
    words = ["--root", str(tmp_path / "state"), "run", "example.com/none"]
    monkeypatch.setattr(sys, "argv", ["pyrun", *words])
    with pytest.raises(PyrunError):
        run.decide(parse(words))
    run._bundle(parse(words))
    assert sys.getprofile() is None
