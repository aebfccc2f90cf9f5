"""The life of networks: restarts, several apps, the library, many pods at once, and what crashes leave."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import COMMAND, TOP
from machines import HOST, OUTSIDE, Machine, Server
from networld import World, get
from scale import SCALE
from waiting import wait_until


@pytest.fixture(autouse=True)
def nothing_stays(world: World) -> Iterator[None]:
    yield
    assert world.settled() == []


def addresses(world: World, name: str) -> list[str]:
    return [address for net in world.status(name)["networks"] for address in net["addresses"]]


def test_a_restart_keeps_the_network_and_restarting_makes_it_anew(world: World) -> None:
    script = "test -e /again || { touch /again; exit 1; }; while true; do echo back | nc -l -p 80; done"
    words = ["run", "-d", "--pod-name", "again", "--restart", "on-failure", "-p", "9400:80", world.image, "--exec", "/bin/sh", "--", "-c"]
    world.pyrun(*words, script, code=0)
    wait_until(lambda: world.status("again").get("restarts") == 1 and world.status("again")["state"] == "running")
    before = addresses(world, "again")
    assert len(before) == 2 and get(world.outside, HOST[0], 9400) == "back"
    world.pyrun("restart", "again", "--timeout", "1", code=0)
    assert len(addresses(world, "again")) == 2
    assert get(world.outside, HOST[0], 9400) == "back"
    world.pyrun("stop", "again", "--timeout", "1", code=0)
    assert world.settled() == [], "a pod that is kept holds no address"
    world.stop("again")


def test_prepared_pods_get_their_network_when_they_run(world: World) -> None:
    with Server(world.outside, 7101):
        ask = f"nc {OUTSIDE[0]} 7101 </dev/null"
        words = [world.image, "--exec", "/bin/sh", "--", "-c", ask]
        uuid = world.pyrun("prepare", "--rm", "--net", "default", *words, code=0).out.strip()
        assert world.left() == []
        assert world.pyrun("run-prepared", uuid, code=0).out.strip() == HOST[0]
        uuid = world.pyrun("prepare", "--rm", "--net", "default", *words, code=0).out.strip()
        world.pyrun("run-prepared", "--detach", uuid, code=0)
    assert "there is no such network" in world.pyrun("prepare", "--rm", "--net", "nowhere", *words, code=125).err


def test_apps_of_a_pod_share_its_network(world: World) -> None:
    serve = ["--exec", "/bin/sh", "--name", "server", "--", "-c", "while true; do echo shared | nc -l -p 80; done"]
    ask = "for i in $(seq 50); do nc -w 2 127.0.0.1 80 </dev/null && break; sleep 0.2; done; ip -o addr show eth0; cat /etc/hosts"
    client = [world.image, "--exec", "/bin/sh", "--name", "client", "--", "-c", ask]
    pod = ("--net", "default", "--hostname", "both", "--exit-policy", "main-app")
    done = world.pyrun("run", *pod, *client, "---", world.image, *serve, code=0)
    assert "shared" in done.out and "172.28.0." in done.out and "\tboth" in done.out
    world.pyrun(
        "run", "-d", "--rm", "--pod-name", "duo", "--exit-policy", "main-app", "-p", "9500:80", *client, "---", world.image, *serve, code=0
    )
    wait_until(lambda: world.pyrun("status", "duo").code != 0)


LIBRARY = """
import sys, pyrun
runtime = pyrun.Runtime(sys.argv[1])
ask = ["-c", "nc " + sys.argv[3] + " 7102 </dev/null"]
print(runtime.run(sys.argv[2], ask, exec="/bin/sh", capture_output=True, net="default", port=["9600:80"]).stdout.decode().strip())
runtime.settle()
try:
    runtime.run(sys.argv[2], exec="/bin/true", net=["nowhere"])
except pyrun.ConfigError as error:
    print(error)
"""


def test_the_library(world: World) -> None:
    with Server(world.outside, 7102):
        said = world.host.run(str(TOP / ".venv/bin/python"), "-c", LIBRARY, str(world.pyrun.root), "example.com/busybox", OUTSIDE[0])
    assert said.splitlines() == [HOST[0], "join network nowhere: there is no such network"]


def test_names_and_servers(world: World) -> None:
    flags = ("--dns", "192.0.2.53", "--dns-search", "corp.example", "--dns-opt", "ndots:2", "--hosts-entry", "192.0.2.9=db")
    seen = world.sh("cat /etc/resolv.conf /etc/hosts", "--net", "default", *flags).splitlines()
    assert seen[:3] == ["nameserver 192.0.2.53", "search corp.example", "options ndots:2"]
    assert "192.0.2.9\tdb" in seen
    alone = world.sh("cat /etc/resolv.conf /etc/hosts", *flags).splitlines()
    assert alone[:3] == seen[:3] and "192.0.2.9\tdb" in alone, "also without a network"
    assert world.sh("cat /etc/hosts", "--hosts-entry", "host") == Path("/etc/hosts").read_text()
    assert world.sh("test -s /etc/resolv.conf || echo none", "--net", "default", "--dns", "none").strip() == "none"


def ask(machine: Machine, servers: list[tuple[str, int]]) -> list[str]:
    """What each says; asked again where one is away for a moment after an answer."""
    script = """
