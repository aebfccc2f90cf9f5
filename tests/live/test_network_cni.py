"""Networks of CNI configurations: Debian's plug-ins, and scripted ones that fail or tell what they were asked."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from machines import HOST
from networld import World, get
from plugins import OWN, bridge, configure, leases, opt, scripted, wait_empty
from waiting import gone, wait_until


@pytest.fixture(autouse=True)
def nothing_stays(world: World) -> Iterator[None]:
    with opt():
        yield
    assert world.settled() == []


def test_debians_bridge(world: World) -> None:
    configure(world, "web", bridge(world, "cni0", "10.22.0.0/24"))
    world.serve("one", "--net", "web:mac=06:00:00:00:00:22", "-p", "9970:80")
    try:
        net = world.status("one")["networks"][0]
        assert (net["network"], net["addresses"], net["mac"]) == ("web", ["10.22.0.2/24"], "06:00:00:00:00:22")
        assert leases(world, "web") == ["10.22.0.2"]
        assert get(world.host, "10.22.0.2") == "one"
        assert get(world.outside, HOST[0], 9970) == "one", "pyrun forwards where no plug-in does"
        ask = "for i in $(seq 50); do nc -w 2 one 80 </dev/null && break; sleep 0.2; done"
        assert world.sh(ask, "--net", "web") == "one\n", "by name too"
        assert world.pyrun("network", "check", "one", code=0).out == ""
        pid = str(world.status("one")["pid"])
        world.host.run("nsenter", f"--net=/proc/{pid}/ns/net", "ip", "addr", "del", "10.22.0.2/24", "dev", "eth0")
        assert "CHECK of plug-in bridge for network web" in world.pyrun("network", "check", "one", code=1).out
        listed = json.loads(world.pyrun("network", "list", "--format", "json", code=0).out)
        assert [(one["kind"], one["pods"]) for one in listed if one["name"] == "web"] == [("cni", 1)]
    finally:
        world.stop("one")
    assert world.settled() == [] and wait_empty(world, "web"), "host-local's address is given back"


def test_newcomers_are_known_by_name(world: World) -> None:
    """Who was there first learns of who comes later, and that it has gone."""
    configure(world, "club", bridge(world, "cni3", "10.27.0.0/24"))
    world.serve("first", "--net", "club")
    try:
        assert "later" not in world.pyrun("exec", "first", "/bin/cat", "/etc/hosts", code=0).out
        world.serve("later", "--net", "club")
        ask = "for i in $(seq 50); do nc -w 2 later 80 </dev/null && break; sleep 0.2; done"
        assert world.pyrun("exec", "first", "/bin/sh", "-c", ask, code=0).out == "later\n"
        world.stop("later")
        gone = "for i in $(seq 200); do grep -q later /etc/hosts || exit 0; sleep 0.2; done; exit 1"
        world.pyrun("exec", "first", "/bin/sh", "-c", gone, code=0)  # by a process that nobody waits for
    finally:
        world.stop("first")
    assert wait_empty(world, "club")


def test_a_plug_in_that_fails_leaves_nothing(world: World, tmp_path: Path) -> None:
    log = tmp_path / "log"
    record = f'echo "$CNI_COMMAND $CNI_IFNAME $CNI_ARGS" >>{log}; cat >>{log}.$CNI_COMMAND\n'
    scripted("pyrun-test-fails", record + 'test $CNI_COMMAND = DEL || { echo \'{"code":11,"msg":"no more ports"}\'; exit 1; }\n')
    try:
        configure(world, "bad", bridge(world, "cni1", "10.23.0.0/24"), {"type": "pyrun-test-fails", "capabilities": {"portMappings": True}})
        said = world.sh("true", "--net", "bad:COLOUR=red", "-p", "9971:80", code=125)
        assert said.startswith("pyrun: ADD of plug-in pyrun-test-fails for network bad: no more ports\nhint: ")
        assert log.read_text().splitlines() == ["ADD eth0 IgnoreUnknown=1;COLOUR=red", "DEL eth0 IgnoreUnknown=1;COLOUR=red"]
        asked = json.loads(Path(f"{log}.ADD").read_text())
        assert asked["runtimeConfig"] == {"portMappings": [{"hostPort": 9971, "containerPort": 80, "protocol": "tcp"}]}
        assert asked["prevResult"]["ips"][0]["address"] == "10.23.0.2/24" and asked["name"] == "bad"
        assert leases(world, "bad") == [], "what the first had done is undone"
    finally:
        (OWN / "pyrun-test-fails").unlink()


def test_gc_tells_plug_ins_what_still_is(world: World, tmp_path: Path) -> None:
    log = tmp_path / "gc"
    result = '{"cniVersion":"1.1.0","ips":[{"address":"10.24.0.2/24"}]}'
    scripted("pyrun-test-gc", f"test $CNI_COMMAND = GC && cat >{log}; test $CNI_COMMAND != ADD || echo '{result}'\n")
    try:
        configure(world, "kept", {"type": "pyrun-test-gc"}, version="1.1.0")
        uuid = world.serve("alive", "--net", "kept")
        world.pyrun("gc", code=0)
        assert json.loads(log.read_text())["cni.dev/valid-attachments"] == [{"containerID": uuid, "ifname": "eth0"}]
        world.stop("alive")
        assert world.settled() == []
        world.pyrun("gc", code=0)
        assert json.loads(log.read_text())["cni.dev/valid-attachments"] == []
    finally:
        (OWN / "pyrun-test-gc").unlink()
        (world.pyrun.root / "net.d" / "10-kept.conflist").unlink()


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ("{", "not JSON"),
        ('{"cniVersion": "1.0.0", "name": "broken"}', "plugins is missing, or not a list"),
        ('{"name": "broken", "plugins": [{"type": "bridge"}]}', "cniVersion is missing, or not a version"),
        (
            '{"cniVersion": "1.0.0", "name": "broken", "plugins": [{"type": "../evil"}]}',
            "plugins[0].type is missing, or not the name of a program",
        ),
    ],
)
def test_a_malformed_configuration(world: World, raw: str, said: str) -> None:
    path = configure(world, "broken", raw=raw)
    try:
        assert world.sh("true", "--net", "broken", code=125).startswith(f"pyrun: read network configuration {path}: {said}\nhint: ")
        assert said in world.pyrun("network", "list", code=0).out
    finally:
        path.unlink()


def test_a_missing_plug_in(world: World) -> None:
    path = configure(world, "gone", {"type": "nobody-has-this"})
    try:
        said = world.sh("true", "--net", "gone", code=125)
        assert said.startswith("pyrun: join network gone: plug-in nobody-has-this is not in /usr/lib/cni")
        assert "containernetworking-plugins" in said
    finally:
        path.unlink()


def test_a_killed_pod_is_taken_back_by_gc(world: World) -> None:
    configure(world, "web", bridge(world, "cni0", "10.22.0.0/24"))
    uuid = world.serve("two", "--net", "web")
    run = json.loads((world.pyrun.root / "pods" / "running" / uuid / "run").read_text())
    os.kill(run["keeper"], 9)
    wait_until(lambda: gone(run["keeper"]) and gone(run["supervisor"]))
    assert len(leases(world, "web")) == 1
    world.pyrun("gc", code=0)
    assert leases(world, "web") == []


def test_a_plug_in_that_does_not_let_go_is_asked_again(world: World, tmp_path: Path) -> None:
    """Nobody else is kept from starting, `gc` says what is the matter, and succeeds once the plug-in does."""
    stuck, result = tmp_path / "stuck", '{"cniVersion":"1.0.0","ips":[{"address":"10.25.0.2/24"}]}'
    stuck.touch()
    scripted("pyrun-test-stuck", f"test $CNI_COMMAND != ADD || echo '{result}'; test $CNI_COMMAND != DEL || test ! -e {stuck}\n")
    path = configure(world, "stuck", {"type": "pyrun-test-stuck"})
    try:
        world.sh("true", "--net", "stuck")
        wait_until(lambda: any((world.pyrun.root / "pods" / "garbage").iterdir()))
        world.sh("true")
        said = ""
        for _ in range(600):
            said = world.pyrun("gc").err
            if said:
                break
            time.sleep(0.1)
        assert "remove the remains of pod" in said and "DEL of plug-in pyrun-test-stuck for network stuck: exit status 1" in said
        stuck.unlink()
        world.pyrun("gc", code=0)
        assert not any((world.pyrun.root / "pods" / "garbage").iterdir())
    finally:
        (OWN / "pyrun-test-stuck").unlink()
        path.unlink()
