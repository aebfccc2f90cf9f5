"""What pyrun and the app say to a service manager, and the sockets that they get from it: sd_notify(3), sd_listen_fds(3).

The manager here is the test itself; systemd as process 1 is the virtual machine's matter (tests/vm).
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import COMMAND, Pyrun

LIMIT = 60
CHECKED = ("--health-cmd", '["/probe", "exit", "0"]', "--health-interval", "20ms")  # somebody stays in front for the checks


class Manager:
    """A socket for notifications, and a pyrun that was started with it."""

    def __init__(self, pyrun: Pyrun, folder: Path) -> None:
        self.pyrun = pyrun
        self.path = str(folder / "manager")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.socket.settimeout(LIMIT)
        self.running: subprocess.Popen[str] | None = None

    def start(self, *command: str, flags: tuple[str, ...] = (), env: dict[str, str] | None = None) -> subprocess.Popen[str]:
        words = ("run", *flags, self.pyrun.probe_image, "--exec", "/probe", "--", *command)
        self.running = self.pyrun.start(*words, env={"NOTIFY_SOCKET": self.path, **(env or {})})
        return self.running

    def hear(self) -> tuple[str, int]:
        """The next datagram, and the pid of who sent it."""
        text, control, _, _ = self.socket.recvmsg(4096, 256)
        return text.decode(), int.from_bytes(control[0][2][:4], sys.byteorder)

    def quiet(self) -> bool:
        self.socket.settimeout(0.3)
        try:
            self.socket.recv(4096)
        except TimeoutError:
            return True
        return False

    def stop(self) -> None:
        self.socket.close()
        if self.running is not None:
            with self.running as process:
                process.send_signal(signal.SIGTERM)
                process.communicate(timeout=LIMIT)


@pytest.fixture
def manager(shared: Pyrun, tmp_path: Path) -> Iterator[Manager]:
    made = Manager(shared, tmp_path)
    yield made
    made.stop()


@pytest.mark.parametrize("path", ["decided", "repeated", "checked"])
def test_ready_when_the_program_runs(manager: Manager, path: str) -> None:
    """READY=1 comes from the very process that the manager started; the app hears of no manager."""
    if path == "repeated":
        manager.pyrun.probe("exit", "0", code=0)
    process = manager.start("notify", flags=CHECKED if path == "checked" else ())
    assert manager.hear() == ("READY=1", process.pid)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"


def test_not_ready_when_it_could_not_start(manager: Manager) -> None:
    process = manager.start("x", flags=("--working-dir", "/nowhere"))
    _, err = process.communicate(timeout=LIMIT)
    assert (process.returncode, "/nowhere" in err) == (125, True)
    assert manager.quiet()


@pytest.mark.parametrize("checked", [(), CHECKED], ids=["alone", "checked"])
@pytest.mark.parametrize("user", ["root", "app"])
def test_the_app_says_when_it_is_ready(manager: Manager, user: str, checked: tuple[str, ...]) -> None:
    """Its words come from the supervisor, without those that would take the manager in."""
    texts = ("STATUS=warming up", "MAINPID=1\nREADY=1\nFDSTORE=1\nWATCHDOG=1", "MAINPID=1", "NOTIFYACCESS=all\nSTATUS=100 %\nREADYX=1")
    process = manager.start("notify", *texts, flags=("--notify", "app", "--user", user, "--readonly-rootfs", *checked))
    said = [manager.hear() for _ in range(3)]
    assert said == [(text, process.pid) for text in ("STATUS=warming up", "READY=1\nWATCHDOG=1", "STATUS=100 %")]


def test_nothing_is_said_where_nobody_shall(manager: Manager) -> None:
    process = manager.start("notify", flags=("--notify", "none"))
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    assert manager.quiet()


# Becomes pyrun as a service manager starts it: sockets from descriptor 3 on, and the pid that they are meant for.
ACTIVATE = """
import os, socket, sys
path, names, pid, *command = sys.argv[1:]
for number, name in enumerate(names.split(":")):
    made = socket.socket(socket.AF_UNIX)
    made.bind(f"{path}-{name}")
    made.listen()
    os.dup2(made.detach(), 100 + number)