import json, socket, sys, time
def answer(server):
    for _ in range(300):
        try:
            with socket.create_connection(server, 5) as peer:
                if said := peer.recv(99).decode().strip():
                    return said
        except OSError:
            pass
        time.sleep(0.1)
print(json.dumps([answer(tuple(server)) for server in json.load(sys.stdin)]))
"""
    found: list[str] = json.loads(machine.run("/usr/bin/python3", "-c", script, input=json.dumps(servers)))
    return found


def test_many_at_once(world: World) -> None:
    """A hundred that run together, begun by ten at a time: each has an address of its own, is reached by it and by its port."""
    count, said = 100, []
    world.sh("true", "--net", "default")

    def begin(numbers: range) -> None:
        for number in numbers:
            said.append(world.serve(f"many-{number}", "-p", f"{20000 + number}:80"))

    try:
        beginning = [threading.Thread(target=begin, args=(range(at, count, 10),)) for at in range(10)]
        for thread in beginning:
            thread.start()
        for thread in beginning:
            thread.join()
        assert len(set(said)) == count
        members = json.loads(world.pyrun("network", "show", "default", "--format", "json", code=0).out)["members"]
        assert len(members) == count == len({address for one in members for address in one["addresses"]}) / 2
        inside = [(one["addresses"][0].partition("/")[0], 80) for one in members]
        assert ask(world.host, inside) == [one["names"][0] for one in members]
        names = [f"many-{number}" for number in range(count)]
        assert ask(world.outside, [(HOST[number % 2], 20000 + number) for number in range(count)]) == names
        assert ask(world.host, [("::1", 20000 + number) for number in range(count)]) == names
        assert len(world.relays()) == count == len(world.host.pairs())
    finally:
        world.stop(*said)
    assert world.settled() == []


@pytest.mark.stress
def test_cycles_leave_nothing(world: World) -> None:
    """Made and taken back again and again, with a port: zero links, rules and leases are left, and no growth of rules."""
    world.sh("true", "-p", "9700:80")
    assert world.settled() == []
    before = world.host.rules()
    for _ in range(20 if SCALE == 1 else 500):
        world.sh("true", "-p", "9700:80")
    assert world.settled() == []
    assert world.host.rules() == before


def crash(world: World, call: str, number: int, *flags: str) -> int:
    """Run a pod, which Python makes, whose pyrun is killed by its `number`th call of that name; the exit code."""
    shutil.rmtree(world.pyrun.root / "cache/run", ignore_errors=True)  # what the launcher does by itself: test_network_again
    inject = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}", "-e", "signal=none"]
    inject += ["-e", f"inject={call}:signal=KILL:when={number}"]
    words = [*world.host.within, *inject, str(COMMAND), "run", *flags, str(world.image), "--exec", "/bin/true"]
    done = subprocess.run(words, env=world.pyrun.environment(), capture_output=True, timeout=60)
    return done.returncode


@pytest.mark.parametrize("call", ["sendto", "symlink", "renameat,rename", "wait4", "openat"])
def test_gc_finds_what_a_kill_leaves_at_every_step(world: World, call: str) -> None:
    """Of openat only a sample: its first hundred are imports."""
    number, step, killed = 1, 23 if call == "openat" else 1, 0
    while crash(world, call, number, "--net", "default", "-p", "9800:80") in (137, -9):
        killed += 1
        number += step
        assert killed < 60
        if killed % 4 == 0:  # what is left over is no hindrance
            world.sh("true", "--net", "default", "-p", "9800:80")
        else:
            world.pyrun("gc", code=0)
            assert world.settled() == [], f"{call} {number}"
    assert killed, "it is the right call"


def test_gc_takes_back_what_a_killed_supervisor_had(world: World) -> None:
    uuid = world.serve("dead", "-p", "9900:80", "--net", "default")
    run = json.loads((world.pyrun.root / "pods" / "running" / uuid / "run").read_text())
    os.kill(run["keeper"], 9)
    os.kill(run["supervisor"], 9)
    wait_until(lambda: world.host.pairs() == [])
    assert world.left() != [], "addresses, ports and rules outlive a kill"
    world.sh("true", "-p", "9900:80")  # a port of a dead pod is free
    assert [line for line in world.pyrun("gc", code=0).out.splitlines() if uuid in line] or world.left() == []
    assert world.left() == []


@contextlib.contextmanager
def ended(world: World, name: str, hold: Path) -> Iterator[None]:
    """A pod that has ended, and whose cleaner takes its time until the end of the block."""
    os.mkfifo(hold)
    gate = os.open(hold, os.O_RDWR)
    path = world.pyrun.root / "pods" / "running" / world.status(name)["uuid"] / "cleaner"
    path.write_bytes(b'/bin/sh\0-c\0read x <%s; exec "$@"\0sh\0' % bytes(hold) + path.read_bytes())
    try:
        world.stop(name)
        yield
    finally:
        os.write(gate, b"\n")
        wait_until(lambda: select.select([gate], [], [], 0)[0] == [])
        os.close(gate)


def test_what_is_taken_over_from_the_dead_has_no_rules_of_theirs(world: World, tmp_path: Path) -> None:
    """Whether the start that takes it over fails or not, and what they had is taken back afterwards."""
    world.serve("first", "-p", "9901:80", "--net-isolate")
    address, gateway = addresses(world, "first")[0].partition("/")[0], world.status("first")["networks"][0]["gateways"][0]
    with ended(world, "first", tmp_path / "first"):
        assert "9901" in world.host.rules()
        world.sh("true", "-p", "127.0.0.1:9901:80", "-p", "[::1]:9902:80/sctp", code=125)
        assert "9901" not in world.host.rules()
        with Server(world.host, 7104):
            assert world.sh(f"nc {gateway} 7104 </dev/null", "--net", f"default:ip={address}").strip() == address
    assert world.settled() == []
    world.serve("second", "-p", "9901:80", "--net-isolate")
    with ended(world, "second", tmp_path / "second"):
        world.serve("heir", "-p", "9901:80")
    try:
        wait_until(lambda: "fe80" not in world.host.rules())
        assert get(world.host, "127.0.0.1", 9901) == "heir"
    finally:
        world.stop("heir")


def test_rules_that_somebody_flushed_come_back(world: World) -> None:
    world.serve("kept", "-p", "9950:80")
    try:
        world.host.run("nft", "flush", "ruleset")
        assert get(world.outside, HOST[0], 9950, tries=1) == ""
        said = world.pyrun("network", "check", "kept", code=1).out
        assert said.endswith(" port 9950/tcp: its rule is gone: `pyrun gc` makes it anew\n") and said.count("\n") == 1
        world.sh("true", "--net", "default")
        assert get(world.outside, HOST[0], 9950) == "kept"
    finally:
        world.stop("kept")


def test_after_a_reboot(world: World) -> None:
    """The host's links and rules are gone, the state directory says that pods were running."""
    world.serve("old", "-p", "9960:80", "--net", "default")
    run = json.loads((world.pyrun.root / "pods" / "running" / world.status("old")["uuid"] / "run").read_text())
    os.kill(run["keeper"], 9)
    wait_until(lambda: world.host.pairs() == [])
    for link in world.host.links():
        if link["ifname"].startswith("pyrun"):
            world.host.run("ip", "link", "del", link["ifname"])
    world.host.run("nft", "flush", "ruleset")
    with Server(world.outside, 7103):
        assert world.sh(f"nc {OUTSIDE[0]} 7103 </dev/null", "-p", "9960:80").strip() == HOST[0]
    world.pyrun("gc", code=0)


