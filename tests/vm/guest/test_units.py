"""Pods that systemd boots from files: generator, notification, restart, socket activation, journal."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import waiting
from harness import COMMAND, Pyrun

POD = Path("/etc/pyrun/pods.d/web.pod")
SOCKET = "/run/web-test.sock"


def systemctl(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemctl", *words], capture_output=True, text=True, timeout=180)


def show(name: str, unit: str = "web.service") -> str:
    return systemctl("show", unit, f"--property={name}", "--value").stdout.strip()


# to ask takes the one processor that what is waited for needs
wait_until = partial(waiting.wait_until, what=lambda: systemctl("status", "web.service").stdout, pause=1)


@pytest.fixture(scope="module")
def installed(shared: Pyrun) -> Iterator[None]:
    """pyrun's generator is in place."""
    shared.report()  # imports the image
    shared("systemd", "install", code=0)
    yield
    shared("systemd", "remove", code=0)
    systemctl("daemon-reload")


@pytest.fixture
def boot(shared: Pyrun, installed: None) -> Iterator[Callable[[str], None]]:
    """Writes the file of a pod and lets systemd take note of it."""

    def write(text: str) -> None:
        POD.parent.mkdir(parents=True, exist_ok=True)
        POD.write_text(f"[Pod]\nImage={shared.probe_image}\n{text}\n[Service]\nRestartSec=100ms\n")
        assert systemctl("daemon-reload").returncode == 0

    yield write
    systemctl("stop", "web.socket", "web.service")
    systemctl("reset-failed", "web.service")
    POD.unlink()


def test_a_pod_from_a_file_is_a_service(boot: Callable[[str], None]) -> None:
    """Started means that the app runs; its lines are the unit's; a failure starts it again; stop ends it in time."""
    boot("Exec=/probe sleep 0")
    assert show("SourcePath") == str(POD)
    assert "multi-user.target" in show("WantedBy")
    done = systemctl("start", "web.service")
    assert done.returncode == 0, done.stderr + systemctl("status", "web.service").stdout
    assert (show("ActiveState"), show("Type")) == ("active", "notify")
    main = int(show("MainPID"))
    wait_until(lambda: "ready" in subprocess.run(["journalctl", "-u", "web.service", "-o", "cat"], capture_output=True, text=True).stdout)
    os.kill(main, signal.SIGKILL)
    wait_until(lambda: show("NRestarts") == "1" and show("ActiveState") == "active")
    assert int(show("MainPID")) != main
    begin = time.monotonic()
    assert systemctl("stop", "web.service").returncode == 0
    assert time.monotonic() - begin < 25, "the app heard of it"
    assert show("Result") == "success"
    assert not Path("/sys/fs/cgroup/system.slice/web.service").exists()


def test_the_pod_is_found_by_the_units_name_and_again_after_a_kill(boot: Callable[[str], None], shared: Pyrun) -> None:
    """And a file that is wrong has a line in the journal after daemon-reload."""
    wrong = POD.with_name("wrong.pod")
    wrong.parent.mkdir(parents=True, exist_ok=True)
    wrong.write_text("[Pod]\nImage=a\nUpperr=tmpfs\n")
    try:
        boot("Exec=/probe sleep 0")
    finally:
        wrong.unlink()
    journal = ["journalctl", "-b", "-t", "pyrun", "-p", "err", "-o", "cat"]
    wait_until(lambda: f"{wrong}:3" in subprocess.run(journal, capture_output=True, text=True, timeout=180).stdout)
    assert systemctl("start", "web.service").returncode == 0
    os.kill(int(show("MainPID")), signal.SIGKILL)  # the pod that this one leaves has the name, too
    wait_until(lambda: show("NRestarts") == "1" and show("ActiveState") == "active")
    assert shared("status", "web", code=0).out
    shared("stop", "web", code=0)
    wait_until(lambda: show("ActiveState") == "inactive")


def test_the_first_connection_starts_it(boot: Callable[[str], None]) -> None:
    boot(f"Exec=/probe serve\n[Socket]\nListenStream={SOCKET}")
    assert systemctl("start", "web.socket").returncode == 0
    assert show("ActiveState") == "inactive"
    with socket.socket(socket.AF_UNIX) as caller:
        caller.settimeout(120)
        caller.connect(SOCKET)
        with caller.makefile() as file:
            assert file.read().splitlines() == ["2", "LISTEN_FDS=1", "LISTEN_PID=2", "LISTEN_FDNAMES=web.socket"]


