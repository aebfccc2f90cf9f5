"""Networks of users' pods, by pasta and by slirp4netns: traffic with a machine beside the host, and what is left of it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import COMMAND, TOP
from machines import HOST, OUTSIDE, Machine, Server
from networld import get
from userplace import TUN, UNSIGNED, Place
from users import PLAIN, User
from waiting import wait_until

ANSWER = "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('', 53))\nwhile True: s.sendto(*s.recvfrom(99))"
READ = "import socket; print(socket.create_connection(('127.0.0.1', 7001), 30).recv(99).decode())"
ECHO = "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(1)\nfor _ in range(30):\n"
ECHO += " s.sendto(b'ping\\n', ('{}', {}))\n try:\n  print(s.recv(99).decode().strip()); break\n except OSError: pass"

pytestmark = pytest.mark.usefixtures("tun")


@pytest.fixture(params=["pasta", "slirp4netns"])
def place(request: pytest.FixtureRequest, busybox: Path) -> Iterator[Place]:
    made = Place(busybox, request.param)
    yield made
    made.close()


def test_forwarded_ports(place: Place) -> None:
    """From the host itself, by each program; what the pod says of them, and that nothing is left when it has ended."""
    place.serve("web", "-p", "8080:80")
    assert get(place.host, "127.0.0.1", 8080) == "web"
    status = json.loads(place.user.pyrun("status", "--format", "json", "web").out)
    status = status[0] if isinstance(status, list) else status
    assert [(one["protocol"], one["host_port"], one["port"]) for one in status["ports"]] == [("tcp", 8080, 80)]
    inside = place.user.pyrun("exec", "web", "/bin/sh", "-c", "ls /sys/class/net; ip route | grep -c default").out.split()
    assert len(inside) == 3 and "lo" in inside and inside[-1] == "1"
    wait_until(lambda: all("\nSeccomp:\t2\n" in Path(f"/proc/{pid}/status").read_text() for pid in place.helpers()))
    assert [pid for pid in place.helpers() if COMMAND.exists() and Path(f"/proc/{pid}/root{COMMAND}").exists()] == []
    place.user.pyrun("stop", "web")
    wait_until(lambda: place.left() == [])
    assert get_once(place.host) == "", "the port is free again"


def test_traffic_with_a_machine_beside(busybox: Path) -> None:
    """By slirp4netns, whose age does not depend on the kernel.  TCP and UDP."""
    place = Place(busybox, "slirp4netns")
    try:
        place.serve("web", "-p", "8080:80")
        assert get(place.outside, HOST[0], 8080) == "web"
        with Server(place.outside, 7000), Server(place.host, 7001):
            said = place.user.pyrun("exec", "web", "/bin/sh", "-c", f"nc -w 10 {OUTSIDE[0]} 7000").out.strip()
            assert said == HOST[0], "the pod speaks with the host's address"
            assert place.host.run("/usr/bin/python3", "-c", READ).strip() == "127.0.0.1", "there it answers"
            closed = place.user.pyrun("exec", "web", "/bin/sh", "-c", "nc -w 10 10.0.2.2 7001 2>/dev/null; true").out
            assert closed == "", "what the host has on its loopback stays there"
        words = ["run", "-d", "--rm", UNSIGNED, "--pod-name", "names", "-p", "5300:53/udp"]
        python = ["-v", "/usr:/usr:ro", "-v", "/usr/lib:/lib:ro", "-v", "/usr/lib64:/lib64:ro", "example.com/busybox"]
        place.user.pyrun(*words, *python, "--exec", "/usr/bin/python3", "--", "-c", ANSWER)
        assert place.outside.run("/usr/bin/python3", "-c", ECHO.format(HOST[0], 5300)).strip() == "ping"
        place.user.pyrun("rm", "--force", "web", "names")
        wait_until(lambda: place.left() == [])
    finally:
        place.close()


def get_once(machine: Machine) -> str:
    script = "import socket\ntry: print(socket.create_connection(('127.0.0.1', 8080), 3))\nexcept OSError: pass"
    return machine.run("/usr/bin/python3", "-c", script).strip()


def test_both_families(busybox: Path) -> None:
    """Where both programs are there it is pasta that forwards IPv6, else slirp4netns."""
    place = Place(busybox, "pasta", "slirp4netns")
    try:
        place.serve("web", "-p", "8080:80", "-p", "127.0.0.1:8081:80", "-p", "[::1]:8082:80")
        assert get(place.host, "::1", 8080) == get(place.host, "127.0.0.1", 8081) == get(place.host, "::1", 8082) == "web"
        place.user.pyrun("rm", "--force", "web")
        wait_until(lambda: place.left() == [])
        place.serve("four", "-p", "8080:80")
        assert get(place.outside, HOST[0], 8080) == "four"
        assert {Path(f"/proc/{pid}/comm").read_text().strip() for pid in place.helpers()} == {"slirp4netns"}
        place.user.pyrun("rm", "--force", "four")
        wait_until(lambda: place.left() == [])
    finally:
        place.close()


def test_a_killed_supervisor(place: Place) -> None:
    words = ["run", UNSIGNED, "-p", "8080:80", "example.com/busybox", "--exec", "/bin/sh", "--", "-c", "echo ready; sleep 1000"]
    with place.user.start(*words) as supervisor:
        assert supervisor.stdout is not None and supervisor.stdout.readline() == "ready\n" and place.helpers()
        supervisor.send_signal(signal.SIGKILL)
    place.user.pyrun("gc")
    wait_until(lambda: place.left() == [])


SLOW = '#!/bin/sh\n: >$HOME/begun\nuntil [ -e $HOME/go ]; do sleep 0.1; done\n: >$HOME/gone\nexec {} "$@"\n'


def test_killed_before_the_process_is_known(busybox: Path) -> None:
    """Nobody takes the pod for dead before there is a number to end."""
    place = Place(busybox, "pasta", "sleep")
    program = place.user.home / "bin" / "pasta"
    program.unlink()
    program.write_text(SLOW.format(shutil.which("pasta")))
    program.chmod(0o755)
    try:
        with place.user.start("run", UNSIGNED, "--net", "default", "example.com/busybox", "--exec", "/bin/true") as supervisor:
            wait_until((place.user.home / "begun").exists)
            supervisor.send_signal(signal.SIGKILL)
        place.user.pyrun("gc")
        (place.user.home / "go").touch()
        wait_until((place.user.home / "gone").exists)

        def swept() -> bool:
            place.user.pyrun("gc")
            return place.left() == []

        wait_until(swept)
    finally:
        place.close()


def test_a_start_that_came_to_nothing(place: Place) -> None:
    """One that fails takes its network back; of one that was killed it goes a minute later."""
    user = place.user
    uuid = user.pyrun("prepare", UNSIGNED, "-p", "8080:80", "example.com/busybox", "--exec", "/bin/true").out.strip()
    code = "import sys\nfrom pyrun import native\nfrom pyrun.pod import again, network, state\npods = state.Pods(sys.argv[1])\n"
    failed = "native.KEEPER = '/bin/true'\ntry: again.start_prepared(pods, sys.argv[2])\nexcept again.StateError: print('failed')"
    inside = ["unshare", "--user", "--map-root-user", TOP / ".venv" / "bin" / "python", "-c"]
    assert user.run(*inside, code + failed, user.state, uuid).out == "failed\n"
    wait_until(lambda: place.left() == [])
    user.run(*inside, code + "network.take_network(pods, sys.argv[2])", user.state, uuid)
    user.pyrun("gc")
    assert len(place.helpers()) == 1
    os.utime(user.state / "pods" / "prepared" / uuid / "net", (1, 1))
    user.pyrun("gc")
    wait_until(lambda: place.left() == [])
    user.pyrun("run-prepared", uuid)
    wait_until(lambda: place.left() == [])


def test_a_second_start_leaves_the_network_of_the_first(place: Place) -> None:
    user = place.user
    uuid = user.pyrun("prepare", UNSIGNED, "-p", "8080:80", "example.com/busybox", "--exec", "/bin/true").out.strip()
    code = (
        "import sys\nfrom pyrun.pod import network, state\npods = state.Pods(sys.argv[1])\nmade = network.take_network(pods, sys.argv[2])\n"
        "try: network.take_network(pods, sys.argv[2])\nexcept network.StateError as error: print(error.reason)\n"
    )
    inside = ["unshare", "--user", "--map-root-user", TOP / ".venv" / "bin" / "python", "-c"]
    assert user.run(*inside, code, user.state, uuid).out == "somebody else is starting or removing it\n"
    assert len(place.helpers()) == 1
    user.pyrun("run-prepared", uuid)  # the first was killed, as far as anybody can tell: its process goes
    wait_until(lambda: place.left() == [])


def test_what_cannot_be(place: Place) -> None:
    """A clash, what the programs do not forward, what is root's: each a line, and nothing is left."""
    user = place.user
    place.serve("web", "-p", "8080:80")
    before = len(place.helpers())
    for flags, said in (
        (("-p", "8080:81"), "it is forwarded to pod"),
        (("-p", "9000:80/sctp"), "forwards no sctp"),
        (("-p", "81:80"), "below 1024 ports are root's"),
        (("--net", "nosuch"), "takes root"),
        (("--net", "default", "--net-isolate"), "takes root"),
    ):
        done = user.pyrun("run", UNSIGNED, *flags, "example.com/busybox", "--exec", "/bin/true", code=125)
        assert said in done.err and "hint: " in done.err and "Traceback" not in done.err, repr(done)
    assert len(place.helpers()) == before
    with Server(place.host, 8081):
        done = user.pyrun("run", UNSIGNED, "-p", "8081:80", "example.com/busybox", "--exec", "/bin/true", code=125)
        assert "a program of the host uses it" in done.err
    user.pyrun("rm", "--force", "web")
    wait_until(lambda: place.left() == [])


