"""Networks of pods whose start needs no Python: the launcher makes what Python made for another pod (native/net_script.c)."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import COMMAND
from launched import launch, programs, traced
from machines import HOST, OUTSIDE, Server
from netpods import HELPER, KEPT, KEPT_BY_PYTHON, NATIVE, PYTHON, SHOW, address, by_python, gone, script, shown, swept
from networld import World, asking, get
from waiting import wait_until

Again = Callable[..., tuple[subprocess.CompletedProcess[str], list[str]]]


@pytest.fixture(autouse=True)
def nothing_stays(world: World) -> Iterator[None]:
    world.pyrun("fetch", world.image, code=0)
    yield
    assert world.settled() == []


@pytest.fixture
def again(world: World, tmp_path: Path) -> Again:
    """Runs a command line; what it said, and what the process became until it was the supervisor's or the keeper's program."""

    def call(*words: str, **more: Any) -> tuple[subprocess.CompletedProcess[str], list[str]]:
        wait_until(lambda: swept(world))
        command = [*world.host.within, *traced(tmp_path), str(COMMAND), "run", *words]
        done = subprocess.run(command, env=world.pyrun.environment(), capture_output=True, text=True, timeout=120, **more)
        became = programs(tmp_path)
        last = next((place for place, name in enumerate(became) if name in (HELPER, "keeper")), len(became))
        return done, became[: last + 1]

    return call


def test_a_pod_in_the_foreground(world: World, again: Again) -> None:
    """Addresses, routes, MAC and names as Python makes them, and each pod has its own."""
    seen = []
    for wanted in (PYTHON, NATIVE, NATIVE):
        done, became = again("--net", "default", "-e", "A=B", *script(SHOW))
        assert (done.returncode, done.stderr, became) == (0, "", wanted)
        seen.append(shown(done.stdout))
        gone(world)
    assert seen[0][1] == seen[1][1] == seen[2][1]
    assert len({tuple(addresses) for addresses, _ in seen}) == 3
    assert "/20" in seen[1][1] and f"default via {address(world, 1)}" in seen[1][1] and "localhost" in seen[1][1]


def test_it_reaches_the_world(world: World, again: Again) -> None:
    with Server(world.outside, 7001):
        text = f"nc {OUTSIDE[0]} 7001 </dev/null; nc {OUTSIDE[1]} 7001 </dev/null"
        for wanted in (PYTHON, NATIVE):
            done, became = again("--net", "default", *script(text))
            assert (became, done.stdout.split()) == (wanted, list(HOST)), "masqueraded, both families"


def test_forwarded_ports_and_names(world: World, again: Again) -> None:
    """A service: reached from outside, from the host by each of its addresses, from another pod by its name, and from itself."""
    serve = script("while true; do hostname | nc -l -p 80; done")
    words = ("--detach", "--rm", "--pod-name", "web", "--hostname", "web", "-p", "8080:80", *serve)
    world.serve("other", "--net", "default")
    for wanted in (KEPT_BY_PYTHON, KEPT):
        done, became = again(*words)
        assert (done.returncode, became) == (0, wanted), done.stderr
        for machine, where in ((world.outside, HOST[0]), (world.outside, HOST[1]), (world.host, "127.0.0.1"), (world.host, "::1")):
            assert get(machine, where, 8080) == "web", where
        assert world.pyrun("exec", "other", "/bin/sh", "-c", asking("web"), code=0).out == "web\n"
        assert world.pyrun("exec", "web", "/bin/sh", "-c", asking("other"), code=0).out == "other\n"
        assert world.pyrun("exec", "web", "/bin/sh", "-c", asking(HOST[0], 8080), code=0).out == "web\n", "from itself"
        hosts = world.pyrun("exec", "web", "/bin/cat", "/etc/hosts", code=0).out
        assert "\tother\n" in hosts.partition("# network default\n")[2] and "\tweb" not in hosts.partition("# network default\n")[2]
        assert world.status("web")["networks"][0]["addresses"] and world.pyrun("network", "check", "web", code=0)
        clash, became = again("-p", "8080:80", *script("true"))
        assert clash.returncode == 125 and "forward port 8080/tcp: it is forwarded to pod" in clash.stderr
        world.stop("web")
        wait_until(lambda: "web" not in world.pyrun("exec", "other", "/bin/cat", "/etc/hosts", code=0).out)
    world.stop("other")


def test_a_port_that_a_program_has(world: World, again: Again) -> None:
    """Python says who refuses, and nothing is left of the launcher's try."""
    words = ("-p", "8081:80", *script("echo here"))
    assert [again(*words)[1] for _ in range(2)][1] == NATIVE
    gone(world)
    with Server(world.host, 8081):
        done, became = again(*words)
        assert done.returncode == 125 and "a program of the host uses it" in done.stderr and became == ["pyrun", "python3"]
        assert world.settled() == []
    done, became = again(*words)
    assert (done.stdout, became) == ("here\n", NATIVE)


