"""Networks of CNI plug-ins that the launcher has made, without Python (native/net_plugin.c)."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import COMMAND
from launched import launch, programs, traced
from machines import HOST
from netpods import KEPT, KEPT_BY_PYTHON, NATIVE, gone, script
from networld import SERVE, World, get
from plugged import BY_PYTHON, LOG, PORTMAP, logging, nothing_kept_of_plug_ins, prepare, record
from plugins import bridge, configure, leases, wait_empty


@pytest.fixture(autouse=True)
def nothing_stays(world: World) -> Iterator[None]:
    with nothing_kept_of_plug_ins(world):
        yield


@pytest.fixture
def alone(tmp_path: Path) -> Path:
    """The launcher beside a Python that cannot start."""
    launcher = Path(shutil.copy(COMMAND, tmp_path / "pyrun"))
    python = tmp_path / "python3"
    python.write_text("#!/bin/sh\necho Python >&2; exit 99\n")
    python.chmod(0o755)
    return launcher


def run_alone(world: World, launcher: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [*world.host.within, str(launcher), "run-prepared", *words]
    return subprocess.run(command, env=world.pyrun.environment(), capture_output=True, text=True, timeout=60)


def test_no_python_anywhere(world: World, alone: Path) -> None:
    """A bridge, addresses of both families, and ports by a plug-in; the pod's end and its removal are as ever."""
    configure(world, "apart", bridge(world, "cni8", "10.31.0.0/24", "fd00:31::/64"), PORTMAP, {"type": "firewall"}, {"type": "tuning"})
    uuid = prepare(world, "--pod-name", "web", "--net", "apart", "-p", "8180:80", *script(SERVE.format(word="alone", port=80)))
    done = run_alone(world, alone, "--detach", uuid)
    assert (done.returncode, done.stdout, done.stderr) == (0, uuid + "\n", "")
    assert get(world.outside, HOST[0], 8180) == "alone" and get(world.host, "10.31.0.2") == "alone"
    addresses = ["10.31.0.2/24", "fd00:31::2/64"]
    net = world.status("web")["networks"][0]
    assert (net["network"], net["addresses"]) == ("apart", addresses)
    shown = world.pyrun("exec", "web", "/bin/sh", "-c", "ip -o addr show eth0; ip route; ip -6 route; cat /etc/hosts", code=0).out
    assert all(address in shown for address in addresses) and net["mac"] in world.pyrun("exec", "web", "/bin/ip", "link", code=0).out
    assert "default via 10.31.0.1" in shown and "default via fd00:31::1" in shown
    assert "10.31.0.2\tpyrun-" in shown and "fd00:31::2\tpyrun-" in shown and "# network apart\n" in shown
    assert leases(world, "apart") == ["10.31.0.2"]
    result = record(world, uuid)["nets"][0]["result"]
    assert [one["address"] for one in result["ips"]] == addresses
    world.stop("web")
    assert wait_empty(world, "apart")
    assert uuid[:8] not in world.host.run("iptables-save") and "8180" not in world.host.run("iptables-save")


def test_it_writes_what_python_writes(world: World, tmp_path: Path) -> None:
    """All of `net`, but for the pod's own; and the same twice."""
    configure(
        world, "same", bridge(world, "cni8", "10.31.0.0/24", "fd00:31::/64"), {"type": "tuning", "sysctl": {"net.core.somaxconn": "99"}}
    )
    words = ("--net", "same:COLOUR=red", "-p", "8181:80", "-p", "8182:80/udp", *script("cat /proc/sys/net/core/somaxconn; exec sleep 1000"))
    seen = []
    for python in (True, False, False):
        uuid = prepare(world, *words)
        if python:
            (world.pyrun.root / "pods/prepared" / uuid / "net.script").unlink()
        said, became = launch(world.pyrun, tmp_path, "--detach", uuid)
        assert (said.returncode, became[:2]) == (0, BY_PYTHON if python else KEPT), said.stderr
        text = json.dumps(record(world, uuid), sort_keys=True)
        net = world.status(uuid)["networks"][0]
        for held in (uuid, uuid[:8], net["mac"], *(address.partition("/")[0] for address in net["addresses"])):
            text = text.replace(held, "")
        inside = [one for one in record(world, uuid)["nets"][0]["result"]["interfaces"] if one.get("sandbox")]
        outside = [one for one in record(world, uuid)["nets"][0]["result"]["interfaces"] if one["name"].startswith("veth")]
        for held in (inside[0]["sandbox"], outside[0]["name"], outside[0]["mac"]):
            text = text.replace(held, "")
        bridges = [one["mac"] for one in record(world, uuid)["nets"][0]["result"]["interfaces"] if one["name"] == "cni8"]
        seen.append(text.replace(bridges[0], ""))
        assert world.pyrun("network", "check", uuid, code=0).out == ""
        world.pyrun("rm", "--force", uuid, code=0)
        assert wait_empty(world, "same")
    assert seen[0] == seen[1] == seen[2]


