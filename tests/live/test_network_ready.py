"""What the pods of a network have in common, bridge, rules, settings of the host, made by the launcher (native/net_ready.c)."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import COMMAND
from launched import launch
from machines import HOST
from netpods import KEPT, SHOW, by_python, gone, script, shown
from networld import SERVE, World, get
from waiting import wait_until


@pytest.fixture(autouse=True)
def nothing_stays(world: World) -> Iterator[None]:
    world.pyrun("fetch", world.image, code=0)
    yield
    assert world.settled() == []


def document(world: World, name: str) -> dict[str, str]:
    found: dict[str, str] = json.loads((world.pyrun.root / f"networks/{name}.json").read_text())
    return found


def remove_bridge(world: World, name: str) -> None:
    world.host.run("ip", "link", "del", document(world, name)["bridge"])


def in_common(world: World) -> list[str]:
    """As others show it, without what the kernel counts or draws anew."""
    bridge = document(world, "own")["bridge"]
    (link,) = json.loads(world.host.run("ip", "-j", "-d", "addr", "show", bridge))
    found = [str(link[key]) for key in ("flags", "mtu", "group", "ifalias")]
    found += sorted(f"{one['local']}/{one['prefixlen']}" for one in link["addr_info"] if one["scope"] == "global")
    settings = [f"ipv4/conf/{bridge}/route_localnet", "ipv4/ip_forward", "ipv6/conf/all/forwarding"]
    return [*found, world.host.run("cat", *[f"/proc/sys/net/{one}" for one in settings]), world.host.run("nft", "list", "ruleset")]


def flush(world: World, what: str) -> None:
    """Take away the rules of a table that stays, or of a chain."""
    (table,) = [line.split()[2] for line in world.host.run("nft", "list", "tables").splitlines() if "pyrun_" in line]
    world.host.run("nft", *(("flush", "table", "inet", table) if what == "table" else ("flush", "chain", "inet", table, what)))


@pytest.mark.parametrize("what", ["table", "first", "ports", "inward", "local", "outward", "between", "host", "deleted", "one"])
@pytest.mark.parametrize("who", ["launcher", "python"])
def test_rules_without_which_the_table_still_stands(world: World, tmp_path: Path, what: str, who: str) -> None:
    """No pod comes up unprotected, or is not reached, since somebody has flushed a chain, or all, or removed one rule."""
    world.pyrun("network", "create", "own", code=0)
    world.sh("true", "--net", "own")
    gone(world)
    uuid = world.pyrun("prepare", "--net", "own", "-p", "8090:80", *script("echo here | nc -l -p 80"), code=0).out.strip()
    before = in_common(world)
    if what == "deleted":
        flush(world, "between")
        (table,) = [line.split()[2] for line in world.host.run("nft", "list", "tables").splitlines() if "pyrun_" in line]
        world.host.run("nft", "delete", "chain", "inet", table, "between")
    elif what == "one":
        listed = world.host.run("nft", "-a", "list", "ruleset").splitlines()
        (handle,) = [line.split()[-1] for line in listed if "iifgroup @closed drop" in line]
        (table,) = [line.split()[2] for line in world.host.run("nft", "list", "tables").splitlines() if "pyrun_" in line]
        world.host.run("nft", "delete", "rule", "inet", table, "between", "handle", handle)
    else:
        flush(world, what)
    assert in_common(world) != before
    if who == "python":
        said = by_python(world, "--detach", uuid)
        assert said.returncode == 0, said.stderr
    else:
        said, became = launch(world.pyrun, tmp_path, "--detach", uuid)
        assert (said.returncode, became[:2]) == (0, KEPT), said.stderr
    assert get(world.outside, HOST[0], 8090) == "here"
    world.pyrun("rm", "--force", uuid, code=0)
    gone(world)
    assert in_common(world) == before
    world.pyrun("network", "rm", "own", code=0)


@pytest.mark.parametrize("what", ["rules", "bridge", "all"])
def test_it_is_made_again(world: World, tmp_path: Path, what: str) -> None:
    """As after a boot, or where somebody has flushed the rules: the same as Python made, to the letter, and it works."""
    world.pyrun("network", "create", "own", code=0)
    world.sh("true", "--net", "own")
    gone(world)
    uuid = world.pyrun("prepare", "--net", "own", "-p", "8090:80", *script("echo here | nc -l -p 80"), code=0).out.strip()
    before = in_common(world)
    if what in ("rules", "all"):
        world.host.run("nft", "flush", "ruleset")
    if what in ("bridge", "all"):
        remove_bridge(world, "own")
    if what == "all":
        world.host.run("sh", "-c", "echo 0 >/proc/sys/net/ipv4/ip_forward; echo 0 >/proc/sys/net/ipv6/conf/all/forwarding")
    said, became = launch(world.pyrun, tmp_path, "--detach", uuid)
    assert (said.returncode, became) == (0, KEPT), said.stderr
    assert get(world.outside, HOST[0], 8090) == "here"
    gone(world)
    assert in_common(world) == before
    world.pyrun("rm", "--force", uuid)
    world.pyrun("network", "rm", "own", code=0)


def test_a_network_that_was_made_anew_is_another(world: World, tmp_path: Path) -> None:
    """What was decided then does not hold: that is said, and the pod stays.  One that says the same is the same."""
    world.pyrun("network", "create", "own", code=0)
    world.sh("true", "--net", "own")
    gone(world)
    uuid, other = (world.pyrun("prepare", "--net", "own", *script(SHOW), code=0).out.strip() for _ in range(2))
    path = world.pyrun.root / "networks/own.json"
    path.write_bytes(path.read_bytes())
    said, became = launch(world.pyrun, tmp_path, other)
    assert (said.returncode, became[:2]) == (0, KEPT), said.stderr
    gone(world)
    world.pyrun("network", "rm", "own", code=0)
    for why in ("gone", "changed"):
        said, became = launch(world.pyrun, tmp_path, uuid)
        assert (said.returncode, became) == (125, ["pyrun"]), said.stderr
        assert said.stderr.startswith(f"pyrun: join network by {path}: it ") and f"{why} since the pod was prepared\nhint: " in said.stderr
        assert (world.pyrun.root / "pods/prepared" / uuid).is_dir() and world.left() == []
        if why == "gone":
            world.pyrun("network", "create", "--subnet", "10.77.0.0/24", "own", code=0)
    world.pyrun("rm", uuid, code=0)
    gone(world)
    world.pyrun("network", "rm", "own", code=0)


def test_rules_know_a_network_that_came_later(world: World, tmp_path: Path) -> None:
    """What was written down before is not believed: the next start makes rules of all networks."""
    world.sh("true", "--net", "default")
    uuid = world.pyrun("prepare", "--net", "default", *script("true"), code=0).out.strip()
    world.host.run("nft", "flush", "ruleset")
    world.pyrun("network", "create", "--subnet", "10.78.0.0/24", "late", code=0)
    assert not list((world.pyrun.root / "networks").glob("*.rules"))
    said, became = launch(world.pyrun, tmp_path, uuid)
    assert (said.returncode, became[:2]) == (0, ["pyrun", "python3"]), said.stderr
    assert "10.78.0.0/24" in world.host.run("nft", "list", "ruleset")
    gone(world)
    world.pyrun("network", "rm", "late", code=0)


@pytest.mark.parametrize("how", ["empty", "cut", "zeros", "rubbish", "refused"])
def test_damaged_rules_are_pythons(world: World, tmp_path: Path, how: str) -> None:
    """As a power cut leaves a file, or somebody's editor: nothing waits for an answer that does not come, and the rules are right."""
    world.sh("true", "--net", "default")
    gone(world)
    uuid = world.pyrun("prepare", "--net", "default", *script("true"), code=0).out.strip()
    before = world.host.run("nft", "list", "ruleset")
    (path,) = (world.pyrun.root / "networks").glob("*.rules")
    held = path.read_bytes()
    table = world.host.run("nft", "list", "tables").split()[-1].encode()
    damaged = {
        "empty": b"",
        "cut": held[: len(held) // 2],
        "zeros": bytes(len(held)),
        "rubbish": bytes(range(256)) * 9,
        "refused": held.replace(b"masq\0", b"nasq\0").replace(table + b"\0", table[:-1] + b"x\0", 1),
    }
    path.write_bytes(damaged[how])
    world.host.run("nft", "flush", "ruleset")
    said, became = launch(world.pyrun, tmp_path, uuid)
    assert (said.returncode, said.stderr, became[:2]) == (0, "", ["pyrun", "python3"])
    assert world.host.run("nft", "list", "ruleset") == before
    assert path.read_bytes() == held
    gone(world)


def elements_of(world: World, uuid: str) -> Path:
    (path,) = (world.pyrun.root / "pods").glob(f"*/{uuid}/net.elements")
    return path


def test_rules_that_living_pods_need(world: World, tmp_path: Path) -> None:
    """Somebody flushes them while pods are reached, or kept off, by them: the next start makes them with what is theirs."""
    world.sh("true", "--net", "default")
    world.serve("web", "-p", "8091:80")  # by Python; the next two by the launcher
    flags = ("--net-isolate", "-p", f"{HOST[0]}:8092:80", "-p", "8093:80/udp")
    two = world.pyrun("prepare", *flags, *script(SERVE.format(word="two", port=80)), code=0).out.strip()
    plain = world.pyrun("prepare", "--net", "default", *script("exec sleep 1000"), code=0).out.strip()
    ended = world.serve("ended", "-p", "8094:80")
    for uuid in (two, plain):
        said, became = launch(world.pyrun, tmp_path, "--detach", uuid)
        assert (said.returncode, became) == (0, KEPT), said.stderr
    world.stop("ended")
    wait_until(lambda: not list((world.pyrun.root / "networks/ports").glob("*8094*")))
    before = world.host.run("nft", "list", "ruleset")
    assert "8091" in before and "8093" in before and "8094" not in before and elements_of(world, plain).read_bytes() == b"", ended
    for _ in range(2):
        last = world.pyrun("prepare", "--net", "default", *script("true"), code=0).out.strip()
        world.host.run("nft", "flush", "ruleset")
        said, became = launch(world.pyrun, tmp_path, last)
        assert (said.returncode, became[:2]) == (0, KEPT), said.stderr
        assert sorted(world.host.run("nft", "list", "ruleset").splitlines()) == sorted(before.splitlines())
        assert get(world.outside, HOST[0], 8091) == "web" and get(world.outside, HOST[0], 8092) == "two"
    world.pyrun("gc", code=0)
    assert sorted(world.host.run("nft", "list", "ruleset").splitlines()) == sorted(before.splitlines())
    world.pyrun("rm", "--force", two, plain, "web", code=0)


@pytest.mark.parametrize("how", ["gone", "cut", "rubbish", "rules", "another", "too many"])
def test_what_living_pods_have_is_damaged(world: World, tmp_path: Path, how: str) -> None:
    """Python knows it from the record; what comes many times is there once."""
    world.sh("true", "--net", "default")
    path = elements_of(world, world.serve("web", "-p", "8095:80"))
    uuid = world.pyrun("prepare", "--net", "default", *script("true"), code=0).out.strip()
    before = world.host.run("nft", "list", "ruleset")
    (rules,) = (world.pyrun.root / "networks").glob("*.rules")
    held = path.read_bytes()
    damaged = {
        "cut": held[:-7],
        "rubbish": bytes(range(256)),
        "rules": rules.read_bytes(),
        "another": held.replace(b"any4\0", b"nny4\0"),
        "too many": held[:20] + held[20:-20] * (300_000 // len(held)) + held[-20:],
    }
    path.unlink()
    if how != "gone":
        path.write_bytes(damaged[how])
    world.host.run("nft", "flush", "ruleset")
    said, became = launch(world.pyrun, tmp_path, uuid)
    assert (said.returncode, said.stderr, became[:2]) == (0, "", KEPT if how == "too many" else ["pyrun", "python3"])
    assert world.host.run("nft", "list", "ruleset") == before and get(world.outside, HOST[0], 8095) == "web"
    world.stop("web")


def test_many_that_find_nothing_there(world: World) -> None:
    """One makes it, the others wait for that, and all have a network."""
    world.sh("true", "--net", "default")
    gone(world)
    uuids = [world.pyrun("prepare", "--net", "default", *script(SHOW), code=0).out.strip() for _ in range(8)]
    world.host.run("nft", "flush", "ruleset")
    remove_bridge(world, "default")
    commands = [[*world.host.within, str(COMMAND), "run-prepared", uuid] for uuid in uuids]
    running = [subprocess.Popen(command, env=world.pyrun.environment(), stdout=subprocess.PIPE, text=True) for command in commands]
    said = [process.communicate(timeout=120)[0] for process in running]
    assert [process.returncode for process in running] == [0] * 8
    assert len({tuple(shown(out)[0][:2]) for out in said}) == 8
    world.pyrun("gc", "--grace-period", "0s", code=0)


def test_what_a_power_cut_left_of_dead_pods(world: World, tmp_path: Path) -> None:
    """Addresses and ports that no rule knows any more are taken over."""
    world.sh("true", "--net", "default")
    dead = world.serve("web", "-p", "8092:80")
    status = world.status("web")
    claim = world.pyrun.root / "networks/ports/tcp-8092-any"
    assert claim.readlink() == Path(status["uuid"]), dead
    world.stop("web")
    gone(world)
    uuid = world.pyrun("prepare", "--net", "default", "-p", "8092:80", *script("echo here | nc -l -p 80"), code=0).out.strip()
    claim.symlink_to(status["uuid"])  # as it is where nobody was left to take it away
    world.host.run("nft", "flush", "ruleset")
    said, became = launch(world.pyrun, tmp_path, "--detach", uuid)
    assert (said.returncode, became) == (0, KEPT), said.stderr
    assert get(world.outside, HOST[0], 8092) == "here"
    world.pyrun("rm", "--force", uuid)


@pytest.mark.parametrize("who", ["launcher", "python"])
def test_a_bridge_is_whole_or_not_there(world: World, who: str) -> None:
    """Killed at each step of making it: the next start makes it."""
    world.sh("true", "--net", "default")
    gone(world)
    wanted = document(world, "default")
    call = "write" if who == "launcher" else "sendto"
    for count in range(1, 14):
        uuid = world.pyrun("prepare", "--net", "default", *script(SHOW), code=0).out.strip()
        if who == "python":
            (world.pyrun.root / "pods/prepared" / uuid / "net.script").unlink()
        remove_bridge(world, "default")
        inject = ["strace", "-f", "-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={count}"]
        command = [*world.host.within, *inject, str(COMMAND), "run-prepared", uuid]
        subprocess.run(command, env=world.pyrun.environment(), capture_output=True, timeout=120)
        world.pyrun("rm", "--force", uuid)
        assert shown(world.sh(SHOW, "--net", "default"))[0], count
        (link,) = json.loads(world.host.run("ip", "-j", "addr", "show", wanted["bridge"]))
        assert len([one for one in link["addr_info"] if one["scope"] == "global"]) == len(wanted["subnets"]), count
        world.pyrun("gc", "--grace-period", "0s", code=0)
        assert world.settled() == [], count


def test_bandwidth(world: World, tmp_path: Path) -> None:
    """Written down as pyroute2 writes it; tc(8) reads it back."""
    words = ("--net", "default", "--net-bandwidth", "in=4m,out=1m", *script("exec sleep 1000"))
    uuid = world.pyrun("prepare", *words, code=0).out.strip()
    said, became = launch(world.pyrun, tmp_path, "--detach", uuid)
    assert (said.returncode, became) == (0, KEPT), said.stderr
    inside = ["nsenter", f"--net=/proc/{world.status(uuid)['pid']}/ns/net"]
    for within, link, rate in (([], world.host.pairs()[0], 4_000_000), (inside, "eth0", 1_000_000)):
        (found,) = json.loads(world.host.run(*within, "tc", "-j", "qdisc", "show", "dev", link))
        assert (found["kind"], found["root"], found["options"]["rate"], found["options"]["lat"]) == ("tbf", True, rate // 8, 50_000)
    world.pyrun("rm", "--force", uuid, code=0)
