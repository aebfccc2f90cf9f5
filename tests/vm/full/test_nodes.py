"""`cpuset.mems` where the machine has two nodes of memory: that kernel can make them of one (numa=fake=2 on its command line)."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

from bundles import Runtime
from harness import COMMAND, Pyrun
from waiting import wait_until

TREE = Path("/sys/fs/cgroup")
TAKE = "x=$(head -c 3000000 /dev/zero | tr '\\0' x)"
SHOW = "grep Mems_allowed_list /proc/self/status; cat /proc/$$/numa_maps"


def nodes(numa_maps: str) -> dict[str, int]:
    """How many anonymous pages are on which node (numa(7))."""
    found: dict[str, int] = {}
    for line in numa_maps.splitlines():
        if " anon=" in line and " file=" not in line:  # a page of a program's data may be the host's from before it was changed
            for node, pages in re.findall(r" (N\d+)=(\d+)", line):
                found[node] = found.get(node, 0) + int(pages)
    return found


def test_nodes_of_a_pod(shared: Pyrun, busybox: Path) -> None:
    assert Path("/sys/devices/system/node/online").read_text() == "0-1\n"
    for node in ("1", "0"):
        script = f"{TAKE}; {SHOW}; while :; do sleep 1000; done"
        words = ["run", "--detach", "--cpuset-mems", node, busybox, "--exec", "/bin/sh", "--", "-c", script]
        command = ["systemd-run", "--quiet", "--scope", COMMAND, "--root", shared.root, *words]
        done = subprocess.run(list(map(str, command)), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=True)
        uuid = done.stdout.strip()
        group = Path(json.loads(shared("status", "--format", "json", uuid, code=0).out)["cgroup"])
        assert (group / "cpuset.mems").read_text() == f"{node}\n"
        wait_until(lambda uuid=uuid: "stack" in shared("logs", uuid, code=0).out, "it does not tell", pause=0.5)  # type: ignore[misc]
        told = shared("logs", uuid, code=0).out
        assert told.startswith(f"Mems_allowed_list:\t{node}\n")
        shells = [pid for pid in (group / "cgroup.procs").read_text().split() if "tr" in Path(f"/proc/{pid}/cmdline").read_text()]
        for text in (told, Path(f"/proc/{shells[0]}/numa_maps").read_text()):
            assert nodes(text).keys() == {f"N{node}"} and nodes(text)[f"N{node}"] > 700, text
        shared("rm", "--force", uuid, code=0)


def test_nodes_of_a_container(tmp_path: Path, probe: Path) -> None:
    """By linux.resources.cpu.mems."""
    oci = Runtime(tmp_path, probe)
    oci.config["linux"]["cgroupsPath"] = "/machine.slice/pyrun-nodes"
    oci.config["linux"]["resources"] = {"cpu": {"mems": "1"}}
    pid = oci.start_sleeping()
    assert (TREE / "machine.slice/pyrun-nodes/cpuset.mems").read_text() == "1\n"
    assert nodes(Path(f"/proc/{pid}/numa_maps").read_text()).keys() == {"N1"}
    told = oci("exec", "one", "/bin/sh", "-c", "grep Mems_allowed_list /proc/self/status; cat /proc/self/numa_maps").stdout
    assert told.startswith("Mems_allowed_list:\t1\n") and nodes(told).keys() == {"N1"}
    oci("delete", "--force", "one")