for number in range(len(names.split(":"))):
    os.dup2(100 + number, 3 + number)
os.closerange(100, 110)
os.environ |= {"LISTEN_FDS": str(number + 1), "LISTEN_FDNAMES": names, "LISTEN_PID": pid or str(os.getpid()), "WATCHDOG_USEC": "1000000"}
os.execv(command[0], command)
"""


def serving(shared: Pyrun, *flags: str | Path) -> tuple[str | Path, ...]:
    return (*flags, shared.probe_image, "--exec", "/probe", "--", "serve")


def activate(
    shared: Pyrun, path: Path, names: str, *words: str | Path, pid: str = "", verb: str = "run", before: tuple[str | Path, ...] = ()
) -> subprocess.Popen[str]:
    """`words` are options for the one app that serves, or all of the command line."""
    words = words if "serve" in words else serving(shared, *words) if verb == "run" else words
    command = [*before, sys.executable, "-I", "-S", "-c", ACTIVATE, path, names, pid, COMMAND, verb, *words]
    return subprocess.Popen(command, env=shared.environment(), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def ask(path: str) -> list[str]:
    """What the app says to who connects, once its socket is there."""
    with socket.socket(socket.AF_UNIX) as caller:
        caller.settimeout(LIMIT)
        for _ in range(LIMIT * 100):
            try:
                caller.connect(path)
                break
            except (FileNotFoundError, ConnectionRefusedError):
                os.sched_yield()
                signal.sigtimedwait([], 0.01)
        with caller.makefile() as file:
            return file.read().splitlines()


@pytest.mark.parametrize("checked", [(), CHECKED], ids=["alone", "checked"])
@pytest.mark.parametrize("names", ["web", "web:admin:three:four:five:six:seven:eight"])
def test_im_29_sockets_are_handed_on(shared: Pyrun, tmp_path: Path, names: str, checked: tuple[str, ...]) -> None:
    """From 3 on, with their names, and for the pid that the app has in its own namespace."""
    process = activate(shared, tmp_path / "socket", names, *checked)
    said = ask(f"{tmp_path}/socket-web")
    assert (process.wait(timeout=LIMIT), process.communicate()[1]) == (0, "")
    assert said == ["2", f"LISTEN_FDS={len(names.split(':'))}", "LISTEN_PID=2", f"LISTEN_FDNAMES={names}"]


@pytest.mark.parametrize("checked", [(), CHECKED], ids=["alone", "checked"])
def test_the_watchdog_is_the_apps_when_it_speaks_itself(shared: Pyrun, tmp_path: Path, checked: tuple[str, ...]) -> None:
    process = activate(shared, tmp_path / "socket", "web", "--notify", "app", *checked)
    assert ask(f"{tmp_path}/socket-web")[-2:] == ["WATCHDOG_PID=2", "WATCHDOG_USEC=1000000"]
    assert process.wait(timeout=LIMIT) == 0
    process.communicate()


def test_sockets_for_another_process_stay_away(shared: Pyrun, tmp_path: Path) -> None:
    """A variable that was merely inherited passes nothing on: the app has three descriptors, so it cannot accept."""
    process = activate(shared, tmp_path / "socket", "web", pid="1")
    assert process.wait(timeout=LIMIT) == 1
    process.communicate()


@pytest.mark.parametrize("prepared", [False, True])
def test_pods_in_the_background_keep_the_sockets(shared: Pyrun, tmp_path: Path, prepared: bool) -> None:
    """The app ends after each caller, and finds them again when it starts again; who starts the pod anew would not have them."""
    flags = ("--restart", "always", "--pod-name", f"kept-{int(prepared)}")
    verb = "run"
    words: tuple[str | Path, ...] = ("--detach", *flags)
    if prepared:
        verb, words = "run-prepared", ("--detach", shared("prepare", *serving(shared, *flags), code=0).out.strip())
    process = activate(shared, tmp_path / "socket", "web:admin", *words, verb=verb)
    assert process.communicate(timeout=LIMIT)[1] == "" and process.returncode == 0
    for _ in range(3):
        assert ask(f"{tmp_path}/socket-web") == ["2", "LISTEN_FDS=2", "LISTEN_PID=2", "LISTEN_FDNAMES=web:admin"]
    refused = shared("restart", flags[-1], code=125).err
    assert "was started with sockets of the service manager" in refused and "hint: " in refused
    assert ask(f"{tmp_path}/socket-web")[0] == "2"
    shared("rm", "--force", flags[-1], code=0)


@pytest.mark.parametrize("prepared", [False, True])
def test_im_30_each_app_gets_the_sockets_that_it_names(shared: Pyrun, tmp_path: Path, prepared: bool) -> None:
    """In their order, and no others; without a name the first app gets all."""
    admin = serving(shared, "--name", "admin", "--socket", "admin")
    words: tuple[str | Path, ...] = (*serving(shared, "--name", "web", "--socket", "three,web"), "---", *admin)
    verb = "run"
    if prepared:
        verb, words = "run-prepared", (shared("prepare", "--rm", *words, code=0).out.strip(),)
    process = activate(shared, tmp_path / "socket", "web:admin:three", *words, verb=verb)
    assert ask(f"{tmp_path}/socket-web") == ["2", "LISTEN_FDS=2", "LISTEN_PID=2", "LISTEN_FDNAMES=web:three"]
    assert ask(f"{tmp_path}/socket-admin") == ["2", "LISTEN_FDS=1", "LISTEN_PID=2", "LISTEN_FDNAMES=admin"]
    assert process.communicate(timeout=LIMIT)[1] == "" and process.returncode == 0


@pytest.mark.parametrize("which", ["all", "named", "other's"])
def test_prepared_pods_get_sockets_without_python(shared: Pyrun, tmp_path: Path, which: str) -> None:
    """The launcher finds out which are this process's, and which app gets which."""
    words = serving(shared, "--name", "web", *(("--socket", "web,three") if which == "named" else ()))
    more = ("---", *serving(shared, "--name", "admin", "--socket", "admin")) if which == "named" else ()
    uuid = shared("prepare", "--rm", *words, *more, code=0).out.strip()
    trace, pid = tmp_path / "trace", "1" if which == "other's" else ""
    before = ("strace", "-qq", "-e", "trace=execve", "-o", trace)
    process = activate(shared, tmp_path / "socket", "web:admin:three", uuid, pid=pid, verb="run-prepared", before=before)
    names = {"all": "web:admin:three", "named": "web:three"}.get(which, "")
    if names:
        assert ask(f"{tmp_path}/socket-web") == ["2", f"LISTEN_FDS={names.count(':') + 1}", "LISTEN_PID=2", f"LISTEN_FDNAMES={names}"]
    if which == "named":
        assert ask(f"{tmp_path}/socket-admin") == ["2", "LISTEN_FDS=1", "LISTEN_PID=2", "LISTEN_FDNAMES=admin"]
    assert (process.wait(timeout=LIMIT), process.communicate()[1]) == (0 if names else 1, "")
    programs = [line.split('"')[1].rpartition("/")[2] for line in trace.read_text().splitlines() if line.endswith(" = 0")]
    assert programs[1:] == ["pyrun", "keeper"] and programs[0].startswith("python")


