"""Hostile images, each through the whole way of an import: refused in one line, and nothing outside staging touched."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from archives import MANIFEST
from canary import Canary
from corpus import CORPUS, GZIP, OUTSIDE, WHOLE

from pyrun.errors import ArchiveError, ImageError
from pyrun.images.aci import unpack_aci
from pyrun.images.remove import remove_tree


@pytest.fixture(scope="module")
def canary() -> Iterator[Canary]:
    """The directory that hostile members aim at."""
    yield Canary(OUTSIDE)
    parent = os.open(OUTSIDE.parent, os.O_RDONLY | os.O_DIRECTORY)
    remove_tree(parent, os.fsencode(OUTSIDE.name))
    os.close(parent)


def test_the_corpus_is_large() -> None:
    assert len(CORPUS) >= 150


@pytest.mark.parametrize("name", CORPUS)
def test_sec_01_refused_without_a_trace(name: str, canary: Canary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image, folder = tmp_path / "image", tmp_path / "staging"
    image.write_bytes(CORPUS[name])
    folder.mkdir(mode=0o700)
    monkeypatch.chdir(OUTSIDE)
    staging = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    started = time.monotonic()
    with image.open("rb") as file, pytest.raises(ImageError) as caught:
        unpack_aci(file.fileno(), staging)
    assert time.monotonic() - started < 10
    canary.assert_untouched()
    assert sorted(os.listdir(tmp_path)) == ["image", "staging"]
    assert set(os.listdir(folder)) <= {"rootfs"}
    remove_tree(staging, b"rootfs")
    assert os.listdir(folder) == []
    os.close(staging)
    told = str(caught.value)
    assert told.isprintable() and len(told) < 400
    assert caught.value.hint and "defect" not in caught.value.hint and "crash" not in caught.value.hint
    if not name.startswith("C0"):
        assert isinstance(caught.value, ArchiveError)


def test_the_whole_archive_behind_the_corpus_is_fine(tmp_path: Path) -> None:
    """What the cut and extended streams were made from is accepted, so they are refused for what was done to them."""
    for number, data in enumerate((WHOLE, GZIP)):
        folder = tmp_path / str(number)
        folder.mkdir()
        (tmp_path / "image").write_bytes(data)
        staging = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        with (tmp_path / "image").open("rb") as file:
            assert unpack_aci(file.fileno(), staging).manifest["name"] == MANIFEST["name"]
        os.close(staging)
