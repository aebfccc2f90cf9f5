"""Trees out of images are deleted whole, whatever their shape, and nothing beside them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyrun.errors import StateError
from pyrun.images.remove import remove_tree


@pytest.fixture
def parent(tmp_path: Path) -> Iterator[int]:
    """A descriptor of tmp_path; every other one is closed again."""
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    before = len(os.listdir("/proc/self/fd"))
    yield fd
    assert len(os.listdir("/proc/self/fd")) == before
    os.close(fd)


def test_nothing_there_is_success(parent: int) -> None:
    remove_tree(parent, b"nothing")


def test_files_links_and_fifos(parent: int, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("x")
    (tmp_path / "link").symlink_to(outside)
    os.mkfifo(tmp_path / "fifo")
    tree = tmp_path / "tree"
    (tree / "a/b/c").mkdir(parents=True)
    (tree / "a/link").symlink_to(outside)
    (tree / "a/b/up").symlink_to("..")
    os.mkfifo(tree / "a/fifo")
    os.link(outside / "kept", tree / "hard")
    for name in (b"link", b"fifo", b"tree"):
        remove_tree(parent, name)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["outside"]
    assert (outside / "kept").read_text() == "x"


@pytest.mark.parametrize("depth", [5_000, 20_000])
def test_b25_very_deep_trees(parent: int, depth: int) -> None:
    os.mkdir("deep", dir_fd=parent)
    fd = os.open("deep", os.O_RDONLY, dir_fd=parent)
    for _ in range(depth):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    remove_tree(parent, b"deep")
    assert os.listdir(parent) == []


def test_many_entries(parent: int, tmp_path: Path) -> None:
    for folder in range(30):
        place = tmp_path / "many" / str(folder)
        place.mkdir(parents=True)
        for name in range(200):
            (place / str(name)).touch()
    remove_tree(parent, b"many")
    assert os.listdir(parent) == []


def test_odd_names(parent: int, tmp_path: Path) -> None:
    top = os.fsencode(tmp_path / "odd")
    os.mkdir(top)
    for name in (b"\xff", b"a\nb", b"...", b"-rf", b" "):
        os.mkdir(top + b"/" + name)
        with open(top + b"/" + name + b"/f\xfe", "wb"):
            pass
    remove_tree(parent, b"odd")
    assert os.listdir(parent) == []


def test_locked_directories(parent: int, tmp_path: Path) -> None:
    inner = tmp_path / "tree/a/b"
    inner.mkdir(parents=True)
    (inner / "f").touch()
    for path in (inner, inner.parent, tmp_path / "tree"):
        path.chmod(0)
    remove_tree(parent, b"tree")
    assert os.listdir(parent) == []


MOUNT = """
import os, sys
from pyrun.errors import StateError
from pyrun.images.remove import remove_tree
fd = os.open(sys.argv[1], os.O_RDONLY)
try:
    remove_tree(fd, b"tree")
except StateError as exc:
    print(exc, "|", exc.hint)
"""


@pytest.mark.needs_root
@pytest.mark.parametrize("mount", ["bind", "tmpfs", "file"])
def test_b25_mounts_inside_are_never_crossed(tmp_path: Path, mount: str) -> None:
    host, tree = tmp_path / "host", tmp_path / "tree"
    host.mkdir()
    (host / "kept").write_text("x")
    (tree / "a/m").mkdir(parents=True)
    (tree / "a/f").touch()
    commands = {
        "bind": f"mount --bind {host} {tree}/a/m",
        "tmpfs": f"mount -t tmpfs none {tree}/a/m",
        "file": f"mount --bind {host}/kept {tree}/a/f",
    }
    script = f'{commands[mount]} && exec "$0" -c "$1" {tmp_path}'
    done = subprocess.run(["unshare", "-m", "sh", "-c", script, sys.executable, MOUNT], capture_output=True, text=True, check=True)
    assert "is a mount point" in done.stdout
    assert "unmount it first" in done.stdout
    assert (host / "kept").read_text() == "x"
    parent = os.open(tmp_path, os.O_RDONLY)
    remove_tree(parent, b"tree")  # once the mount is gone, a second call finishes
    os.close(parent)
    assert not tree.exists()


@pytest.mark.needs_root
def test_immutable_files_are_reported(parent: int, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/f").touch()
    if subprocess.run(["chattr", "+i", tmp_path / "tree/f"], capture_output=True, check=False).returncode:
        return  # not a file system that knows the attribute
    try:
        with pytest.raises(StateError, match=r"remove tree/f") as caught:
            remove_tree(parent, b"tree")
        assert "chattr" in caught.value.hint
    finally:
        subprocess.run(["chattr", "-i", tmp_path / "tree/f"], check=True)
    remove_tree(parent, b"tree")
