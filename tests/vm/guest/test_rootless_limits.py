"""Limits of an ordinary user's pods, in what the systemd of that user was delegated (user@.service)."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import COMMAND, TOP
from launched import programs, traced

NAME = "tester"
DROP_IN = Path("/etc/systemd/system/user@.service.d/delegate.conf")
PATIENCE = 240  # seconds; the processor is emulated

LIBRARY = """
import json, pyrun
from pyrun.errors import PyrunError
pyrun.allow_limits(["memory", "pids"])
own = open("/proc/self/cgroup").read().rpartition("0::")[2].strip()
def run(script, **more):
    return pyrun.run(None, ["sh", "-c", script], rootfs="host", capture_output=True, timeout=60, **more)
held = run("dd if=/dev/zero of=/dev/shm/eaten bs=1M count=48", memory="32Mi", swap=0, oom_group=True)
bomb = run("b() { b | b & }; b; sleep 1; echo lives", pids_limit=20)
pyrun.settle()
print(json.dumps([own, held.reason, held.usage["memory_peak_bytes"], bomb.usage["pids_peak"], bomb.usage["pids_max_events"]]))
"""

BACKGROUND = """
import json, pyrun, sys
kind = dict(exec="/bin/sh", insecure_options=["image"])
if sys.argv[1] == "one":
    pod = pyrun.detach("example.com/busybox", ["-c", "exec sleep 1000"], memory="32Mi", pids_limit=20, pod_name="one", **kind)
else:
    apps = [pyrun.App("example.com/busybox", ["-c", "exec sleep 1000"], name=name, memory="16Mi", **kind) for name in ("a", "b")]
    pod = pyrun.create_pod(apps, pod_limit=["memory=24Mi"], pod_name="two")
    pod.start()
print(json.dumps([pod.uuid, pod.status()["cgroup"], open("/proc/self/cgroup").read().rpartition("0::")[2].strip()]))
"""


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.2)


class Person:
    """An account with a systemd of its own that has processor, memory and processes delegated, and nothing else."""

    def __init__(self) -> None:
        subprocess.run(["useradd", "--create-home", NAME], check=True)
        found = pwd.getpwnam(NAME)
        self.uid, self.home = found.pw_uid, Path(found.pw_dir)
        DROP_IN.parent.mkdir(exist_ok=True)
        DROP_IN.write_text("[Service]\nDelegate=cpu memory pids\n")
        subprocess.run(["systemctl", "daemon-reload"], check=True, timeout=PATIENCE)
        subprocess.run(["loginctl", "enable-linger", NAME], check=True, timeout=PATIENCE)
        self.runtime = Path(f"/run/user/{self.uid}")
        self.tree = Path(f"/sys/fs/cgroup/user.slice/user-{self.uid}.slice/user@{self.uid}.service")
        until((self.runtime / "bus").exists)

    def start(self, *words: str | Path, **more: int) -> subprocess.Popen[str]:
        command = ["setpriv", f"--reuid={NAME}", f"--regid={NAME}", "--clear-groups", "env", f"XDG_RUNTIME_DIR={self.runtime}"]
        env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(self.home)}
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more}
        return subprocess.Popen([*command, *map(str, words)], env=env, cwd="/", text=True, **streams)  # type: ignore[call-overload,no-any-return]

    @contextlib.contextmanager
    def running(self, *words: str | Path) -> Iterator[subprocess.Popen[str]]:
        """A program that says when it is ready; it is ended with the block."""
        with self.start(*words) as process:
            try:
                assert process.stdout is not None and process.stdout.readline() == "ready\n", process.stderr and process.stderr.read()
                yield process
            finally:
                process.terminate()

    def run(self, *words: str | Path, code: int = 0) -> str:
        with self.start(*words) as process:
            out, error = process.communicate(timeout=PATIENCE)
        assert process.returncode == code, f"{words}: exit {process.returncode}\n{out}\n{error}"
        return out if code == 0 else error

    def groups(self) -> list[str]:
        """What of pyrun's is in the user's tree."""
        return [top for top, _, _ in os.walk(self.tree) if "pyrun" in os.path.basename(top)]

    def close(self) -> None:
        subprocess.run(["loginctl", "disable-linger", NAME], check=True, timeout=PATIENCE)
        subprocess.run(["systemctl", "stop", f"user@{self.uid}.service"], check=True, timeout=PATIENCE)
        DROP_IN.unlink()
        subprocess.run(["systemctl", "daemon-reload"], check=True, timeout=PATIENCE)
        subprocess.run(["userdel", "--remove", NAME], check=True, stderr=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def person(busybox: Path) -> Iterator[Person]:
    made = Person()
    copy = made.home / "busybox.aci"
    shutil.copyfile(busybox, copy)
    copy.chmod(0o644)
    made.run(COMMAND, "fetch", "--insecure-options=image", copy)
    yield made
    made.close()


def shell(script: str, *flags: str) -> list[str]:
    return [str(COMMAND), "run", "--insecure-options=image", *flags, "example.com/busybox", "--exec", "/bin/sh", "--", "-c", script]


def read(group: str, file: str) -> str:
    return (Path(group) / file).read_text().strip()


def test_from_a_place_that_is_not_delegated(person: Person) -> None:
    """The user's systemd makes a scope; the limits are in it before the app runs, they hold, and all of it goes."""
    flags = ["--memory", "32Mi", "--swap", "0B", "--pids-limit", "20", "--cpus", "0.5", "--oom-group"]
    with person.running(*shell("echo ready; sleep 1000; true", *flags)) as process:
        (scope,) = [path for path in person.groups() if path.endswith(".scope")]
        pod = f"{scope}/{os.path.basename(scope).removesuffix('.scope')}"
        assert str(person.tree) in scope and read(f"{scope}/pyrun-supervisor", "cgroup.procs") == str(process.pid)
        limits = [read(pod, file) for file in ("memory.max", "memory.swap.max", "pids.max", "cpu.max", "memory.oom.group")]
        assert limits == [str(32 << 20), "0", "20", "50000 100000", "1"]
        until(lambda: len(read(pod, "cgroup.procs").split()) == 3)  # init, the shell, sleep
        assert str(process.pid) not in read(pod, "cgroup.procs").split()
        stats = json.loads(person.run(COMMAND, "stats", "--no-stream", "--format", "json"))
        assert stats[0]["memory_limit_bytes"] == 32 << 20
        uuid = os.path.basename(pod).removeprefix("pyrun-")
        person.run(COMMAND, "update", uuid, "--memory", "48Mi")
        assert read(pod, "memory.max") == str(48 << 20)
        person.run(COMMAND, "pause", uuid)
        assert "frozen 1" in read(pod, "cgroup.events")
        person.run(COMMAND, "resume", uuid)
        person.run(COMMAND, "stop", uuid)
    until(lambda: person.groups() == [])
    error = person.run(*shell("dd if=/dev/zero of=/dev/shm/eaten bs=1M count=48", *flags), code=137)
    assert "Traceback" not in error
    until(lambda: person.groups() == [])


