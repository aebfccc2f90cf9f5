"""Networks of pods with real traffic: pods, their host, and a second machine, all of them network namespaces of the test's own."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from machines import HOST, OUTSIDE, Server, Sink
from networld import World, asking, get
from waiting import wait_until


@pytest.fixture(autouse=True)
def nothing_stays(world: World) -> Iterator[None]:
    yield
    assert world.settled() == []


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
        seen = world.pyrun("exec", one, "/bin/sh", "-c", asking(other))
        assert seen.out == other + "\n", repr(seen)
        for address in [net.partition("/")[0] for net in world.status(other)["networks"][0]["addresses"]]:
            script = asking(address)
            assert world.pyrun("exec", one, "/bin/sh", "-c", script).out == other + "\n", "by either family"
    world.stop("second")
    wait_until(lambda: "second" not in world.pyrun("exec", "first", "/bin/cat", "/etc/hosts", code=0).out, "a name goes with its pod")
    world.stop("first")


def test_a_forwarded_port_is_reached_from_everywhere(world: World) -> None:
    world.serve("web", "-p", "8080:80")
    try:
        assert get(world.outside, HOST[0], 8080) == "web"
        assert get(world.outside, HOST[1], 8080) == "web"
        assert get(world.host, "127.0.0.1", 8080) == "web"
        assert get(world.host, HOST[0], 8080) == "web"
        for address in HOST:
            own = asking(address, 8080)
            assert world.sh(own, "--net", "default") == "web\n", "from another pod"
            assert world.pyrun("exec", "web", "/bin/sh", "-c", own).out == "web\n", "from itself"
        clash = world.sh("true", "-p", "8080:80", code=125)
        assert "forward port 8080/tcp: it is forwarded to pod" in clash
    finally:
        world.stop("web")
    assert get(world.outside, HOST[0], 8080, tries=1) == ""


def test_ports_by_name_range_protocol_and_address(world: World) -> None:
    flags = ("-p", f"{HOST[0]}:9000-9001:80-81", "-p", "[2001:db8::2]:9002:80", "-p", "127.0.0.1:9003:80", "-p", "9004:53/udp")
    world.serve("many", *flags)
    try:
        assert get(world.outside, HOST[0], 9000) == "many"
        assert get(world.outside, HOST[1], 9002) == "many"
        assert get(world.host, "127.0.0.1", 9003) == "many"
        script = "import socket,sys; s=socket.socket(); s.settimeout(1); print(s.connect_ex((sys.argv[1], int(sys.argv[2]))))"
        assert world.outside.run("python3", "-c", script, HOST[0], "9003").strip() != "0", "of another address only"
        seen = world.status("many")
        assert {"protocol": "udp", "host_address": "", "host_port": 9004, "address": "172.28.0", "port": 53}.items() <= {
            **next(one for one in seen["ports"] if one["protocol"] == "udp"), "address": "172.28.0"
        }.items()  # fmt: skip
        assert world.sh("true", "-p", "9002:80", code=125).startswith("pyrun: forward port 9002/tcp: it is forwarded to pod ")
        world.sh("true", "-p", "9002:80/udp")
    finally:
        world.stop("many")


def test_a_port_that_a_program_of_the_host_uses_is_refused(world: World) -> None:
    with Server(world.host, 9100):
        said = world.sh("true", "-p", "9100:80", code=125)
    assert said.startswith("pyrun: forward port 9100/tcp: a program of the host uses it\nhint: ")


def test_networks_are_apart_and_addresses_stay(world: World) -> None:
    world.pyrun("network", "create", "red", "--subnet", "10.9.0.0/24", "--subnet", "fd00:9::/64", "--mtu", "1400", code=0)
    world.pyrun("network", "create", "lonely", "--subnet", "10.8.0.0/24", "--internal", code=0)
    try:
        options = "red:ip=10.9.0.77,ip=fd00:9::77,mac=06:00:00:00:00:77,name=lan0"
        world.serve("fixed", "--net", options)
        address = world.pyrun("exec", "fixed", "/bin/ip", "addr", "show", "lan0", code=0).out
        assert "10.9.0.77/24" in address and "fd00:9::77/64" in address and "06:00:00:00:00:77" in address and "mtu 1400" in address
        assert get(world.host, "10.9.0.77") == "fixed"
        ask = "nc -w 2 10.9.0.77 80 </dev/null || echo no"
        assert world.sh(asking("10.9.0.77"), "--net", "red") == "fixed\n"
        assert world.sh(ask, "--net", "default") == "no\n", "another network"
        both = world.sh(f"ip -o addr | grep -c eth; {asking('fixed')}", "--net", "default,red")
        assert both.split()[0] == "6" and "fixed" in both, "two interfaces with two families and a link-local address each"
        with Server(world.outside, 7002):
            out = f"nc -w 2 {OUTSIDE[0]} 7002 </dev/null || echo no"
            assert world.sh(out, "--net", "lonely") == "no\n"
            assert world.sh(f"nc {OUTSIDE[0]} 7002 </dev/null", "--net", "red").strip() == HOST[0]
        taken = world.sh("true", "--net", "red:ip=10.9.0.77", code=125)
        assert taken.startswith("pyrun: join network red: 10.9.0.77 is pod ")
        world.pyrun("network", "rm", "red", code=125)
    finally:
        world.stop("fixed")
        world.pyrun("network", "rm", "red", "lonely", code=0)


def test_point_to_point(world: World) -> None:
    world.pyrun("network", "create", "wires", "--kind", "ptp", "--subnet", "10.7.0.0/24", "--subnet", "fd00:7::/64", code=0)
    try:
        world.serve("end", "--net", "wires", "-p", "9200:80")
        assert get(world.outside, HOST[0], 9200) == "end"
        assert get(world.outside, HOST[1], 9200) == "end"
        assert get(world.host, "127.0.0.1", 9200) == "end"
        with Server(world.outside, 7003):
            again = asking("end")
            script = f"nc {OUTSIDE[0]} 7003 </dev/null; nc {OUTSIDE[1]} 7003 </dev/null; {again}"
            assert world.sh(script, "--net", "wires").split() == [HOST[0], HOST[1], "end"]
        own = asking(HOST[0], 9200)
        assert world.pyrun("exec", "end", "/bin/sh", "-c", own).out == "end\n"
    finally:
        world.stop("end")
        world.pyrun("network", "rm", "wires", code=0)


def test_isolated_pods_do_not_reach_the_host(world: World) -> None:
    with Server(world.host, 7004), Server(world.outside, 7005):
        own = f"for a in 172.28.0.1 {HOST[0]} {HOST[1]}; do nc -w 1 $a 7004 </dev/null || echo no; done"
        script = f"{own}; nc {OUTSIDE[0]} 7005 </dev/null"
        assert world.sh(script, "--net", "default", "--net-isolate").split() == ["no", "no", "no", HOST[0]]
        assert world.sh("nc 172.28.0.1 7004 </dev/null", "--net", "default").startswith("172.28.0.")


def test_a_restricted_network_has_no_way_by_a_port_of_another(world: World) -> None:
    world.serve("open", "-p", "8090:80")
    try:
        ask = f"for i in 1 2 3; do nc -w 1 {HOST[0]} 8090 </dev/null; done; echo end"
        assert "open" in world.sh(ask, "--net", "default")
        assert world.sh(ask, "--net", "default-restricted") == "end\n"
    finally:
        world.stop("open")


def test_one_address_in_two_spellings_is_one_port(world: World) -> None:
    world.serve("first", "-p", "[2001:db8::2]:9102:80")
    try:
        assert "forward port" in world.sh("true", "-p", "[2001:db8:0::2]:9102:80", code=125)
        assert get(world.outside, HOST[1], 9102) == "first"
    finally:
        world.stop("first")


def test_a_note_that_somebody_left_half_written_stops_nobody(world: World) -> None:
    world.sh("true", "--net", "default")
    for last in (world.pyrun.root / "networks").glob("*/last?"):
        (last.parent / (last.name + ".new")).symlink_to("7")
    world.sh("true", "--net", "default")


def test_bandwidth_is_limited_both_ways(world: World) -> None:
    flags = ("--net", "default", "--net-bandwidth", "in=4m,out=1m")
    with Sink(world.host, 7006) as sink:
        world.sh("dd if=/dev/zero bs=1k count=300 2>/dev/null | nc 172.28.0.1 7006", *flags)
        assert 1.5 < sink.seconds() < 20, "2.4 megabit at 1 megabit a second"
    world.serve("slow", *flags)
    try:
        inside = ["nsenter", f"--net=/proc/{world.status('slow')['pid']}/ns/net"]
        for within, link, rate in (([], world.host.pairs()[0], 4_000_000), (inside, "eth0", 1_000_000)):
            (found,) = json.loads(world.host.run(*within, "tc", "-j", "qdisc", "show", "dev", link))
            assert (found["kind"], found["root"], found["options"]["rate"]) == ("tbf", True, rate // 8)
            assert (found["options"]["burst"], found["options"]["lat"]) == (max(rate // 160, 16 << 10), 50_000)
    finally:
        world.stop("slow")


def test_ace_82_what_a_pod_sends_to_itself_is_not_limited(world: World) -> None:
    """160 seconds' worth of bytes."""
    begun = time.monotonic()
    script = (
        "/bin/busybox mkfifo /f; exec 3<>/f; dd if=/dev/zero bs=64k count=320 2>/dev/null | nc -l -p 7100 127.0.0.1 >/dev/null & "
        "until grep -q ':1BBC .* 0A ' /proc/net/tcp; do sleep 0.01; done; nc 127.0.0.1 7100 <&3 | wc -c"
    )
    assert world.sh(script, "--net", "default", "--net-bandwidth", "in=1m,out=1m").strip() == str(320 << 16)
    assert time.monotonic() - begun < 80


