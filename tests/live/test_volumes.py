"""Volumes: what is mounted where, with which rights, and what is refused (ACE-20..33, A05, A16, A24, A25)."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from canary import Canary
from harness import Pyrun
from mkaci import Image

Shell = Callable[..., str]
Make = Callable[..., Path]


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    folder = tmp_path / "shelf"
    folder.mkdir()
    (folder / "file").write_text("content\n")
    return folder


@pytest.fixture
def nested(shelf: Path) -> Iterator[Path]:
    """A source with a tmpfs below it, and one below that."""
    inner = shelf / "sub"
    inner.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "nested", inner], check=True)
    (inner / "deep").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "nested", inner / "deep"], check=True)
    (inner / "file").write_text("nested\n")
    (inner / "deep" / "file").write_text("deep\n")
    yield shelf
    subprocess.run(["umount", "-R", inner], check=True)


def mounts(seen: dict[str, Any], target: str) -> set[str]:
    lines = [line.split() for line in seen["mounts"]]
    (fields,) = [fields for fields in lines if fields[4] == target]
    return set(fields[5].split(","))


def test_ace_20_both_sides_see_the_same_files(shell: Shell, shelf: Path) -> None:
    """ACE-20."""
    assert shell("cat /data/file; echo new >/data/made; stat -c %u /data/made", "-v", f"{shelf}:/data") == "content\n0"
    assert (shelf / "made").read_text() == "new\n"


@pytest.mark.parametrize(
    "flags",
    [
        ("-v", "SHELF:/data"),
        ("--volume", "box,kind=host,source=SHELF", "--mount", "volume=box,target=/data"),
        ("--mount", "type=bind,source=SHELF,target=/data"),
    ],
    ids=["short", "rkt", "docker"],
)
def test_three_ways_to_say_it(shell: Shell, shelf: Path, flags: tuple[str, ...]) -> None:
    assert shell("cat /data/file", *[flag.replace("SHELF", str(shelf)) for flag in flags]) == "content"


def test_ace_27_one_file(shell: Shell, shelf: Path) -> None:
    """ACE-27, over a file that the image has and over nothing."""
    assert shell("cat /etc/passwd /new/file", "-v", f"{shelf}/file:/etc/passwd", "-v", f"{shelf}/file:/new/file:ro") == "content\ncontent"
    assert "Read-only file system" in shell("(echo x >/new/file) 2>&1; true", "-v", f"{shelf}/file:/new/file:ro")


def test_volumes_are_nosuid_and_nodev(shared: Pyrun, shelf: Path) -> None:
    """A25."""
    seen = shared.report("-v", f"{shelf}:/rw", "-v", f"{shelf}:/ro:ro", "--volume", "e,kind=empty", "--mount", "volume=e,target=/e")
    assert {"rw", "nosuid", "nodev"} <= mounts(seen, "/rw")
    assert {"ro", "nosuid", "nodev"} <= mounts(seen, "/ro")
    assert {"rw", "nosuid", "nodev"} <= mounts(seen, "/e")


def test_a_node_in_a_volume_does_not_open(shell: Shell, shelf: Path) -> None:
    os.mknod(shelf / "node", 0o020666, os.makedev(1, 5))
    assert "Permission denied" in shell("(: </data/node) 2>&1; true", "-v", f"{shelf}:/data")


def test_ace_32_read_only_holds_for_every_mount_below(shell: Shell, shared: Pyrun, nested: Path) -> None:
    """ACE-32, A24."""
    script = (
        "cat /data/sub/file /data/sub/deep/file; for d in /data /data/sub /data/sub/deep; do touch $d/x 2>&1 | grep -c 'Read-only'; done"
    )
    assert shell(script, "-v", f"{nested}:/data:ro").split() == ["nested", "deep", "1", "1", "1"]
    seen = shared.report("-v", f"{nested}:/data")
    for target in ("/data", "/data/sub", "/data/sub/deep"):
        assert {"rw", "nosuid", "nodev"} <= mounts(seen, target)


def test_read_only_cannot_be_undone(shared: Pyrun, busybox: Path, nested: Path) -> None:
    """Not without CAP_SYS_ADMIN; the host's side stays writable."""
    script = "mount -o remount,bind,rw /data/sub; touch /data/sub/x"
    failed = shared("run", "-v", f"{nested}:/data:ro", busybox, "--exec", "/bin/sh", "--", "-c", script, code=1)
    assert "Read-only file system" in failed.err
    (nested / "sub" / "y").touch()


def test_ace_31_not_recursive(shell: Shell, nested: Path) -> None:
    """ACE-31: the mounts below are hidden."""
    flags = ["--volume", f"box,kind=host,source={nested},recursive=false", "--mount", "volume=box,target=/data"]
    assert shell("ls -A /data /data/sub", *flags).split() == ["/data:", "file", "sub", "/data/sub:"]


