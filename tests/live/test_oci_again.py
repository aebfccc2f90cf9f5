"""Containers like earlier ones, which `pyrun-oci` makes without Python (native/again.c): each has its own, and nothing else is reused."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bundles import NO_PYTHON, OCI, Alone, Runtime, recipes

ONE, TWO, THREE = "a1" * 32, "b2c3" * 16, "0f" * 32


@pytest.fixture
def oci(tmp_path: Path, probe: Path) -> Runtime:
    return Runtime(tmp_path, probe)


@pytest.fixture
def alone(tmp_path: Path, oci: Runtime) -> Alone:
    return Alone(tmp_path / "alone", oci)


def test_run_of_what_was_run_before(oci: Runtime, alone: Alone) -> None:
    script = "hostname; id -u; echo $HOME; exit 7"
    oci.command("/bin/sh", "-c", script)
    first = oci("run", "one", code=7).stdout
    assert alone("run", "two", code=7) == first == "pyrun\n0\n/root\n"
    assert not oci.leftovers() and len(recipes(oci)) == 1
    assert not [top for top, _, _ in os.walk("/sys/fs/cgroup") if top.endswith(("/one", "/two"))]


def test_create_of_what_was_created_before(oci: Runtime, alone: Alone, tmp_path: Path) -> None:
    oci.config["annotations"] = {"one": "1", "two": "2"}
    oci.command("/bin/sleep", "1000")
    oci("create", "one")
    alone("create", "--bundle", oci.bundle, "--pid-file", tmp_path / "pid", "two")
    one, two = oci.state("one"), json.loads(alone("state", "two"))
    assert {**one, "id": "", "pid": 0, "created": ""} == {**two, "id": "", "pid": 0, "created": ""}
    assert two["id"] == "two" and two["status"] == "created" and (tmp_path / "pid").read_text() == str(two["pid"])
    assert one["created"] < two["created"] and len(one["created"]) == len(two["created"])
    assert oci("state", "two").stdout == oci("state", "--", "two").stdout, "by the launcher, and by Python"
    assert Path(f"/proc/{two['pid']}/cgroup").read_text() == Path(f"/proc/{one['pid']}/cgroup").read_text().replace("/one", "/two")
    for kind in ("pid", "mnt", "net", "ipc", "uts", "cgroup"):
        assert os.readlink(f"/proc/{two['pid']}/ns/{kind}") != os.readlink(f"/proc/{one['pid']}/ns/{kind}")
    for name in ("one", "two"):
        oci("start", name)
        oci("exec", name, "/bin/true")
        oci("pause", name)
        assert oci.state(name)["status"] == "paused"
        oci("resume", name)
        oci("delete", "--force", name)
    assert not oci.leftovers()


def of_kind(oci: Runtime, name: str, turn: int) -> None:
    """A configuration as clients write it: the id in many places, lists that stand in hash tables in any order."""
    own = oci.folder / "store" / name
    shutil.copytree(oci.bundle / "rootfs", own / "merged", symlinks=True)
    for file in ("etc/host", "etc/names"):
        (own / "merged" / file).touch()
    (own / "merged" / "mine").write_text(f"root of {name[:12]}\n")
    (own / "host").write_text(f"host of {name[:12]}\n")
    (own / "names").write_text(f"names of {name[:12]}\n")
    binds = [
        {"destination": f"/etc/{file}", "type": "bind", "source": str(own / file), "options": ["bind", "ro"]} for file in ("host", "names")
    ]
    env = ["PATH=/bin", "A=1", f"HOSTNAME={name[:12]}", "B=2", "HOME=/"]
    oci.config["hostname"] = name[:12]
    oci.config["root"]["path"] = str(own / "merged")
    oci.config["mounts"] = [*oci.config["mounts"][:7], *binds[turn:], *binds[:turn]]
    oci.config["process"]["env"] = env[turn:] + env[:turn]
    oci.config["annotations"] = {"created": "2026-11-26T07:25:31.8" + "1" * (turn * 3) + "Z", "of": name}
    oci.config["linux"]["cgroupsPath"] = f"/again/kind-{name}"


def test_each_container_of_a_kind_has_what_is_its_own(oci: Runtime, alone: Alone) -> None:
    for turn, name in enumerate((ONE, TWO, THREE)):
        of_kind(oci, name, turn % 2)
        oci.command(
            "/bin/sh", "-c", "hostname; cat /mine /etc/host /etc/names; tr '\\0' '\\n' < /proc/1/environ; touch /etc/host || echo read-only"
        )
        short, text = name[:12], alone("run", name) if turn else oci("run", name).stdout
        assert text.splitlines()[:4] == [short, f"root of {short}", f"host of {short}", f"names of {short}"]
        env = [word for word in text.splitlines() if word[:2] in ("A=", "B=") or word.startswith(("HOSTNAME=", "HOME=", "PATH="))]
        assert env == oci.config["process"]["env"], "in the order of the configuration"
        assert "read-only" in text and not oci.leftovers() and len(recipes(oci)) == 1


def test_the_host_sees_each_container_of_a_kind_as_its_own(oci: Runtime, alone: Alone) -> None:
    for turn, name in enumerate((ONE, TWO)):
        of_kind(oci, name, turn)
        oci.command("/bin/sleep", "1000")
        alone("create", name) if turn else oci("create", name)
        state = oci.state(name)
        group = Path(f"/sys/fs/cgroup/again/kind-{name}")
        assert str(state["pid"]) in group.joinpath("cgroup.procs").read_text().split()
        assert state["annotations"] == oci.config["annotations"] and state["rootfs"] == oci.config["root"]["path"]
        assert json.loads((oci.root / name / "config").read_text()) == oci.config
        order = [line.split()[4] for line in Path(f"/proc/{state['pid']}/mountinfo").read_text().splitlines()]
        wanted = [mount["destination"] for mount in oci.config["mounts"]]
        assert [one for one in order if one in wanted] == wanted
        oci("delete", "--force", name)
        assert not group.exists()
    assert not oci.leftovers()
    Path("/sys/fs/cgroup/again").rmdir()


def test_without_a_path_the_cgroup_is_at_the_root_of_the_tree(oci: Runtime, alone: Alone) -> None:
    """Below the caller's own, which has processes, no controller could be enabled (cgroups(7), "no internal processes")."""
    caller = Path("/sys/fs/cgroup/caller")
    caller.mkdir()
    oci.command("/bin/sleep", "1000")
    enter = 'echo 0 > /sys/fs/cgroup/caller/cgroup.procs; exec "$@"'
    for name, program in (("one", OCI), ("two", alone.program)):
        words = ["sh", "-c", enter, "sh", program, "--root", oci.root, "create", "--bundle", oci.bundle, name]
        subprocess.run([str(word) for word in words], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True, timeout=60)
        pid = oci.state(name)["pid"]
        assert str(pid) in Path(f"/sys/fs/cgroup/{name}/cgroup.procs").read_text().split()
        oci("delete", "--force", name)
    caller.rmdir()


