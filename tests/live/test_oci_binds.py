"""Mounts as crun and podman have them beyond the specification, and user namespaces that say nothing."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from bundles import OCI, Runtime


@pytest.fixture
def oci(tmp_path: Path, probe: Path) -> Runtime:
    return Runtime(tmp_path, probe)


def tmpfs(destination: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": "tmpfs", "source": "memory", "options": list(options)}


def bind(source: Path, destination: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": "bind", "source": str(source), "options": list(options)}


def test_a_bind_may_say_its_map_as_an_option(oci: Runtime, tmp_path: Path) -> None:
    """As podman has it; @ is relative to the container's user namespace."""
    top = tmp_path / "top"
    top.mkdir()
    (top / "file").write_text("")
    os.chown(top / "file", 5, 6)
    plain = bind(top, "/plain", "bind", "idmap=uids=5-1005-1;gids=0-0-7")
    oci.config["mounts"].append(plain)
    assert oci.shell("stat -c '%u %g' /plain/file") == "1005 6\n"
    oci.config["linux"]["namespaces"].append({"type": "user"})
    oci.config["linux"]["uidMappings"] = oci.config["linux"]["gidMappings"] = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    os.chown(oci.bundle / "rootfs", 100000, 100000)
    plain["options"] = ["bind", "idmap=uids=@5-8-1;gids=@0-0-7"]
    assert oci.shell("stat -c '%u %g' /plain/file") == "8 6\n"


def test_an_idmapped_bind_may_show_what_earlier_mounts_of_a_user_namespace_have_made(oci: Runtime, tmp_path: Path) -> None:
    """Its source is there only in the container, whose root may map the ids of no file system of the host's."""
    for name in ("top", "top/sub", "below"):
        (tmp_path / name).mkdir()
    (tmp_path / "below/file").write_text("")
    os.chown(tmp_path / "below/file", 1005, 1006)
    oci.config["linux"]["namespaces"].append({"type": "user"})
    oci.config["linux"]["uidMappings"] = oci.config["linux"]["gidMappings"] = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    os.chown(oci.bundle / "rootfs", 100000, 100000)
    maps = [{"containerID": 1000, "hostID": 100000, "size": 10}]
    root = oci.bundle / "rootfs"
    oci.config["mounts"] += [
        bind(tmp_path / "top", "/mnt", "bind"),
        bind(tmp_path / "below", "/mnt/sub", "bind"),
        {**bind(root / "mnt/sub", "/one", "rbind", "idmap"), "uidMappings": maps, "gidMappings": maps},
        {**bind(root / "mnt", "/all", "rbind", "ridmap"), "uidMappings": maps, "gidMappings": maps},
    ]
    assert oci.shell("stat -c '%u %g' /mnt/sub/file /one/file /all/sub/file").splitlines() == ["65534 65534", "5 6", "5 6"]
    assert not oci.leftovers()
    oci.config["mounts"].append({**bind(root / "proc", "/two", "bind", "idmap"), "uidMappings": maps, "gidMappings": maps})
    oci.command("/bin/true")
    assert "its ids cannot be mapped" in oci("run", "one", code=1).stderr
    assert not oci.leftovers()