def test_a_check_finds_what_is_gone(world: World) -> None:
    world.serve("checked", "--net", "default")
    try:
        assert world.pyrun("network", "check", "checked", code=0).out == ""
        pid = str(world.status("checked")["pid"])
        address = addresses(world, "checked")[0]
        world.host.run("nsenter", f"--net=/proc/{pid}/ns/net", "ip", "addr", "del", address, "dev", "eth0")
        assert f"network default: address {address} is gone" in world.pyrun("network", "check", "checked", code=1).out
        shown = json.loads(world.pyrun("network", "show", "default", "--format", "json", code=0).out)
        assert [one["names"] for one in shown["members"]] == [["checked"]] and shown["up"] is True
    finally:
        world.stop("checked")


def test_plain_runs_load_nothing_of_networks(world: World) -> None:
    code = "import sys; sys.argv[0] = 'pyrun'; from pyrun.pod.options import Options; o = Options('/x'); o.net = ['host']; o.network; "
    code += "print([name for name in sys.modules if name.startswith('pyrun.net')])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_forwarding_where_bridges_do_not_filter(world: World) -> None:
    """As on a host without br_netfilter, where a pod's own port is reached by way of the host."""
    names = ("bridge-nf-call-iptables", "bridge-nf-call-ip6tables")
    set_to = "for name in {}; do test ! -e /proc/sys/net/bridge/$name || echo {} >/proc/sys/net/bridge/$name; done"
    world.host.run("sh", "-c", set_to.format(" ".join(names), 0))
    world.serve("routed", "-p", "9980:80")
    try:
        assert get(world.outside, HOST[0], 9980) == get(world.outside, HOST[1], 9980) == get(world.host, "127.0.0.1", 9980) == "routed"
        ask = f"for i in $(seq 50); do nc -w 3 {HOST[0]} 9980 </dev/null && break; sleep 0.2; done"
        assert world.sh(ask, "--net", "default") == "routed\n"
        assert world.pyrun("exec", "routed", "/bin/sh", "-c", ask).out == "routed\n"
    finally:
        world.stop("routed")
        world.host.run("sh", "-c", set_to.format(" ".join(names), 1))


