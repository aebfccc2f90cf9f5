"""Following a log while its files are rotated, as the keeper does it (native/keep_log.c), at every moment of a rotation."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyrun.errors import StateError
from pyrun.pod.live import start_time
from pyrun.pod.logs import read_log

LINES, FILES = 3000, 30


@pytest.fixture
def keeper(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that the pod's record names as the one which writes the log."""
    process = subprocess.Popen(["sleep", "600"])
    (tmp_path / "run").write_text(json.dumps({"keeper": process.pid, "keeper_start": start_time(process.pid)}))
    yield process
    process.kill()
    process.wait()


def rotate(folder: Path) -> None:
    for number in reversed(range(FILES)):
        with contextlib.suppress(FileNotFoundError):
            old = folder / (f"log.{number}" if number else "log")
            if number + 1 == FILES:
                old.unlink()
            else:
                old.rename(folder / f"log.{number + 1}")


@pytest.mark.parametrize("each", [1, 2, 5])
def test_no_line_is_lost_or_repeated(tmp_path: Path, keeper: subprocess.Popen[bytes], each: int) -> None:
    """Every `each` lines the files move on; the writer is never so far ahead that what was not read is deleted."""
    read: list[int] = []

    def write() -> None:
        for number in range(LINES):
            while number - len(read) > each * (FILES - 5):
                time.sleep(0.0001)
            if number % each == 0 and number:
                rotate(tmp_path)
            with (tmp_path / "log").open("a") as log:
                log.write(f"2026-01-01T00:00:00.000000000Z stdout F {number}\n")
        keeper.kill()

    (tmp_path / "log").touch()
    writer = threading.Thread(target=write, daemon=True)
    pod = os.open(tmp_path, os.O_RDONLY)
    writer.start()
    try:
        for _, _, text in read_log(pod, follow=True):
            read.append(int(text))
    finally:
        read += [LINES] * LINES  # the writer waits for nobody any more
        writer.join()
        os.close(pod)
    assert read[:-LINES] == list(range(LINES))


def test_a_rotation_that_was_never_finished(tmp_path: Path) -> None:
    """The keeper was killed in the middle of one: the files that are there are read."""
    for number, name in enumerate(("log.3", "log.1")):
        (tmp_path / name).write_text(f"2026-01-01T00:00:00.000000000Z stdout F {number}\n")
    pod = os.open(tmp_path, os.O_RDONLY)
    assert [text for *_, text in read_log(pod)] == [b"0\n", b"1\n"]
    os.close(pod)


def test_no_log_is_an_error(tmp_path: Path) -> None:
    pod = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(StateError, match="has none"):
        next(read_log(pod))
    os.close(pod)
