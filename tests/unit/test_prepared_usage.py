"""Command lines of `run-prepared` that are wrong: the launcher says so in the words of Python, which it does not start."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyrun.cli.help import visible
from pyrun.cli.main import main
from pyrun.cli.options import COMMON, VERBS

TOP = Path(__file__).resolve().parents[2]
UUID = "01234567-89ab-4cde-8f01-23456789abcd"
OPTIONS = [name for option in (*COMMON, *VERBS["run-prepared"][2]) for name in option[0].split() if name not in ("--help", "-h")]
OTHERS = sorted({name for verb in visible() for option in VERBS[verb][2] for name in option[0].split()} - {"--help", "-h"})

WRONG = [
    "",
    "--nope x",
    "--detch x",
    "--detach-keys x",
    "-x y",
    "-dx y",
    "-xd y",
    "-detach y",
    "-quiet y",
    "-",
    "---",
    "--=",
    "--debug=",
    "--detach=yes x",
    "--quiet=maybe x",
    "--detach=false x",
    "--debug=true nobody",
    "--root",
    "--root --",
    "--root ---",
    "--root --detach x",
    "--root --dir=/x",
    "--root -d",
    "--root= x",
    "--dir= x",
    "--uuid-file",
    "--uuid-file= x",
    "--uuid-file /nowhere",
    "--uuid-file /etc",
    "--uuid-file /dev/null",
    "--uuid-file /etc/hostname x y",
    "--format",
    "--format yaml x",
    "--format= x",
    "--format=json x y",
    "--format json --nope",
    "--format=json -d --nope",
    "--format=json",
    "--pod-name x y",
    "--rm x",
    "-e A=B x",
    "--volume x",
    "--version",
    "x y",
    "x -- y",
    "-- --x",
    "nobody",
    "--debug nobody",
    "--format json nobody",
    "--debug --format json nobody",
    f"{UUID}",
    f"{UUID.upper()}",
    "0123",
    ".. x",
    "..",
    "a/b",
    "a\tb\nc\x1b[31m\x7f",
    "é",
    "日本語",
    "--d\u00e9tach",
    "\u202eevil",
    "--format json \u00e9\U0001f600",
    "x" * 300,
    "--" + "x" * 300,
    "--forma x",
    "--uuidfile x",
    "--root . nobody",
    "--roo",
]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Callable[[list[str]], None]:
    """Has both read a command line, and compares.  Beside this copy of the launcher is no interpreter that would know pyrun."""
    folder = tmp_path_factory.mktemp("alone")
    launcher = folder / "bin" / "pyrun"
    launcher.parent.mkdir()
    shutil.copy(TOP / ".venv/bin/pyrun", launcher)
    launcher.with_name("python3").symlink_to("/bin/false")
    root = folder / "root"
    main(["list", "--root", str(root)])

    def compare(words: list[str]) -> None:
        environment = {"PYRUN_ROOT": str(root), "PATH": "/bin"}
        argv = ["run-prepared", *words]
        done = subprocess.run([launcher, *argv], env=environment, capture_output=True, timeout=60, cwd=root, stdin=subprocess.DEVNULL)
        before, file = os.dup(2), folder / "said"
        with file.open("wb") as said:
            os.dup2(said.fileno(), 2)
        environ, cwd = dict(os.environ), Path.cwd()
        try:
            os.environ.update(environment)
            os.chdir(root)
            code = _main(argv)
        finally:
            os.chdir(cwd)
            os.environ.clear()
            os.environ.update(environ)
            os.dup2(before, 2)
            os.close(before)
        assert (done.returncode, done.stdout, _plain(done.stderr)) == (code, b"", _plain(file.read_bytes())), words

    return compare


def _plain(said: bytes) -> tuple[bool, bytes]:
    """Whether it says where it was said, and all but that."""
    text = re.sub(
        rb', "traceback": \[.*\]',
        b"",
        re.sub(rb"\A(the launcher: native/\w+\.c, line \d+\n|Traceback(?s:.*?)(?=^pyrun:))", b"", said, flags=re.M),
    )
    return text != said, text


def _main(argv: list[str]) -> int:
    with open(2, "w", encoding="utf-8", errors="surrogateescape", closefd=False) as stream, contextlib.redirect_stderr(stream):
        return main(argv)


@pytest.mark.skipif(os.geteuid() != 0, reason="who is not root goes into a user namespace first")
class TestBoth:
    @pytest.mark.parametrize("line", WRONG)
    def test_they_say_the_same(self, both: Callable[[list[str]], None], line: str) -> None:
        both(line.split(" ") if line else [])

    def test_of_every_option_of_another_verb(self, both: Callable[[list[str]], None]) -> None:
        for name in OTHERS:
            if name not in OPTIONS:
                both([name, "x"])

    @settings(max_examples=150, deadline=None)
    @given(
        st.lists(
            st.sampled_from(["x", "--", "-", "json", "text", "true", "=", "-d", "-dq", "-q=", *OPTIONS, *[name + "=" for name in OPTIONS]])
            | st.sampled_from(OTHERS)
            | st.builds(
                lambda name, at, c: name[:at] + c + name[at + 1 :],
                st.sampled_from(OPTIONS),
                st.integers(0, 12),
                st.sampled_from("-=adetuxz"),
            ),
            max_size=5,
        )
    )
    def test_of_words_in_any_order(self, both: Callable[[list[str]], None], words: list[str]) -> None:
        if not any(
            word.startswith(("-h", "--help", "--debug")) or (word[:1] == "-" and word[1:2] != "-" and "h" in word) for word in words
        ):
            both(words)


def test_the_owners_of_options_are_current() -> None:
    spec = importlib.util.spec_from_file_location("owners", TOP / "tools/owners.py")
    assert spec and spec.loader
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    assert (TOP / "native/owners.h").read_text() == tool.text(), "run tools/owners.py"
