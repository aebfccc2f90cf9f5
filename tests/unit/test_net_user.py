"""The process of a user's network, when its program was killed before it could say more than its pid."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from pyrun.net import user


@pytest.mark.parametrize(("word", "ended"), [(user._PIN, True), ("/elsewhere", False)])
def test_a_shell_that_is_not_the_program_yet(tmp_path: Path, word: str, ended: bool) -> None:
    """It has the program's words; a process with others is not touched."""
    (tmp_path / "networks").mkdir()
    pod = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    with subprocess.Popen(["sh", "-c", "read x; :", "sh", "slirp4netns", word, "tap0"], stdin=subprocess.PIPE) as shell:
        (tmp_path / user._PID).write_text(f"{shell.pid}\n")
        user.detach(str(tmp_path), "uuid", pod, {"program": "slirp4netns", "claims": []})
        assert (shell.poll() is not None) is ended
    os.close(pod)
    assert not (tmp_path / user._PID).exists()