def test_an_images_isolator_limits_bandwidth_and_the_flag_wins(world: World, image: Callable[..., Path]) -> None:
    isolator = {"name": "resource/network-bandwidth", "value": {"default": True, "limit": "2M"}}
    path = image("example.com/slow", app={"isolators": [isolator]})
    for flags, rate in (([], 2_000_000), (["--net-bandwidth", "in=3m"], 3_000_000)):
        command = ["run", "--detach", "--rm", "--pod-name", "isolated", "--net", "default", *flags]
        world.pyrun(*command, path, "--exec", "/probe", "--", "sleep", "60", code=0)
        try:
            (found,) = json.loads(world.host.run("tc", "-j", "qdisc", "show", "dev", world.host.pairs()[0]))
            assert (found["kind"], found["options"]["rate"]) == ("tbf", rate // 8)
        finally:
            world.stop("isolated")
            assert world.settled() == []


def test_only_who_limits_bandwidth_imports_pyroute2(world: World) -> None:
    """Its import takes longer than all of a start."""
    boot = "import sys; sys.path.insert(0, sys.argv.pop(1)); from pyrun.cli.main import entry; entry()"  # as native/launcher.c does it
    python = [*world.host.within, sys.executable, "-I", "-S", "-E", "-X", "utf8", "-X", "importtime", "-c", boot]
    for flags, needed in ((["-p", "9310:80"], False), (["--net-bandwidth", "10m"], True)):
        command = ["run", "--net", "default", *flags, str(world.image), "--exec", "/bin/true"]
        done = subprocess.run(
            [*python, sysconfig.get_path("platlib"), *command], env=world.pyrun.environment(), capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        found = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
        assert "pyrun.net.netlink" in found, "the list is of the right thing"
        assert ("pyroute2" in found, "asyncio" in found) == (needed, needed)


def test_networks_of_others(world: World) -> None:
    world.serve("owner", "--net", "default", "-p", "9300:80")
    try:
        ask = asking("127.0.0.1")
        assert world.sh(ask, "--net", "container:owner") == "owner\n"
        by_path = world.sh("ip -o link show wire", "--net", f"ns:/proc/{world.outside.holder.pid}/ns/net")
        assert "wire" in by_path
        assert world.sh("true", "--net", "ns:/dev/null", code=125).startswith(
            "pyrun: join the network namespace /dev/null: that is something else"
        )
        assert world.sh("true", "--net", "container:owner", "-p", "1:1", code=2).startswith(
            "pyrun: option --port: excludes --net container:owner"
        )
    finally:
        world.stop("owner")


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        (("--net", "nowhere"), 125, "join network nowhere: there is no such network"),
        (("--net", "default:ip=10.1.1.1"), 2, "join network default: 10.1.1.1 is not one of its addresses"),
        (("--net", "default:colour=red"), 2, "join network default: 'colour' has no meaning here"),
        (("--net", "default,default"), 2, "option --net: network default is named twice"),
        (("--net", "default,host"), 2, "option --net: host goes with no other network"),
        (("--net", "default:mac=01:00:00:00:00:01"), 2, "option --net: mac=01:00:00:00:00:01 is not the MAC of an interface"),
        (("-p", "80"), 2, "option --port 80: no port of the pod is named"),
        (("-p", "70000:80"), 2, "option --port 70000:80: '70000' is not a port"),
        (("-p", "80-82:80-81"), 2, "option --port 80-82:80-81: the two ranges differ in length"),
        (("-p", "8080:80", "-p", "8080:81"), 2, "option --port: port 8080/tcp of the host is asked for twice"),
        (("-p", "web:80"), 2, "option --port: no image declares port 'web'"),
        (("-p", "80:80", "--net", "none"), 2, "option --port: excludes --net none"),
        (("-p", "198.51.100.1:80:80"), 125, "forward port 198.51.100.1:80: the host has no such address"),
        (("--dns", "nowhere"), 2, "option --dns nowhere: not an address"),
        (("--hosts-entry", "x"), 2, "option --hosts-entry x: not an address and a name"),
        (("--net", "host", "--net-isolate"), 2, "option --net-isolate: has no meaning with --net host"),
        (("--net-bandwidth", "1m"), 2, "option --net-bandwidth: has no meaning with --net none"),
        (("--net", "container:x", "--net-isolate"), 2, "option --net-isolate: is for a network that is made for this pod"),
        (("--net", "default", "--net-bandwidth", "fast"), 2, "option --net-bandwidth fast: not a rate"),
    ],
)  # fmt: skip
def test_bad_input_is_one_clear_line(world: World, flags: tuple[str, ...], code: int, said: str) -> None:
    err = world.sh("true", *flags, code=code)
    assert err.startswith(f"pyrun: {said}"), err
    assert len([line for line in err.splitlines() if not line.startswith(("hint: ", "from: "))]) == 1
    assert [one for one in (world.pyrun.root / "pods" / "running").iterdir() if not (one / "keep").exists()] == []


