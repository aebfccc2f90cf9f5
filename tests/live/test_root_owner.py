"""A state directory that somebody else can write to is not used: he would decide what is run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from bundles import Runtime
from harness import Pyrun

import pyrun as library


@pytest.fixture(params=["stranger", "everybody"])
def foreign(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """As it may lie in /tmp before anybody names it."""
    folder = tmp_path / "foreign"
    folder.mkdir()
    if request.param == "stranger":
        os.chown(folder, 1000, 1000)
    else:
        folder.chmod(0o1777)
    return folder


def told(text: str) -> bool:
    return text.startswith("pyrun: use root ") and ("everybody may write" in text or "another user (1000)" in text) and "\nhint: " in text


@pytest.mark.parametrize("words", [["run", "IMAGE"], ["prepare", "IMAGE"], ["fetch", "IMAGE"], ["gc"]], ids=lambda words: words[0])
def test_no_command_uses_it(pyrun: Pyrun, foreign: Path, words: list[str]) -> None:
    named = [str(pyrun.probe_image) if word == "IMAGE" else word for word in words]
    refused = pyrun("--root", foreign, *named)
    assert refused.code == 125 and told(refused.err), refused
    assert os.listdir(foreign) == []


def test_nor_does_the_library(foreign: Path) -> None:
    with pytest.raises(library.StateError, match="use root"):
        library.Runtime(str(foreign))
    assert os.listdir(foreign) == []


def test_nor_does_the_oci_runtime(foreign: Path, tmp_path: Path, probe: Path) -> None:
    oci = Runtime(tmp_path, probe)
    oci.root = foreign
    oci.command("/probe", "exit", "0")
    assert "use root" in oci("create", "one", code=1).stderr
    assert os.listdir(foreign) == []


@pytest.mark.parametrize("words", [["list"], ["run", "IMAGE"], ["enter", "00000000"], ["gc"]], ids=lambda words: words[0])
def test_pods_of_somebody_else_are_not_believed(pyrun: Pyrun, tmp_path: Path, words: list[str]) -> None:
    """Whoever made the directory of the pods in one of root's may say what runs in them."""
    root = tmp_path / "mixed"
    for phase in ("prepared", "run", "garbage"):
        (root / "pods" / phase).mkdir(parents=True)
    (root / "pods").chmod(0o700)
    os.chown(root / "pods", 1000, 1000)
    refused = pyrun("--root", root, *[str(pyrun.probe_image) if word == "IMAGE" else word for word in words])
    assert refused.code == 125 and f"use root {root}: it holds a directory pods of others" in refused.err, refused