@pytest.mark.parametrize(("volume", "mount"), [("false", "false"), ("false", "true"), ("true", "false"), ("true", "true")])
def test_ace_33_either_side_makes_it_read_only(shell: Shell, shelf: Path, volume: str, mount: str) -> None:
    """ACE-33: the two are added up."""
    flags = ["--volume", f"b,kind=host,source={shelf},readOnly={volume}", "--mount", f"volume=b,target=/data,readOnly={mount}"]
    wanted = "Read-only" if "true" in (volume, mount) else ""
    assert wanted in shell("(echo >/data/x) 2>&1; true", *flags)
    assert (shelf / "x").exists() == (not wanted)


def test_manifest_mount_points(shared: Pyrun, image: Make, shelf: Path) -> None:
    """A volume by name, read-only as the image says; without one an empty volume, and a note of it."""
    points = [{"name": "data", "path": "/data", "readOnly": True}, {"name": "work", "path": "/work"}]
    path = image("example.com/points", ["/bin/sh", "-c"], app={"mountPoints": points}, edit=lambda made: made.busybox())
    script = "cat /data/file; (echo >/data/x) 2>&1 | grep -c Read-only; echo ok >/work/x && cat /work/x; stat -c '%a %u %g' /work"
    result = shared("run", "--volume", f"data,kind=host,source={shelf}", path, "--", script, code=0)
    assert result.out.split("\n") == ["content", "1", "ok", "755 0 0", ""]
    assert result.err.startswith("pyrun: note: no volume for mount point work on /work") and result.err.count("\n") == 1
    # a flag's mount on the same path wins over the mount point
    assert shared("run", "-q", "-v", f"{shelf}:/work", path, "--", "cat /work/file", code=0).out == "content\n"


def test_ace_29_empty_volumes(pyrun: Pyrun, busybox: Path) -> None:
    """ACE-29: fresh, with exactly the mode and owner asked for, whatever the umask, and gone with the pod."""
    flags = ["--volume", "e,kind=empty,mode=1770,uid=7,gid=8", "--mount", "volume=e,target=/e", "--umask", "0777", "--keep"]
    script = "stat -c '%a %u %g' /e; ls -A /e; touch /e/x"
    for _ in range(2):
        assert pyrun("run", *flags, busybox, "--exec", "/bin/sh", "--", "-c", script, code=0, umask=0o077).out == "1770 7 8\n"
    assert pyrun("gc", code=0).out.count("removed ended pod") == 2
    assert os.listdir(pyrun.root / "pods" / "exited") == []


def test_volumes_in_memory(shell: Shell) -> None:
    flags = ["--volume", "m,kind=tmpfs,size=1m,mode=0700,uid=1000,gid=5", "--mount", "volume=m,target=/m"]
    script = "stat -c '%a %u %g' /m; head -c 2m /dev/zero >/m/x; stat -c %s /m/x; grep ' /m ' /proc/mounts"
    mode, size, mount = shell(script, *flags).splitlines()
    assert (mode, size) == ("700 1000 5", str(1 << 20))
    assert "nosuid,nodev" in mount


def test_ace_21_targets_are_made_with_their_parents(shell: Shell, shelf: Path) -> None:
    """ACE-21: 0:0 0755, whoever the app is."""
    assert shell("stat -c '%a %u %g' /a /a/b; cat /a/b/c/file", "-v", f"{shelf}:/a/b/c", "--user", "app").splitlines() == [
        "755 0 0",
        "755 0 0",
        "content",
    ]


def test_ace_22_the_image_below_is_hidden(shell: Shell, shelf: Path) -> None:
    """ACE-22."""
    assert shell("/bin/busybox ls /etc", "-v", f"{shelf}:/etc") == "file"


def test_ace_23_nested_targets(shell: Shell, shelf: Path, tmp_path: Path) -> None:
    """In whatever order the flags come, the deeper one is mounted last."""
    deep = tmp_path / "deep"
    deep.mkdir()
    (deep / "inner").touch()
    (shelf / "b").mkdir()
    for flags in (["-v", f"{shelf}:/a", "-v", f"{deep}:/a/b"], ["-v", f"{deep}:/a/b", "-v", f"{shelf}:/a"]):
        assert shell("ls /a /a/b", *flags).split() == ["/a:", "b", "file", "/a/b:", "inner"]


def test_sources_with_odd_names(shared: Pyrun, tmp_path: Path) -> None:
    """A16: no character of a path becomes a mount option."""
    odd = tmp_path / "a,b\\c\\d e=f,ro,exec\n#g"
    odd.mkdir()
    seen = shared.report("--mount", f"type=bind,source={tmp_path},target=/all", "-v", f"{odd}:/data,exec")
    assert mounts(seen, "/data,exec") == mounts(seen, "/all")


