"""`prepare --net-ahead`: the network is made by `prepare`, held by a mount, and `run-prepared` joins it without Python."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import COMMAND
from launched import launch
from machines import HOST
from netpods import by_python
from networld import SERVE, World, get
from scale import scaled
from waiting import wait_until

# What a step of `prepare` changes, of the host or of the disk.
STEPS = "mount,umount2,rename,renameat,mkdir,mkdirat,symlink,symlinkat,unlink,unlinkat,sendto,sendmsg,write,fchmod"


@pytest.fixture(autouse=True)
def nothing_stays(world: World) -> Iterator[None]:
    yield
    assert world.settled() == []
    assert os.listdir(world.pyrun.root / "pods" / "prepared") == []


def ahead(world: World, port: int, *flags: str, script: str = "", more: tuple[str, ...] = ()) -> str:
    words = [world.image, "--exec", "/bin/sh", *flags, "--", "-c", script or SERVE.format(word="ahead", port=80), *more]
    return world.pyrun("prepare", "--rm", "--net-ahead", "-p", f"{port}:80", *words, code=0).out.strip()


def network(world: World, uuid: str, phase: str = "prepared") -> dict[str, object]:
    found: dict[str, object] = json.loads((world.pyrun.root / "pods" / phase / uuid / "net").read_text())
    return found


def pin(world: World, uuid: str) -> Path:
    return world.pyrun.root / "netns" / uuid


@pytest.mark.parametrize("several", [False, True])
def test_it_is_made_before_and_joined_without_python(world: World, tmp_path: Path, several: bool) -> None:
    more = ("---", str(world.image), "--name", "two", "--exec", "/bin/sleep", "--", "1000") if several else ()
    uuid = ahead(world, 9700, "--name", "one", more=more)
    made = network(world, uuid)
    assert pin(world, uuid).stat().st_dev == os.stat("/proc/self/ns/net").st_dev, "a namespace is mounted there"
    listed = next(one for one in json.loads(world.pyrun("list", "--format", "json", code=0).out) if one["uuid"] == uuid)
    assert listed == world.status(uuid) and [one["host_port"] for one in listed["ports"]] == [9700, 9700]
    assert len(world.host.pairs()) == 1 and any(path.startswith("lease") and "9700" in path for path in world.left())
    assert "port 9700" in world.pyrun("prepare", "--net-ahead", "-p", "9700:80", world.image, code=125).err
    assert world.pyrun("gc", code=0).out == "" and network(world, uuid) == made
    said, became = launch(world.pyrun, tmp_path, "--detach", uuid)
    assert (said.returncode, said.stdout, became) == (0, f"{uuid}\n", ["pyrun", "keeper"]), said.stderr
    assert network(world, uuid, "running") == made
    assert not pin(world, uuid).exists() and not [one for one in world.left() if one.startswith(("pin", "mount"))]
    assert get(world.outside, HOST[0], 9700) == get(world.outside, HOST[1], 9700) == "ahead"
    assert world.status(uuid)["networks"] == listed["networks"]
    address = listed["networks"][0]["addresses"][0].partition("/")[0]
    app = ("--app", "one") if several else ()
    assert f" {address}/" in world.pyrun("exec", *app, uuid, "/bin/ip", "-o", "addr", "show", "eth0", code=0).out
    world.stop(uuid)


def test_in_the_foreground_it_ends_with_the_app(world: World, tmp_path: Path) -> None:
    """By the program `cleaner`, which the supervisor starts: nothing of pyrun's is resident that could."""
    uuid = ahead(world, 9701, script="ip -o -4 addr show eth0; exit 7")
    address = network(world, uuid)["nets"][0]["addresses"][0]  # type: ignore[index]
    said, became = launch(world.pyrun, tmp_path, uuid)
    assert (said.returncode, became[:2]) == (7, ["pyrun", "keeper"]), said.stderr
    assert f" {address} " in said.stdout
    assert world.settled() == []


def test_others_find_it_by_name_while_it_waits(world: World) -> None:
    uuid = ahead(world, 9702, "--hostname", "waiting")
    assert "\twaiting" in world.sh("cat /etc/hosts", "--net", "default")
    world.serve("later", "--net", "default", "--hostname", "later")
    assert "\tlater" in (world.pyrun.root / "pods" / "prepared" / uuid / "hosts").read_text()
    world.stop("later", uuid)


