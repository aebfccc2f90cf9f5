"""Published ports by the host's own [::1]: the kernel forwards nothing from there, a process of the pod's does (native/relay.c)."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from machines import HOST, Server
from networld import World, get
from waiting import wait_until

PYTHON = ("-v", "/usr:/usr:ro", "-v", "/usr/lib:/lib:ro", "-v", "/usr/lib64:/lib64:ro")
ECHO = """
import socket, sys, threading
family = socket.AF_INET6 if sys.argv[1] == "6" else socket.AF_INET
silent, counted = (socket.create_server(("", port), family=family) for port in (83, 82))
streams = socket.create_server(("", 81), family=family, backlog=500)
questions = socket.socket(family, socket.SOCK_DGRAM)
questions.bind(("", 53))
def answer():
    while True:
        data, who = questions.recvfrom(65536)
        questions.sendto(who[0].encode() + b" " + data, who)
def serve(peer):
    while data := peer.recv(65536):
        peer.sendall(data)
    peer.close()
def count():
    while True:
        with counted.accept()[0] as peer:
            peer.sendall(b"%d" % sum(map(len, iter(lambda: peer.recv(65536), b""))))
for one in (answer, count):
    threading.Thread(target=one, daemon=True).start()
while True:
    threading.Thread(target=serve, args=(streams.accept()[0],), daemon=True).start()
"""
ASK = """
import socket, sys
asker = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
asker.settimeout(30)
asker.connect(("::1", int(sys.argv[1])))
big = b"x" * 20000
asker.send(b"ping")
print(asker.recv(99).decode())
asker.send(big)
print(asker.recv(65536).endswith(b" " + big))
"""
MUCH = """
import os, socket, sys, threading
data, said = os.urandom(1 << 22), []
def one(size):
    with socket.create_connection(("::1", int(sys.argv[1])), 30) as peer:
        def write():
            peer.sendall(data[:size])
            peer.shutdown(socket.SHUT_WR)
        threading.Thread(target=write).start()
        said.append(b"".join(iter(lambda: peer.recv(65536), b"")) == data[:size])
one(len(data))
threads = [threading.Thread(target=one, args=(1 << 16,)) for _ in range(300)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(len(said), all(said))
"""
# What stands in its queue when the relay goes on makes how often it reads in one turn the same each time.
ALL_AT_ONCE = """
import os, signal, socket, sys
for rooms in range(1, 60):
    os.kill(int(sys.argv[2]), signal.SIGSTOP)
    try:
        peer = socket.create_connection(("::1", int(sys.argv[1])), 30)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 21)
        peer.sendall(bytes(rooms << 14))
        peer.shutdown(socket.SHUT_WR)
    finally:
        os.kill(int(sys.argv[2]), signal.SIGCONT)
    print(int(peer.recv(99)) >> 14, end=" ")
"""
HALF = """
import socket, struct, sys, time
peer = socket.create_connection(("::1", int(sys.argv[1])), 30)
peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
peer.shutdown(socket.SHUT_WR)
time.sleep(99)
"""
MANY = """
import resource, socket, sys, time
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
askers = [socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) for _ in range(1500)]
for asker in askers:
    asker.settimeout(30)
    asker.connect(("::1", int(sys.argv[1])))
    asker.send(b"ping")
    asker.recv(99)
with socket.create_connection(("::1", int(sys.argv[2])), 30) as peer:
    peer.sendall(b"there")
    print(peer.recv(99).decode())
    askers[-1].send(b"last")
    print(askers[-1].recv(99).decode().split()[1])
    sys.stdout.flush()
    time.sleep(99)
