"""Namespaces of another container where systemd has mounted the tree of cgroups, with what it asks of the kernel there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from bundles import Runtime


@pytest.fixture
def oci(tmp_path: Path, probe: Path) -> Iterator[Runtime]:
    made = Runtime(tmp_path, probe)
    yield made
    for name in made.leftovers():  # of a test that failed
        made("delete", "--force", name)


def group_of(pid: int) -> Path:
    (line,) = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    return Path("/sys/fs/cgroup" + line[3:])


@pytest.mark.parametrize("users", [False, True])
def test_namespaces_of_another_container(oci: Runtime, users: bool) -> None:
    """Its cgroups' among them, from which no way leads to another container's cgroup where the tree has nsdelegate, as systemd's has."""
    assert "nsdelegate" in Path("/proc/mounts").read_text()
    if users:
        oci.config["linux"]["namespaces"].append({"type": "user"})
        oci.config["linux"] |= {kind: [{"containerID": 0, "hostID": 100000, "size": 100}] for kind in ("uidMappings", "gidMappings")}
        for path in (oci.bundle / "rootfs", *(oci.bundle / "rootfs").rglob("*")):
            os.chown(path, 100000, 100000, follow_symlinks=False)
        for path in (oci.folder, *oci.folder.parents):
            path.chmod(path.stat().st_mode | 0o711)
    first = oci.start_sleeping()
    files = {"network": "net", "mount": "mnt"}
    for one in oci.config["linux"]["namespaces"]:
        if one["type"] != "mount":
            one["path"] = f"/proc/{first}/ns/{files.get(one['type'], one['type'])}"
    for kind in ("uidMappings", "gidMappings"):
        oci.config["linux"].pop(kind, None)
    second = oci.start_sleeping("two")
    try:
        assert group_of(second) == Path("/sys/fs/cgroup/two"), "it is in its own all the same"
        for kind in ("cgroup", "pid", *(["user"] if users else [])):
            assert os.readlink(f"/proc/{second}/ns/{kind}") == os.readlink(f"/proc/{first}/ns/{kind}")
    finally:
        oci("delete", "--force", "two")
        oci("delete", "--force", "one")