def test_namespaces_are_those_of_the_configuration(oci: Runtime, alone: Alone) -> None:
    """Of two kinds, by paths of different lengths; what is set there is set in the container's, never in the host's."""
    holders = [subprocess.Popen(["unshare", "--net", "--ipc", "sleep", "1000"]) for _ in range(2)]
    oci.config["linux"]["sysctl"] = {"net.ipv4.ping_group_range": "7 9"}
    oci.command("/bin/sleep", "1000")
    try:
        for turn, holder in enumerate(holders):
            deadline = time.monotonic() + 30
            while Path(f"/proc/{holder.pid}/comm").read_text() != "sleep\n" and time.monotonic() < deadline:
                time.sleep(0.01)
            link = oci.folder / ("net" + "-longer" * turn)
            link.symlink_to(f"/proc/{holder.pid}/ns/net")
            join(oci, {"network": str(link), "ipc": f"/proc/{holder.pid}/ns/ipc"})
            alone("create", f"c{turn}") if turn else oci("create", f"c{turn}")
            pid = oci.state(f"c{turn}")["pid"]
            for kind in ("net", "ipc"):
                assert os.readlink(f"/proc/{pid}/ns/{kind}") == os.readlink(f"/proc/{holder.pid}/ns/{kind}")
            inside = ["nsenter", f"--net=/proc/{holder.pid}/ns/net", "cat", "/proc/sys/net/ipv4/ping_group_range"]
            assert subprocess.run(inside, check=True, capture_output=True, text=True).stdout.split() == ["7", "9"]
            oci("delete", "--force", f"c{turn}")
        assert len(recipes(oci)) == 1
        join(oci, {"network": "/proc/thread-self/ns/net", "ipc": f"/proc/{holders[0].pid}/ns/ipc"})
        alone("create", "own", code=NO_PYTHON)
        assert "would change the host" in oci("create", "own", code=1).stderr
        join(oci, {"network": str(oci.folder / "none"), "ipc": f"/proc/{holders[0].pid}/ns/ipc"})
        alone("create", "none", code=NO_PYTHON)
        assert not oci.leftovers()
    finally:
        for holder in holders:
            holder.kill()
            holder.wait()