def test_each_socket_of_a_file_goes_to_its_app(boot: Callable[[str], None], shared: Pyrun) -> None:
    """A section [Socket] for each app: the first connection starts both, and each answers on its own."""
    paths = {"web": SOCKET, "admin": SOCKET + "-admin"}
    apps = [f"Name={name}\nSocket={name}\nExec=/probe serve\n" for name in paths]
    sockets = [f"[Socket]\nFileDescriptorName={name}\nListenStream={path}\n" for name, path in paths.items()]
    boot(f"{apps[0]}[Pod]\nImage={shared.probe_image}\n{apps[1]}{''.join(sockets)}")
    units = ("web.socket", "web@admin.socket")
    try:
        assert systemctl("start", *units).returncode == 0
        assert show("ActiveState") == "inactive" and [show("Triggers", unit) for unit in units] == ["web.service"] * 2
        for name in ("admin", "web"):
            with socket.socket(socket.AF_UNIX) as caller:
                caller.settimeout(120)
                caller.connect(paths[name])
                with caller.makefile() as file:
                    said = file.read().splitlines()
            assert said == ["2", "LISTEN_FDS=1", "LISTEN_PID=2", f"LISTEN_FDNAMES={name}"], systemctl("status", "web.service").stdout
        wait_until(lambda: show("ActiveState") == "inactive")
        assert show("Result") == "success"
    finally:
        systemctl("stop", *units)


def test_each_app_of_a_pod_gets_its_socket(shared: Pyrun) -> None:
    """Two apps behind two sockets of one unit: the first connection starts both, each answers on its own and the pod is ready with both."""
    units, paths = Path("/run/systemd/system"), {name: f"/run/pair-{name}.sock" for name in ("web", "admin")}
    parts = [f"{shared.probe_image} --name {name} --socket {name} --exec /probe -- serve" for name in paths]
    (units / "pair.service").write_text(
        f"[Service]\nType=notify\nDelegate=yes\nKillMode=mixed\nEnvironment=PYRUN_ROOT={shared.root}\n"
        f"ExecStart={COMMAND} run {' --- '.join(parts)}\nSockets=pair-web.socket pair-admin.socket\n"
    )
    for name, path in paths.items():
        (units / f"pair-{name}.socket").write_text(f"[Socket]\nListenStream={path}\nFileDescriptorName={name}\nService=pair.service\n")
    shared.report()  # imports the image
    sockets = [f"pair-{name}.socket" for name in paths]
    try:
        assert systemctl("daemon-reload").returncode == 0
        assert systemctl("start", *sockets).returncode == 0 and show("ActiveState", "pair.service") == "inactive"
        for name, path in paths.items():
            with socket.socket(socket.AF_UNIX) as caller:
                caller.settimeout(120)
                caller.connect(path)
                with caller.makefile() as file:
                    said = file.read().splitlines()
            assert said == ["2", "LISTEN_FDS=1", "LISTEN_PID=2", f"LISTEN_FDNAMES={name}"], systemctl("status", "pair.service").stdout
        wait_until(lambda: show("ActiveState", "pair.service") == "inactive")
        assert show("Result", "pair.service") == "success"
    finally:
        systemctl("stop", *sockets, "pair.service")
        for unit in ("pair.service", *sockets):
            (units / unit).unlink()
        systemctl("daemon-reload")


def test_a_checked_app_is_a_service(boot: Callable[[str], None]) -> None:
    """The unit's process is the one that makes the checks; an app that fails them ends, and the unit starts it again."""
    check = 'HealthCmd=["/probe", "exit", "1"]\nHealthInterval=1s\nHealthRetries=1\nHealthOnFailure=kill'
    boot(f"Exec=/probe sleep 0\n{check}")
    assert systemctl("start", "web.service").returncode == 0
    wait_until(lambda: int(show("NRestarts")) >= 1)
    assert systemctl("stop", "web.service").returncode == 0


def test_a_readiness_that_the_app_tells_is_awaited(boot: Callable[[str], None]) -> None:
    boot('Notify=app\nExec=/probe notify "STATUS=warm" "MAINPID=1" "READY=1"')
    assert systemctl("start", "web.service").returncode == 0
    assert (show("ActiveState"), show("StatusText")) == ("active", "warm")
    assert show("MainPID") != "1"


def test_systemd_finds_nothing_wrong_with_a_generated_unit(shared: Pyrun, tmp_path: Path) -> None:
    shared("generate", "systemd", "--unit", "made", "--into", tmp_path, str(shared.probe_image), code=0)
    done = subprocess.run(["systemd-analyze", "verify", tmp_path / "made.service"], capture_output=True, text=True, timeout=180)
    complaints = [line for line in done.stderr.splitlines() if "made.service" in line and "man pyrun" not in line]
    assert complaints == [], done.stderr  # its exit code also tells that the manual pages are not installed
    assert str(COMMAND) in (tmp_path / "made.service").read_text()