def test_a_prepared_pod(world: World, tmp_path: Path) -> None:
    """With ports, on two networks, kept from the host: one command, and no Python."""
    world.pyrun("network", "create", "--kind", "ptp", "line", code=0)
    world.sh("true", "--net", "default,line")  # the first one makes bridge and rules
    gone(world)
    words = ("--net", "default,line", "--net-isolate", "-p", "127.0.0.1:9000-9001:80-81/tcp", "-p", "9005:85/udp")
    text = f"ip -o addr show eth1; nc -w 1 {HOST[0]} 7002 </dev/null; while true; do echo here | nc -l -p 81; done"
    uuid = world.pyrun("prepare", "--pod-name", "p", *words, *script(text), code=0).out.strip()
    with Server(world.host, 7002):
        said, became = launch(world.pyrun, tmp_path, "--detach", uuid)
        assert (said.returncode, became) == (0, KEPT), said.stderr
        assert get(world.host, "127.0.0.1", 9001) == "here"
        log = world.pyrun("logs", "p", code=0).out
        assert "/32" in log and HOST[0] not in log, "its own line, and the host does not answer it"
    rules = world.host.run("nft", "list", "ruleset")
    for made in world.status("p")["networks"]:
        assert all(address.partition("/")[0] in rules for address in made["addresses"])
    world.stop("p")
    world.pyrun("network", "rm", "line", code=0)


def said_at_last(world: World, uuid: str, word: str) -> str:
    wait_until(lambda: word in world.pyrun("logs", uuid, code=0).out)
    return world.pyrun("logs", uuid, code=0).out


def test_the_first_pod_of_a_network(world: World, tmp_path: Path) -> None:
    """`prepare` makes what its pods have in common; of IPv6 alone, where the MAC is random, with the host kept off."""
    world.pyrun("network", "create", "--subnet", "fd00:77::/64", "six", code=0)
    words = ("--net", "six", "--net-isolate", *script("cat /sys/class/net/eth0/address; ip -o -6 addr show eth0; exec sleep 1000"))
    uuids = [world.pyrun("prepare", *words, code=0).out.strip() for _ in range(2)]
    seen = set()
    for place, uuid in enumerate(uuids):
        said, became = launch(world.pyrun, tmp_path, "--detach", uuid)
        assert (said.returncode, became) == (0, KEPT), said.stderr
        log = said_at_last(world, uuid, "fe80")
        local = next(word.partition("/")[0] for word in log.split() if word.startswith("fe80"))
        assert f"fd00:77::{place + 2}/64" in log and log.startswith("06:71:")
        assert local in world.host.run("nft", "list", "sets")
        seen |= {log.split()[0], local}
    assert len(seen) == 4
    world.pyrun("rm", "--force", *uuids, code=0)
    world.pyrun("network", "rm", "six", code=0)


def test_a_wanted_address_is_had_or_refused(world: World, tmp_path: Path) -> None:
    world.sh("true", "--net", "default")
    wanted = address(world, 99)
    words = ("prepare", "--net", f"default:ip={wanted}", *script("exec sleep 1000"))
    first, second = (world.pyrun(*words, code=0).out.strip() for _ in range(2))
    said, became = launch(world.pyrun, tmp_path, "--detach", first)
    assert (said.returncode, became) == (0, KEPT), said.stderr
    assert world.status(first)["networks"][0]["addresses"][0].startswith(wanted + "/")
    said, became = launch(world.pyrun, tmp_path, "--detach", second)
    assert said.returncode == 125 and f"{wanted} is pod {first}'s" in said.stderr and became == ["pyrun"]
    assert said.stderr == by_python(world, second).stderr
    assert (world.pyrun.root / "pods/prepared" / second).is_dir(), "it can be started later"
    world.pyrun("rm", "--force", first, second, code=0)