def test_pyrun_forwards_where_no_plug_in_does(world: World, tmp_path: Path) -> None:
    """By whatever addresses come; a pod that was there learns its name."""
    world.serve("other", "--net", "default")
    for place, subnets in enumerate([("10.32.0.0/24",), ("fd00:32::/64",), ("fd00:33::/64", "10.33.0.0/24")]):
        configure(world, f"own{place}", bridge(world, f"cni{place}", *subnets))
        port = 8190 + place
        uuid = prepare(world, "--pod-name", "web", "--net", f"own{place}", "-p", f"{port}:80", *script(SERVE.format(word="here", port=80)))
        said, became = launch(world.pyrun, tmp_path, "--detach", uuid)
        assert (said.returncode, became) == (0, KEPT), said.stderr
        for machine, where in ((world.outside, HOST[0]), (world.outside, HOST[1])):
            there = any((":" in subnet) == (":" in where) for subnet in subnets)
            assert get(machine, where, port, tries=20 if there else 1) == ("here" if there else ""), (subnets, where)
        follower = prepare(world, "--net", f"own{place}", *script("cat /etc/hosts"))
        said, became = launch(world.pyrun, tmp_path, follower)
        assert became[:2] == KEPT and said.stdout.count("\tweb\n") == len(subnets)
        world.stop("web")
        assert wait_empty(world, f"own{place}")
    world.stop("other")


def test_those_who_were_there_learn_of_who_comes(world: World, tmp_path: Path) -> None:
    configure(world, "club", bridge(world, "cni3", "10.27.0.0/24"))
    world.serve("first", "--net", "club")
    uuid = prepare(world, "--pod-name", "later", "--net", "club", *script(SERVE.format(word="later", port=80)))
    said, became = launch(world.pyrun, tmp_path, "--detach", uuid)
    assert (said.returncode, became) == (0, KEPT), said.stderr
    ask = "for i in $(seq 50); do nc -w 2 later 80 </dev/null && break; sleep 0.2; done"
    assert world.pyrun("exec", "first", "/bin/sh", "-c", ask, code=0).out == "later\n"
    world.stop("first", "later")
    assert wait_empty(world, "club")


def test_beside_a_network_of_ours(world: World, tmp_path: Path) -> None:
    """Who is first has the default route, whether plug-ins make one or not."""
    configure(world, "out", bridge(world, "cni4", "10.34.0.0/24"))
    inward = bridge(world, "cni5", "10.35.0.0/24")
    inward["ipam"]["routes"] = []
    configure(world, "in", inward)
    world.sh("true", "--net", "default")
    for nets, gateway in (("out,default", "10.34.0.1"), ("in,default", "172."), ("default,out", "172."), ("in,out", "10.34.0.1")):
        uuid = prepare(world, "--net", nets, "-p", "8195:80", *script("ip route; ip -o addr"))
        said, became = launch(world.pyrun, tmp_path, uuid)
        assert (said.returncode, became[:2]) == (0, KEPT), said.stderr
        assert f"default via {gateway}" in said.stdout and "eth1" in said.stdout, nets
        gone(world)
        assert wait_empty(world, "in") and wait_empty(world, "out")


