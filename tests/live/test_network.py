"""Networks of pods with real traffic: pods, their host, and a second machine, all of them network namespaces of the test's own."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Pyrun, Signer
from machines import HOST, OUTSIDE, Machine, Server, join

SERVE = "while true; do echo {word} | nc -l -p {port}; done"


class World:
    """The host, with a state directory of its own, and the machine outside."""

    def __init__(self, pyrun: Pyrun, image: Path) -> None:
        self.outside, self.host = Machine(), Machine()
        join(self.outside, self.host)
        self.pyrun, self.image = pyrun, image
        pyrun.within = self.host.within

    def sh(self, script: str, *flags: str, code: int | None = 0) -> str:
        """What a script in a pod writes."""
        done = self.pyrun("run", *flags, self.image, "--exec", "/bin/sh", "--", "-c", script, code=code)
        return done.out if code == 0 else done.err

    def serve(self, name: str, *flags: str, port: int = 80, word: str = "") -> str:
        """A pod in the background that answers each who connects with a word, its name by default; the pod's UUID."""
        script = SERVE.format(word=word or name, port=port)
        words = ["run", "--detach", "--rm", "--pod-name", name, *flags, self.image, "--exec", "/bin/sh", "--", "-c", script]
        return self.pyrun(*words, code=0).out.strip()

    def stop(self, *names: str) -> None:
        self.pyrun("rm", "--force", *names, code=0)

    def left(self) -> list[str]:
        """What a pod could leave in the host: interfaces, leases, elements of maps and sets."""
        found = [f"link {name}" for name in self.host.pairs()]
        top = self.pyrun.root / "networks"
        found += [f"lease {path}" for path in top.rglob("*") if path.is_symlink() and not path.name.startswith("last")]
        found += [f"names {path}" for path in top.glob("*.hosts") if path.read_text()]
        for line in self.host.run("nft", "list", "maps").splitlines():
            if "elements" in line:
                found.append(line)
        return found

    def settled(self) -> list[str]:
        """The same, once what cleans up has had time to."""
        deadline = time.monotonic() + 10
        while (left := self.left()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return left

    def close(self) -> None:
        self.pyrun("gc", "--grace-period", "0")
        self.outside.close()
        self.host.close()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, probe_image: Path, busybox: Path, signer: Signer) -> Iterator[World]:
    pyrun = Pyrun(tmp_path_factory.mktemp("net") / "state", probe_image)
    pyrun("trust", "--yes", "--prefix", "example.com", signer.public, code=0)
    made = World(pyrun, busybox)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def nothing_stays(world: World) -> Iterator[None]:
    yield
    assert world.settled() == []


def get(machine: Machine, address: str, port: int = 80) -> str:
    """What a server says, asked from a machine; empty when there is none, or no way to it."""
    script = (
        "import socket,sys\n"
        "try:\n s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 3)\n print(s.recv(99).decode().strip())\n"
        "except OSError as error: print('', end='')"
    )
    for _ in range(20):  # a server in a shell is away for a moment after each answer
        if said := machine.run("/usr/bin/python3", "-c", script, address, str(port)).strip():
            return said
        time.sleep(0.1)
    return ""


def test_a_pod_reaches_the_world_with_the_hosts_address(world: World) -> None:
    with Server(world.outside, 7001):
        script = f"ip -o addr show eth0; ip route; nc {OUTSIDE[0]} 7001 </dev/null; nc {OUTSIDE[1]} 7001 </dev/null; cat /etc/hosts"
        seen = world.sh(script, "--net", "default", "--hostname", "web-1")
    assert "172.28.0." in seen and "/20" in seen and "default via 172.28.0.1" in seen
    assert HOST[0] in seen and HOST[1] in seen, "masqueraded, both families"
    assert "\tweb-1\n" in seen


def test_pods_find_each_other_by_name(world: World) -> None:
    world.serve("first", "--net", "default")
    world.serve("second", "--net", "default")
    for one, other in (("first", "second"), ("second", "first")):
        seen = world.pyrun("exec", one, "/bin/sh", "-c", f"for i in 1 2 3 4 5; do nc {other} 80 </dev/null && break; sleep 0.2; done")
        assert seen.out == other + "\n", repr(seen)
    world.stop("second")
    for _ in range(50):
        hosts = world.pyrun("exec", "first", "/bin/cat", "/etc/hosts", code=0).out
        if "second" not in hosts:
            break
        time.sleep(0.1)
    assert "second" not in hosts, "a name goes with its pod"
    world.stop("first")


def test_a_forwarded_port_is_reached_from_everywhere(world: World) -> None:
    world.serve("web", "-p", "8080:80")
    try:
        assert get(world.outside, HOST[0], 8080) == "web"
        assert get(world.outside, HOST[1], 8080) == "web"
        assert get(world.host, "127.0.0.1", 8080) == "web"
        assert get(world.host, HOST[0], 8080) == "web"
        own = f"for i in 1 2 3 4 5 6; do nc {HOST[0]} 8080 </dev/null && break; sleep 0.2; done"
        assert world.sh(own, "--net", "default") == "web\n", "from another pod"
        assert world.pyrun("exec", "web", "/bin/sh", "-c", own).out == "web\n", "from itself"
        clash = world.sh("true", "-p", "8080:80", code=125)
        assert "forward port 8080/tcp: it is forwarded to pod" in clash
    finally:
        world.stop("web")
    assert get(world.outside, HOST[0], 8080) == ""
