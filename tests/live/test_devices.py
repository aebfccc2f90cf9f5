"""Device nodes and kernel file systems: the closed list of the App Container spec and nothing else (ACE-12, A23, SEC-19)."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
from harness import Pyrun

from pyrun.plan import caps

Shell = Callable[..., str]
DEFAULT = ",".join(caps.names(caps.DEFAULT))
MKNOD = ("--caps-retain", f"{DEFAULT},MKNOD")
NODES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}
LINKS = {"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2", "ptmx": "pts/ptmx"}
FOREIGN = [("b", 7, 0), ("b", 8, 0), ("c", 1, 1), ("c", 1, 11), ("c", 10, 229), ("c", 10, 232), ("c", 10, 238), ("c", 5, 1)]


@pytest.fixture(scope="module")
def seen(shared: Pyrun) -> dict[str, Any]:
    return shared.report()


def nodes(seen: dict[str, Any]) -> dict[str, tuple[object, ...]]:
    found = {name: entry for name, entry in seen["dev"].items() if entry["type"] in "cb"}
    return {name: (one["type"], one["major"], one["minor"], one["mode"], one["uid"], one["gid"]) for name, one in found.items()}


@pytest.mark.parametrize("flags", [(), MKNOD, ("--no-overlay",), ("--readonly-rootfs",)], ids=["default", "mknod", "copy", "readonly"])
def test_ace_12_the_list_is_closed(shared: Pyrun, flags: tuple[str, ...]) -> None:
    expected: dict[str, tuple[object, ...]] = {name: ("c", *number, 0o666, 0, 0) for name, number in NODES.items()}
    expected["console"] = ("c", 1, 3, 0o666, 0, 0)  # without a terminal what is written there goes nowhere
    found = shared.report(*flags)
    assert nodes(found) == expected
    assert {name: one["link"] for name, one in found["dev"].items() if one["type"] == "l"} == LINKS
    assert sorted(name for name, one in found["dev"].items() if one["type"] == "d") == ["mqueue", "pts", "shm"]


def test_ace_12_kernel_file_systems(seen: dict[str, Any]) -> None:
    kinds = {}
    for line in seen["mounts"]:
        head, tail = line.split(" - ")
        kinds[head.split()[4]] = (tail.split()[0], set(head.split()[5].split(",")))
    for target, kind, flags in [
        ("/proc", "proc", {"nosuid", "nodev", "noexec"}),
        ("/sys", "sysfs", {"ro", "nosuid", "nodev", "noexec"}),
        ("/sys/fs/cgroup", "cgroup2", {"ro", "nosuid", "nodev", "noexec"}),
        ("/dev", "tmpfs", {"nosuid", "noexec"}),
        ("/dev/pts", "devpts", {"nosuid", "noexec"}),
        ("/dev/shm", "tmpfs", {"nosuid", "nodev", "noexec"}),
        ("/dev/mqueue", "mqueue", {"nosuid", "nodev", "noexec"}),
    ]:
        assert kinds[target][0] == kind
        assert flags <= kinds[target][1], target


@pytest.mark.parametrize("user", ["root", "app"])
def test_every_device_does_what_it_should(shell: Shell, user: str) -> None:
    script = """
        echo x >/dev/null; head -c 3 /dev/zero | od -An -tx1; (echo x >/dev/full) 2>&1 | grep -c 'No space left'
        for source in random urandom; do head -c 64 /dev/$source | od -An -tx1 | tr -d ' \\n' | wc -c; done
        (: </dev/tty) 2>&1 | grep -c 'No such device'; echo lost >/dev/console; head -c 1 /dev/console | wc -c"""
    assert shell(script, "--user", user).split() == ["00", "00", "00", "1", "128", "128", "1", "0"]


@pytest.mark.parametrize("user", ["root", "app"])
def test_terminals_are_the_pods_own(shared: Pyrun, shell: Shell, user: str) -> None:
    assert shared.attempt("open", "/dev/ptmx", flags=("--user", user)) == ""
    assert shell("ls /dev/pts", "--user", user) == "ptmx"
    assert shell("stat -c '%a %t %T' /dev/pts/ptmx") == "666 5 2"


def test_shared_memory(shell: Shell) -> None:
    assert shell("echo a >/dev/shm/x && cat /dev/shm/x; stat -c %a /dev/shm; id -u", "--user", "app").split() == ["a", "1777", "1000"]
    assert shell("head -c 65m /dev/zero >/dev/shm/x; stat -c %s /dev/shm/x") == str(64 << 20)  # it cannot fill the host's memory


def test_dev_is_small(shell: Shell) -> None:
    assert int(shell("head -c 1m /dev/zero >/dev/x; stat -c %s /dev/x")) <= 65536
    assert "left" in shell("i=0; while [ $i -lt 200 ]; do mkdir /dev/$i || exit 0; i=$((i+1)); done 2>&1")


def test_no_node_without_the_capability(shared: Pyrun) -> None:
    for where in ("/x", "/dev/x", "/dev/shm/x", "/tmp/x"):
        assert shared.attempt("mknod", where, "c", "1", "3") == "EPERM"


@pytest.mark.parametrize("where", ["/", "/dev/", "/dev/shm/", "/tmp/"])
def test_no_other_device_opens_with_the_capability(shell: Shell, where: str) -> None:
    """A23: a node may be made then, but no file system of the pod lets it open."""
    script = "".join(f"mknod {where}x{i} {kind} {a} {b} || exit 1; (: <{where}x{i}); " for i, (kind, a, b) in enumerate(FOREIGN))
    out = shell(f"({script}) 2>&1; true", *MKNOD)
    assert out.count("Permission denied") == len(FOREIGN), out


@pytest.mark.parametrize("flags", [MKNOD, ("--insecure-options", "all-run")], ids=["mknod", "insecure"])
def test_the_nodes_of_the_host_stay_as_they_are(shell: Shell, flags: tuple[str, ...]) -> None:
    """Where nodes are bound, root in the pod has the host's own: neither mode nor owner of it can be changed."""
    before = os.stat("/dev/null")
    out = shell("exec 2>&1; chmod 600 /dev/null; chown 1 /dev/null; touch -d @0 /dev/null; echo x >/dev/null && echo written", *flags)
    assert out.count("Read-only file system") == 3 and out.endswith("written"), out
    after = os.stat("/dev/null")
    assert (after.st_mode, after.st_uid, after.st_mtime) == (before.st_mode, before.st_uid, before.st_mtime)


def test_no_other_device_opens_in_an_insecure_pod(shell: Shell) -> None:
    assert "Permission denied" in shell("mknod /dev/x c 1 1; (: </dev/x) 2>&1; true", "--insecure-options", "capabilities")
    assert shell("echo x >/dev/null && head -c 2 /dev/zero | wc -c", "--insecure-options", "all-run") == "2"