def test_many_at_once_have_different_addresses(world: World, again: Again) -> None:
    """Each makes its own, one after the other where that has to be."""
    words = ("--net", "default", *script(SHOW))
    assert [again(*words)[1] for _ in range(2)][1] == NATIVE
    command = [*world.host.within, str(COMMAND), "run", *words]
    running = [
        subprocess.Popen(command, env=world.pyrun.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(16)
    ]
    said = [process.communicate(timeout=120) for process in running]
    assert {process.returncode for process in running} == {0}, said
    assert len({tuple(shown(out)[0][:2]) for out, _ in said}) == 16


@pytest.mark.parametrize("call", ["symlinkat", "renameat", "setns", "write", "execveat"])
def test_killed_at_every_step(world: World, again: Again, call: str) -> None:
    """By SIGKILL before that system call, the first time and later ones: gc takes away whatever there was by then."""
    words = ("-p", "8082:80", *script("true"))
    assert [again(*words)[1] for _ in range(2)][1] == NATIVE
    gone(world)
    for count in (1, 2, 3, 6) if call != "setns" else (1,):
        inject = ["strace", "-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={count}"]
        command = [*world.host.within, *inject, str(COMMAND), "run", *words]
        subprocess.run(command, env=world.pyrun.environment(), capture_output=True, timeout=120)
        world.pyrun("gc", "--grace-period", "0s", code=0)
        assert world.settled() == [], (call, count)
        for path in (world.pyrun.root / "pods/preparing").iterdir():
            shutil.rmtree(path)  # half made, which somebody could be at: gc waits a minute, and the launcher for gc
    done, became = again(*words)
    assert (done.returncode, became) == (0, NATIVE), done.stderr


@pytest.mark.parametrize(
    ("call", "counts"),
    [("symlinkat", 5), ("renameat", 6), ("unshare", 1), ("pipe2", 1), ("recvfrom", 14), ("setsockopt", 3), ("fchmod", 1)],
)
def test_refused_at_every_step(world: World, again: Again, call: str, counts: int) -> None:
    """What the kernel refuses to the launcher is undone, and Python makes the pod instead."""
    words = ("-p", "8083:80", *script("echo here"))
    assert [again(*words)[1] for _ in range(2)][1] == NATIVE
    for count in range(1, counts + 1):
        gone(world)
        inject = ["strace", "-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={call}:error=ENOSPC:when={count}"]
        command = [*world.host.within, *inject, str(COMMAND), "run", *words]
        done = subprocess.run(command, env=world.pyrun.environment(), capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stdout, done.stderr) == (0, "here\n", ""), (call, count)
    gone(world)
    assert not list((world.pyrun.root / "pods/running").iterdir())


@pytest.mark.parametrize("call", ["symlinkat", "renameat", "write"])
def test_a_prepared_pod_that_was_killed_at_its_start(world: World, tmp_path: Path, call: str) -> None:
    """It stands prepared, and starts the next time, by the launcher, which takes back what was there already."""
    world.sh("true", "--net", "default")
    for count in (1, 2, 3, 5, 8):
        uuid = world.pyrun("prepare", "-p", "8084:80", *script("echo here"), code=0).out.strip()
        inject = ["strace", "-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={count}"]
        command = [*world.host.within, *inject, str(COMMAND), "run-prepared", uuid]
        done = subprocess.run(command, env=world.pyrun.environment(), capture_output=True, text=True, timeout=120)
        if (world.pyrun.root / "pods/prepared" / uuid).is_dir():
            assert done.returncode != 0
            said, became = launch(world.pyrun, tmp_path, uuid)
            assert (said.returncode, said.stdout, became[:2]) == (0, "here\n", KEPT), (call, count, said.stderr)
        world.pyrun("rm", "--force", uuid)
        world.pyrun("gc", "--grace-period", "0s", code=0)
        assert world.settled() == [], (call, count)


@pytest.mark.parametrize("fault", ["recvfrom:error=ENOBUFS:when=3", "fchmod:error=ENOSPC:when=1"])
def test_a_service_that_is_refused(world: World, again: Again, fault: str) -> None:
    """Before others were told of the pod, and after: Python makes another under the same name, and nothing is left of the first."""
    words = ("--detach", "--rm", "--pod-name", "svc", "-p", "8085:80", *script("exec sleep 1000"))
    for _ in range(2):
        _, became = again(*words)
        world.stop("svc")
        gone(world)
    assert became == KEPT
    inject = ["strace", "-o", "/dev/null", "-e", f"trace={fault.partition(':')[0]}", "-e", f"inject={fault}"]
    command = [*world.host.within, *inject, str(COMMAND), "run", *words]
    done = subprocess.run(command, env=world.pyrun.environment(), capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    names = (world.pyrun.root / "networks/default.hosts").read_text().splitlines()
    assert names and all(line.endswith(f"\tsvc # {done.stdout.strip()}") for line in names)
    assert [path.name for path in (world.pyrun.root / "pods/running").iterdir()] == [done.stdout.strip()]
    world.stop("svc")
