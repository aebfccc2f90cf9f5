"""Networks of users' pods, by pasta and by slirp4netns: ports, what is left of them, and what cannot be."""

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
from machines import HOST, Machine, Server
from networld import get
from userplace import TUN, UNSIGNED, Place
from users import PLAIN, User
from waiting import wait_until

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


def get_once(machine: Machine) -> str:
    script = "import socket\ntry: print(socket.create_connection(('127.0.0.1', 8080), 3))\nexcept OSError: pass"
    return machine.run("/usr/bin/python3", "-c", script).strip()


def test_both_families(place: Place) -> None:
    """From the host's loopback and from outside, by either program; of both that are there it is slirp4netns."""
    place.serve("web", "-p", "8080:80", "-p", "127.0.0.1:8081:80", "-p", "[::1]:8082:80", "-p", f"[{HOST[1]}]:8083:80")
    for machine, address, port in (
        (place.host, "::1", 8080), (place.host, "127.0.0.1", 8081), (place.host, "::1", 8082), (place.host, HOST[1], 8083),
        (place.outside, HOST[0], 8080), (place.outside, HOST[1], 8080), (place.outside, HOST[1], 8083),
    ):  # fmt: skip
        assert get(machine, address, port) == "web", (address, port)
    (relay,) = place.relays()
    said = dict(line.split(":\t", 1) for line in Path(f"/proc/{relay}/status").read_text().splitlines() if ":\t" in line)
    assert {said[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {"0" * 16}
    assert (said["NoNewPrivs"], said["Seccomp"]) == ("1", "2")
    place.user.pyrun("rm", "--force", "web")
    wait_until(lambda: place.left() == [])


def test_slirp4netns_where_both_are_there(busybox: Path) -> None:
    place = Place(busybox, "pasta", "slirp4netns")
    try:
        place.serve("four", "-p", "8080:80")
        assert {Path(f"/proc/{pid}/comm").read_text().strip() for pid in place.helpers()} == {"slirp4netns"}
        place.user.pyrun("rm", "--force", "four")
        wait_until(lambda: place.left() == [])
    finally:
        place.close()


def test_a_network_whose_program_is_killed(place: Place) -> None:
    """The relay goes with it, and the pod is removed as any other."""
    place.serve("web", "-p", "8080:80")
    (helper,) = place.helpers()
    assert len(place.relays()) == 1
    os.kill(int(helper), signal.SIGKILL)
    wait_until(lambda: place.relays() == [])
    place.user.pyrun("rm", "--force", "web")
    wait_until(lambda: place.left() == [])


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
        (("-p", "9000:80/sctp"), "no sctp is forwarded"),
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
    code = "import os, sys\nfrom pyrun.net import user, processes\nhome = sys.argv[1]\npod = os.open(home, os.O_RDONLY)\n"
    code += "record = {'program': 'pasta', 'claims': ['ports/tcp-80-any'], 'process': [1, processes.started(1)]}\n"
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
