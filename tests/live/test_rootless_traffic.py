"""What users' pods say to the world, and the world to them, by pasta and by slirp4netns: both families, TCP and UDP, time after time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from machines import HOST, OUTSIDE, Server
from scale import scaled
from userplace import UNSIGNED, Place
from waiting import wait_until

PYTHON = ("-v", "/usr:/usr:ro", "-v", "/usr/lib:/lib:ro", "-v", "/usr/lib64:/lib64:ro")
BESIDE, FAR = ("192.0.2.10", "2001:db8::10"), ("198.51.100.1", "2001:db8:1::1")  # the gateway is OUTSIDE
SERVE = """
import socket, sys, threading
def streams(server):
    while True:
        peer, who = server.accept()
        peer.sendall(who[0].removeprefix("::ffff:").encode())  # before the client says anything, as sshd(8) does
        peer.close()
def answer(address):
    server = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    server.bind((address, int(sys.argv[2])))
    while True:
        data, who = server.recvfrom(65536)
        server.sendto(data + b" " + who[0].encode(), who)
server = socket.create_server(("::", int(sys.argv[1])), family=socket.AF_INET6, dualstack_ipv6=True, backlog=200)
threading.Thread(target=streams, args=(server,)).start()
for address in sys.argv[3:]:
    threading.Thread(target=answer, args=(address,)).start()
print("up", flush=True)
"""
ASK = """
import socket, sys
kind, own, address, port, count = sys.argv[1:]
for number in range(int(count)):
    asker = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
    asker.settimeout(10)
    if own:
        asker.bind((own, 0))
    asker.connect((address, int(port)))
    if kind == "udp":
        asker.send(b"%d" % number)
    said = asker.recv(999).decode().split()
    assert kind == "tcp" or said.pop(0) == str(number)
    print(*said)
"""


@pytest.fixture(params=["pasta", "slirp4netns"])
def place(request: pytest.FixtureRequest, tun: None, busybox: Path) -> Iterator[Place]:
    made = Place(busybox, request.param)
    for address, other, length in zip(BESIDE, FAR, ("24", "64"), strict=True):
        made.outside.run("ip", "address", "add", f"{address}/{length}", "dev", "wire", *(("nodad",) if ":" in address else ()))
        made.outside.run("ip", "address", "add", other, "dev", "lo")
    yield made
    made.close()


def families(place: Place) -> tuple[int, ...]:
    """slirp4netns of Debian 12 has IPv4 alone for what goes out."""
    return (0, 1) if place.program == "pasta" else (0,)


@pytest.mark.stress
def test_out(place: Place) -> None:
    """To the gateway, to a machine beside it, and to one behind; they see the host's address."""
    count = scaled(20)
    server = place.outside.start("/usr/bin/python3", "-c", SERVE, "7000", "7001", *OUTSIDE, *BESIDE, *FAR)
    try:
        assert server.stdout and server.stdout.readline() == "up\n"
        place.user.pyrun(
            "run",
            "-d",
            "--rm",
            UNSIGNED,
            "--pod-name",
            "out",
            "--net",
            "default",
            *PYTHON,
            "example.com/busybox",
            "--exec",
            "/bin/sleep",
            "--",
            "1000",
        )
        for kind, port in (("tcp", "7000"), ("udp", "7001")):
            for family in families(place):
                for who in (OUTSIDE, BESIDE, FAR):
                    asked = ["exec", "out", "/usr/bin/python3", "-c", ASK, kind, "", who[family], port, str(count)]
                    assert place.user.pyrun(*asked).out.splitlines() == [HOST[family]] * count, (kind, who[family])
        with Server(place.host, 7100):
            closed = "for a in 127.0.0.1 10.0.2.2 192.0.2.1; do nc -w 3 $a 7100 2>/dev/null; done; true"
            assert place.user.pyrun("exec", "out", "/bin/sh", "-c", closed).out == "", "what the host has on its loopback stays there"
        place.user.pyrun("rm", "--force", "out")
        wait_until(lambda: place.left() == [])
    finally:
        server.kill()
        server.communicate()


@pytest.mark.stress
def test_in(place: Place) -> None:
    """From everywhere, the host's loopback included; nobody is taken for a program of the pod's loopback."""
    count = scaled(20)
    words = ["run", "-d", "--rm", UNSIGNED, "--pod-name", "in", "-p", "8080:80", "-p", "5300:53/udp", *PYTHON, "example.com/busybox"]
    place.user.pyrun(*words, "--exec", "/usr/bin/python3", "--", "-c", SERVE, "80", "53", "::")
    pid = json.loads(place.user.pyrun("status", "--format", "json", "in").out)
    pid = pid[0] if isinstance(pid, list) else pid
    wait_until(lambda: ":0035" in Path(f"/proc/{pid['pid']}/net/udp6").read_text())
    own = [HOST[0], HOST[1], f"::ffff:{HOST[0]}"] if place.program == "pasta" else ["10.0.2.100", "::ffff:10.0.2.100"]
    for kind, port in (("tcp", "8080"), ("udp", "5300")):
        for family in (0, 1):
            for who in (OUTSIDE, BESIDE, FAR):
                said = place.outside.run("/usr/bin/python3", "-c", ASK, kind, who[family], HOST[family], port, str(count)).splitlines()
                assert len(said) == count and set(said) <= set(own), (kind, who[family])
        for address in (*HOST, "127.0.0.1", "::1"):
            said = place.host.run("/usr/bin/python3", "-c", ASK, kind, "", address, port, str(count)).splitlines()
            assert len(said) == count and set(said) <= set(own), (kind, address)
    place.user.pyrun("rm", "--force", "in")
    wait_until(lambda: place.left() == [])


def test_who_is_asked_answers(place: Place) -> None:
    """Datagrams come back from the address that was asked, of several that the host has."""
    place.host.run("ip", "address", "add", "192.0.2.20/24", "dev", "wire")
    place.host.run("ip", "address", "add", "2001:db8::20/64", "dev", "wire", "nodad")
    words = ["run", "-d", "--rm", UNSIGNED, "--pod-name", "in", "-p", "5300:53/udp", *PYTHON, "example.com/busybox"]
    place.user.pyrun(*words, "--exec", "/usr/bin/python3", "--", "-c", SERVE, "80", "53", "::")
    wait_until(lambda: place.outside.run("/usr/bin/python3", "-c", ASK, "udp", "", HOST[0], "5300", "1", check=False) != "")
    for address in (*HOST, "192.0.2.20", "2001:db8::20"):
        assert len(place.outside.run("/usr/bin/python3", "-c", ASK, "udp", "", address, "5300", "5").splitlines()) == 5, address
    place.user.pyrun("rm", "--force", "in")
    wait_until(lambda: place.left() == [])