def test_a_command_line_that_comes_again(person: Person) -> None:
    """The launcher asks the user's systemd itself, and no Python is started."""
    person.run(COMMAND, "trust", "--yes", "--unsigned", person.home / "busybox.aci")
    words = ["run", "--memory", "32Mi", "--pids-limit", "20", "example.com/busybox", "--exec", "/bin/sh", "--", "-c"]
    for had_python in (True, False):
        said = person.run(*traced(person.home), COMMAND, *words, "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max")
        assert said.split() == [str(32 << 20), "20"] and ("python3" in programs(person.home)) == had_python
        until(lambda: person.groups() == [])


def test_in_a_scope_of_the_users(person: Person) -> None:
    """With Delegate=yes the pod is below it, and pyrun in a leaf beside the pod."""
    unit = "own.scope"
    words = ["systemd-run", "--user", "--scope", "--quiet", f"--unit={unit}", "-p", "Delegate=yes"]
    with person.running(*words, *shell("echo ready; sleep 1000", "--memory", "32Mi")):
        leaf, pod = sorted(person.groups(), key=lambda path: "supervisor" not in path)
        assert Path(leaf).parent.name == Path(pod).parent.name == unit and read(pod, "memory.max") == str(32 << 20)
        assert len(read(leaf, "cgroup.procs").split()) == 1
    until(lambda: person.groups() == [])


def test_beside_others_in_a_scope_of_the_users(person: Person) -> None:
    """As in a terminal of a desktop: what is delegated is the tree of the user's systemd, not this part of it."""
    words = ["systemd-run", "--user", "--scope", "--quiet", "--unit=terminal.scope", "bash", "-c", '"$@"; true', "bash"]
    with person.running(*words, *shell("echo ready; sleep 1000", "--memory", "32Mi")):
        (scope,) = [path for path in person.groups() if path.endswith(".scope")]
        pod = f"{scope}/{os.path.basename(scope).removesuffix('.scope')}"
        assert read(pod, "memory.max") == str(32 << 20)
        person.run(COMMAND, "stop", os.path.basename(pod).removeprefix("pyrun-"))
    until(lambda: person.groups() == [])


