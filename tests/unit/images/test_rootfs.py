"""Look-ups in stacked layers: what overlayfs would show, never anything of the host."""

from __future__ import annotations

import os
import random
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyrun.errors import ImageError, StateError
from pyrun.images.rootfs import RootFS

OPAQUE = "trusted.overlay.opaque"


class Layers:
    """Layer directories below one directory, top first."""

    def __init__(self, base: Path, count: int = 3) -> None:
        self.paths = [base / f"layer{number}" for number in range(count)]
        for path in self.paths:
            path.mkdir()
        self.rootfs = RootFS([str(path) for path in self.paths])

    def write(self, layer: int, path: str, data: str = "") -> Path:
        target = self.paths[layer] / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(data or f"{path} of {layer}")
        return target

    def link(self, layer: int, path: str, to: str) -> None:
        target = self.paths[layer] / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(to)

    def whiteout(self, layer: int, path: str) -> None:
        target = self.paths[layer] / path
        target.parent.mkdir(parents=True, exist_ok=True)
        os.mknod(target, stat.S_IFCHR, os.makedev(0, 0))

    def text(self, path: str) -> str | None:
        data = self.rootfs.read(os.fsencode(path))
        return None if data is None else data.decode()


@pytest.fixture
def layers(tmp_path: Path) -> Layers:
    return Layers(tmp_path)


def test_top_layer_wins(layers: Layers) -> None:
    layers.write(2, "etc/passwd")
    assert layers.text("/etc/passwd") == "etc/passwd of 2"
    layers.write(0, "etc/group")
    assert layers.text("/etc/passwd") == "etc/passwd of 2"
    layers.write(1, "etc/passwd")
    assert layers.text("etc/passwd") == "etc/passwd of 1"
    assert layers.text("//etc/./passwd") == "etc/passwd of 1"
    assert layers.text("/etc/../../../etc/passwd") == "etc/passwd of 1"
    assert layers.text("/etc/nothing") is None


@pytest.mark.needs_root
def test_whiteouts(layers: Layers) -> None:
    layers.write(2, "a/b/c")
    layers.write(2, "x")
    layers.whiteout(1, "x")
    assert layers.text("/x") is None
    layers.write(0, "x")
    assert layers.text("/x") == "x of 0"
    layers.whiteout(0, "a")
    assert layers.text("/a/b/c") is None
    assert layers.rootfs.owner(b"/a") is None


@pytest.mark.needs_root
def test_whiteout_below_a_directory_ends_the_merge(layers: Layers) -> None:
    layers.write(2, "d/old")
    layers.whiteout(1, "d")
    layers.write(0, "d/new")
    assert layers.text("/d/new") == "d/new of 0"
    assert layers.text("/d/old") is None


@pytest.mark.needs_root
@pytest.mark.parametrize("name", [OPAQUE, "user.overlay.opaque"])
def test_opaque_directory(layers: Layers, name: str) -> None:
    layers.write(2, "d/old")
    layers.write(0, "d/new")
    assert layers.text("/d/old") == "d/old of 2"
    os.setxattr(layers.paths[0] / "d", name, b"y")
    assert layers.text("/d/old") is None
    assert layers.text("/d/new") == "d/new of 0"
    os.setxattr(layers.paths[0] / "d", name, b"n")
    assert layers.text("/d/old") == "d/old of 2"


def test_file_hides_directory_and_directory_hides_file(layers: Layers) -> None:
    layers.write(2, "p/q")
    layers.write(1, "p", "file")
    assert layers.text("/p/q") is None
    assert layers.text("/p") == "file"
    layers.write(0, "p/r")
    assert layers.text("/p/r") == "p/r of 0"
    assert layers.text("/p/q") is None


