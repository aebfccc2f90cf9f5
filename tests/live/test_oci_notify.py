"""NOTIFY_SOCKET of whoever calls `pyrun-oci` (sd_notify(3)): what a container says there arrives, and nothing else does."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from bundles import OCI, Runtime

PROGRAM = r"""
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* Sends each word; "sleep" waits for a signal, "gap" for a moment.  9 when nobody listens. */
int main(int argc, char **argv)
{
    struct sockaddr_un to = {AF_UNIX, ""};
    int fd = socket(AF_UNIX, SOCK_DGRAM, 0);

    strncpy(to.sun_path, getenv("NOTIFY_SOCKET"), sizeof to.sun_path - 1);
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], "sleep") == 0)
            pause();
        else if (strcmp(argv[i], "gap") == 0)
            sleep(1);
        else if (strcmp(argv[i], "flood") == 0) /* eight of them */
            for (int n = 0;; n++)
                (void)!(n < 3 ? fork() : sendto(fd, n == 3 ? "READY=1" : "STATUS=x", 7 + (n > 3), 0, (struct sockaddr *)&to, sizeof to));
        else if (sendto(fd, argv[i], strlen(argv[i]), 0, (struct sockaddr *)&to, sizeof to) < 0)
            return 9;
    return 0;
}
"""


@pytest.fixture(scope="module")
def say(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("say")
    (folder / "say.c").write_text(PROGRAM)
    subprocess.run(["gcc", "-static", "-O", "-o", folder / "say", folder / "say.c"], check=True)
    return folder / "say"


@pytest.fixture
def oci(tmp_path: Path, probe: Path, say: Path) -> Iterator[Runtime]:
    made = Runtime(tmp_path, probe)
    (made.bundle / "rootfs/bin/say").write_bytes(say.read_bytes())
    (made.bundle / "rootfs/bin/say").chmod(0o755)
    yield made
    made("delete", "--force", "one")


class Manager:
    """Who is told: a socket, and the environment that names it."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address[0] == "@" else address)
        self.socket.settimeout(20)
        self.env = {**os.environ, "NOTIFY_SOCKET": address}

    def heard(self) -> list[str]:
        """All that has come by now."""
        found = []
        self.socket.setblocking(False)
        try:
            while True:
                found.append(self.socket.recv(4096).decode())
        except BlockingIOError:
            return found


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(str(tmp_path / "manager"))
    yield made
    made.socket.close()


def test_what_it_says_arrives(oci: Runtime, manager: Manager) -> None:
    """But for what would let it speak for the caller: another main process, descriptors to keep, a longer patience of the watchdog."""
    oci.command("/bin/say", "STATUS=one\nMAINPID=1\nWATCHDOG_USEC=1", "FDSTORE=1", "READY=1", "NOTIFYACCESS=all", "STOPPING=1\nERRNO=5\n")
    for _ in range(2):  # the second one could be made by what the first one left
        oci("run", "one", env=manager.env)
        assert manager.heard() == ["STATUS=one", "READY=1", "STOPPING=1\nERRNO=5"]


def test_the_socket_is_in_a_directory_that_cannot_be_written(oci: Runtime, manager: Manager) -> None:
    script = 'echo $NOTIFY_SOCKET; d=${NOTIFY_SOCKET%/*}; ls $d; touch $d/x 2>&1; rm $d/notify 2>&1; grep " $d " /proc/self/mountinfo'
    shown = oci.shell(script, env=manager.env).splitlines()
    place = manager.env["NOTIFY_SOCKET"]
    assert shown[:2] == [f"{place}/notify", "notify"] and all("Read-only file system" in line for line in shown[2:4])
    assert {"ro", "nosuid", "nodev", "noexec"} <= set(shown[4].split()[5].split(",")) and len(shown) == 5


def test_a_name_without_a_path(oci: Runtime, tmp_path: Path) -> None:
    manager = Manager(f"@{tmp_path}/abstract")
    oci.command("/bin/sh", "-c", "echo $NOTIFY_SOCKET; say READY=1")
    assert oci("run", "one", env=manager.env).stdout == "/run/notify/notify\n"
    assert manager.heard() == ["READY=1"]
    manager.socket.close()


def test_a_users_container(oci: Runtime, manager: Manager) -> None:
    """Whose root, and whose program's user, have no rights to what the host's root has made."""
    oci.config["process"]["user"] = {"uid": 1000, "gid": 1000}
    oci.config["linux"]["namespaces"].append({"type": "user"})
    for name in ("uidMappings", "gidMappings"):
        oci.config["linux"][name] = [{"containerID": 0, "hostID": 200000, "size": 65536}]
    for path in (oci.bundle / "rootfs", oci.bundle / "rootfs/tmp"):
        os.chown(path, 200000, 200000)
    for path in (oci.folder, *oci.folder.parents):
        path.chmod(path.stat().st_mode | 0o111)
    oci.command("/bin/say", "READY=1")
    oci("run", "one", env=manager.env)
    assert manager.heard() == ["READY=1"]


