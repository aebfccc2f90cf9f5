"""The pictures in the documentation are what tools/pictures.py draws."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pictures

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "pictures"


def test_pictures_are_as_drawn() -> None:
    assert {path.stem: path.read_text() for path in FOLDER.glob("*.svg") if path.stem != "start"} == {
        name: draw().text() for name, draw in pictures.PICTURES.items()
    }
    for path in FOLDER.glob("*.svg"):
        ElementTree.fromstring(path.read_text())
