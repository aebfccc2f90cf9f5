"""`pyrun-oci` on hosts that have controllers in cgroup v1 beside a v2 tree: what is refused or goes wrong, and that nothing is left."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bundles import OCI
from hybrids import CONTROLLERS, ONE, REASON, SHOW, Hybrid, at, groups, has_version_1, inside, limit, refused
from waiting import wait_until

from pyrun.oci import criu

pytestmark = pytest.mark.skipif(not has_version_1(), reason=REASON)

MIB = 1 << 20
NO_DISK = {"major": 99, "minor": 99, "rate": 5}


@pytest.fixture
def oci(tmp_path: Path, probe: Path) -> Iterator[Hybrid]:
    """The runtime as it is started on such a host; no group is there afterwards."""
    made = Hybrid(tmp_path, probe)
    yield made
    made.check_that_nothing_is_left()


@pytest.mark.parametrize(
    ("resources", "told"),
    [
        ({"cpu": {"cpus": "9999"}}, ("cpuset.cpus 9999 of /sys/fs/cgroup/cpuset/ONE", "linux.resources.cpu.cpus")),
        ({"cpu": {"realtimeRuntime": 5000000}}, ("cpu.rt_runtime_us", "/sys/fs/cgroup/cpu/ONE", "realtimeRuntime")),
        ({"memory": {"limit": MIB, "swap": 1}}, ("memory.limit", "resources.memory.swap")),
        ({"memory": {"kernel": MIB}}, ("kernel", "resources.memory.kernel")),
        ({"blockIO": {"weight": 100, "leafWeight": 100}}, ("blkio.", "/sys/fs/cgroup/blkio/ONE", "linux.resources.blockIO")),
        ({"unified": {"memory.high": "1000000"}}, ("memory.high", "version 1")),
        ({"network": {"classID": 5}}, ("classID",)),
        ({"pids": {"limit": 1 << 40}}, ("more than there can be",)),
        (
            {"blockIO": {"throttleReadBpsDevice": [{"major": 99, "minor": 99, "rate": 5}]}},
            ("blkio.throttle.read_bps_device 99:99 5", "disk"),
        ),
    ],
)
def test_what_cannot_be_is_refused(oci: Hybrid, resources: dict[str, Any], told: tuple[str, ...]) -> None:
    """With what, where and a hint; nothing is left, which the fixture looks at too."""
    limit(oci, **resources)
    oci.command("/bin/true")
    refused(oci, "one", told=tuple(word.replace("ONE", ONE) for word in told))
    assert oci.leftovers() == []


def test_a_group_of_others_is_left_alone(oci: Hybrid) -> None:
    limit(oci, pids={"limit": 5})
    oci.command("/bin/true")
    with subprocess.Popen(["sleep", "1000"]) as other:
        enter = f"mkdir {at('pids')} && echo {other.pid} >{at('pids')}/cgroup.procs"
        subprocess.run(inside("sh", "-c", enter), check=True)
        done = oci("run", "one", code=1)
        assert "not empty" in done.stderr and at("pids") in done.stderr
        assert groups(ONE) == {f"pids/{ONE}"}
        other.kill()
    subprocess.run(inside("rmdir", at("pids")), check=True)


@pytest.mark.parametrize("how", ["delete", "create"])
def test_a_create_that_was_killed(oci: Hybrid, how: str) -> None:
    """It is in the middle of a hook: whoever comes next removes what it had made."""
    limit(oci, pids={"limit": 5})
    oci.config["hooks"] = {"createRuntime": [{"path": "/bin/sleep", "args": ["sleep", "1000"]}]}
    oci.command("/bin/sleep", "1000")
    words = [str(word) for word in (OCI, "--root", oci.root, "create", "one")]
    with subprocess.Popen(
        inside(*words), cwd=oci.bundle, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as making:
        wait_until(lambda: groups(ONE) == {f"{name}/{ONE}" for name in CONTROLLERS} and hook(making.pid))
        making.kill()
    os.kill(hook(making.pid, dead=True), 9)
    if how == "create":
        del oci.config["hooks"]
        oci.command("/bin/true")
        oci("run", "one")
    else:
        oci("delete", "--force", "one")


def hook(parent: int, *, dead: bool = False) -> int:
    """The process of a hook."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes()
            above = int((path.parent / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if words == b"sleep\x001000\x00" and (dead or above == parent):
            return int(path.parent.name)
    return 0


def test_a_hierarchy_that_cannot_be_written_to(oci: Hybrid) -> None:
    """It is an error for a limit there, and for others the container is not in it."""
    script = SHOW.replace('cd "$OLDPWD"', 'mount -o remount,bind,ro /sys/fs/cgroup/pids; cd "$OLDPWD"')
    oci.program.write_text(f"#!/bin/sh\nexec unshare --mount sh -c '{script}' sh {OCI} \"$@\"\n")
    limit(oci, pids={"limit": 5})
    oci.command("/bin/true")
    refused(oci, "one", told=("pids.max", "version 1", at("pids"), "read-only", "linux.resources.pids.limit"))
    assert oci.leftovers() == []
    limit(oci, cpu={"shares": 50})
    oci.start_sleeping()
    assert groups(ONE) == {f"{name}/{ONE}" for name in CONTROLLERS if name != "pids"}
    oci("exec", "one", "true")
    oci("delete", "--force", "one")


def test_features_say_so(oci: Hybrid) -> None:
    assert json.loads(oci("features").stdout)["linux"]["cgroup"]["v1"] is True
    oci.program = OCI
    assert json.loads(oci("features").stdout)["linux"]["cgroup"]["v1"] is False, "the tree of these tests has version 2 alone"


def test_a_restore_begins_in_the_groups(oci: Hybrid, tmp_path: Path) -> None:
    """So what criu restores is born there; here criu is a script that says where it is, and fails."""
    folder, programs = tmp_path / "written", tmp_path / "programs"
    folder.mkdir(), programs.mkdir()
    (folder / "inventory.img").write_bytes(b"12345")
    spaces = oci.config["linux"]["namespaces"]
    spaces[:] = [one for one in spaces if one["type"] != "cgroup"]  # which would show each group as the root
    oci.config["mounts"] = [one for one in oci.config["mounts"] if one["type"] != "cgroup"]
    oci.command("/bin/true")
    shape = criu.shape(oci.config)
    note = {"version": "0", "id": "one", "shape": shape, "streams": ["", "", ""], "external": {}, "files": {"inventory.img": 5}}
    (folder / "pyrun-oci.json").write_text(json.dumps(note))
    answers = [r"printf '\010\012\020\001\122\004\010\003\020\020'", r"printf '\010\003\020\001'"]  # its version, and that it works
    turns = [f"{number}) head -c 1 <&3 >/dev/null; {answer} >&3;;" for number, answer in enumerate(answers, 1)]
    look = f"cat /proc/self/cgroup /sys/fs/cgroup/pids/{ONE}/pids.max >{tmp_path}/seen"
    script = f"echo x >>{tmp_path}/turns; case $(wc -l <{tmp_path}/turns) in {' '.join(turns)} *) {look};; esac"
    (programs / "criu").write_text(f"#!/bin/sh\n{script}\n")
    (programs / "criu").chmod(0o755)
    limit(oci, pids={"limit": 50})
    oci.write()
    words = ["restore", "--detach", "--image-path", folder, "one"]
    oci(*words, code=1, env={**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"})
    *lines, most = (tmp_path / "seen").read_text().splitlines()
    assert {line.split(":")[1] for line in lines if line.endswith(f"/{ONE}")} == {"", *CONTROLLERS} and most == "50"
    assert oci.leftovers() == []
