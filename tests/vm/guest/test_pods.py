"""Pods in the background beside a real systemd: the journal gets their lines, a unit's end is theirs."""

from __future__ import annotations

import json
import subprocess
import time

import pytest
from harness import COMMAND, Pyrun
from waiting import wait_until


def test_the_journal_is_the_log(shared: Pyrun) -> None:
    uuid = shared("run", "--detach", "--pod-name", "j", shared.probe_image, "--exec", "/probe", "--", "sleep", "0", code=0).out.strip()
    wait_until(lambda: shared("logs", "j", code=0).out == "ready\n")
    line = json.loads(shared("logs", "--format", "json", "--tail", "1", "j", code=0).out)
    assert (line["stream"], line["text"]) == ("stdout", "ready\n") and line["time"].endswith("Z"), "as from a file"
    with shared.start("logs", "--follow", "--format", "json", "j") as following:
        assert following.stdout is not None and json.loads(following.stdout.readline()) == line
        following.terminate()
        following.communicate()
    assert not (shared.root / "pods" / "running" / uuid / "log").exists()
    run = json.loads((shared.root / "pods" / "running" / uuid / "run").read_text())
    found = subprocess.run(["journalctl", "-o", "json", "SYSLOG_IDENTIFIER=j"], capture_output=True, text=True, check=True).stdout
    assert json.loads(found.splitlines()[-1])["_SYSTEMD_CGROUP"].endswith(run["cgroup"].removeprefix("/sys/fs/cgroup"))
    shared("stop", "j", code=0)
    assert shared("wait", "j").out == "143\n"
    shared("rm", "j", code=0)


def states(shared: Pyrun) -> dict[str, str]:
    """Every pod there is: other tests may have left some that ended."""
    return {one["uuid"]: one["state"] for one in json.loads(shared("list", "--format", "json", code=0).out)}


def test_a_prepared_pod_is_a_unit_s_main_process(shared: Pyrun) -> None:
    """The pid that systemd started stays, from the launcher to the end; stop ends it within the unit's time."""
    uuid = shared("prepare", "--rm", shared.probe_image, "--exec", "/probe", "--", "sleep", "0", code=0).out.strip()
    unit = "pyrun-prepared.service"
    words = [COMMAND, "--root", shared.root, "run-prepared", uuid]
    subprocess.run(["systemd-run", "--quiet", f"--unit={unit}", *map(str, words)], check=True, timeout=120)
    wait_until(lambda: states(shared).get(uuid) == "running")
    main = subprocess.run(["systemctl", "show", "--value", "--property=MainPID", unit], capture_output=True, text=True, check=True).stdout
    run = json.loads((shared.root / "pods" / "running" / uuid / "run").read_text())
    assert int(main) == run["keeper"] and f"/{unit}/pyrun-{uuid}" in run["cgroup"]
    subprocess.run(["systemctl", "stop", unit], check=True, timeout=120)
    assert uuid not in states(shared)


@pytest.mark.parametrize("years", [10, -10])
def test_a_clock_that_jumps(shared: Pyrun, years: int) -> None:
    """SEC-62: pods of all states survive a date of ten years later or earlier, and what they say of themselves stays true."""
    sleep, true = ("--exec", "/probe", "--", "sleep", "0"), ("--exec", "/probe", "--", "exit", "3")
    prepared = shared("prepare", shared.probe_image, *true, code=0).out.strip()
    ended = shared("run", "--detach", shared.probe_image, *true, code=0).out.strip()
    assert shared("wait", ended, code=3)
    running = shared("run", "--detach", shared.probe_image, *sleep, code=0).out.strip()
    real, begun = time.time(), time.monotonic()
    time.clock_settime(time.CLOCK_REALTIME, real + years * 365 * 86400)
    try:
        shared("gc", "--grace-period", "30m", code=0)
        mine = {prepared: "prepared", ended: "exited", running: "running"}
        assert mine.items() <= states(shared).items()
        later = shared("run", "--detach", shared.probe_image, *true, code=0).out.strip()
        assert shared("wait", "--timeout", "60", later, code=3)
        assert shared("stop", "--timeout", "5", running, code=0) and shared("wait", running).out == "143\n"
        assert shared("run-prepared", prepared, code=3)
        shared("gc", code=0)
        assert not mine.keys() & states(shared).keys()
    finally:
        time.clock_settime(time.CLOCK_REALTIME, real + time.monotonic() - begun)
