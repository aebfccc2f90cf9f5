"""Names from images cannot steer a terminal."""

from __future__ import annotations

import pytest

from pyrun.images.printable import printable

SHOWN = [
    (b"plain/name", "plain/name"),
    ("ünï", "ünï"),
    (b"\xff\xfe", "\\xff\\xfe"),
    (b"a\nb\x1b[31m", "a\\x0ab\\x1b[31m"),
    ("\u202eevil", "\\u202eevil"),
    ("\U000e0001", "\\U000e0001"),
    ("\x9b31m", "\\x9b31m"),
    ("\ud800", "\\ud800"),
    ("", ""),
    ("x" * 161, "x" * 157 + "..."),
]


@pytest.mark.parametrize(("name", "shown"), SHOWN)
def test_printable(name: bytes | str, shown: str) -> None:
    assert printable(name) == shown
    assert printable(name).isprintable()
