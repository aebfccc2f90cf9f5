"""Overlay roots made by the helper: how many layers, with which names, by which mount call (A16, SEC-07)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from direct import Direct, root_mount

from pyrun.errors import SetupError

ODD = ["a,b", "c:d", "e\\f", "g h", "i\nj", "k\\,l\\:m", "upperdir=n", "o,ro,p", "\N{SNOWMAN}", "q\\054r"]


@pytest.fixture
def direct(tmp_path: Path, probe: Path) -> Direct:
    return Direct(tmp_path, probe)


def layers(parents: list[Path]) -> list[Path]:
    """A layer in each directory: its number in `top`, which the topmost wins, and a file of its own."""
    for number, path in enumerate(parents):
        path.mkdir(parents=True)
        (path / "top").write_text(f"{number}\n")
        (path / f"own-{number}").touch()
    return parents


@pytest.mark.parametrize("count", [1, 2, 64, 200])
def test_number_of_layers(direct: Direct, count: int) -> None:
    """Top first: the first one wins, and all are there."""
    lowers = layers([direct.base / "many" / str(number) for number in range(count)])
    config = direct.shell("read top </top; echo $top; set -- /own-*; echo $#", lowers=[*lowers, direct.layer])
    assert direct.run(config) == 0, direct.said()
    assert direct.said().split() == ["0", str(count)]


def test_odd_names(direct: Direct) -> None:
    """Neither lowers nor uppers with such names bring another option or another directory."""
    lowers = [*layers([direct.base / name for name in ODD]), direct.layer]
    config = direct.config("report", lowers=lowers)
    config.pod_dir = str(direct.base / ODD[0] / "pod,x\\:y")
    Path(config.pod_dir).mkdir()
    seen = direct.report(config)
    assert {f"own-{number}" for number in range(len(ODD))} <= set(seen["root"])
    flags, _ = root_mount(seen)
    assert {"rw", "nodev", "nosuid"} <= set(flags)


def test_long_paths_go_the_classic_way(direct: Direct) -> None:
    """fsconfig(2) takes 255 bytes: beyond that links on a tmpfs stand for the directories."""
    deep = direct.base / Path(*["d" * 100] * 20)
    lowers = [*layers([deep / name for name in ODD]), direct.layer]
    config = direct.config("report", lowers=lowers)
    config.pod_dir = str(deep / "pod")
    Path(config.pod_dir).mkdir()
    seen = direct.report(config)
    assert {f"own-{number}" for number in range(len(ODD))} <= set(seen["root"])
    flags, options = root_mount(seen)
    assert {"rw", "nodev", "nosuid"} <= set(flags)
    assert {"upperdir=u", "workdir=w", "redirect_dir=nofollow"} <= set(options)
    assert sum("tmpfs" in line and " / / " in line for line in seen["mounts"]) == 0


@pytest.mark.parametrize("count", [1, 200])
def test_many_long_paths(direct: Direct, count: int) -> None:
    deep = direct.base / Path(*["d" * 100] * 3)
    lowers = [*layers([deep / str(n) for n in range(count)]), direct.layer]
    seen = direct.report(direct.config("report", lowers=lowers))
    assert len([name for name in seen["root"] if name.startswith("own-")]) == count


@pytest.mark.parametrize("deep", [False, True], ids=["short", "long"])
def test_a_read_only_root_has_no_upper_directory(direct: Direct, deep: bool) -> None:
    base = direct.base / Path(*["d" * 100] * 3) if deep else direct.base
    config = direct.config("report", lowers=[*layers([base / "one"]), direct.layer])
    config.readonly = True
    flags, options = root_mount(direct.report(config))
    assert "ro" in [*flags, *options] and {"nodev", "nosuid"} <= set(flags)
    assert not any(option.startswith(("upperdir", "workdir")) for option in options)


def test_a_missing_layer_is_told(direct: Direct) -> None:
    for path in (direct.base / "missing", direct.base / ("x" * 200) / ("y" * 200)):
        with pytest.raises(SetupError) as caught:
            direct.run(direct.config("report", lowers=[path, direct.layer]))
        assert "overlay" in str(caught.value) and caught.value.hint


def test_attributes_of_a_layer_redirect_nothing(direct: Direct) -> None:
    """SEC-07: a layer that says of a directory that it stands elsewhere, or of a file that its data do."""
    upper, lower = direct.base / "up", direct.base / "low"
    (upper / "dir").mkdir(parents=True)
    (lower / "secret").mkdir(parents=True)
    (lower / "secret" / "file").write_text("secret")
    (upper / "meta").write_text("")
    (lower / "meta").write_text("data of the lower")
    os.setxattr(upper / "dir", "trusted.overlay.redirect", b"/secret")
    os.setxattr(upper / "meta", "trusted.overlay.metacopy", b"")
    config = direct.shell("/bin/busybox ls /dir; /bin/busybox cat /meta", lowers=[upper, lower, direct.layer])
    code = direct.run(config)
    assert "file" not in direct.said().split() and "data of the lower" not in direct.said(), (code, direct.said())


def test_a_full_upper_directory(direct: Direct) -> None:
    config = direct.shell("/bin/busybox head -c 300m /dev/zero >/big; /bin/busybox stat -c %s /big; /bin/busybox rm /big")
    config.upper = "tmpfs"
    config.rlimits = [(1, 1 << 20, 1 << 20, "test")]  # RLIMIT_FSIZE stands in for a small disk
    direct.run(config)
    assert "1048576" in direct.said()