def refused(shared: Pyrun, *flags: str | Path) -> str:
    failed = shared("run", *flags, shared.probe_image)
    assert failed.code in (2, 125), failed
    assert failed.err.count("pyrun: ") == failed.err.count("hint: ") == 1, failed
    assert failed.out == ""
    return failed.err


def test_ace_24_25_missing_sources(shared: Pyrun, tmp_path: Path) -> None:
    """ACE-24, ACE-25: an error that names it, and nothing is made on the host."""
    missing = tmp_path / "missing"
    assert f"pyrun: use volume source {missing}: no such file or directory" in refused(shared, "-v", f"{missing}:/data")
    assert not missing.exists()


def test_ace_26_linked_sources(shared: Pyrun, shelf: Path, tmp_path: Path) -> None:
    """ACE-26: a link, and a parent that is one."""
    (tmp_path / "link").symlink_to(shelf)
    (shelf / "sub").mkdir()
    assert f"hint: name {shelf}" in refused(shared, "-v", f"{tmp_path}/link:/data")
    assert f"hint: name {shelf}/sub" in refused(shared, "-v", f"{tmp_path}/link/sub:/data")
    for process in ("/proc/self/cwd", "/proc/self/root", "/proc/self/fd/0"):
        assert "symbolic link" in refused(shared, "-v", f"{process}:/data")


@pytest.mark.parametrize(
    "target",
    ["/", "//", "/.", "/proc", "/proc/", "/proc/.", "//proc", "/proc/sys", "/proc/self/attr", "/sys", "/sys/fs", "/dev", "/dev/null"],
)
def test_the_runtimes_own_places(shared: Pyrun, shelf: Path, target: str) -> None:
    """A05: nothing hides or unhides what the runtime relies on."""
    refused(shared, "-v", f"{shelf}:{target}")


@pytest.mark.parametrize("target", ["/a/../proc", "/..", "/../etc", "/a/..", "relative", "./x", ""])
def test_targets_that_are_no_plain_paths(shared: Pyrun, shelf: Path, target: str) -> None:
    refused(shared, "-v", f"{shelf}:{target}")


def test_one_volume_on_each_path(shared: Pyrun, shelf: Path) -> None:
    assert "already taken" in refused(shared, "-v", f"{shelf}:/a", "-v", f"{shelf}:/a/")
    assert "nothing mounts it" in refused(shared, "--volume", f"x,kind=host,source={shelf}")
    assert "no volume has that name" in refused(shared, "--mount", "volume=ghost,target=/x")


def test_a_directory_does_not_go_on_a_file(shared: Pyrun, shelf: Path) -> None:
    assert "/etc/passwd" in refused(shared, "-v", f"{shelf}:/etc/passwd")
    assert "/tmp" in refused(shared, "-v", f"{shelf}/file:/tmp")


def links(canary: Canary) -> Callable[[Image], None]:
    def edit(made: Image) -> None:
        made.busybox()
        for name, target in {"abs": canary.path, "up": f"../../../../../..{canary.path}", "hop": "abs", "proc1": "/proc/1/root"}.items():
            made.symlink(f"/{name}", str(target))
        made.symlink("/kernel", "/proc")
        made.symlink("/etc/file", str(canary.path / "file"))

    return edit


@pytest.mark.parametrize("target", ["/abs", "/abs/dir", "/abs/new/deep", "/up/dir", "/hop/dir", "/etc/file", "/abs/newfile", "/proc1/new"])
@pytest.mark.parametrize("what", ["directory", "file"])
def test_ace_28_links_in_the_image_do_not_lead_out(shared: Pyrun, image: Make, canary: Canary, shelf: Path, target: str, what: str) -> None:
    """ACE-28, A06, A07: the target resolves inside the root, however missing it is; the canary sees nothing."""
    source = shelf if what == "directory" else shelf / "file"
    path = image("example.com/links", ["/bin/sh", "-c"], edit=links(canary))
    result = shared("run", "-q", "-v", f"{source}:{target}", path, "--", f"readlink -f {target}")
    assert result.code in (0, 125), result
    if result.code == 125:
        assert result.err.count("hint: ") == 1


def test_a_link_into_proc_does_not_hide_it(shared: Pyrun, image: Make, canary: Canary, shelf: Path) -> None:
    """A05: the image bends the volume's target into /proc; the real one is mounted over it."""
    path = image("example.com/links", ["/bin/sh", "-c"], edit=links(canary))
    for target in ("/kernel", "/kernel/self/attr"):
        result = shared("run", "-q", "-v", f"{shelf}:{target}", path, "--", "stat -f -c %T /proc; ls /proc/file; cat /proc/self/comm")
        assert result.out.split() == ["proc", "cat"]