@pytest.mark.parametrize("words", [["run", "--detach"], ["start"]])
def test_who_leaves_it_alone_waits_until_it_is_ready(oci: Runtime, manager: Manager, words: list[str]) -> None:
    oci.command("/bin/say", "STATUS=soon", "gap", "READY=1", "sleep")
    if words == ["start"]:
        oci("create", "one", env=manager.env)
        assert manager.heard() == []
    before = time.monotonic()
    oci(*words, "one", env=manager.env)
    assert time.monotonic() - before > 0.9 and manager.heard() == ["STATUS=soon", "READY=1"]
    assert oci.state("one")["status"] == "running"
    oci("delete", "--force", "one")
    assert not oci.leftovers()


def test_one_that_ends_before_is_waited_for_no_longer(oci: Runtime, manager: Manager) -> None:
    oci.command("/bin/say", "STATUS=sorry")
    oci("create", "one", env=manager.env)
    oci("start", "one", env=manager.env)
    assert manager.heard() == ["STATUS=sorry"]
    oci("delete", "one")
    assert not oci.leftovers()


def test_whoever_waits_can_be_ended_and_the_container_lives(oci: Runtime, manager: Manager) -> None:
    oci.command("/bin/say", "STATUS=soon", "sleep")
    oci("create", "one", env=manager.env)
    with subprocess.Popen([OCI, "--root", oci.root, "start", "one"], env=manager.env) as waiting:
        assert manager.socket.recv(100) == b"STATUS=soon"
        assert oci.state("one")["status"] == "running"
        waiting.send_signal(signal.SIGTERM)
        assert waiting.wait(20) == -signal.SIGTERM
    assert oci.state("one")["status"] == "running"
    oci("delete", "--force", "one")


def test_signals_arrive_beside_it(oci: Runtime, manager: Manager) -> None:
    oci.command("/bin/say", "READY=1", "sleep")
    with subprocess.Popen([OCI, "--root", oci.root, "run", "one"], cwd=oci.bundle, env=manager.env) as running:
        assert manager.socket.recv(100) == b"READY=1"
        running.send_signal(signal.SIGTERM)  # process 1 of a pid namespace that has no handler: SIGKILL alone would end it
        time.sleep(0.2)
        oci("kill", "one", "KILL")
        assert running.wait(20) == 137
    assert not oci.leftovers()


def test_who_starts_it_without_a_manager_waits_for_nothing(oci: Runtime, manager: Manager) -> None:
    """As with runc: it is the environment of start that says whether somebody wants to know."""
    oci.command("/bin/sh", "-c", "sleep 99")
    oci("create", "one", env=manager.env)
    without = {name: value for name, value in os.environ.items() if name != "NOTIFY_SOCKET"}
    subprocess.run([OCI, "--root", oci.root, "start", "one"], env=without, check=True, timeout=60)
    assert oci.state("one")["status"] == "running" and manager.heard() == []


def test_who_says_more_than_is_heard_keeps_nobody(oci: Runtime, manager: Manager) -> None:
    """As long as messages come in faster than they go on, there is always one more."""
    oci.command("/bin/say", "flood")
    oci("run", "--detach", "one", env=manager.env)
    assert "READY=1" in manager.heard() and oci.state("one")["status"] == "running"
    oci("delete", "--force", "one")
    oci.config["linux"]["namespaces"] = [one for one in oci.config["linux"]["namespaces"] if one["type"] != "pid"]
    oci.command("/bin/sh", "-c", "say flood & sleep 1; exit 7")  # what it leaves behind lives on
    oci("run", "one", env=manager.env, code=7)
    assert not oci.leftovers()


def test_a_socket_that_the_client_gives_is_left_alone(oci: Runtime, manager: Manager) -> None:
    oci.config["process"]["env"].append("NOTIFY_SOCKET=/own")
    assert oci.shell("echo $NOTIFY_SOCKET; grep -c notify /proc/self/mountinfo", env=manager.env, code=1).splitlines() == ["/own", "0"]


def test_nobody_is_told_when_nobody_listens(oci: Runtime, tmp_path: Path) -> None:
    oci.command("/bin/say", "READY=1")
    oci("run", "one", env={**os.environ, "NOTIFY_SOCKET": str(tmp_path / "none")})
    assert not oci.leftovers()