def join(oci: Runtime, paths: dict[str, str]) -> None:
    for space in oci.config["linux"]["namespaces"]:
        if space["type"] in paths:
            space["path"] = paths[space["type"]]
    oci.write()


def change(*path: str | int, to: Any) -> Callable[[Runtime], None]:
    def edit(oci: Runtime) -> None:
        place: Any = oci.config
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = to

    return edit


CHANGES = {
    "capabilities": change("process", "capabilities", "bounding", to=["CAP_KILL"]),
    "no privileges": change("process", "noNewPrivileges", to=False),
    "user": change("process", "user", "uid", to=1000),
    "group": change("process", "user", "gid", to=1000),
    "groups": change("process", "user", "additionalGids", to=[5]),
    "umask": change("process", "user", "umask", to=0o77),
    "program": change("process", "args", to=["/bin/echo", "other"]),
    "variable": change("process", "env", 0, to="PATH=/none"),
    "directory": change("process", "cwd", to="/tmp"),
    "limit": change("process", "rlimits", 0, "soft", to=1023),
    "score": change("process", "oomScoreAdj", to=5),
    "read-only root": change("root", "readonly", to=True),
    "host name": change("hostname", to="other"),
    "mount option": change("mounts", 1, "options", to=["nosuid", "noexec", "strictatime", "mode=755", "size=65536k"]),
    "mount source": change("mounts", -1, "source", to="/etc"),
    "mount target": change("mounts", -1, "destination", to="/srv"),
    "masked paths": change("linux", "maskedPaths", to=[]),
    "read-only paths": change("linux", "readonlyPaths", to=[]),
    "namespaces": change("linux", "namespaces", to=[{"type": kind} for kind in ("pid", "ipc", "uts", "mount", "cgroup")]),
    "namespace by path": change("linux", "namespaces", 1, "path", to="/proc/1/ns/net"),
    "filter": change("linux", "seccomp", "syscalls", 0, "errnoRet", to=13),
    "propagation": change("linux", "rootfsPropagation", to="private"),
    "devices": change("linux", "devices", to=[{"path": "/dev/x", "type": "c", "major": 1, "minor": 3}]),
    "resources": change("linux", "resources", to={"devices": [{"allow": False, "access": "m"}]}),
    "hooks": change("hooks", to={"poststop": [{"path": "/bin/true"}]}),
    "version": change("ociVersion", to="1.0.2"),
}


