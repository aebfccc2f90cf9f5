"""`pyrun plan`: what `run` would ask of the kernel, in order, and nothing of it done."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import Pyrun

from pyrun.plan.describe import NAMES
from pyrun.plan.ops import notes

UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"

# Every step of a default run but the masked and read-only paths, runs of the same one counted.
GOLDEN = """
    propagation 1, host_dir 2, overlay 1, mkdir 4, write 1,
    mount 2, mknod 7, mkdir 1, mount 1, mkdir 1, mount 1, mkdir 1, mount 1, symlink 5,
    readonly 5, mask 16, network 1, mount 2, mask 5, hostname 1, pivot 1, keyring 1,
    app 1, session 1, stdin_null 1, umask 1, rlimit 4, caps 1, ids 1, caps 1, chdir 1, no_new_privs 1, seccomp 1, exec 1
"""


def operations(shared: Pyrun, *flags: str | Path) -> list[dict[str, Any]]:
    made = json.loads(shared("plan", *flags, shared.probe_image, "--format", "json", code=0).out)
    found: list[dict[str, Any]] = made["operations"]
    return found


def runs(names: list[str]) -> str:
    """ "a a b" -> "a 2, b 1" """
    found: list[tuple[str, int]] = []
    for name in names:
        if found and found[-1][0] == name:
            found[-1] = (name, found[-1][1] + 1)
        else:
            found.append((name, 1))
    return ", ".join(f"{name} {count}" for name, count in found)


@pytest.fixture(scope="module", autouse=True)
def stored(shared: Pyrun) -> None:
    shared("fetch", shared.probe_image, code=0)


def test_golden_order(shared: Pyrun) -> None:
    assert runs([one["op"] for one in operations(shared)]) == " ".join(GOLDEN.split())


def test_privileges_go_last_and_in_order(shared: Pyrun) -> None:
    """Whatever the flags: nothing that names the host after the pivot, the filter right before the program."""
    for flags in (
        [],
        ["--user", "app"],
        ["--insecure-options", "all"],
        ["--insecure-options", "new-privs"],
        ["-it"],
        ["--readonly-rootfs"],
    ):
        names = [one["op"] for one in operations(shared, *flags)]
        pivot, app = names.index("pivot"), names.index("app")
        assert names[pivot + 1 : app] == ["keyring"]
        assert set(names[app + 1 :]) <= {*"session stdin_null umask rlimit caps ids chdir no_new_privs seccomp exec".split()}
        assert names[app + 1] == "session" and names[-1] == "exec"
        assert [name for name in names if name in ("caps", "ids")] == ["caps", "ids", "caps"]
        if "no_new_privs" in names:
            assert names[-3:-1] == ["no_new_privs", "seccomp"]
        elif "seccomp" in names:
            assert names.index("seccomp") < names.index("caps")


def test_volumes_stand_before_the_kernels_file_systems(shared: Pyrun) -> None:
    steps = operations(shared, "-v", "/usr:/a:ro", "--volume", "e,kind=empty", "--mount", "volume=e,target=/e")
    names = [one["op"] for one in steps]
    assert names.index("bind") < names.index("mount")
    places = [(number, one["arguments"][1]) for number, one in enumerate(steps) if one["op"] == "mount"]
    assert {"/proc", "/sys", "/sys/fs/cgroup"} <= {target for _, target in places}
    for number, one in enumerate(steps):
        if one["op"] in ("mask", "readonly"):  # stands behind every mount that could cover it
            path = one["arguments"][0]
            assert [target for at, target in places if at > number and f"{path}/".startswith(f"{target}/")] == []


def test_every_step_says_who_asked(shared: Pyrun) -> None:
    flags = [
        "-v",
        "/usr:/data:ro",
        "--hostname",
        "web",
        "--user",
        "app",
        "--rlimit",
        "nofile=9:10",
        "--working-dir",
        "/tmp",
        "--umask",
        "077",
    ]
    by_name = {one["op"]: one for one in operations(shared, *flags)}
    assert by_name["bind"]["origin"] == "-v /usr:/data:ro"
    assert by_name["hostname"]["origin"] == "--hostname"
    assert by_name["ids"]["origin"] == "--user"
    assert by_name["chdir"]["origin"] == "--working-dir"
    assert by_name["umask"]["origin"] == "--umask"
    assert by_name["exec"]["origin"] == "app.exec of example.com/probe"
    assert any(one["origin"] == "--rlimit nofile=9:10" for one in operations(shared, *flags))
    assert all(one["what"] for one in by_name.values())


def test_text_is_one_numbered_line_a_step(shared: Pyrun) -> None:
    lines = shared("plan", shared.probe_image, code=0).out.splitlines()
    assert lines[0] == "  0  clone into new namespaces: pid mount ipc uts net cgroup"
    assert [int(line.split()[0]) for line in lines] == list(range(len(lines)))
    assert len(lines) == 1 + len(operations(shared))
    assert "execute ['/probe', 'report']" in lines[-1]
    assert "net" not in shared("plan", "--net", "host", shared.probe_image, code=0).out.splitlines()[0].split(":")[1].split()


def test_the_plan_is_what_runs(shared: Pyrun) -> None:
    """The mounts seen inside are those planned, in number and order."""
    planned = [one["arguments"][1] for one in operations(shared) if one["op"] == "mount"]
    seen = [line.split()[4] for line in shared.report()["mounts"]]
    assert [target for target in seen if target in planned] == planned


def test_plans_differ_in_the_uuid_alone(shared: Pyrun) -> None:
    first, second = (re.sub(UUID, "UUID", shared("plan", shared.probe_image, code=0).out) for _ in range(2))
    assert first == second


def snapshot(top: Path) -> list[tuple[object, ...]]:
    found: list[tuple[object, ...]] = []
    for path in sorted(top.rglob("*")):
        st = os.lstat(path)
        found.append((str(path), st.st_mode, st.st_ino, st.st_size, st.st_mtime_ns))
    return found


def test_nothing_is_done(pyrun: Pyrun, tmp_path: Path) -> None:
    """Not to the store, not to a volume's source, not to the file that --uuid-file-save names."""
    pyrun("fetch", pyrun.probe_image, code=0)
    pyrun("plan", pyrun.probe_image, code=0)  # the compiled filter and the store's directories are there now
    before = snapshot(pyrun.root)
    volume = tmp_path / "volume"
    volume.mkdir()
    for flags in ([], ["-v", f"{volume}:/data"], ["--no-overlay"], ["--uuid-file-save", tmp_path / "uuid"], ["--user", "app", "-it"]):
        pyrun("plan", *flags, pyrun.probe_image, code=0)
    assert snapshot(pyrun.root) == before
    assert list(volume.iterdir()) == [] and not (tmp_path / "uuid").exists()