def test_many_networks_of_plug_ins(world: World, tmp_path: Path) -> None:
    """Of either family, ours among them: the same as Python makes, and the first address of each family is reached."""
    subnets = [("fd00:51::/64",), ("10.51.0.0/24",), ("10.52.0.0/24", "fd00:52::/64"), ("fd00:53::/64", "10.53.0.0/24")]
    for place, ranges in enumerate(subnets):
        configure(world, f"many{place}", bridge(world, f"cni{20 + place}", *ranges))
    world.sh("true", "--net", "default")
    nets = "many0,many1,default,many2,many3"
    seen = []
    for python in (True, False):
        serve = SERVE.format(word="far", port=80)
        uuid = prepare(world, "--pod-name", "wide", "--net", nets, "-p", "8197:80", *script(serve))
        if python:
            (world.pyrun.root / "pods/prepared" / uuid / "net.script").unlink()
        said, became = launch(world.pyrun, tmp_path, "--detach", uuid)
        assert (said.returncode, became[:2]) == (0, BY_PYTHON if python else KEPT), said.stderr
        assert get(world.outside, HOST[0], 8197) == get(world.outside, HOST[1], 8197) == "far"
        inside = world.pyrun("exec", "wide", "/bin/sh", "-c", "ip -o addr; ip route; ip -6 route; cat /etc/hosts", code=0).out
        made = record(world, uuid)
        shown = [(one["ifname"], len(one["addresses"]), one.get("defaults")) for one in made["nets"]]
        first = [made["nets"][place]["addresses"][0].partition("/")[0] for place in (0, 1)]
        forwards = [(*one[:3], one[3] in first, one[4]) for one in made["forwards"]]
        routes = sorted(line.split(" dev ")[0] for line in inside.splitlines() if line.startswith("default"))
        assert all(f": eth{place} " in inside for place in range(5)) and inside.count("\tpyrun-") == 1
        seen.append((shown, forwards, routes, sorted(made), [sorted(one) for one in made["nets"]]))
        world.stop("wide")
        gone(world)
        assert all(wait_empty(world, f"many{place}") for place in range(4))
    assert seen[0] == seen[1] and all(forward[3] for forward in seen[0][1]) and len(seen[0][1]) == 2


def test_a_port_that_no_address_can_be_reached_by(world: World, tmp_path: Path) -> None:
    """Asked for in a family that the plug-ins give no address of."""
    configure(world, "six", bridge(world, "cni20", "fd00:54::/64"))
    uuid = prepare(world, "--net", "six", "-p", f"{HOST[0]}:8198:80", *script("true"))
    said, _ = launch(world.pyrun, tmp_path, uuid)
    assert said.returncode == 125 and "the pod has no address of that family" in said.stderr
    assert wait_empty(world, "six") and world.settled() == []
    world.pyrun("rm", uuid, code=0)


def test_a_pod_that_is_run_again(world: World, tmp_path: Path) -> None:
    """`run` repeats it from its recipe, until the configuration changes."""
    path = configure(world, "again", bridge(world, "cni6", "10.36.0.0/24"))
    command = [*world.host.within, *traced(tmp_path), str(COMMAND), "run", "--net", "again", *script("ip -o addr show eth0")]
    for wanted in (BY_PYTHON, NATIVE, NATIVE):
        done = subprocess.run(command, env=world.pyrun.environment(), capture_output=True, text=True, timeout=60)
        assert (done.returncode, programs(tmp_path)[:2]) == (0, wanted) and "10.36.0." in done.stdout, done.stderr
        gone(world)
    path.write_text(path.read_text().replace("10.36", "10.37").replace("cni6", "cni7"))
    assert "10.37.0." in subprocess.run(command, env=world.pyrun.environment(), capture_output=True, text=True, timeout=60).stdout
    assert wait_empty(world, "again")


def test_a_service_that_is_run_again(world: World, tmp_path: Path) -> None:
    """In the background, by what the launcher kept of the one before."""
    configure(world, "kept", bridge(world, "cni12", "10.41.0.0/24"), PORTMAP)
    words = ("--detach", "--rm", "--pod-name", "svc", "--net", "kept", "-p", "8185:80", *script(SERVE.format(word="svc", port=80)))
    command = [*world.host.within, *traced(tmp_path), str(COMMAND), "run", *words]
    for wanted in (KEPT_BY_PYTHON, KEPT, KEPT):
        done = subprocess.run(command, env=world.pyrun.environment(), capture_output=True, text=True, timeout=60)
        assert (done.returncode, programs(tmp_path)) == (0, wanted), done.stderr
        assert get(world.outside, HOST[0], 8185) == "svc"
        world.stop("svc")
        gone(world)
        assert wait_empty(world, "kept") and "8185" not in world.host.run("iptables-save")