def test_links_are_bound_and_covered_and_copied(oci: Runtime, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file\n")
    (tmp_path / "link").symlink_to("file")
    (oci.bundle / "rootfs/covered").symlink_to("/etc")
    oci.config["mounts"] += [
        bind(tmp_path / "link", "/covered", "bind", "dest-nofollow", "src-nofollow"),
        bind(tmp_path / "file", "/tmp/new", "bind", "dest-nofollow"),
        bind(tmp_path / "link", "/deep/copy", "bind", "copy-symlink"),
        bind(tmp_path / "file", "/deep/file", "bind", "copy-symlink"),
    ]
    script = "busybox readlink /covered; cat /tmp/new; busybox readlink /deep/copy; cat /deep/copy; ls /etc/passwd"
    assert oci.shell(script).splitlines() == ["file", "a file", "file", "a file", "/etc/passwd"]
    assert (oci.bundle / "rootfs/covered").readlink() == Path("/etc"), "what was covered is as it was"
    for kind in ("proc", "sysfs"):
        (oci.bundle / "rootfs/trap").unlink(missing_ok=True)
        (oci.bundle / "rootfs/trap").symlink_to("/tmp")
        oci.config["mounts"] = [*oci.config["mounts"][:7], {"destination": "/trap", "type": kind, "source": kind}]
        oci.command("/bin/true")
        assert "symbolic link" in oci("run", "one", code=1).stderr


def test_a_tmpfs_has_the_mode_of_what_it_covers(oci: Runtime) -> None:
    for name, mode in (("plain", 0o712), ("sticky", 0o1770), ("said", 0o700)):
        (oci.bundle / "rootfs" / name).mkdir()
        (oci.bundle / "rootfs" / name).chmod(mode)
    oci.config["mounts"] += [tmpfs("/plain", "ro"), tmpfs("/sticky"), tmpfs("/said", "mode=0751"), tmpfs("/new")]
    assert oci.shell("stat -c %a /plain /sticky /said /new").split() == ["712", "1770", "751", "1777"]


def test_a_user_namespace_without_maps_has_the_callers_id(oci: Runtime) -> None:
    linux = oci.config["linux"]
    linux["namespaces"].append({"type": "user"})
    for mount in oci.config["mounts"]:
        mount["options"] = [option for option in mount.get("options", ()) if option != "gid=5"]
    script = "cat /proc/self/uid_map /proc/self/gid_map; id -u; stat -c %u /; grep -E ' /dev/(null|tty) ' /proc/self/mountinfo"
    lines = oci.shell(script).splitlines()
    assert [line.split() for line in lines[:2]] == [["0", "0", "1"]] * 2 and lines[2:4] == ["0", "0"]
    shown = [line.split()[5].split(",") for line in lines[4:]]
    assert len(shown) == 2 and all({"nosuid", "noexec"} <= set(options) for options in shown), "devices are the host's own"
    oci.config["process"]["user"] = {"uid": 5, "gid": 5}
    oci.command("/bin/true")
    done = oci("run", "one", code=1)
    assert "process.user" in done.stderr and not oci.leftovers()


@pytest.fixture
def as_runc(oci: Runtime) -> Runtime:
    oci.program = oci.folder / "runc"
    oci.program.symlink_to(OCI)
    return oci


def flags_of(oci: Runtime, top: Path, given: str, *options: str) -> str:
    """Of a bind of what is mounted with `given`."""
    subprocess.run(["mount", "--bind", "-o", f"remount,diratime,{given}", top], check=True)
    oci.config["mounts"] = [one for one in oci.config["mounts"] if one["destination"] != "/mnt"] + [bind(top, "/mnt", "bind", *options)]
    return oci.shell("awk '$5 == \"/mnt\" { print $6 }' /proc/self/mountinfo").strip()


def test_the_times_of_a_bind_as_runc_has_them(as_runc: Runtime, tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "top", top], check=True)
    try:
        for given, options, seen in (
            ("noatime", ["atime"], "rw,noatime"),
            ("noatime", ["nodiratime"], "rw,nodiratime,relatime"),
            ("nodiratime,relatime", ["strictatime"], "rw"),
            ("noatime,nodiratime", ["relatime"], "rw,relatime"),
            ("noatime,nodev", ["nosuid"], "rw,nosuid,noatime"),
            ("ro,noatime", ["diratime"], "rw,noatime"),
        ):
            assert flags_of(as_runc, top, given, *options) == seen, (given, options)
    finally:
        subprocess.run(["umount", top], check=True)


def test_a_user_namespace_keeps_the_flags_of_a_bind_as_with_runc(as_runc: Runtime, tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    as_runc.config["linux"]["namespaces"].append({"type": "user"})
    as_runc.config["linux"]["uidMappings"] = as_runc.config["linux"]["gidMappings"] = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    os.chown(as_runc.bundle / "rootfs", 100000, 100000)
    subprocess.run(["mount", "-t", "tmpfs", "top", top], check=True)
    try:
        assert flags_of(as_runc, top, "ro,nodev,relatime", "nosuid", "relatime") == "ro,nosuid,nodev,relatime"
        as_runc.config["mounts"][-1]["options"] = ["bind", "rw", "dev"]
        as_runc.write()
        told = as_runc("run", "one", code=1).stderr
        assert told.startswith("runc run failed: unable to start container process: error during container init: error mounting ")
        assert "operation not permitted" in told and "rw, dev is asked for" in told
        as_runc.config["mounts"][-1]["options"] = ["bind", "noatime"]
        as_runc.write()
        assert "another atime is asked for" in as_runc("run", "one", code=1).stderr
        as_runc.program = OCI
        assert as_runc("run", "one").stdout == "ro,nodev,noatime\n"
    finally:
        subprocess.run(["umount", top], check=True)
    assert not as_runc.leftovers()
