"""Who was killed for want of memory: with a real limit and a real kill, counted in the pod's cgroup or in its unit's."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from harness import COMMAND, Pyrun
from waiting import wait_until

EAT = ("--exec", "/probe", "--", "eat")


def test_a_pod_that_ran_out_of_memory(shared: Pyrun) -> None:
    """Started from the root of the tree its cgroup has a memory controller of its own."""
    uuid = shared("prepare", "--log-driver", "k8s-file", shared.probe_image, *EAT, code=0).out.strip()
    start = [str(COMMAND), "--root", str(shared.root), "run-prepared", "--detach", uuid]
    subprocess.run(start, check=True, preexec_fn=lambda: Path("/sys/fs/cgroup/cgroup.procs").write_text(str(os.getpid())))
    group = Path(f"/sys/fs/cgroup/pyrun-{uuid}")
    wait_until(lambda: "ready" in (shared.root / "pods" / "running" / uuid / "log").read_text())
    (group / "memory.swap.max").write_text("0") if (group / "memory.swap.max").exists() else None
    (group / "memory.max").write_text(str(16 << 20))
    shared("kill", "--signal", "USR1", uuid, code=0)
    found = json.loads(shared("wait", "--format", "json", uuid, code=137).out)
    assert (found[0]["exit_code"], found[0]["oom"]) == (137, True)
    assert "exited (137, oom)" in shared("list", code=0).out
    assert not group.exists()
    shared("rm", uuid, code=0)


def test_a_unit_that_ran_out_of_memory(shared: Pyrun) -> None:
    """The pod's cgroup below the unit's counts no memory; the unit's does."""
    unit = "pyrun-eat.service"
    words = [COMMAND, "--root", shared.root, "run", "--keep", shared.probe_image, *EAT]
    limits = ["--property=MemoryMax=24M", "--property=MemorySwapMax=0", "--property=OOMPolicy=continue", "--property=Type=notify"]
    subprocess.run(["systemd-run", "--quiet", f"--unit={unit}", *limits, *map(str, words)], check=True, timeout=120)
    (uuid,) = os.listdir(shared.root / "pods" / "running")
    shared("kill", "--signal", "USR1", uuid, code=0)
    wait_until((shared.root / "pods" / "exited" / uuid).exists)
    record = json.loads((shared.root / "pods" / "exited" / uuid / "exit").read_text())
    assert (record["signal"], record["oom"]) == (9, True)
    subprocess.run(["systemctl", "reset-failed", unit], stderr=subprocess.DEVNULL)
    shared("rm", uuid, code=0)
