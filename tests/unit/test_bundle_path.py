"""What a start has in place of `posixpath` (runtime/cli/bundle.py): it says the same."""

from __future__ import annotations

import os
import posixpath
from pathlib import Path
from typing import Any

import pytest

from pyrun.cli import bundle

NAMES = (
    "",
    "/",
    "//",
    "///",
    "a",
    "a/",
    "a/b",
    "/a",
    "//a",
    "/a/",
    "/a//",
    "a//b//",
    "./a/../b",
    "/..",
    "../..",
    "/a/./b/../../..",
    ".",
    "ä/\udcff",
)
OTHERS = (b"", b"a/../b", b"/a//", Path("a/b/.."))


@pytest.fixture(scope="module")
def path() -> Any:
    return bundle._quick_path()


@pytest.mark.parametrize("name", [*NAMES, *OTHERS], ids=repr)
def test_names(path: Any, name: Any) -> None:
    for function in ("normpath", "abspath", "dirname"):
        assert getattr(path, function)(name) == getattr(posixpath, function)(name), function


def test_files(path: Any, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nothing")
    (tmp_path / "to").symlink_to(".")
    os.mkfifo(tmp_path / "fifo")
    names: list[Any] = [tmp_path / name for name in ("", "file", "link", "to", "to/file", "fifo", "nothing", "file/x", "x" * 300)]
    for name in [*names, *[str(one) for one in names], os.fsencode(tmp_path), "a\0b", 0]:
        for function in ("exists", "isdir", "isfile"):
            assert getattr(path, function)(name) is getattr(posixpath, function)(name), (function, name)
        if name != 0:
            assert path.lexists(name) is posixpath.lexists(name), name


def test_the_rest_is_the_real_one(path: Any) -> None:
    assert path.realpath is posixpath.realpath and path.sep == "/"
    with pytest.raises(AttributeError):
        _ = path.nothing