def prepare(oci: Runtime) -> None:
    oci.config["mounts"].append({"destination": "/mnt", "type": "bind", "source": "/var", "options": ["bind", "ro"]})
    oci.config["linux"]["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["chroot"], "action": "SCMP_ACT_ERRNO", "errnoRet": 12}],
    }
    oci.command("/bin/echo", "hello")
    oci("run", "one")


@pytest.mark.parametrize("edit", [pytest.param(edit, id=name) for name, edit in CHANGES.items()])
def test_what_differs_is_decided_anew(oci: Runtime, alone: Alone, edit: Callable[[Runtime], None]) -> None:
    prepare(oci)
    assert alone("run", "two") == "hello\n"
    edit(oci)
    oci.write()
    alone("run", "three", code=NO_PYTHON)
    assert not oci.leftovers()


def test_who_asks_is_part_of_it(oci: Runtime, alone: Alone) -> None:
    prepare(oci)
    for words in (["--no-pivot"], ["--no-new-keyring"], ["--preserve-fds", "1"]):
        alone("run", *words, "two", code=NO_PYTHON)
    alone("--systemd-cgroup", "run", "two", code=NO_PYTHON)
    alone("run", "two", code=NO_PYTHON, umask=0o27)
    alone("run", "two", code=NO_PYTHON, env={"LISTEN_FDS": "1"})
    with pytest.raises(AssertionError, match=f"exit {NO_PYTHON}"):
        subprocess_words = ["setpriv", "--bounding-set", "-sys_time", str(alone.program), "--root", str(oci.root), "run", "two"]
        done = subprocess.run(subprocess_words, cwd=oci.bundle, stdin=subprocess.DEVNULL, env={**os.environ, "ALONE": "1"}, check=False)
        assert done.returncode == 0, f"exit {done.returncode}"
    assert alone("run", "two") == "hello\n"


def test_accounts_of_the_root_decide_where_home_is(oci: Runtime, alone: Alone) -> None:
    oci.command("/bin/sh", "-c", "echo $HOME")
    assert oci("run", "one").stdout == alone("run", "two") == "/root\n"
    passwd = oci.bundle / "rootfs" / "etc" / "passwd"
    passwd.write_text(passwd.read_text().replace("/root:", "/home:"))
    alone("run", "two", code=NO_PYTHON)
    assert oci("run", "two").stdout == alone("run", "two") == "/home\n"


def test_sources_below_the_bundle_belong_to_it(oci: Runtime, alone: Alone) -> None:
    oci.config["mounts"].append({"destination": "/mnt", "type": "bind", "source": "data", "options": ["bind"]})
    for name in ("bundle", "other"):
        (oci.folder / name).mkdir(exist_ok=True)
        (oci.folder / name / "data").mkdir()
        (oci.folder / name / "data" / "file").write_text(f"of {name}\n")
    (oci.folder / "other" / "rootfs").symlink_to(oci.bundle / "rootfs")
    oci.command("/bin/cat", "/mnt/file")
    assert oci("run", "one").stdout == alone("run", "two") == "of bundle\n"
    shutil.copy(oci.bundle / "config.json", oci.folder / "other")
    alone("run", "--bundle", oci.folder / "other", "two", code=NO_PYTHON)
    assert oci("run", "--bundle", oci.folder / "other", "two").stdout == "of other\n"


def test_a_number_is_no_id(oci: Runtime, alone: Alone) -> None:
    """Digits that the id begins with may stand for a limit, of which the plan has the value."""
    oci.command("/bin/sh", "-c", "ulimit -f; exit 0")
    for digit, code in (("1", 0), ("2", NO_PYTHON)):
        value = int(digit * 12)
        oci.config["process"]["rlimits"] = [{"type": "RLIMIT_FSIZE", "soft": value, "hard": value}]
        oci.write()
        name = digit * 12 + "a" * 52
        if code:
            alone("run", name, code=code)
        assert oci("run", name).stdout == f"{value // 512}\n"