def test_links_stay_inside(layers: Layers, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("host")
    layers.link(0, "absolute", f"{tmp_path}/secret")
    layers.link(0, "up", "../secret")
    layers.link(0, "far", "../" * 30 + str(tmp_path)[1:] + "/secret")
    layers.link(0, "environment", "/proc/self/environ")
    layers.link(0, "dir", f"{tmp_path}")
    for path in ("/absolute", "/up", "/far", "/environment", "/dir/secret", "/../secret"):
        assert layers.text(path) is None, path


def test_links_cross_layers(layers: Layers) -> None:
    layers.link(2, "etc", "/usr/etc")
    layers.write(1, "usr/etc/passwd")
    layers.link(0, "usr/etc/alias", "./../../etc/passwd")
    layers.link(0, "chain", "etc/alias")
    for path in ("/etc/passwd", "/usr/etc/alias", "/chain", "/etc/../etc/passwd"):
        assert layers.text(path) == "usr/etc/passwd of 1", path


def test_link_to_its_parent_then_up(layers: Layers) -> None:
    layers.write(0, "a/b/file")
    layers.write(0, "file", "top")
    layers.link(0, "l", "a/b")
    assert layers.text("/l/../file") is None, "dot-dot is that of the target, as in the kernel"
    layers.write(1, "a/file", "middle")
    assert layers.text("/l/../file") == "middle"


def test_loops_and_long_chains(layers: Layers) -> None:
    layers.link(0, "x", "y")
    layers.link(1, "y", "x")
    with pytest.raises(ImageError, match="too many levels"):
        layers.text("/x")
    layers.write(0, "n40", "end")
    for number in range(40):
        layers.link(0, f"n{number}", f"n{number + 1}")
    assert layers.text("/n0") == "end"
    layers.link(0, "n", "n0")
    with pytest.raises(ImageError):
        layers.text("/n")


@pytest.mark.needs_root
def test_owner_is_that_of_the_link(layers: Layers) -> None:
    path = layers.write(1, "dir/file")
    os.chown(path, 7, 8)
    os.chown(path.parent, 5, 6)
    layers.link(0, "link", "dir/file")
    os.chown(layers.paths[0] / "link", 3, 4, follow_symlinks=False)
    layers.link(0, "to", "dir")
    assert layers.rootfs.owner(b"/dir/file") == (7, 8)
    assert layers.rootfs.owner(b"/link") == (3, 4)
    assert layers.rootfs.owner(b"/to/file") == (7, 8)
    assert layers.rootfs.owner(b"/dir") == layers.rootfs.owner(b"/dir/") == (5, 6)
    assert layers.rootfs.owner(b"/") == (0, 0)
    assert layers.rootfs.owner(b"/none") is None


def device(path: Path) -> None:
    os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))  # zero: it has no end


@pytest.mark.needs_root
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, device])
def test_special_files_are_refused_at_once(layers: Layers, make: Callable[[Path], None]) -> None:
    (layers.paths[1] / "etc").mkdir()
    make(layers.paths[1] / "etc" / "passwd")
    before = time.monotonic()
    with pytest.raises(ImageError, match="/etc/passwd of the image: not a regular file"):
        layers.text("/etc/passwd")
    assert time.monotonic() - before < 1


def test_large_file(layers: Layers) -> None:
    path = layers.write(0, "etc/passwd")
    os.truncate(path, 1 << 30)
    with pytest.raises(ImageError, match="larger than 1048576 bytes"):
        layers.text("/etc/passwd")
    os.truncate(path, 1 << 20)
    assert len(layers.rootfs.read(b"/etc/passwd") or b"") == 1 << 20


@pytest.mark.parametrize("path", [b"/a\0b", b"/" + b"x" * 256, b"/x" * 3000, b"", b"/" + b"../" * 4000, b"/\xff\xfe"])
def test_odd_paths(layers: Layers, path: bytes) -> None:
    if path.strip(b"/."):
        assert layers.rootfs.read(path) is None
    else:
        assert layers.rootfs.owner(path) is not None


def test_missing_layer(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="open layer"):
        RootFS([str(tmp_path), str(tmp_path / "none")]).read(b"/x")


def test_no_descriptor_leaks(layers: Layers) -> None:
    layers.write(2, "a/b/c")
    layers.link(0, "x", "x")
    before = os.listdir("/proc/self/fd")
    for path in ("/a/b/c", "/a/none", "/a/b/c/d", "/"):
        layers.rootfs.owner(path.encode())
    with pytest.raises(ImageError):
        layers.text("/x")
    assert os.listdir("/proc/self/fd") == before


