"""`misc.max` by keys that a kernel module lends (misc_charge.c), which is compiled for the machine's kernel.

What the controller counts otherwise are keys of processors that encrypt the memory of virtual machines.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from bundles import Runtime
from harness import COMMAND, Pyrun
from waiting import wait_until

TREE = Path("/sys/fs/cgroup")
NODE = Path("/dev/misc_charge")
SOURCE = Path(__file__).with_name("misc_charge.c")
READY = Path("/usr/local/lib/misc_charge")  # compiled while the machine's image was made, perhaps of another source
CAPACITY = 5
BUSY = "sh: write error: Device or resource busy"

pytestmark = pytest.mark.timeout(600)  # a compiler in a machine whose processor is emulated


def compiled(folder: Path) -> Path:
    shutil.copy(SOURCE, folder)
    (folder / "Kbuild").write_text(f"obj-m := {SOURCE.stem}.o\n")
    make = ["make", "-j2", "-C", f"/lib/modules/{os.uname().release}/build", f"M={folder}", "KCFLAGS=-g0", "modules"]
    done = subprocess.run(make, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    return folder


@pytest.fixture(scope="module", autouse=True)
def keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """There, and the controller that systemd never delegates is too."""
    copy = READY / SOURCE.name
    folder = READY if copy.exists() and copy.read_bytes() == SOURCE.read_bytes() else compiled(tmp_path_factory.mktemp("module"))
    subprocess.run(["insmod", folder / f"{SOURCE.stem}.ko", f"capacity={CAPACITY}"], check=True)
    wait_until(NODE.exists, "no device")
    subprocess.run(["systemctl", "start", "machine.slice"], check=True)
    for file in (TREE / "cgroup.subtree_control", TREE / "machine.slice/cgroup.subtree_control"):
        file.write_text("+misc")
    yield
    subprocess.run(["rmmod", SOURCE.stem], check=True)


def take(many: int) -> str:
    """A shell script that says "key" for each of so many that it gets."""
    return f"exec 3>{NODE}; for i in {'x ' * many}; do echo >&3 && echo key; done 2>&1; true"


def in_scope(shared: Pyrun, *words: str | Path) -> str:
    command = ["systemd-run", "--quiet", "--scope", COMMAND, "--root", shared.root, *words]
    done = subprocess.run(list(map(str, command)), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done
    return done.stdout


def held(group: Path) -> dict[str, list[str]]:
    return {name: (group / f"misc.{name}").read_text().splitlines() for name in ("max", "current", "events")}


def test_keys_of_a_pod(shared: Pyrun, busybox: Path) -> None:
    assert (TREE / "misc.capacity").read_text() == f"sev {CAPACITY}\n"

    def taken(many: int, *flags: str) -> list[str]:
        shell = ["--exec", "/bin/sh", "--", "-c", f"cat /sys/fs/cgroup/misc.max; {take(many)}"]
        return in_scope(shared, "run", "--device", NODE, *flags, busybox, *shell).splitlines()

    assert taken(CAPACITY + 1, "--misc", f"sev={CAPACITY + 2}") == [f"sev {CAPACITY + 2}", *["key"] * CAPACITY, BUSY], "what there is"
    assert taken(3, "--misc", "sev=2") == ["sev 2", "key", "key", BUSY]
    assert taken(1, "--misc", "sev=0") == ["sev 0", BUSY]
    assert taken(2, "--cgroup-set", "misc.max=sev 1") == ["sev 1", "key", BUSY]


def test_it_is_seen_and_changed_while_the_pod_runs(shared: Pyrun, busybox: Path) -> None:
    shell = ["--exec", "/bin/sh", "--", "-c", f"{take(3)}; sleep 1000"]
    uuid = in_scope(shared, "run", "--detach", "--device", NODE, "--misc", "sev=2", busybox, *shell).strip()
    wait_until(lambda: BUSY in shared("logs", uuid, code=0).out, "nothing is refused")
    group = Path(json.loads(shared("status", "--format", "json", uuid, code=0).out)["cgroup"])
    assert held(group) == {"max": ["sev 2"], "current": ["sev 2"], "events": ["sev.max 1"]}
    more = ("exec", uuid, "/bin/sh", "-c", take(2))
    assert shared(*more).out.splitlines() == [BUSY] * 2
    shared("update", "--misc", "sev=3", uuid, code=0)
    assert shared(*more).out.splitlines() == ["key", BUSY]
    assert held(group) == {"max": ["sev 3"], "current": ["sev 2"], "events": ["sev.max 4"]}
    refused = shared("update", "--misc", "sev_none=3", uuid, code=125)
    assert "misc.max sev_none" in refused.err and "misc.capacity" in refused.err and held(group)["max"] == ["sev 3"]
    shared("rm", "--force", uuid, code=0)
    assert (TREE / "machine.slice/misc.current").read_text() == "sev 0\n", "they are given back"


def test_of_a_container(tmp_path: Path, probe: Path) -> None:
    """By linux.resources.unified; the host reads what is left."""
    oci = Runtime(tmp_path, probe)
    number = NODE.stat().st_rdev
    place = {"type": "c", "major": os.major(number), "minor": os.minor(number)}
    oci.config["linux"]["devices"] = [{**place, "path": str(NODE), "fileMode": 0o666}]
    oci.config["linux"]["cgroupsPath"] = "/machine.slice/pyrun-misc"
    rules = [{**place, "allow": True, "access": "rw"}]
    oci.config["linux"]["resources"] = {"unified": {"misc.max": "sev 1"}, "devices": rules}
    oci.start_sleeping()
    group = TREE / "machine.slice/pyrun-misc"

    def taken() -> list[str]:
        return oci("exec", "one", "/bin/sh", "-c", take(3)).stdout.splitlines()

    assert taken() == ["key", BUSY, BUSY]
    assert held(group) == {"max": ["sev 1"], "current": ["sev 0"], "events": ["sev.max 2"]}
    (tmp_path / "more.json").write_text(json.dumps({"unified": {"misc.max": "sev 2"}}))
    oci("update", "--resources", tmp_path / "more.json", "one")
    assert taken() == ["key", "key", BUSY] and held(group)["max"] == ["sev 2"]
    oci("delete", "--force", "one")
    assert not group.exists()