"""


@pytest.fixture(autouse=True)
def nothing_stays(world: World) -> Iterator[None]:
    yield
    assert world.settled() == []


def echo(world: World, name: str, family: str, *flags: str) -> None:
    words = ["run", "--detach", "--rm", "--pod-name", name, *flags, *PYTHON, world.image, "--exec", "/usr/bin/python3", "--"]
    world.pyrun(*words, "-c", ECHO, family, code=0)
    pid = str(world.status(name)["pid"])
    ready = ["nsenter", f"--net=/proc/{pid}/ns/net", "ss", "-Hltn", "sport", "=", "81"]
    wait_until(lambda: subprocess.run(ready, capture_output=True, text=True, check=True).stdout)


def relay(world: World) -> Path:
    """The one process of that kind."""
    (found,) = world.relays()
    return Path("/proc") / found


@pytest.mark.parametrize("flag", ["8080:80", "[::1]:8080:80"])
def test_a_port_is_reached(world: World, flag: str) -> None:
    world.serve("web", "-p", flag)
    try:
        assert get(world.host, "::1", 8080) == "web"
        everywhere, tries = ("web", 20) if flag == "8080:80" else ("", 1)
        assert get(world.host, "127.0.0.1", 8080, tries=tries) == get(world.outside, HOST[1], 8080, tries=tries) == everywhere
        (port, *_) = [one for one in world.status("web")["ports"] if ":" in one["address"]]
        assert (port["protocol"], port["host_port"], port["port"]) == ("tcp", 8080, 80)
        assert port["host_address"] == flag.rpartition(":8080")[0].strip("[]")
    finally:
        world.stop("web")


@pytest.mark.parametrize("kind", ["bridge", "ptp"])
def test_a_pod_that_has_ipv4_alone(world: World, kind: str) -> None:
    world.pyrun("network", "create", "four", "--kind", kind, "--subnet", "10.9.0.0/24", code=0)
    try:
        world.serve("old", "--net", "four", "-p", "8080:80", "-p", "[::1]:8081:80")
        assert get(world.host, "::1", 8080) == get(world.host, "::1", 8081) == "old"
    finally:
        world.stop("old")
        wait_until(lambda: world.pyrun("network", "rm", "four").code == 0)


@pytest.mark.parametrize("family", ["4", "6"])
def test_datagrams_and_streams(world: World, family: str) -> None:
    """Also where the program listens in one family of the two."""
    echo(world, "echo", family, "-p", "5300:53/udp", "-p", "[::1]:8100-8101:81-82")
    try:
        gateways = world.status("echo")["networks"][0]["gateways"]
        for _ in range(3):
            who = gateways[1 if family == "6" else 0]
            assert world.host.run("/usr/bin/python3", "-c", ASK, "5300").splitlines() == [f"{who} ping", "True"]
        assert world.host.run("/usr/bin/python3", "-c", MUCH, "8100").strip() == "301 True"
        said = world.host.run("/usr/bin/python3", "-c", ALL_AT_ONCE, "8101", relay(world).name)
        assert said.split() == [str(rooms) for rooms in range(1, 60)]
    finally:
        world.stop("echo")


def test_askers_do_not_crowd_out_connections(world: World) -> None:
    """Datagrams cost nothing, and their sender can be anybody; peers that have gone without a word are found."""
    echo(world, "echo", "6", "-p", "5300:53/udp", "-p", "[::1]:8100:81")
    asking = world.host.start("/usr/bin/python3", "-c", MANY, "5300", "8100")
    try:
        assert asking.stdout and [asking.stdout.readline() for _ in range(2)] == ["there\n", "last\n"]
        shown = world.host.run("ss", "-Htno", "state", "established", "( sport = 8100 or dport = 81 )").splitlines()
        assert len(shown) == 2 and all("timer:(keepalive," in line for line in shown)
    finally:
        asking.kill()
        asking.communicate()
        world.stop("echo")


def test_who_is_gone_after_the_last_word_is_no_longer_served(world: World) -> None:
    """The pod never answers, and is told that nobody listens any more."""
    echo(world, "echo", "6", "-p", "[::1]:8102:83")
    silent = world.host.start("/usr/bin/python3", "-c", HALF, "8102")
    try:
        wait_until(lambda: world.host.run("ss", "-Htn", "state", "fin-wait-2", "( dport = 83 )"))
    finally:
        silent.kill()
        silent.communicate()
    try:
        wait_until(lambda: not world.host.run("ss", "-Htn", "( dport = 83 or sport = 8102 )"))
    finally:
        world.stop("echo")


def test_what_the_process_is(world: World) -> None:
    """No rights, no files, a filter; with supervisor and process 1 less than 150 KiB; one for a range of ports."""
    world.serve("web", "-p", "8080-8089:80-89", "-p", "8080-8089:80-89/udp")
    try:
        found = relay(world)
        said = dict(line.split(":\t", 1) for line in (found / "status").read_text().splitlines() if ":\t" in line)
        assert (said["Uid"].split(), said["Gid"].split(), said["Groups"].split()) == (["65534"] * 4, ["65534"] * 4, [])
        assert {said[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {"0" * 16}
        assert (said["NoNewPrivs"], said["Seccomp"]) == ("1", "2")
        opened = [os.readlink(path) for path in (found / "fd").iterdir()]
        assert {re.sub(r"\[\d+\]", "", one) for one in opened} == {"/dev/null", "anon_inode:[eventpoll]", "socket:"}
        run = json.loads((world.pyrun.root / "pods" / "running" / world.status("web")["uuid"] / "run").read_text())
        ours = [str(run["keeper"]), str(run["supervisor"]), *_children(run["supervisor"]), found.name]
        assert len(ours) == 4

        def sizes() -> list[int]:
            texts = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in ours]
            return [int(size) for text in texts for size in re.findall(r"^Pss: +(\d+) kB", text, re.MULTILINE)]

        assert sizes()[3] <= 40
        wait_until(lambda: sum(sizes()[1:]) < 150 and sum(sizes()) < 180)
    finally:
        world.stop("web")


def _children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def test_pods_without_such_a_port_have_none(world: World) -> None:
    world.serve("plain", "-p", "127.0.0.1:8080:80", "-p", f"{HOST[0]}:8081:80")
    try:
        assert world.relays() == [] and get(world.host, "127.0.0.1", 8080) == "plain"
    finally:
        world.stop("plain")


def test_it_ends_with_a_pod_that_was_killed(world: World) -> None:
    """Nobody has to call for that: the kernel tells it that the pod's interface is gone."""
    uuid = world.serve("dead", "-p", "8080:80")
    assert len(world.relays()) == 1
    run = json.loads((world.pyrun.root / "pods" / "running" / uuid / "run").read_text())
    os.kill(run["keeper"], signal.SIGKILL)
    os.kill(run["supervisor"], signal.SIGKILL)
    wait_until(lambda: world.relays() == [])
    world.serve("next", "-p", "8080:80")
    try:
        assert get(world.host, "::1", 8080) == "next"
    finally:
        world.stop("next")
        world.pyrun("gc", code=0)


