"""Files that are named for reading: a fifo is waited for, and not for ever."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from pyrun.cli import references, specs
from pyrun.errors import UsageError
from pyrun.images import given
from pyrun.oci import state


@pytest.fixture
def fifo(tmp_path: Path) -> str:
    os.mkfifo(tmp_path / "fifo")
    return str(tmp_path / "fifo")


def test_nobody_writes_to_it(fifo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(given, "_PATIENCE", 0.02)
    before = os.listdir("/proc/self/fd")
    for read in (specs.read_env_file, lambda path: references.of_files([path]), lambda path: state.read(path, follow=True)):
        with pytest.raises(UsageError, match="fifo: a fifo that nobody has written to"):
            read(fifo)
    assert os.listdir("/proc/self/fd") == before


def test_somebody_does(fifo: str) -> None:
    for read in (specs.read_env_file, lambda path: state.read(path, follow=True)):
        writer = threading.Thread(target=Path(fifo).write_text, args=("A=1\n",))
        writer.start()
        assert read(fifo) in ({"A": "1"}, b"A=1\n")
        writer.join()


def test_a_pipe_is_no_file_with_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who writes to it has it open, and may take his time."""
    monkeypatch.setattr(given, "_PATIENCE", 0)
    out, into = os.pipe()
    writer = threading.Timer(0.05, lambda: (os.write(into, b"A=1\n"), os.close(into)))
    writer.start()
    assert specs.read_env_file(f"/dev/fd/{out}") == {"A": "1"}
    os.close(out)