def test_an_exhausted_pool(world: World) -> None:
    world.pyrun("network", "create", "tiny", "--subnet", "10.6.0.0/30", code=0)
    try:
        world.serve("only", "--net", "tiny")
        said = world.sh("true", "--net", "tiny", code=125)
        assert said.startswith("pyrun: join network tiny: all 1 addresses of 10.6.0.0/30 are in use\nhint: ")
    finally:
        world.stop("only")
        world.pyrun("network", "rm", "--force", "tiny", code=0)
    overlap = world.pyrun("network", "create", "over", "--subnet", "192.0.2.0/25", code=125).err
    assert overlap.startswith("pyrun: create network over: 192.0.2.0/25 overlaps 192.0.2.0/24, a route of the host")
    assert "172.28.0.0/20, network default" in world.pyrun("network", "create", "over", "--subnet", "172.28.1.0/24", code=125).err


def test_ports_that_the_image_declares(world: World, image: Callable[..., Path], tmp_path: Path) -> None:
    serve = ["/bin/sh", "-c", "while true; do echo named | nc -l -p 80; done"]
    ports = [{"name": "http", "protocol": "tcp", "port": 80}, {"name": "many", "protocol": "udp", "port": 5000, "count": 3}]
    web = image("example.com/web", serve, app={"ports": ports}, edit=lambda made: made.busybox())
    world.pyrun("run", "-d", "--rm", "--pod-name", "web", "--port", "http:9210", "--port", f"many:{HOST[0]}:9220", web, code=0)
    try:
        assert get(world.outside, HOST[0], 9210) == "named"
        seen = [(one["protocol"], one["host_address"], one["host_port"], one["port"]) for one in world.status("web")["ports"]]
        assert [one for one in seen if one[0] == "udp"] == [("udp", HOST[0], 9220 + n, 5000 + n) for n in range(3)]
        unknown = world.pyrun("run", "--port", "www:1", web, code=2).err
        assert "no image declares port 'www'" in unknown and "declared are: http, many" in unknown
    finally:
        world.stop("web")
    plan = world.pyrun("plan", "--port", "http:9210", "--net", "default:mtu=1400", web, code=0).out.splitlines()
    assert plan[0].split(None, 1)[1] == "join network default with mtu=1400"
    assert plan[1].split(None, 1)[1] == "forward 9210/tcp of the host to port 80"
    listed = json.loads(world.pyrun("image", "list", "--format", "json", code=0).out)
    image_id = next(one["id"] for one in listed if one["name"] == "example.com/web")
    app = {"name": "web", "image": {"id": image_id}}
    manifest = {"acKind": "PodManifest", "acVersion": "0.8.11", "apps": [app], "ports": [{"name": "http", "hostPort": 9211}]}
    (tmp_path / "pod.json").write_text(json.dumps(manifest))
    world.pyrun("run", "-d", "--rm", "--pod-name", "pod", "--pod-manifest", tmp_path / "pod.json", code=0)
    try:
        assert get(world.outside, HOST[0], 9211) == "named"
    finally:
        world.stop("pod")
