"""The manual pages say everything that the table says, and mandoc finds nothing to blame."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pyrun.cli import man
from pyrun.cli.help import visible
from pyrun.cli.options import VERBS


def test_lint(tmp_path: Path) -> None:
    paths = man.write(str(tmp_path))
    done = subprocess.run(["mandoc", "-T", "lint", "-W", "style", *paths], capture_output=True, text=True, check=False)
    assert done.stdout + done.stderr == ""


@pytest.mark.parametrize("verb", [verb for verb in visible() if verb not in ("help", "version")])
def test_every_option_is_described(verb: str) -> None:
    text = man.pages()[f"pyrun-{verb.split()[0]}.1"].replace("\\-", "-")
    for option in VERBS[verb][2]:
        for name in option[0].split():
            assert f"\\fB{name}\\fR" in text


def test_every_verb_is_named() -> None:
    text = man.pages()["pyrun.1"].replace("\\-", "-")
    for verb in visible():
        assert f".B {verb}\n" in text


def test_pages_are_ascii_and_reproducible() -> None:
    assert man.pages() == man.pages()
    assert all(text.isascii() for text in man.pages().values())


def test_control_characters_of_roff_are_protected() -> None:
    assert man._plain(".x") == "\\&.x"
    assert man._plain("'x") == "\\&'x"
    assert man._plain("a\\b-c") == "a\\eb\\-c"
