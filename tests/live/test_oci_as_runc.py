"""What is overlooked for who calls it runc, by a link, and knows that one."""

from __future__ import annotations

from pathlib import Path

import pytest
from bundles import OCI, Runtime


@pytest.fixture
def runc(tmp_path: Path, probe: Path) -> Runtime:
    made = Runtime(tmp_path, probe)
    made.program = tmp_path / "runc"
    made.program.symlink_to(OCI)
    return made


def test_kinds_of_access_that_no_device_has(runc: Runtime) -> None:
    """They are left out of a rule, be it one that allows or denies; alone they are an error."""
    runc.config["linux"]["devices"] = [{"path": "/dev/control", "type": "c", "major": 10, "minor": 237, "fileMode": 0o666}]
    script = "(: </dev/control) 2>/dev/null && echo read; (: >/dev/control) 2>/dev/null && echo written; true"

    def rules(*accesses: str) -> None:
        deny = {"allow": False, "access": accesses[0]}
        allowed = [{"allow": True, "type": "c", "major": 10, "minor": 237, "access": access} for access in accesses[1:]]
        runc.config["linux"]["resources"] = {"devices": [deny, {"allow": False, "type": "b"}, *allowed]}

    rules("rwma", "mrx")
    assert runc.shell(script) == "read\n"
    rules("rwma", "mr", "way")
    assert runc.shell(script) == "read\nwritten\n"
    rules("rwm", "x")
    runc.command("/bin/true")
    assert "'x' is not made of r, w and m" in runc("run", "one", code=1).stderr
    rules("rwm", "rx")
    runc.program = OCI
    runc.command("/bin/true")
    assert "'rx' is not made of r, w and m" in runc("run", "one", code=1).stderr


@pytest.mark.parametrize("name", ["runc", "pyrun-oci"])
def test_the_tree_of_cgroups_without_a_namespace_of_them(runc: Runtime, name: str) -> None:
    """As runc it is the one that /proc/self/cgroup counts from."""
    runc.program = runc.folder / "runc" if name == "runc" else OCI
    runc.config["linux"]["namespaces"] = [one for one in runc.config["linux"]["namespaces"] if one["type"] != "cgroup"]
    runc.config["linux"]["cgroupsPath"] = "/of-its-own"
    script = "sed -n s/^0:://p /proc/self/cgroup; cat /sys/fs/cgroup/of-its-own/cgroup.procs || cat /sys/fs/cgroup/cgroup.procs; true"
    for _ in range(2):
        shown = runc.shell(f"({script}) 2>&1; echo 1 2>/dev/null >/sys/fs/cgroup/cgroup.procs || echo read-only")
        assert shown.startswith("/of-its-own\n") and ("No such file" in shown) == (name != "runc") and "\n1\n" in shown
        assert shown.endswith("read-only\n")