def test_the_library_in_a_service_of_the_users(person: Person) -> None:
    words = ["systemd-run", "--user", "--quiet", "--pipe", "--wait", "--collect", "-p", "Delegate=yes"]
    own, reason, peak, pids, refused = json.loads(person.run(*words, TOP / ".venv/bin/python3", "-c", LIBRARY))
    assert own.endswith(".service/pyrun-supervisor") and f"user@{person.uid}.service" in own
    assert reason == "oom" and peak <= 33 << 20 and pids == 20 and refused > 0
    until(lambda: person.groups() == [])


def test_the_librarys_pods_in_the_background(person: Person) -> None:
    """From a place that is not delegated: a child is moved into a scope, the program stays where it is."""
    uuid, cgroup, own = json.loads(person.run(TOP / ".venv/bin/python3", "-c", BACKGROUND, "one"))
    assert f"/pyrun-{uuid}.scope/" in cgroup and str(person.tree) in cgroup and f"user@{person.uid}" not in own
    assert [read(cgroup, file) for file in ("memory.max", "pids.max")] == [str(32 << 20), "20"]
    update = "import pyrun; pod = pyrun.attach('one'); pod.update(memory='48Mi'); print(pod.stats()['pids']); pod.pause(); pod.resume()"
    assert int(person.run(TOP / ".venv/bin/python3", "-c", update)) == 2
    assert read(cgroup, "memory.max") == str(48 << 20)
    # cgroups(7): the cgroup above both has to be the user's, which that of a login and of a pod is not
    with person.running(COMMAND, "exec", "one", "--", "/bin/sh", "-c", "echo ready; sleep 1000") as process:
        until(lambda: len(read(cgroup, "cgroup.procs").split()) == 3)  # init, the app, this one
        mine = Path(f"/proc/{process.pid}/cgroup").read_text().strip()
        assert mine.endswith(f"/app.slice/pyrun-{uuid}-{process.pid}.scope") and str(person.tree)[len("/sys/fs/cgroup") :] in mine
        assert person.run(COMMAND, "exec", "one", "--", "/bin/cat", "/proc/self/cgroup") == "0::/\n"
    lost = ["env", "XDG_RUNTIME_DIR=/run/user/none", COMMAND, "exec", "one", "--", "true"]
    outside = person.run(*lost, code=125)
    assert "enter the pod's cgroup: permission denied" in outside and "systemd-run --user --scope" in outside
    person.run(TOP / ".venv/bin/python3", "-c", "import pyrun; pyrun.attach('one').remove(force=True)")
    until(lambda: person.groups() == [])
    uuid, cgroup, _ = json.loads(person.run(TOP / ".venv/bin/python3", "-c", BACKGROUND, "two"))
    limits = [read(f"{cgroup}{below}", "memory.max") for below in ("", "/a", "/b")]
    assert limits == [str(24 << 20), str(16 << 20), str(16 << 20)]
    person.run(COMMAND, "rm", "--force", "two")
    until(lambda: person.groups() == [])


def test_what_is_not_delegated(person: Person) -> None:
    error = person.run(*shell("true", "--cpuset-cpus", "0"), code=125)
    assert "cpuset" in error and f"user@{person.uid}.service" in error and "user@.service.d" in error and "Delegate=" in error
    until(lambda: person.groups() == [])
    assert list((person.home / ".local/share/pyrun/pods/running").iterdir()) == []


@pytest.mark.parametrize("flags", [[], ["--cgroup-manager", "systemd"]], ids=["auto", "systemd"])
def test_a_prepared_pod_needs_no_python(person: Person, flags: list[str]) -> None:
    """The launcher goes into the user namespace, and asks the user's systemd for the scope itself."""
    words = ["--insecure-options=image", "--memory", "32Mi", *flags, "example.com/busybox", "--exec", "/bin/sh"]
    uuid = person.run(COMMAND, "prepare", *words, "--", "-c", "echo ready; exec sleep 1000").strip()
    trace = person.home / "trace"
    with person.running(TOP / "build" / "probe", "trace", trace, COMMAND, "run-prepared", uuid):
        assert trace.read_text().splitlines()[:2] == ["pyrun", "keeper"]
        (scope,) = [path for path in person.groups() if path.endswith(".scope")]
        assert str(person.tree) in scope and scope.endswith(f"/pyrun-{uuid}.scope")
        assert read(f"{scope}/pyrun-{uuid}", "memory.max") == str(32 << 20)
        person.run(COMMAND, "stop", uuid)
    until(lambda: person.groups() == [])
