"""The root file system of an app: the image as shipped, fresh each time, its own to write (ACE-02, ACE-11, ACE-13, SEC-07)."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import Pyrun
from mkaci import Image

Shell = Callable[..., str]
Make = Callable[..., Path]
WAYS = [(), ("--upper", "tmpfs"), ("--no-overlay",)]
IDS = ["disk", "tmpfs", "copy"]


def tree(top: Path) -> dict[str, tuple[object, ...]]:
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(top.rglob("*")):
        st = os.lstat(path)
        data = hashlib.sha256(path.read_bytes()).hexdigest() if stat.S_ISREG(st.st_mode) else ""
        found[str(path.relative_to(top))] = (st.st_mode, st.st_uid, st.st_gid, st.st_mtime_ns, st.st_rdev, data)
    return found


@pytest.mark.parametrize("flags", WAYS, ids=IDS)
def test_ace_11_each_run_starts_from_a_pristine_copy(pyrun: Pyrun, busybox: Path, flags: tuple[str, ...]) -> None:
    """ACE-11; what an app writes, removes and replaces ends with the pod and never reaches the store."""
    script = "ls /x /etc/passwd /bin/true; echo new >/x; rm /etc/passwd; rm -r /bin/true; chmod 700 /etc; echo >>/etc/group; mkdir -p /a/b"
    command = ("run", *flags, busybox, "--exec", "/bin/sh", "--", "-c", script)
    first = pyrun(*command, code=0)
    store = tree(pyrun.root / "layers")
    second = pyrun(*command, code=0)
    assert first.out == second.out == "/bin/true\n/etc/passwd\n"
    assert tree(pyrun.root / "layers") == store
    assert os.listdir(pyrun.root / "pods" / "running") == os.listdir(pyrun.root / "pods" / "garbage") == []


@pytest.mark.parametrize("flags", WAYS, ids=IDS)
def test_ace_02_a_read_only_root_refuses_every_write(shell: Shell, tmp_path: Path, flags: tuple[str, ...]) -> None:
    """ACE-02: the root only; volumes and /dev/shm stay writable."""
    script = """
        for path in /x /etc/x /tmp/x /bin/x; do touch $path 2>&1 | grep -c 'Read-only file system'; done
        mv /etc/passwd /etc/p 2>&1 | grep -c 'Read-only'; chmod 777 / 2>&1 | grep -c 'Read-only'; rm /probe 2>&1 | grep -c 'Read-only'
        echo a >/v/file && echo b >/dev/shm/file && cat /dev/shm/file; mount | grep -c ' on / .*[(]ro,'"""
    out = shell(script, "--readonly-rootfs", "-v", f"{tmp_path}:/v", *flags)
    assert out.split() == ["1"] * 7 + ["b", "1"]
    assert (tmp_path / "file").read_text() == "a\n"


@pytest.mark.parametrize("insecure", ["none", "all-run"])
def test_a_read_only_root_cannot_be_made_writable(shared: Pyrun, busybox: Path, insecure: str) -> None:
    """There is no upper directory that a remount could bring back."""
    flags = ["--readonly-rootfs", "--insecure-options", insecure]
    script = "mount -o remount,rw / 2>/dev/null; mount -o remount,bind,rw / 2>/dev/null; touch /x"
    assert "Read-only file system" in shared("run", *flags, busybox, "--exec", "/bin/sh", "--", "-c", script, code=1).err


def root_mount(seen: dict[str, Any]) -> tuple[set[str], str, set[str]]:
    """Flags, file system type and options of the mount on /."""
    line = next(line for line in seen["mounts"] if line.split()[4] == "/")
    head, tail = line.split(" - ")
    return set(head.split()[5].split(",")), tail.split()[0], set(tail.split()[2].split(","))


def test_overlay_is_mounted_with_care(shared: Pyrun) -> None:
    """SEC-07: image attributes redirect nothing, devices and set-id bits are inert; nothing is synced that is thrown away."""
    flags, kind, options = root_mount(shared.report())
    assert kind == "overlay"
    assert {"nodev", "nosuid", "rw"} <= flags
    assert {"redirect_dir=nofollow", "fsync=volatile"} <= options or {"redirect_dir=nofollow", "volatile"} <= options
    assert "metacopy=on" not in options
    flags, kind, _ = root_mount(shared.report("--no-overlay"))
    assert kind != "overlay" and {"nodev", "nosuid"} <= flags
    assert "nosuid" not in root_mount(shared.report("--insecure-options", "new-privs"))[0]


def test_a_kept_pod_is_synced(pyrun: Pyrun, busybox: Path) -> None:
    seen = pyrun("run", "--keep", busybox, "--exec", "/bin/sh", "--", "-c", "echo kept >/file; cat /proc/mounts", code=0)
    assert "volatile" not in seen.out
    (pod,) = (pyrun.root / "pods" / "exited").iterdir()
    assert (pod / "upper" / "file").read_text() == "kept\n"


def test_changes_in_memory_touch_no_disk(pyrun: Pyrun) -> None:
    seen = pyrun.report("--upper", "tmpfs", "--keep")
    _, kind, options = root_mount(seen)
    assert kind == "overlay"
    assert any(option.startswith("upperdir=") and option.endswith("/stage/upper") for option in options)
    (pod,) = (pyrun.root / "pods" / "exited").iterdir()
    assert sorted(os.listdir(pod)) == ["exit", "pod"]


def test_copying_is_said_out_loud(shared: Pyrun, probe_image: Path) -> None:
    copied = shared("run", "--no-overlay", probe_image, code=0)
    assert copied.err == "pyrun: note: the image's files were copied: no overlay\n"
    assert shared("run", "--no-overlay", "--quiet", probe_image, code=0).err == ""


def test_a_copy_has_the_same_files(pyrun: Pyrun, image: Make) -> None:
    def edit(made: Image) -> None:
        made.busybox()
        made.add("/data/sub/file", b"content", mode=0o640, uid=7, gid=8)
        made.add("/data/link", type=b"1", linkname="rootfs/data/sub/file")
        made.symlink("/data/dangling", "/nowhere")
        made.add("/data/fifo", type=b"6", mode=0o600)
        made.add("/data/set", b"", mode=0o4755)
        made.directory("/data/sticky", 0o1777, uid=1000)

    path = image(
        "example.com/copy",
        ["/bin/sh", "-c", "cd /; find bin data etc probe ! -path etc/hosts -exec stat -c '%n %F %a %u %g %h %s %Y' {} + | sort"],
        edit=edit,
    )
    listed = pyrun("run", path, code=0).out
    assert "data/link regular file 640 7 8 2 7" in listed
    # not /etc/hosts, which is each pod's own; directories apart, whose sizes and link counts are the file system's own business
    plain = [line for line in listed.splitlines() if " directory " not in line]
    copied = [line for line in pyrun("run", "--no-overlay", path, code=0).out.splitlines() if " directory " not in line]
    assert copied == plain


def test_ace_12_the_image_needs_no_mount_points(shared: Pyrun, image: Make) -> None:
    """ACE-12: an image of one file."""

    def strip(made: Image) -> None:
        made.members = {"probe": made.members["probe"]}

    seen = shared("run", image("example.com/one", edit=strip), code=0)
    names = json.loads(seen.out)["root"]
    assert sorted(names) == ["dev", "etc", "probe", "proc", "sys", "tmp"]


def test_temporary_files_work_for_everybody(shell: Shell) -> None:
    assert shell("stat -c %a /tmp; touch /tmp/x && echo ok", "--user", "app").split() == ["1777", "ok"]


@pytest.mark.parametrize("mask", ["0022", "0077", "0777"])
def test_made_directories_are_umask_proof(shell: Shell, mask: str) -> None:
    script = "stat -c '%a %u %g' /dev /proc/.. /a /a/b"
    assert shell(script, "--umask", mask, "-v", "/usr/share:/a/b:ro").splitlines() == ["755 0 0"] * 4


HOSTS = b"10.0.0.1 mine\n# kept, with its last line unended"


@pytest.mark.parametrize("net", ["none", "host"])
def test_ace_13_files_of_the_image_are_kept(shared: Pyrun, image: Make, net: str) -> None:
    """ACE-13: byte for byte."""

    def edit(made: Image) -> None:
        made.busybox()
        made.add("/etc/hosts", HOSTS)
        made.add("/etc/resolv.conf", b"nameserver 192.0.2.1\n")
        made.add("/etc/hostname", b"original\n")

    path = image("example.com/hosts", ["/bin/cat", "/etc/hosts", "/etc/resolv.conf", "/etc/hostname"], edit=edit)
    assert shared("run", "--net", net, path, code=0).out.encode() == HOSTS + b"nameserver 192.0.2.1\noriginal\n"


def test_hosts_are_generated_for_images_without(shared: Pyrun) -> None:
    lines = shared.report("--hostname", "web")["hosts"]
    assert "127.0.0.1\tlocalhost" in lines
    assert "127.0.1.1\tweb" in lines


def test_hosts_of_a_volume_are_kept(shell: Shell, tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_bytes(HOSTS)
    assert shell("cat /etc/hosts", "-v", f"{hosts}:/etc/hosts:ro").encode() == HOSTS
    assert hosts.read_bytes() == HOSTS


def test_the_hosts_name_servers_come_with_its_network(shell: Shell) -> None:
    script = "cat /etc/resolv.conf 2>/dev/null || echo none"
    assert shell(script) == "none"
    host = Path("/etc/resolv.conf")
    expected = host.read_text().rstrip("\n") if host.exists() and host.stat().st_size else "none"
    assert shell(script, "--net", "host") == expected


@pytest.mark.parametrize("target", ["../run/systemd/resolve/stub-resolv.conf", "/nowhere/file", "resolv.conf"])
def test_a_link_that_leads_nowhere_is_no_file_of_the_image(shared: Pyrun, image: Make, target: str) -> None:
    """What Debian's images with systemd-resolved ship: its target is made at run time, on a machine."""

    def edit(made: Image) -> None:
        made.busybox()
        made.symlink("/etc/resolv.conf", target)
        made.symlink("/etc/hosts", "../run/nowhere")

    path = image(f"example.com/nowhere{len(target)}", ["/bin/cat", "/etc/resolv.conf", "/etc/hosts"], edit=edit)
    named = "nameserver 192.0.2.7\n"
    for flags in ([], ["--readonly-rootfs"], ["--no-overlay"], ["--upper", "tmpfs"]):
        out = shared("run", "--hostname", "web", "--dns", "192.0.2.7", *flags, path, code=0).out
        assert out.startswith(named + "127.0.0.1\tlocalhost\n") and "127.0.1.1\tweb\n" in out
    assert shared("run", "--net", "host", path, code=0).out == Path("/etc/resolv.conf").read_text() + Path("/etc/hosts").read_text()


def test_a_link_to_a_file_of_the_image_is_kept_unless_a_flag_says_more(shared: Pyrun, image: Make) -> None:
    def edit(made: Image) -> None:
        made.busybox()
        made.add("/run/resolv", b"nameserver 192.0.2.1\n")
        made.symlink("/etc/resolv.conf", "/run/resolv")

    path = image("example.com/linked", ["/bin/cat", "/etc/resolv.conf", "/run/resolv"], edit=edit)
    assert shared("run", "--net", "host", path, code=0).out == "nameserver 192.0.2.1\n" * 2
    assert shared("run", "--dns", "192.0.2.7", path, code=0).out == "nameserver 192.0.2.7\nnameserver 192.0.2.1\n"


def test_a_vanished_layer(pyrun: Pyrun, probe_image: Path) -> None:
    """By name it is one clear error, by file it is imported again."""
    pyrun.report()
    (layer,) = (pyrun.root / "layers").iterdir()
    layer.rename(layer.with_name("gone"))
    failed = pyrun("run", "example.com/probe", code=125)
    assert failed.err.count("pyrun:") == failed.err.count("hint:") == 1
    pyrun.report()
