"""What `pyrun.run` says of pods with limits, where the kernel has every controller: how they ended, and what they took."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from harness import TOP

# systemd-run makes one $ of two
PROGRAM = """
import json, sys, pyrun
pyrun.allow_limits()
seen = {}
EAT = "dd if=/dev/zero of=/dev/shm/eaten bs=1M count=48"  # nothing that could be read again, and so be taken: killed at once
def run(name, script, **more):
    done = pyrun.run(None, ["sh", "-c", script], rootfs="host", root=sys.argv[1], capture_output=True, timeout=60, **more)
    seen[name] = [done.reason, done.returncode, done.usage, (done.stdout or b"").decode()]
    seen["victims"] = [*seen.get("victims", []), done.oom_victim]
run("fits", "head -c 4000000 /dev/zero | tail | wc -c", memory="64Mi", pids_limit=20)
run("oom", EAT, memory="32Mi", swap=0, oom_group=True)
run("main", "exec " + EAT, memory="32Mi", swap=0)
run("child", EAT + "; exit 5", memory="32Mi", swap=0)
run("both", EAT + "; kill -9 $$$$", memory="32Mi", swap=0)
run("bomb", "b() { b | b & }; b; sleep 1; echo lives", memory="256Mi", pids_limit=30)
with pyrun.Pool(rootfs="host", size=1, root=sys.argv[1], memory="32Mi", swap=0) as pool:
    done = pool.run(["sh", "-c", EAT], timeout=60)
    seen["pool"] = [done.reason, done.returncode, done.usage, ""]
with pyrun.start(None, ["sleep", "100"], rootfs="host", root=sys.argv[1], memory="64Mi") as app:
    app.wait_running()
    app.update(memory="48Mi")
    seen["update"] = [app.stats()["memory_limit_bytes"]]
pyrun.settle(root=sys.argv[1])
print(json.dumps(seen))
"""


def test_ends_and_figures(tmp_path: Path) -> None:
    unit = ["systemd-run", "--quiet", "--collect", "--pipe", "--wait", "--property=Delegate=yes"]
    words = [TOP / ".venv/bin/python3", "-c", PROGRAM, tmp_path / "state"]
    done = subprocess.run([*unit, *map(str, words)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done
    seen = json.loads(done.stdout)
    reason, code, usage, text = seen["fits"]
    assert (reason, code, text.strip()) == ("exited", 0, "4000000")
    assert usage["memory_peak_bytes"] > 1 << 20 and usage["pids_peak"] >= 4 and usage["oom_kills"] == 0 and usage["cpu_usec"] > 0
    reason, code, usage, _ = seen["oom"]
    assert reason == "oom" and code == -9 and usage["oom_kills"] >= 1 and usage["memory_peak_bytes"] <= 33 << 20
    assert seen["victims"] == [None, "group", "main", "child", "child", None]
    assert [seen[name][1] for name in ("main", "child", "both")] == [-9, 5, -9]
    reason, _, usage, _ = seen["bomb"]
    assert usage["pids_peak"] == 30 and usage["pids_max_events"] > 0, "a fork bomb meets its limit"
    assert seen["pool"][0] == "oom" and seen["update"] == [48 << 20]