def test_directory_swapped_for_a_link(layers: Layers, tmp_path: Path) -> None:
    """As a running container can do in its upper layer."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "passwd").write_text("host")
    layers.write(0, "real/passwd", "image")
    (layers.paths[0] / "etc").symlink_to(outside)
    stop = threading.Event()

    def swap() -> None:
        etc, spare = layers.paths[0] / "etc", layers.paths[0] / "spare"
        while not stop.is_set():
            os.rename(etc, spare)
            os.rename(layers.paths[0] / "real", etc)
            os.rename(etc, layers.paths[0] / "real")
            os.rename(spare, etc)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        seen = {layers.text("/etc/passwd") for _ in range(3000)}
    except StateError:
        seen = set()
    finally:
        stop.set()
        thread.join()
    assert "host" not in seen


NAMES = ["a", "b", "c"]

OVERLAY = """
import os, subprocess, sys
from pathlib import Path
base = Path(sys.argv[1])
for case in sorted(base.iterdir(), key=lambda path: int(path.name)):
    merged = case / "merged"
    merged.mkdir()
    lower = ":".join(str(case / f"layer{number}") for number in range(3))
    subprocess.run(["mount", "-t", "overlay", "-o", f"ro,redirect_dir=nofollow,metacopy=off,lowerdir={lower}", "none", merged], check=True)
    for path in (case / "paths").read_text().split():
        text = subprocess.run(["chroot", merged, "/cat", path], capture_output=True, text=True)
        print(case.name, path, text.stdout if text.returncode == 0 else "-")
    subprocess.run(["umount", merged], check=True)
"""


@pytest.mark.needs_root
def test_agrees_with_the_kernel(tmp_path: Path, private_mounts: Callable[..., str]) -> None:
    """Random stacks, each mounted as a real overlay and read by a program chrooted into it."""
    chance = random.Random(7)
    expected: dict[tuple[str, str], str | None] = {}
    for case in range(20):
        base = tmp_path / "cases" / str(case)
        base.mkdir(parents=True)
        stack = Layers(base)
        for _ in range(14):
            grow(stack, chance)
        (stack.paths[2] / "cat").write_bytes(Path("/bin/busybox").read_bytes())
        (stack.paths[2] / "cat").chmod(0o755)
        there = sorted({f"/{path.relative_to(layer)}" for layer in stack.paths for path in layer.rglob("*")} - {"/cat"})
        paths = [*there, *("/" + "/".join(chance.choices([*NAMES, ".."], k=chance.randint(1, 4))) for _ in range(8))]
        (base / "paths").write_text("\n".join(paths))
        for path in paths:
            try:
                expected[str(case), path] = stack.text(path)
            except ImageError:
                expected[str(case), path] = None
    lines = [line.split(" ", 2) for line in private_mounts(OVERLAY, str(tmp_path / "cases")).splitlines()]
    actual = {(case, path): None if text == "-" else text for case, path, text in lines}
    assert actual == expected
    assert sum(text is not None for text in actual.values()) > 20


def grow(stack: Layers, chance: random.Random) -> None:
    layer = stack.paths[chance.randrange(3)]
    path = layer.joinpath(*chance.choices(NAMES, k=chance.randint(1, 3)))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        match chance.choice(["file", "file", "dir", "opaque", "whiteout", "link", "link"]):
            case "file":
                path.touch(exist_ok=False)
                path.write_text(f"{path.relative_to(layer)}@{layer.name}")
            case "dir":
                path.mkdir()
            case "opaque":
                path.mkdir()
                os.setxattr(path, OPAQUE, b"y")
            case "whiteout":
                os.mknod(path, stat.S_IFCHR, os.makedev(0, 0))
            case "link":
                steps = chance.choices([*NAMES, ".."], k=chance.randint(1, 3))
                path.symlink_to(chance.choice(["", "/"]) + "/".join(steps))
    except OSError:
        pass  # something else is there already


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(path=st.binary(max_size=80))
def test_any_path_is_answered(layers: Layers, path: bytes) -> None:
    layers.rootfs.read(path) if path.strip(b"/.") else layers.rootfs.owner(path)
