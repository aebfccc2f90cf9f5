"""Whose a container's cgroup is (runtime-spec config-linux.md, "Cgroup ownership")."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from bundles import Runtime

TREE = Path("/sys/fs/cgroup")
FIRST = 200000  # the host's uid for root in a user namespace


@pytest.fixture
def oci(tmp_path: Path, probe: Path) -> Runtime:
    made = Runtime(tmp_path, probe)
    made.config["linux"]["cgroupsPath"] = "/owned/one"
    made.config["mounts"] = [one for one in made.config["mounts"] if one["destination"] != "/sys/fs/cgroup"]
    made.config["mounts"].append({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "nodev"]})
    kinds = {one["type"] for one in made.config["linux"]["namespaces"]}
    made.config["linux"]["namespaces"] += [{"type": "cgroup"}] if "cgroup" not in kinds else []
    return made


def with_users(oci: Runtime) -> None:
    oci.config["linux"]["namespaces"].append({"type": "user"})
    for name in ("uidMappings", "gidMappings"):
        oci.config["linux"][name] = [{"containerID": 0, "hostID": FIRST, "size": 1000}]
    os.chown(oci.bundle / "rootfs", FIRST, FIRST)
    for path in (oci.folder, *oci.folder.parents):
        path.chmod(path.stat().st_mode | 0o111)


def owners(oci: Runtime) -> dict[str, int]:
    """Of the directory, as "", and of each file in it, with a container there."""
    oci.command("/bin/sleep", "1000")
    oci("run", "--detach", "one")
    try:
        group = TREE / "owned/one"
        return {"": group.stat().st_uid, **{path.name: path.stat().st_uid for path in group.iterdir() if path.is_file()}}
    finally:
        oci("delete", "--force", "one")


def delegated() -> set[str]:
    return {"", *Path("/sys/kernel/cgroup/delegate").read_text().split()}


def test_root_of_a_user_namespace_manages_what_is_below(oci: Runtime) -> None:
    with_users(oci)
    found = owners(oci)
    assert {name for name, uid in found.items() if uid == FIRST} == delegated() & found.keys()
    assert {uid for name, uid in found.items() if name not in delegated()} == {0}
    script = "cd /sys/fs/cgroup; mkdir below && echo $$ > below/cgroup.procs && cat /proc/self/cgroup; echo 5 > cgroup.max.depth || echo no"
    assert [line for line in oci.shell(script).splitlines() if line[:3] == "0::" or line == "no"] == ["0::/below", "no"]


@pytest.mark.parametrize("uid", [0, 7])
def test_who_runs_has_it_without_a_user_namespace_too(oci: Runtime, uid: int) -> None:
    """Each time, whoever makes the container: what was decided once is not taken for it."""
    oci.config["process"]["user"] = {"uid": uid, "gid": 8}
    for _ in range(3):
        found = owners(oci)
        assert {name for name, owner in found.items() if owner == uid} >= delegated() & found.keys()
        assert found["cgroup.max.depth"] == 0


@pytest.mark.parametrize("why", ["read-only", "no mount", "elsewhere", "no namespace", "not mapped"])
def test_otherwise_it_is_roots(oci: Runtime, why: str) -> None:
    with_users(oci)
    mount = oci.config["mounts"][-1]
    if why == "read-only":
        mount["options"].append("ro")
    elif why == "no mount":
        oci.config["mounts"].remove(mount)
    elif why == "elsewhere":
        mount["destination"] = "/cgroup"
    elif why == "no namespace":
        oci.config["linux"]["namespaces"] = [one for one in oci.config["linux"]["namespaces"] if one["type"] != "cgroup"]
    else:
        oci.config["linux"]["uidMappings"] = [{"containerID": 5, "hostID": FIRST, "size": 5}, {"containerID": 0, "hostID": 0, "size": 1}]
    assert set(owners(oci).values()) == {0}