def test_nothing_is_imported(pyrun: Pyrun) -> None:
    failed = pyrun("plan", pyrun.probe_image, code=125)
    assert "not in the store yet" in failed.err and "pyrun fetch" in failed.err
    assert not list(pyrun.root.glob("blobs/*/*"))


@pytest.mark.parametrize(
    "flags",
    [["--user", "ghost"], ["-v", "/no/such:/x"], ["--caps-retain", "PONY"], ["--hostname", "a b"], ["--net", "foo"]],
)
def test_the_same_refusals_as_run(shared: Pyrun, flags: list[str]) -> None:
    planned, run = (shared(verb, *flags, shared.probe_image) for verb in ("plan", "run"))
    assert (planned.code, planned.err, planned.out) == (run.code, run.err, "")
    assert run.code in (2, 125)


def test_what_is_said_is_escaped(shared: Pyrun, image: Callable[..., Path]) -> None:
    path = image("example.com/escape", ["/probe", "\x1b[31mred\n"], app={"workingDirectory": "/\x1b[2J"})
    shared("fetch", path, code=0)
    out = shared("plan", path, code=0).out
    assert "\x1b" not in out and "execute" in out
    json.loads(shared("plan", path, "--format", "json", code=0).out)


def test_several_apps_each_in_its_turn(shared: Pyrun, busybox: Path) -> None:
    """What the pod has in common first; then for each app what a prepared pod of the same words would carry out."""
    words: tuple[str | Path, ...] = (busybox, "--name", "a", "--user", "1000", "---", shared.probe_image, "--name", "b", "--pid", "pod")
    shared("fetch", busybox, shared.probe_image, code=0)
    made = json.loads(shared("plan", *words, "--format", "json", code=0).out)
    assert made["namespaces"] == ["mount", "ipc", "uts", "net", "pid"] and [app["name"] for app in made["apps"]] == ["a", "b"]
    assert all(app["namespaces"] == ["mount", "cgroup"] for app in made["apps"])
    uuid = shared("prepare", "--rm", *words, code=0).out.strip()
    for app in made["apps"]:
        block = (shared.root / "pods" / "prepared" / uuid / "apps" / app["name"] / "plan").read_bytes()
        planned = [(one["op"], one["origin"]) for one in app["operations"]]
        assert planned == [(NAMES[one[0]].replace(" ", "_"), one[7]) for one in notes(block)]
        assert f"/apps/{app['name']}/upper" in str(app["operations"][3])
    shared("rm", uuid, code=0)
    text = shared("plan", *words, code=0).out.splitlines()
    assert text[0] == "  -  clone the pod's holder into new namespaces: mount ipc uts net pid"
    heads = [line for line in text if line.startswith("app ")]
    assert heads == [f"app {name}, which joins the holder's namespaces" for name in ("a", "b")]
    before = os.listdir(shared.root / "pods" / "prepared")
    assert "two apps have that name" in shared("plan", *words[:3], "---", *words[:3], code=2).err
    assert os.listdir(shared.root / "pods" / "prepared") == before


def test_networks_and_ports(shared: Pyrun) -> None:
    """What is made in the host beforehand is told as well, in words and as values."""
    shared("network", "create", "other", code=0)
    flags = ("-p", "8080-8081:80-81", "-p", "127.0.0.1:5300:53/udp", "--net", "default:mtu=1400,other")
    made = json.loads(shared("plan", *flags, shared.probe_image, "--format", "json", code=0).out)
    assert [(one["network"], one.get("mtu")) for one in made["networks"]] == [("default", 1400), ("other", None)]
    assert made["ports"] == [
        {"protocol": "tcp", "host_address": "", "host_port": 8080, "port": 80},
        {"protocol": "tcp", "host_address": "", "host_port": 8081, "port": 81},
        {"protocol": "udp", "host_address": "127.0.0.1", "host_port": 5300, "port": 53},
    ]
    text = shared("plan", *flags, shared.probe_image, code=0).out
    assert "join network other\n" in text and "forward 127.0.0.1:5300/udp of the host to port 53\n" in text
    joined = json.loads(shared("plan", "--net", "container:x", shared.probe_image, "--format", "json", code=0).out)
    assert joined["networks"] == [{"network": "container:x"}] and joined["ports"] == []
    assert json.loads(shared("plan", shared.probe_image, "--format", "json", code=0).out)["networks"] == []
    shared("network", "rm", "other", code=0)
