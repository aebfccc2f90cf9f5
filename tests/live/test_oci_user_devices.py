"""What only the runtime can make for a user namespace: device nodes (config-linux.md, "Devices"), and binds with its ids."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bundles import Runtime
from waiting import wait_until

FIRST = 200000
ZERO: dict[str, Any] = {"path": "/dev/deep/mine", "type": "c", "major": 1, "minor": 5}


@pytest.fixture
def oci(tmp_path: Path, probe: Path) -> Iterator[Runtime]:
    made = Runtime(tmp_path, probe)
    made.config["linux"]["namespaces"].append({"type": "user"})
    for name in ("uidMappings", "gidMappings"):
        made.config["linux"][name] = [{"containerID": 0, "hostID": FIRST, "size": 1000}]
    os.chown(made.bundle / "rootfs", FIRST, FIRST)
    for path in (made.folder, *made.folder.parents):
        path.chmod(path.stat().st_mode | 0o111)
    yield made
    made("delete", "--force", "one")


def test_a_namespace_of_others_may_deny_setgroups(oci: Runtime) -> None:
    """As everyone's does that was made without root; the container has no groups to set."""
    holder = subprocess.Popen(["unshare", "--user", "--map-root-user", "sleep", "1000"])
    try:
        path = f"/proc/{holder.pid}/ns/user"
        wait_until(lambda: Path(f"/proc/{holder.pid}/comm").read_text() == "sleep\n")
        assert Path(f"/proc/{holder.pid}/setgroups").read_text() == "deny\n"
        oci.config["linux"]["namespaces"][-1]["path"] = path
        del oci.config["linux"]["uidMappings"], oci.config["linux"]["gidMappings"]
        os.chown(oci.bundle / "rootfs", 0, 0)
        oci.config["mounts"] = [one for one in oci.config["mounts"] if one["type"] == "proc"]  # a group 5 there is not
        assert oci.shell("id -u; cat /proc/self/setgroups") == "0\ndeny\n"
    finally:
        holder.kill()
        holder.wait()


def test_a_device_that_the_host_has_not_is_made(oci: Runtime) -> None:
    """With the container's ids and the mode as it is asked for, whatever the caller's umask; and it is that device."""
    oci.config["linux"]["devices"] = [
        {**ZERO, "fileMode": 0o157, "uid": 10, "gid": 11},
        {"path": "/dev/block", "type": "b", "major": 1, "minor": 5},
    ]
    before = Path("/proc/self/mountinfo").read_text()
    old = os.umask(0o077)
    try:
        script = "stat -c '%u %g %a %t %T %F' /dev/deep/mine /dev/block; head -c 3 /dev/deep/mine | wc -c; grep /mine /proc/self/mountinfo"
        shown = oci.shell(script).splitlines()
    finally:
        os.umask(old)
    assert shown[:3] == ["10 11 157 1 5 character special file", "0 0 666 1 5 block special file", "3"]
    assert {"nosuid", "noexec"} <= set(shown[3].split()[5].split(",")), "and not nodev"
    assert Path("/proc/self/mountinfo").read_text() == before


def test_one_of_the_hosts_is_made_again_where_it_is_to_look_otherwise(oci: Runtime) -> None:
    oci.config["linux"]["devices"] = [
        {"path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o600, "uid": 5, "gid": 0},
        {"path": "/dev/zero", "type": "c", "major": 1, "minor": 5},
    ]
    shown = oci.shell("stat -c '%u %g %a' /dev/null /dev/zero; echo x > /dev/null && echo written").splitlines()
    assert shown == ["5 0 600", "65534 65534 666", "written"]
    host = os.stat("/dev/null")
    assert (host.st_uid, host.st_mode & 0o777) == (0, 0o666)


def test_an_id_that_the_container_has_not_is_refused(oci: Runtime) -> None:
    oci.config["linux"]["devices"] = [{**ZERO, "gid": 1000}]
    oci.command("true")
    done = oci("create", "one", code=1)
    assert done.stderr.startswith(
        "pyrun-oci: make device gid 1000: not an id of the container's user namespace (from linux.devices[0].gid)\n"
    )
    assert not oci.leftovers()


def test_nothing_hides_a_part_of_procfs(oci: Runtime) -> None:
    oci.config["linux"]["devices"] = [{**ZERO, "path": "/proc/version"}]
    oci.command("true")
    assert "linux.devices[0]" in oci("create", "one", code=1).stderr
    assert not oci.leftovers()


@pytest.fixture
def joined(oci: Runtime) -> Iterator[Runtime]:
    """A container that joins somebody's user namespace."""
    with subprocess.Popen(["unshare", "--user", "sleep", "1000"]) as holder:
        path = f"/proc/{holder.pid}/ns/user"
        while os.readlink(path) == os.readlink("/proc/self/ns/user"):
            pass
        for name in ("uid", "gid"):
            Path(f"/proc/{holder.pid}/{name}_map").write_text(f"0 {FIRST} 1000\n")
            del oci.config["linux"][f"{name}Mappings"]
        oci.config["linux"]["namespaces"][-1]["path"] = path
        yield oci
        oci("delete", "--force", "one")
        holder.kill()


def test_in_a_namespace_that_is_joined_there_are_the_hosts_devices(joined: Runtime) -> None:
    joined.config["linux"]["devices"] = [ZERO]
    joined.command("true")
    done = joined("create", "one", code=1)
    assert "show device /dev/deep/mine: no such file or directory (from linux.devices[0])" in done.stderr
    joined.config["linux"]["devices"] = [{**ZERO, "path": "/dev/zero", "uid": 0}]
    assert joined.shell("head -c 3 /dev/zero | wc -c") == "3\n"


@pytest.mark.parametrize("option", ["idmap", "ridmap"])
def test_binds_are_mapped_as_a_namespace_that_is_joined(joined: Runtime, option: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/file").touch()
    os.chown(tmp_path / "data/file", 7, 8)
    where = {"destination": "/data", "type": "bind", "source": str(tmp_path / "data")}
    joined.config["mounts"] += [{**where, "options": ["rbind", option]}, {**where, "destination": "/plain", "options": ["rbind"]}]
    script = "stat -c '%u %g' /data /data/file /plain/file; touch /data/new"
    assert joined.shell(script).splitlines() == ["0 0", "7 8", "65534 65534"]
    made = os.stat(tmp_path / "data/new")
    assert (made.st_uid, made.st_gid) == (0, 0)
