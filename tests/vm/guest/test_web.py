"""A web server that a host boots from a file: every fault in turn, and systemd brings it back; machined, watchdog and gc timer.

One unit and few starts of Python: the processor is emulated.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import waiting
from harness import Pyrun

POD = Path("/etc/pyrun/pods.d/site.pod")
PAGE = "http://127.0.0.1:8080/index.html"


def systemctl(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemctl", *words], capture_output=True, text=True, timeout=180)


def show(*names: str) -> list[str]:
    command = ["show", "site.service", *(f"--property={name}" for name in names)]
    found = dict(line.split("=", 1) for line in systemctl(*command).stdout.splitlines())
    return [found[name] for name in names]


# to ask systemd takes the one processor that what is waited for needs
wait_until = partial(waiting.wait_until, what=lambda: systemctl("status", "site.service").stdout, pause=1)


def page() -> str:
    try:
        with urllib.request.urlopen(PAGE, timeout=10) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""


def family(supervisor: int) -> dict[str, int]:
    """The supervisor, process 1 of the pod, its app."""
    found = {"supervisor": supervisor}
    for name, parent in (("init", "supervisor"), ("app", "init")):
        pid = found[parent]
        found[name] = int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
    return found


@pytest.fixture(scope="module")
def installed(shared: Pyrun) -> Iterator[None]:
    """pyrun's generator and timer are in place."""
    shared("systemd", "install", code=0)
    assert systemctl("daemon-reload").returncode == 0
    yield
    shared("systemd", "remove", code=0)
    systemctl("daemon-reload")


@pytest.fixture
def boot(installed: None) -> Iterator[Callable[[str], None]]:
    def write(text: str) -> None:
        POD.parent.mkdir(parents=True, exist_ok=True)
        POD.write_text(text)
        assert systemctl("daemon-reload").returncode == 0

    yield write
    systemctl("stop", "site.service", "systemd-machined.service")  # the second was started by the registration
    systemctl("reset-failed", "site.service")
    POD.unlink()


def test_a_web_server_from_a_file_outlives_every_fault(shared: Pyrun, busybox: Path, boot: Callable[[str], None], tmp_path: Path) -> None:
    """SIGKILL of the app, of process 1 and of the supervisor; a frozen pod; what a crash left is gone after one more start."""
    shared("fetch", busybox, code=0)
    www = tmp_path / "www"
    www.mkdir()
    (www / "index.html").write_text("hello\n")
    www.chmod(0o755)
    tmp_path.chmod(0o755)
    boot(
        f"[Pod]\nImage=example.com/busybox\nExec=/bin/busybox httpd -f -p 8080 -h /www\nVolume={www}:/www:ro\nNet=host\nReadOnly=yes\n"
        "Machined=yes\n[Service]\nRestart=on-failure\nRestartSec=100ms\n[Unit]\nStartLimitIntervalSec=0\n"
    )
    done = systemctl("start", "site.service")
    assert done.returncode == 0, done.stderr + systemctl("status", "site.service").stdout
    wait_until(lambda: page() == "hello\n", pause=0.2)
    machines = subprocess.run(["machinectl", "list", "--no-legend"], capture_output=True, text=True, check=True, timeout=120).stdout
    assert machines.split()[:3] == ["site", "container", "pyrun"]
    leader = subprocess.run(["machinectl", "show", "site", "--property=Leader", "--value"], capture_output=True, text=True, timeout=120)
    main, group = show("MainPID", "ControlGroup")
    assert int(leader.stdout) == family(int(main))["init"]
    for number, victim in enumerate(("app", "init", "supervisor"), 1):
        os.kill(family(int(main))[victim], signal.SIGKILL)
        wait_until(lambda number=number: show("NRestarts", "ActiveState") == [str(number), "active"])  # type: ignore[misc]
        wait_until(lambda: page() == "hello\n", pause=0.2)
        (main,) = show("MainPID")
    pods = [path for path in Path("/sys/fs/cgroup" + group).glob("pyrun-*") if path.is_dir()]
    assert len(pods) == 1
    (pods[0] / "cgroup.freeze").write_text("1")
    begin = time.monotonic()
    assert systemctl("stop", "site.service").returncode == 0
    assert time.monotonic() - begin < 60, "a frozen pod ends with its unit"
    assert not Path("/sys/fs/cgroup" + group).exists() and page() == ""
    assert not list((shared.root / "pods" / "running").iterdir()), "ExecStopPost= collected what was killed"
    assert (www / "index.html").read_text() == "hello\n"


def test_a_watchdog_that_nobody_feeds(boot: Callable[[str], None], shared: Pyrun) -> None:
    boot(
        f'[Pod]\nImage={shared.probe_image}\nNotify=app\nExec=/probe notify "READY=1"\n'
        "[Service]\nWatchdogSec=3\nWatchdogSignal=SIGTERM\nRestart=on-watchdog\nRestartSec=100ms\n"
    )
    assert systemctl("start", "site.service").returncode == 0
    wait_until(lambda: int(show("NRestarts")[0]) >= 1)


def test_the_timer_collects_what_has_ended(shared: Pyrun, installed: None) -> None:
    shared("run", "--keep", shared.probe_image, "--exec", "/probe", "--", "exit", "0", code=0)
    assert list((shared.root / "pods" / "exited").iterdir())
    try:
        assert systemctl("start", "pyrun-gc.timer").returncode == 0
        assert "pyrun-gc.service" in systemctl("list-timers", "--all", "pyrun-gc.timer").stdout
        assert systemctl("start", "pyrun-gc.service").returncode == 0, "it ends when it is done"
        assert not list((shared.root / "pods" / "exited").iterdir())
    finally:
        systemctl("stop", "pyrun-gc.timer")