def test_many_at_once(world: World) -> None:
    """Each has an address of its own, and gives it back."""
    configure(world, "many", bridge(world, "cni11", "10.42.0.0/24"), {"type": "tuning"})
    uuids = [prepare(world, "--net", "many", *script("ip -o -4 addr show eth0")) for _ in range(8)]
    commands = [[*world.host.within, str(COMMAND), "run-prepared", uuid] for uuid in uuids]
    running = [subprocess.Popen(command, env=world.pyrun.environment(), stdout=subprocess.PIPE, text=True) for command in commands]
    said = [process.communicate(timeout=120)[0].split()[3] for process in running]
    assert [process.returncode for process in running] == [0] * 8 and len(set(said)) == 8
    gone(world)
    assert wait_empty(world, "many")
    world.pyrun("gc", "--grace-period", "0s", code=0)


@pytest.mark.parametrize("place", ["first", "last"])
def test_a_plug_in_that_fails(world: World, tmp_path: Path, place: str) -> None:
    """It is told in its own words, is asked once, and what the others had done is undone."""
    log = logging(world, 'cat >/dev/null; test $CNI_COMMAND = DEL || { echo \'{"code":11,"msg":"no more ports"}\'; exit 1; }')
    own = {"type": LOG}
    chain = [bridge(world, "cni8", "10.31.0.0/24"), PORTMAP]
    configure(world, "bad", *([own, *chain] if place == "first" else [*chain, own]))
    uuid = prepare(world, "--net", "bad", "-p", "8196:80", *script("true"))
    said, became = launch(world.pyrun, tmp_path, uuid)
    assert (said.returncode, became) == (125, ["pyrun"])
    assert said.stderr.startswith(f"pyrun: ADD of plug-in {LOG} for network bad: no more ports\nhint: ")
    assert log.read_text().split() == ["ADD", "DEL"]
    assert leases(world, "bad") == [] and world.settled() == [] and "8196" not in world.host.run("iptables-save")
    logging(world, "cat >/dev/null")
    said, became = launch(world.pyrun, tmp_path, uuid)
    assert (said.returncode, became[:2]) == (0, KEPT), "it stands prepared"
    assert wait_empty(world, "bad")


def test_it_fails_where_there_is_no_python(world: World, alone: Path) -> None:
    """It is said all the same, and nothing is left."""
    log = logging(world, "test $CNI_COMMAND = DEL || exit 3")
    configure(world, "bad", bridge(world, "cni8", "10.31.0.0/24"), {"type": LOG})
    uuid = prepare(world, "--net", "bad", *script("true"))
    done = run_alone(world, alone, uuid)
    assert (done.returncode, done.stdout) == (125, "")
    assert done.stderr.startswith(f"pyrun: ADD of plug-in {LOG} for network bad: exit status 3\nhint: ")
    assert log.read_text().split() == ["ADD", "DEL"] and leases(world, "bad") == [] and world.settled() == []
    assert not (world.pyrun.root / "pods/prepared" / uuid / "net").exists()
    world.pyrun("rm", uuid, code=0)


def test_a_plug_in_that_hangs(world: World, tmp_path: Path) -> None:
    """It ends, with all that it has started, when it had its minute, which strace makes shorter; and is told once."""
    mark = world.pyrun.root / "alive"
    log = logging(world, f"test $CNI_COMMAND = DEL || (while sleep 0.1; do touch {mark}; done)")
    configure(world, "slow", {"type": LOG}, bridge(world, "cni8", "10.31.0.0/24"))
    uuid = prepare(world, "--net", "slow", *script("true"))
    inject = ["strace", "-o", "/dev/null", "-e", "trace=ppoll", "-e", "inject=ppoll:retval=0:delay_enter=300000:when=1"]
    command = [*world.host.within, *inject, str(COMMAND), "run-prepared", uuid]
    done = subprocess.run(command, env=world.pyrun.environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 125
    assert done.stderr.startswith(f"pyrun: ADD of plug-in {LOG} for network slow: no answer within 60 seconds\nhint: ")
    assert log.read_text().split() == ["ADD", "DEL"] and world.settled() == []
    assert mark.exists()
    mark.unlink()
    time.sleep(0.5)
    assert not mark.exists(), "what it had started is gone"
    world.pyrun("rm", uuid, code=0)