@pytest.mark.parametrize("how", ["rm", "gc"])
def test_removing_it_takes_the_network_back(world: World, how: str) -> None:
    """Also from a mount namespace that was made meanwhile, as a unit with PrivateTmp= has one, and that has a copy of the mount."""
    uuid = ahead(world, 9703)
    with subprocess.Popen(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", "echo made; exec sleep 1000"], stdout=subprocess.PIPE, text=True
    ) as other:
        try:
            assert other.stdout is not None and other.stdout.readline() == "made\n"
            mounts = Path(f"/proc/{other.pid}/mountinfo")
            assert str(pin(world, uuid)) in mounts.read_text()
            said = world.pyrun("rm", uuid, code=0) if how == "rm" else world.pyrun("gc", "--expire-prepared", "0s", code=0)
            assert how == "rm" or uuid in said.out
            assert world.left() == []
            assert str(pin(world, uuid)) not in mounts.read_text()
        finally:
            other.kill()


@pytest.mark.parametrize("how", ["unmounted", "removed", "another file"])
def test_one_that_is_gone_is_made_anew(world: World, tmp_path: Path, how: str) -> None:
    """As after a boot, or where somebody unmounted it: by the launcher, with what is asked for."""
    uuid = ahead(world, 9704)
    subprocess.run(["umount", pin(world, uuid)], check=True)
    if how == "removed":
        pin(world, uuid).unlink()
    elif how == "another file":
        pin(world, uuid).unlink()
        pin(world, uuid).symlink_to("/proc/self/ns/mnt")
    said, became = launch(world.pyrun, tmp_path, "--detach", uuid)
    assert (said.returncode, became) == (0, ["pyrun", "keeper"]), said.stderr
    assert get(world.outside, HOST[0], 9704) == "ahead" and len(world.host.pairs()) == 1
    assert not os.path.lexists(pin(world, uuid))
    world.stop(uuid)


@pytest.mark.parametrize("flag", ["--detach", "--detach=true"])
def test_one_whose_relay_has_ended_is_made_anew(world: World, tmp_path: Path, flag: str) -> None:
    """As at the end of a session, or of the unit that prepared it: its port of [::1] would lead nowhere."""
    uuid = ahead(world, 9711)
    relay = network(world, uuid)["relay"]
    os.kill(relay[0], signal.SIGKILL)  # type: ignore[index]
    wait_until(lambda: world.relays() == [])
    said, became = launch(world.pyrun, tmp_path, flag, uuid)
    assert (said.returncode, became) == (0, ["pyrun", "keeper"]), said.stderr
    assert get(world.host, "::1", 9711) == get(world.outside, HOST[0], 9711) == "ahead"
    assert len(world.relays()) == len(world.host.pairs()) == 1
    world.stop(uuid)


def test_python_joins_it_too(world: World) -> None:
    """Where it is asked without the launcher."""
    uuid = ahead(world, 9705)
    made = network(world, uuid)
    said = by_python(world, "--detach", uuid)
    assert said.returncode == 0, said.stderr
    assert network(world, uuid, "running") == made and get(world.outside, HOST[0], 9705) == "ahead"
    world.stop(uuid)


def test_of_many_who_start_it_one_has_the_network(world: World) -> None:
    for flags in (["--detach"], ["--detach=true"]):
        uuid = ahead(world, 9706)
        racers = [world.pyrun.start("run-prepared", *flags, uuid) for _ in range(3)]
        racers += [world.pyrun.start("run-prepared", "--detach", uuid) for _ in range(3)]
        said = [one.communicate(timeout=60) for one in racers]
        assert sorted(one.returncode for one in racers) == [0] + [125] * 5, said
        assert get(world.outside, HOST[0], 9706) == "ahead" and len(world.host.pairs()) == 1
        world.stop(uuid)


def test_a_start_that_fails_leaves_it_for_the_next(world: World, tmp_path: Path) -> None:
    words = ["prepare", "--rm", "--net-ahead", "--net", "default", "--interactive", world.image, "--exec", "/bin/cat"]
    uuid = world.pyrun(*words, code=0).out.strip()
    made = network(world, uuid)
    said, _ = launch(world.pyrun, tmp_path, "--detach", uuid)
    assert said.returncode == 125 and "it was prepared with standard input" in said.stderr
    assert network(world, uuid) == made
    said, became = launch(world.pyrun, tmp_path, uuid, input="word\n")
    assert (said.stdout, became[:2]) == ("word\n", ["pyrun", "keeper"])


