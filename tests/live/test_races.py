"""Races for the place of a mount: somebody swaps it for a link while a pod starts (A06, A07, SEC-09; runc's 2021 and 2024 kind)."""

from __future__ import annotations

import ctypes
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from canary import Canary
from direct import Direct

from pyrun.errors import SetupError
from pyrun.plan.config import Mount

ROUNDS = 100
EXCHANGE = 2  # renameat2(2)


class Swapper:
    """Exchanges two names in a directory as fast as it can."""

    def __init__(self, one: Path, other: Path) -> None:
        self.names = os.fsencode(one), os.fsencode(other)
        self.stop = threading.Event()
        self.count = 0
        self.thread = threading.Thread(target=self.work)

    def work(self) -> None:
        rename = ctypes.CDLL(None).renameat2
        while not self.stop.is_set():
            assert rename(-100, self.names[0], -100, self.names[1], EXCHANGE) == 0
            self.count += 1

    def __enter__(self) -> Swapper:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join()


@pytest.fixture
def direct(tmp_path: Path, probe: Path) -> Direct:
    return Direct(tmp_path / "direct", probe)


@pytest.fixture
def shelf(tmp_path: Path, canary: Canary) -> Iterator[Path]:
    """A volume of somebody else's, with a place for another volume and a link beside it."""
    folder = tmp_path / "shelf"
    (folder / "place" / "deep").mkdir(parents=True)
    (folder / "place" / "file").touch()
    (folder / "link").symlink_to(canary.path)
    yield folder
    assert sorted(path.name for path in folder.iterdir()) == ["link", "place"]


def start_often(direct: Direct, mounts: list[Mount], wanted: str) -> tuple[int, int]:
    """How many starts had the mount in its place, and how many were refused; there is no third way."""
    good = refused = 0
    for _ in range(ROUNDS):
        config = direct.config("report")
        config.mounts = mounts
        config.mask_paths = False
        try:
            code = direct.run(config)
        except SetupError as error:
            assert error.subject == wanted or error.step.startswith("mount"), error
            refused += 1
            continue
        assert code == 0
        places = {wanted, wanted.replace("/place/", "/link/")}  # the directory may have been renamed since, with the mount in it
        assert places & {line.split()[4] for line in json.loads(direct.said())["mounts"]}
        good += 1
    return good, refused


@pytest.mark.parametrize("target", ["/s/place/deep", "/s/place/file"])
def test_the_place_of_a_volume_in_a_volume(direct: Direct, shelf: Path, canary: Canary, tmp_path: Path, target: str) -> None:
    source = tmp_path / "source"
    if target.endswith("file"):
        source.write_text("mine")
    else:
        source.mkdir()
    mounts = [
        Mount("host", "/s", source=str(shelf), name="0"),
        Mount("host", target, source=str(source), name="1", is_dir=source.is_dir()),
    ]
    with Swapper(shelf / "place", shelf / "link") as swapper:
        good, refused = start_often(direct, mounts, target)
    assert good + refused == ROUNDS and swapper.count > ROUNDS
    canary.assert_untouched()


def test_the_source_of_a_volume(direct: Direct, shelf: Path, canary: Canary) -> None:
    """A source that turns into a link after it was checked is refused by the kernel, not followed."""
    mounts = [Mount("host", "/data", source=str(shelf / "place"), name="0")]
    with Swapper(shelf / "place", shelf / "link") as swapper:
        for _ in range(ROUNDS):
            config = direct.shell("test -e /data/null && echo escaped; exit 0")
            config.mounts = mounts
            try:
                assert direct.run(config) == 0
            except SetupError as error:
                assert error.step.startswith("mount")
            assert "escaped" not in direct.said()
    assert swapper.count > ROUNDS
