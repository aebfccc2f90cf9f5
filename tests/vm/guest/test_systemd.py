"""pyrun as the program of a systemd unit, on Debian's kernel with the whole cgroup2 tree."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import COMMAND, Pyrun

UNIT = "pyrun-test.service"


def systemctl(*arguments: str) -> str:
    done = subprocess.run(["systemctl", *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def show(name: str) -> str:
    return systemctl("show", "--value", "-p", name, UNIT)


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, subprocess.run(["systemctl", "status", UNIT], capture_output=True, text=True).stdout
        time.sleep(0.1)


class Unit:
    """A unit that runs the probe image with a command of its choice."""

    def __init__(self, pyrun: Pyrun, tmp_path: Path) -> None:
        self.pyrun = pyrun
        self.log = tmp_path / "log"

    def start(self, *command: str, properties: str = "") -> None:
        words = [COMMAND, "--root", self.pyrun.root, "run", self.pyrun.probe_image, "--exec", "/probe", "--", *command]
        kind = "Type=exec\nKillMode=mixed\nSuccessExitStatus=143\n"  # as docs/usage.md has it
        text = f"[Service]\n{kind}ExecStart={' '.join(map(str, words))}\nStandardOutput=append:{self.log}\n{properties}"
        Path("/run/systemd/system", UNIT).write_text(text)
        systemctl("daemon-reload")
        systemctl("start", UNIT)

    def output(self) -> str:
        return self.log.read_text() if self.log.exists() else ""


@pytest.fixture
def unit(pyrun: Pyrun, tmp_path: Path) -> Iterator[Unit]:
    yield Unit(pyrun, tmp_path)
    systemctl("stop", UNIT)
    subprocess.run(["systemctl", "reset-failed", UNIT], stderr=subprocess.DEVNULL)
    Path("/run/systemd/system", UNIT).unlink()
    systemctl("daemon-reload")


def name_of(pid: str) -> str:
    return Path("/proc", pid, "cmdline").read_bytes().replace(b"\0", b" ").decode()


def test_the_main_process_is_the_supervisor_and_stop_ends_the_pod(unit: Unit) -> None:
    unit.start("sleep", "0")
    wait_for(lambda: "ready" in unit.output())
    main = show("MainPID")
    assert name_of(main).startswith("pyrun: pod ")
    assert "python" not in str(Path("/proc", main, "exe").readlink()), "no interpreter stays"
    group = Path("/sys/fs/cgroup" + show("ControlGroup"))
    pods = [path for path in group.glob("pyrun-*") if path.is_dir()]
    assert len(pods) == 1, "the pod's group stands below the unit's, so its limits hold"
    assert len((pods[0] / "cgroup.procs").read_text().split()) == 2, "process 1 and the app"
    systemctl("stop", UNIT)
    assert show("ActiveState") == "inactive", "ended by the signal that it was sent, which is no failure"
    assert not group.exists()


def test_the_exit_code_is_the_units(unit: Unit) -> None:
    unit.start("exit", "7")
    wait_for(lambda: show("ActiveState") == "failed")
    assert (show("ExecMainCode"), show("ExecMainStatus")) == ("1", "7")


def test_a_killed_supervisor_takes_the_pod_with_it(unit: Unit) -> None:
    unit.start("sleep", "0")
    wait_for(lambda: "ready" in unit.output())
    subprocess.run(["kill", "-KILL", show("MainPID")], check=True)
    wait_for(lambda: show("ActiveState") == "failed")
    wait_for(lambda: not any("/probe sleep" in name_of(path.name) for path in Path("/proc").glob("[0-9]*") if path.is_dir()))
    unit.pyrun("gc", code=0)


def test_limits_of_the_unit_hold_for_the_pod(unit: Unit) -> None:
    unit.start("fork", "100", properties="TasksMax=30\n")
    wait_for(lambda: show("ActiveState") == "inactive")
    started = int(unit.output())
    assert 20 <= started < 30, "the supervisor, process 1 and the app count too"