def test_what_has_no_meaning_or_fails_leaves_nothing(world: World) -> None:
    for net in ("none", "host", "container:x"):
        said = world.pyrun("prepare", "--net-ahead", "--net", net, world.image, code=2).err
        assert said.startswith("pyrun: option --net-ahead: ") and "\nhint: " in said
    assert "--net-ahead" in world.pyrun("run", "--net-ahead", world.image, code=2).err
    folder = world.pyrun.root / "netns"
    with contextlib.suppress(FileNotFoundError):
        folder.rmdir()
    folder.write_text("")
    try:
        said = world.pyrun("prepare", "--net-ahead", "-p", "9707:80", "--pod-name", "free", world.image, code=125).err
        assert said.startswith("pyrun: mount the network namespace ") and "\nfrom: --net-ahead" in said
        assert world.left() == []
    finally:
        folder.unlink()
    assert "no such network" in world.pyrun("prepare", "--net-ahead", "--net", "nowhere", "--pod-name", "free", world.image, code=125).err
    world.pyrun("rm", world.pyrun("prepare", "--pod-name", "free", world.image, code=0).out.strip(), code=0)


def traced(world: World, file: Path, option: str, *words: str | Path) -> int:
    """pyrun with these words under strace(1); its exit code."""
    command = [*world.host.within, "strace", "-qq", "-o", str(file), "-e", f"trace={STEPS}", "-e", option, str(COMMAND), *map(str, words)]
    return subprocess.run(command, env=world.pyrun.environment(), capture_output=True, timeout=120).returncode


def killed(world: World, step: str, when: int, *words: str | Path) -> int:
    """Killed by its call number `when` of this kind."""
    return traced(world, Path("/dev/null"), f"inject={step}:signal=SIGKILL:when={when}", *words)


@pytest.mark.stress
def test_a_crash_at_any_step_of_preparing_leaves_what_gc_removes(world: World, tmp_path: Path) -> None:
    """And a pod that stands there can be started, whether its network was whole or not."""
    words = ["prepare", "--rm", "--net-ahead", "-p", "9708:80", world.image, "--exec", "/bin/sh", "--", "-c", "ip -o -4 addr show eth0"]
    assert traced(world, tmp_path / "steps", "signal=none", *words) == 0
    steps = [line.partition("(")[0] for line in (tmp_path / "steps").read_text().splitlines() if "(" in line]
    world.pyrun("gc", "--expire-prepared", "0s", code=0)
    started, count = 0, min(scaled(16), len(steps))
    for turn in range(count):
        place = len(steps) - 1 - turn * len(steps) // count  # the last ones too, where the pod stands there
        killed(world, steps[place], steps[: place + 1].count(steps[place]), *words)
        for uuid in os.listdir(world.pyrun.root / "pods" / "prepared"):
            assert " eth0 " in world.pyrun("run-prepared", uuid, code=0).out
            started += 1
        wait_until(lambda: world.pyrun("gc", "--expire-prepared", "0s").code == 0 and world.left() == [])
    assert "mount" in steps and started > 0


@pytest.mark.parametrize("step", ["umount2", "unlinkat"])
def test_a_keeper_that_is_killed_leaves_what_gc_removes(world: World, step: str) -> None:
    """Before the mount is gone, and between that and its file: the pod is one whose keeper died."""
    uuid = ahead(world, 9709)
    assert killed(world, step, 1, "run-prepared", "--detach", uuid) != 0
    assert not (world.pyrun.root / "pods" / "prepared" / uuid).exists() and world.left() != []
    world.pyrun("gc", code=0)
    assert world.left() == []


def test_a_python_that_is_killed_while_it_starts_leaves_a_pod_that_starts(world: World) -> None:
    """It has taken the network that was made ahead, and nobody else's: the next one makes it anew."""
    uuid = ahead(world, 9710)
    code = "import os, sys\nfrom pyrun.pod import network, state\nnetwork.take_network(state.Pods(sys.argv[1]), sys.argv[2])\nos._exit(0)"
    world.host.run(sys.executable, "-c", code, str(world.pyrun.root), uuid)
    world.pyrun("run-prepared", "--detach", uuid, code=0)
    assert get(world.outside, HOST[0], 9710) == "ahead" and len(world.host.pairs()) == 1
    world.stop(uuid)