def test_a_killed_relay_is_no_hindrance(world: World) -> None:
    world.serve("web", "-p", "8080:80")
    try:
        os.kill(int(relay(world).name), signal.SIGKILL)
        wait_until(lambda: world.relays() == [])
        assert get(world.host, "127.0.0.1", 8080) == "web"
        assert "ports: the process that relays to them has ended" in world.pyrun("network", "check", "web", code=1).out
    finally:
        world.stop("web")


def test_what_cannot_be(world: World) -> None:
    listener = world.host.start(
        "/usr/bin/python3",
        "-c",
        "import socket, time; s = socket.create_server(('::1', 9100), family=10); print(1, flush=True); time.sleep(99)",
    )
    try:
        assert listener.stdout and listener.stdout.readline() == "1\n"
        for flag, where in (("9100:80", ""), ("[::1]:9100:80", "::1:")):
            said = world.sh("true", "-p", flag, code=125)
            assert said.startswith(f"pyrun: forward port {where}9100/tcp: a program of the host uses it\nhint: ")
    finally:
        listener.kill()
        listener.communicate()
    said = world.sh("true", "-p", "[::1]:9101:80/sctp", code=125)
    assert said.startswith("pyrun: forward port [::1]:9101/sctp: sctp is not relayed from there") and "\nhint: use 127.0.0.1:9101" in said
    world.serve("first", "-p", "[::1]:9102:80")
    try:
        assert "it is forwarded to pod" in world.sh("true", "-p", "[0::1]:9102:80", code=125)
        assert "it is forwarded to pod" in world.sh("true", "-p", "9102:80", code=125)
        world.sh("true", "-p", "127.0.0.1:9102:80")
    finally:
        world.stop("first")


def test_a_host_without_ipv6(world: World) -> None:
    world.host.run("ip", "address", "del", "::1/128", "dev", "lo")
    try:
        world.serve("web", "-p", "8080:80")
        assert get(world.host, "127.0.0.1", 8080) == "web" and world.relays() == []
        world.stop("web")
        said = world.sh("true", "-p", "[::1]:8080:80", code=125)
        assert said.startswith("pyrun: forward port ::1:8080: the host has no such address\nhint: ")
    finally:
        world.host.run("ip", "address", "add", "::1/128", "dev", "lo")


def test_somebody_else_is_quicker(world: World) -> None:
    """Between the look whether the port is free and the relay's bind(2)."""
    code = """
import sys
from pyrun.net import relay
relay._there = lambda: True
record = {"nets": [{"kind": "bridge", "link": "lo", "addresses": ["10.0.0.2/24", "fd00::2/64"]}]}
class Link:
    def index(self, name): return 1
for wanted in ([("tcp", "", 9103, 80)], [("udp", "::1", 1 + n % 60000, 1) for n in range(9000)]):
    try: relay.start(wanted, record, Link())
    except Exception as error: print(type(error).__name__, error)
"""
    with Server(world.host, 9103):
        said = world.host.run(sys.executable, "-c", code).splitlines()
    assert said == [
        "ConfigError forward port 9103: a program of the host uses it",
        "ConfigError forward port 8193: more than 8192 ports",
    ]
    assert world.relays() == []
