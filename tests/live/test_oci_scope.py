"""Cgroups in a scope of systemd, with a stand-in for systemd that moves whoever asks into a cgroup (tests/vm has the real one)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from bundles import OCI, Runtime

TREE = Path("/sys/fs/cgroup")
BUSCTL = """#!/bin/sh
# StartTransientUnit ssa(sv)a(sa(sv)) UNIT ...  PIDs au 1 PID
while [ "$1" != StartTransientUnit ]; do shift; done
unit=$3
while [ "$1" != PIDs ]; do shift; done
mkdir -p {tree}/machine.slice/$unit
echo $4 > {tree}/machine.slice/$unit/cgroup.procs
"""


@pytest.fixture
def oci(tmp_path: Path, probe: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Runtime]:
    made = Runtime(tmp_path, probe)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/busctl").write_text(BUSCTL.format(tree=TREE))
    (tmp_path / "bin/busctl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    made.config["linux"]["cgroupsPath"] = "machine.slice:oci:below"
    yield made
    made("delete", "--force", "one")
    for folder in sorted(TREE.glob("machine.slice/**/"), reverse=True):
        folder.rmdir()


def own(text: str) -> str:
    """The path in the cgroup2 tree, of proc_pid_cgroup(5)."""
    (line,) = [line for line in text.splitlines() if line.startswith("0::")]
    return line[3:]


def group_of(pid: int) -> Path:
    return Path(f"{TREE}{own(Path(f'/proc/{pid}/cgroup').read_text())}")


def start(oci: Runtime, annotations: dict[str, str]) -> Path:
    oci.config["annotations"] = annotations
    oci.command("/bin/sleep", "1000")
    oci("--systemd-cgroup", "run", "--detach", "one")
    return group_of(int(oci.state("one")["pid"]))


SUBGROUP, DELEGATED = "run.oci.systemd.subgroup", "run.oci.delegate-cgroup"


@pytest.mark.parametrize(
    ("key", "value"), [(SUBGROUP, ".."), (SUBGROUP, "../x"), (SUBGROUP, "a/b"), (DELEGATED, ".."), (DELEGATED, "a/../../b")]
)
def test_names_that_lead_elsewhere_are_refused(oci: Runtime, key: str, value: str) -> None:
    oci.config["annotations"] = {SUBGROUP: "mine", key: value}
    oci.command("/bin/true")
    told = oci("--systemd-cgroup", "create", "one", code=1).stderr
    assert told.startswith("pyrun-oci: make cgroup ") and f"(from annotations[{key!r}])" in told
    assert not oci.leftovers() and not (TREE / "machine.slice").exists()


def test_the_containers_cgroup_is_called_as_asked_for(oci: Runtime) -> None:
    scope = TREE / "machine.slice/oci-below.scope"
    for wanted, name in (({}, "container"), ({SUBGROUP: "mine"}, "mine"), ({DELEGATED: "nobody's"}, "container")):
        assert start(oci, wanted) == scope / name
        assert oci.state("one")["systemd-scope"] == "oci-below.scope"
        assert own(oci("exec", "one", "cat", "/proc/self/cgroup").stdout) == "/"
        oci("delete", "--force", "one")
        assert not (scope / name).exists()


@pytest.mark.parametrize("link", [False, True])
def test_the_scope_itself_is_the_containers_cgroup(oci: Runtime, link: bool) -> None:
    """An empty name is no cgroup below, as runc has none: whoever makes it has left, and what comes later is there too."""
    if link:
        oci.program = oci.folder / "runc"
        oci.program.symlink_to(OCI)
    scope = TREE / "machine.slice/oci-below.scope"
    assert start(oci, {} if link else {SUBGROUP: ""}) == scope
    state = oci.state("one")
    assert state["systemd-scope"] == "oci-below.scope" and (scope / "cgroup.procs").read_text() == f"{state['pid']}\n"
    assert not [path for path in scope.iterdir() if path.is_dir()]
    assert own(oci("exec", "one", "cat", "/proc/self/cgroup").stdout) == "/"
    oci("pause", "one")
    assert "frozen 1" in (scope / "cgroup.events").read_text()
    oci("delete", "--force", "one")
    assert not scope.exists()


def test_a_create_in_the_scope_itself_that_fails(oci: Runtime) -> None:
    """What is left of it is killed with the scope, and who has made it is not."""
    oci.config["annotations"] = {SUBGROUP: ""}
    oci.command("/nowhere")
    assert "/nowhere" in oci("--systemd-cgroup", "create", "one", code=1).stderr
    assert not oci.leftovers() and not (TREE / "machine.slice/oci-below.scope").exists()


@pytest.mark.parametrize("path", ["/../x", "..", "oci/../../x", "/oci/.."])
def test_a_cgroup_outside_the_tree_is_refused(oci: Runtime, path: str) -> None:
    oci.config["linux"]["cgroupsPath"] = path
    oci.command("/bin/true")
    assert f"make cgroup {path}: leads out of the tree (from linux.cgroupsPath)" in oci("create", "one", code=1).stderr
    assert not oci.leftovers() and not [top for top, _, _ in os.walk(TREE) if os.path.basename(top) in ("oci", "x")]


@pytest.mark.parametrize("path", ["machine.slice:oci-plain", "machine.slice:oci-plain.scope"])
def test_a_scope_without_a_prefix(oci: Runtime, path: str) -> None:
    oci.config["linux"]["cgroupsPath"] = path
    assert start(oci, {}) == TREE / "machine.slice/oci-plain.scope/container"


@pytest.mark.parametrize("users", [False, True])
def test_a_cgroup_that_the_container_manages(oci: Runtime, users: bool) -> None:
    """Its processes are there and may make others below; the limits, and the root of what they see, are above."""
    first = 200000 if users else 0
    if users:
        oci.config["linux"]["namespaces"].append({"type": "user"})
        for name in ("uidMappings", "gidMappings"):
            oci.config["linux"][name] = [{"containerID": 0, "hostID": first, "size": 1000}]
        os.chown(oci.bundle / "rootfs", first, first)
        for path in (oci.folder, *oci.folder.parents):
            path.chmod(path.stat().st_mode | 0o111)
    mine = TREE / "machine.slice/oci-below.scope/mine"
    assert start(oci, {SUBGROUP: "mine", DELEGATED: "theirs"}) == mine / "theirs"
    assert own(oci("exec", "one", "cat", "/proc/1/cgroup").stdout) == "/theirs"
    owners = {
        path.name: path.stat().st_uid for path in (mine, mine / "theirs", mine / "theirs/cgroup.procs", mine / "theirs/cgroup.freeze")
    }
    assert owners == {"mine": 0, "theirs": first, "cgroup.procs": first, "cgroup.freeze": 0}
    oci("delete", "--force", "one")
    assert not mine.exists()