def test_streams_belong_to_the_user(oci: Runtime, alone: Alone) -> None:
    oci.config["process"]["user"] = {"uid": 1000, "gid": 1000}
    oci.command("/bin/sh", "-c", "echo hi > /dev/stdout")
    oci("run", "one", code=1)  # its output is a file here, which stays root's
    words = [str(alone.program), "--root", str(oci.root), "run", "two"]
    more: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 60, "env": {**os.environ, "ALONE": "1"}}
    done = subprocess.run(words, cwd=oci.bundle, stdin=subprocess.DEVNULL, **more)
    assert (done.returncode, done.stdout) == (0, "hi\n")


def test_what_fails_is_told_by_python(oci: Runtime, alone: Alone) -> None:
    oci.command("/bin/hello")
    (oci.bundle / "rootfs/bin/hello").symlink_to("busybox")
    oci("run", "one", code=None)
    assert recipes(oci)
    (oci.bundle / "rootfs/bin/hello").unlink()
    alone("create", "two", code=NO_PYTHON)
    assert not oci.leftovers() and not Path("/sys/fs/cgroup/two").exists()
    assert "/bin/hello" in oci("create", "two", code=1).stderr
    (oci.bundle / "rootfs/bin/hello").write_text("#!/none\n")
    (oci.bundle / "rootfs/bin/hello").chmod(0o755)
    alone("run", "two", code=NO_PYTHON)
    assert not oci.leftovers() and not Path("/sys/fs/cgroup/two").exists()
    assert "/bin/hello" in oci("run", "two", code=1).stderr and not oci.leftovers()


def test_a_name_that_is_taken_is_refused(oci: Runtime, alone: Alone) -> None:
    pid = oci.start_sleeping()
    alone("create", "one", code=NO_PYTHON)
    assert "already exists" in oci("create", "one", code=1).stderr
    assert oci.state("one")["pid"] == pid and oci.state("one")["status"] == "running"
    oci("delete", "--force", "one")


def test_a_cgroup_with_processes_is_left_alone(oci: Runtime, alone: Alone) -> None:
    oci.config["linux"]["cgroupsPath"] = "/taken"
    oci.command("/bin/true")
    oci("run", "one")
    group = Path("/sys/fs/cgroup/taken")
    group.mkdir()
    with subprocess.Popen(["sleep", "1000"]) as sleeping:
        (group / "cgroup.procs").write_text(str(sleeping.pid))
        alone("run", "two", code=NO_PYTHON)
        assert sleeping.poll() is None and not oci.leftovers()
        sleeping.kill()
        sleeping.wait()
    deadline = time.monotonic() + 30
    while "populated 1" in (group / "cgroup.events").read_text() and time.monotonic() < deadline:
        time.sleep(0.01)
    alone("run", "two")
    assert not group.exists()


def test_signals_and_the_end_of_run(oci: Runtime, alone: Alone) -> None:
    """Signals go to the program; cgroups that it made are removed, with the same exit code."""
    oci.config["mounts"][6]["options"].remove("ro")
    script = "mkdir /sys/fs/cgroup/below; trap 'exit 9' TERM; touch /tmp/ready; while true; do sleep 0.1; done"
    oci.command("/bin/sh", "-c", script)
    ready = oci.bundle / "rootfs" / "tmp" / "ready"
    for number in range(2):
        words = [str(oci.program), "--root", str(oci.root), "run", "one"]
        with subprocess.Popen(words, cwd=oci.bundle, stdin=subprocess.DEVNULL) as running:
            deadline = time.monotonic() + 30
            while not ready.exists() and time.monotonic() < deadline:
                time.sleep(0.01)
            if number:
                assert os.readlink(f"/proc/{running.pid}/exe") == str(oci.program), "no interpreter"
            running.send_signal(signal.SIGTERM)
            assert running.wait(timeout=60) == 9
        ready.unlink()
        assert not oci.leftovers() and not Path("/sys/fs/cgroup/one").exists()
