"""pyrun as the program of a systemd unit, on Debian's kernel with the whole cgroup2 tree.

The processor is emulated, and each systemctl takes half a second of it: transient units, few questions, slow polling.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import waiting
from harness import COMMAND, Pyrun

UNIT = "pyrun-test.service"


def show(*names: str) -> list[str]:
    """Properties of the unit, in the order asked for."""
    command = ["systemctl", "show", UNIT, *(f"--property={name}" for name in names)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout.splitlines()
    found = dict(line.split("=", 1) for line in lines)
    return [found[name] for name in names]


def unit_status() -> str:
    return subprocess.run(["systemctl", "status", UNIT], capture_output=True, text=True).stdout


wait_until = partial(waiting.wait_until, what=unit_status, pause=0.2)


class Unit:
    """A unit that runs the probe image with a command of its choice."""

    def __init__(self, pyrun: Pyrun, log: Path) -> None:
        self.pyrun = pyrun
        self.log = log

    def run(self, *command: str, flags: tuple[str, ...] = ()) -> int:
        """Starts the unit; returns systemd-run's exit code, which is the unit's with --wait."""
        own = ["--quiet", f"--unit={UNIT}", f"--property=StandardOutput=append:{self.log}", *flags, "--"]
        words = [str(COMMAND), "--root", str(self.pyrun.root), "run", str(self.pyrun.probe_image), "--exec", "/probe", "--", *command]
        return subprocess.run(["systemd-run", *own, *words], timeout=120).returncode

    def output(self) -> str:
        return self.log.read_text() if self.log.exists() else ""


@pytest.fixture
def unit(shared: Pyrun, tmp_path: Path) -> Iterator[Unit]:
    yield Unit(shared, tmp_path / "log")
    subprocess.run(["systemctl", "stop", UNIT], stderr=subprocess.DEVNULL)


def processes() -> dict[int, str]:
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found[int(path.parent.name)] = path.read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
    return found


def test_the_main_process_is_the_supervisor_and_stop_ends_the_pod(unit: Unit) -> None:
    assert unit.run("sleep", "0", flags=("--service-type=simple", "--collect")) == 0
    wait_until(lambda: "ready" in unit.output())
    main, group_name = show("MainPID", "ControlGroup")
    assert processes()[int(main)].startswith("pyrun: pod ")
    assert "python" not in os.readlink(f"/proc/{main}/exe"), "no interpreter stays"
    group = Path("/sys/fs/cgroup" + group_name)
    pods = [path for path in group.glob("pyrun-*") if path.is_dir()]
    assert len(pods) == 1, "the pod's group stands below the unit's, so its limits hold"
    assert len((pods[0] / "cgroup.procs").read_text().split()) == 2, "process 1 and the app"
    subprocess.run(["systemctl", "stop", UNIT], check=True, timeout=120)
    assert not group.exists()
    assert not any("/probe sleep" in command for command in processes().values())


def test_the_exit_code_is_the_units(unit: Unit) -> None:
    assert unit.run("exit", "7", flags=("--wait", "--collect")) == 7


def test_a_killed_supervisor_takes_the_pod_with_it(unit: Unit) -> None:
    assert unit.run("sleep", "0", flags=("--collect",)) == 0
    wait_until(lambda: "ready" in unit.output())
    os.kill(int(show("MainPID")[0]), signal.SIGKILL)
    wait_until(lambda: not any("/probe sleep" in command for command in processes().values()))
    unit.pyrun("gc", code=0)


def test_limits_of_the_unit_hold_for_the_pod(unit: Unit) -> None:
    assert unit.run("fork", "100", flags=("--wait", "--collect", "--property=TasksMax=30")) == 0
    assert 20 <= int(unit.output()) < 30, "the supervisor, process 1 and the app count too"