@pytest.mark.parametrize(("first", "told"), [("web", "admin: no app gets this socket"), ("web,other", "other: no socket has that name")])
def test_prepared_pods_refuse_sockets_that_do_not_fit(shared: Pyrun, tmp_path: Path, first: str, told: str) -> None:
    """The launcher says so in Python's words, and the pod stays as it is."""
    words = (*serving(shared, "--name", "a", "--socket", first), "---", *serving(shared, "--name", "b"))
    uuid = shared("prepare", *words, code=0).out.strip()
    before = ("strace", "-qq", "-e", "trace=execve", "-o", tmp_path / "trace")
    refused = activate(shared, tmp_path / "socket", "web:admin", uuid, verb="run-prepared", before=before).communicate(timeout=LIMIT)[1]
    programs = [line.split('"')[1].rpartition("/")[2] for line in (tmp_path / "trace").read_text().splitlines() if line.endswith(" = 0")]
    assert programs[1:] == ["pyrun"]
    assert f"option --socket {told}" in refused and "hint: the service manager's sockets are web, admin" in refused
    assert (shared.root / "pods" / "prepared" / uuid).is_dir()
    shared("rm", uuid, code=0)


def test_the_first_app_gets_all_sockets(shared: Pyrun, tmp_path: Path) -> None:
    """The other one has three descriptors, so that it cannot accept: it fails, which ends both."""
    words = (*serving(shared, "--name", "a"), "---", *serving(shared, "--name", "b"))
    process = activate(shared, tmp_path / "socket", "web:admin", "--exit-policy", "main-app", *words)
    assert ask(f"{tmp_path}/socket-web") == ["2", "LISTEN_FDS=2", "LISTEN_PID=2", "LISTEN_FDNAMES=web:admin"]
    assert process.communicate(timeout=LIMIT)[1] == "" and process.returncode == 0