def test_without_nftables(world: World) -> None:
    """Where rules have to be made, that is; what is added to them and taken away goes without."""
    world.host.run("nft", "flush", "ruleset")
    hidden = 'mount --bind /dev/null $(readlink -f /usr/lib/*/libnftables.so.1) && exec "$@"'
    world.pyrun.within = [*world.host.within, "unshare", "--mount", "sh", "-c", hidden, "sh"]
    try:
        said = world.sh("true", "-p", "9990:80", code=125)
    finally:
        world.pyrun.within = world.host.within
    assert said.startswith("pyrun: set up rules of the network: libnftables.so.1 is not installed\nhint: install nftables ")


def test_two_who_start_one_pod_at_once(world: World) -> None:
    """Between the network and the keeper nobody holds the pod's lock; who comes then makes no second network, and ends none."""
    words = [world.image, "--exec", "/bin/sh", "--", "-c", "ip -o -4 addr show eth0 | wc -l"]
    uuid = world.pyrun("prepare", "--net", "default", "-p", "9401:80", *words, code=0).out.strip()
    code = f"""
import os, subprocess, sys
from pyrun.pod import again, network, state
pods, uuid = state.Pods(sys.argv[1]), sys.argv[2]
made = network.take_network(pods, uuid)
record = open(f"{{pods.path}}/prepared/{{uuid}}/net").read()
for more in ([], ["--detach"]):
    done = subprocess.run(["{COMMAND}", "--root", pods.root, "run-prepared", *more, uuid], capture_output=True, text=True)
    print(done.returncode, "somebody else is starting" in done.stderr)
print(open(f"{{pods.path}}/prepared/{{uuid}}/net").read() == record)
again._give_back(pods, uuid, made)
print(os.path.exists(f"{{pods.path}}/prepared/{{uuid}}/net"))
"""
    said = world.host.run(sys.executable, "-c", code, str(world.pyrun.root), uuid)
    assert said.split("\n")[:4] == ["125 True", "125 True", "True", "False"]
    assert world.pyrun("run-prepared", uuid, code=0).out == "1\n"
    world.pyrun("restart", uuid, code=0)
    world.pyrun("rm", "--force", uuid, code=0)


def test_a_removal_waits_for_who_takes_the_network_back(world: World) -> None:
    """Whether the pod has just ended, is just ending, or its cleaner takes its time."""
    words = ["run", "-d", "-p", "9402:80", world.image, "--exec", "/bin/sh", "--", "-c"]
    for number in range(12):
        uuid = world.pyrun(*words, f"sleep 0.{number % 4}", code=0).out.strip()
        if number % 3:
            world.pyrun("wait", uuid, code=0)
        world.pyrun("rm", "--force", uuid, code=0)
        assert world.pyrun("status", uuid).code != 0
    uuid = world.pyrun(*words, "true", code=0).out.strip()
    world.pyrun("wait", uuid, code=0)
    assert world.settled() == []
    with open_locked(world.pyrun.root / "pods" / "exited" / uuid) as fd:
        letting_go = threading.Timer(1.5, fcntl.flock, (fd, fcntl.LOCK_UN))
        letting_go.start()
        world.pyrun("rm", uuid, code=0)
        letting_go.join()


@contextlib.contextmanager
def open_locked(path: Path) -> Iterator[int]:
    """As a cleaner has it."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield fd
    finally:
        os.close(fd)