def test_without_either(busybox: Path) -> None:
    place = Place(busybox)
    try:
        done = place.user.pyrun("run", UNSIGNED, "--net", "default", "example.com/busybox", "--exec", "/bin/true", code=125)
        assert "pasta or slirp4netns" in done.err and "apt-get install passt" in done.err and place.left() == []
    finally:
        place.close()


def test_what_slirp4netns_says(busybox: Path) -> None:
    place = Place(busybox, "slirp4netns")
    subprocess.run(["mount", "--bind", "/dev/null", TUN], check=True)
    try:
        done = place.user.pyrun("run", UNSIGNED, "--net", "default", "example.com/busybox", "--exec", "/bin/true", code=125)
        assert "TUNSETIFF" in done.err and "/dev/net/tun" in done.err, repr(done)
        wait_until(lambda: place.left() == [])
    finally:
        subprocess.run(["umount", TUN], check=True)
        place.close()


def test_a_number_that_is_another_users_by_now(busybox: Path, tmp_path: Path) -> None:
    """Files and ports go all the same."""
    user = User(PLAIN)
    (user.home / "networks" / "ports").mkdir(parents=True)
    (user.home / "networks" / "ports" / "tcp-80-any").symlink_to("uuid")
    (user.home / "net").touch()
    code = "import os, sys\nfrom pyrun.net import user\nhome = sys.argv[1]\npod = os.open(home, os.O_RDONLY)\n"
    code += "record = {'program': 'pasta', 'claims': ['ports/tcp-80-any'], 'process': [1, user._started(1)]}\n"
    code += "user.detach(home, 'uuid', pod, record); print(os.listdir(home), os.listdir(home + '/networks/ports'))"
    os.chown(user.home / "networks", user.uid, -1)
    os.chown(user.home / "networks" / "ports", user.uid, -1)
    try:
        assert "net'" not in user.run(TOP / ".venv" / "bin" / "python", "-c", code, user.home).out.replace("networks", "")
    finally:
        user.close()


def test_a_host_without_a_way_out(place: Place) -> None:
    """pasta says that there is nothing to take after; slirp4netns has a network of its own making."""
    place.host.run("ip", "route", "flush", "default")
    place.host.run("ip", "-6", "route", "flush", "default")
    place.host.run("ip", "link", "set", "wire", "down")
    done = place.user.pyrun("run", UNSIGNED, "--net", "default", "example.com/busybox", "--exec", "/bin/true", code=None)
    if place.program == "slirp4netns":
        assert done.code == 0, repr(done)
    else:
        assert done.code == 125 and "pasta: " in done.err and "default route" in done.err, repr(done)
    wait_until(lambda: place.left() == [])
