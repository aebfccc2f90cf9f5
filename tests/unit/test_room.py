"""What is said about a state directory that takes nothing."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from pyrun.images.locks import make_room


def denied(code: int, path: str) -> str:
    return make_room(OSError(code, os.strerror(code), path))


def test_only_whom_it_helps_is_told_to_be_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, place = os.geteuid(), str(tmp_path / "not" / "there")
    for code in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENOTDIR):
        assert "root, or" not in denied(code, place) and "--root" in denied(code, place)
    assert "space" in denied(errno.ENOSPC, place)
    monkeypatch.setattr(os, "geteuid", lambda: own or 1000)
    os.chown(tmp_path, own or 1000, -1)
    assert "it is yours" in denied(errno.EACCES, place)
    assert denied(errno.EACCES, "/etc/none").startswith("run as root, or")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert "root may not write there either" in denied(errno.EACCES, place)