@pytest.mark.parametrize(("first", "told"), [("web", "admin: no app gets this socket"), ("web,other", "other: no socket has that name")])
def test_sockets_that_do_not_fit_are_refused(shared: Pyrun, tmp_path: Path, first: str, told: str) -> None:
    before = shared("list", "--format", "json", code=0).out
    words = (*serving(shared, "--name", "a", "--socket", first), "---", *serving(shared, "--name", "b"))
    process = activate(shared, tmp_path / "socket", "web:admin", *words)
    refused = process.communicate(timeout=LIMIT)[1]
    assert f"option --socket {told}" in refused and "hint: the service manager's sockets are web, admin" in refused
    assert process.returncode == 2 and shared("list", "--format", "json", code=0).out == before


def test_a_pod_is_ready_when_each_of_its_apps_is(manager: Manager) -> None:
    """And alive as long as each says so; what else they say is passed on as it comes."""
    words: list[str | Path] = ["run"]
    texts = {"a": ("STATUS=a", "MAINPID=1\nREADY=1", "WATCHDOG=1", "WATCHDOG=1"), "b": ("READY=1", "WATCHDOG=1", "STATUS=b"), "c": ()}
    for name, say in texts.items():
        words += [*(["---"] if name != "a" else []), manager.pyrun.probe_image, "--name", name, *(["--notify", "app"] if say else [])]
        words += ["--exec", "/probe", "--", "notify", *say]
    manager.running = manager.pyrun.start(*words, env={"NOTIFY_SOCKET": manager.path, "WATCHDOG_USEC": "1000000"})
    said = [manager.hear() for _ in range(4)]
    assert {pid for _, pid in said} == {manager.running.pid}
    assert sorted(text for text, _ in said) == ["READY=1", "STATUS=a", "STATUS=b", "WATCHDOG=1"]
    assert manager.quiet(), "of two that live one alone says it a second time"


def test_a_pod_is_not_ready_while_an_app_is_not(manager: Manager) -> None:
    """Nor does it help that another one says so twice."""
    words: list[str | Path] = ["run"]
    for name, say in (("a", ("STATUS=1", "READY=1", "READY=1", "STATUS=2")), ("b", ("STATUS=3",))):
        words += [*(["---"] if name != "a" else []), manager.pyrun.probe_image, "--name", name, "--notify", "app"]
        words += ["--exec", "/probe", "--", "notify", *say]
    manager.running = manager.pyrun.start(*words, env={"NOTIFY_SOCKET": manager.path})
    assert sorted(manager.hear()[0] for _ in range(3)) == ["STATUS=1", "STATUS=2", "STATUS=3"]
    assert manager.quiet()
