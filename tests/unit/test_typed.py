"""The types that a user of the library gets, as strict checkers see them; and what the package says that it offers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import pyrun

TOP = Path(__file__).resolve().parents[2]
SAMPLE = TOP / "tests" / "typed" / "orchestrator.py"
COMMON = ["--no-error-summary", "--python-version", "3.11"]


def check(*command: str) -> str:
    done = subprocess.run(command, cwd=TOP, capture_output=True, text=True, timeout=110)
    return done.stdout + done.stderr if done.returncode else ""


def test_mypy_is_content_with_a_users_program() -> None:
    assert check(sys.executable, "-m", "mypy", "--strict", *COMMON, str(SAMPLE)) == ""


def test_mypy_sees_mistakes(tmp_path: Path) -> None:
    """Types that say nothing would be content with everything."""
    wrong = tmp_path / "wrong.py"
    calls = [
        "run(1)",
        "run(None, nonsense=1)",
        "run(None, memory=[])",
        "run(None).stdout + b''",
        "start(None).wait(timeout='x')",
        "Nothing",
    ]
    wrong.write_text("import pyrun\n" + "".join(f"pyrun.{call}\n" for call in calls))
    said = check(sys.executable, "-m", "mypy", "--strict", *COMMON, str(wrong))
    assert {line.split(":")[1] for line in said.splitlines() if ": error:" in line} == {
        str(number) for number in range(2, 2 + len(calls))
    }, said


def test_pyright_is_content_with_a_users_program(tmp_path: Path) -> None:
    config = tmp_path / "pyrightconfig.json"
    config.write_text(
        f'{{"include": ["{SAMPLE}"], "extraPaths": ["{TOP}/build/source"], "typeCheckingMode": "strict", "pythonVersion": "3.11"}}'
    )
    assert check(sys.executable, "-m", "pyright", "--project", str(config)) == ""


@pytest.mark.parametrize("name", pyrun.__all__)
def test_every_public_name_is_there_and_explained(name: str) -> None:
    value = getattr(pyrun, name)
    if isinstance(value, (int, str)):
        return
    assert value.__doc__, name
    if isinstance(value, type):
        bare = [member for member, one in vars(value).items() if not member.startswith("_") and callable(one) and not one.__doc__]
        assert not bare, f"{name}: {bare}"
    assert name in (TOP / "docs" / "library.md").read_text(), "docs/library.md tells of everything"


def test_importing_costs_nothing_until_a_name_is_used() -> None:
    count = "len([name for name in sys.modules if name.startswith('pyrun')])"
    code = f"import sys, pyrun; print({count}); pyrun.run; print('asyncio' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["1", "False"], done.stderr
