"""Who was killed for want of memory: with a real limit and a real kill, counted in the pod's cgroup or in its unit's."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import COMMAND, Pyrun
from waiting import wait_until

EAT = ("--exec", "/probe", "--", "eat")


def test_a_pod_that_ran_out_of_memory(shared: Pyrun) -> None:
    """Started from the root of the tree its cgroup has a memory controller of its own."""
    uuid = shared("prepare", "--log-driver", "k8s-file", shared.probe_image, *EAT, code=0).out.strip()
    start = [str(COMMAND), "--root", str(shared.root), "run-prepared", "--detach", uuid]
    subprocess.run(start, check=True, preexec_fn=lambda: Path("/sys/fs/cgroup/cgroup.procs").write_text(str(os.getpid())))
    group = Path(f"/sys/fs/cgroup/pyrun-{uuid}")
    wait_until(lambda: "ready" in (shared.root / "pods" / "running" / uuid / "log").read_text())
    (group / "memory.swap.max").write_text("0") if (group / "memory.swap.max").exists() else None
    (group / "memory.max").write_text(str(16 << 20))
    shared("kill", "--signal", "USR1", uuid, code=0)
    found = json.loads(shared("wait", "--format", "json", uuid, code=137).out)
    assert (found[0]["exit_code"], found[0]["oom"]) == (137, True)
    assert "exited (137, oom)" in shared("list", code=0).out
    assert not group.exists()
    shared("rm", uuid, code=0)


def test_a_unit_that_ran_out_of_memory(shared: Pyrun) -> None:
    """The pod's cgroup below the unit's counts no memory; the unit's does."""
    unit = "pyrun-eat.service"
    words = [COMMAND, "--root", shared.root, "run", "--keep", shared.probe_image, *EAT]
    limits = ["--property=MemoryMax=24M", "--property=MemorySwapMax=0", "--property=OOMPolicy=continue", "--property=Type=notify"]
    subprocess.run(["systemd-run", "--quiet", f"--unit={unit}", *limits, *map(str, words)], check=True, timeout=120)
    (uuid,) = os.listdir(shared.root / "pods" / "running")
    shared("kill", "--signal", "USR1", uuid, code=0)
    wait_until((shared.root / "pods" / "exited" / uuid).exists)
    record = json.loads((shared.root / "pods" / "exited" / uuid / "exit").read_text())
    assert (record["signal"], record["oom"], record["oom_victim"]) == (9, True, "main")
    subprocess.run(["systemctl", "reset-failed", unit], stderr=subprocess.DEVNULL)
    shared("rm", uuid, code=0)


# A child that is killed: the shell says so on standard error and goes on.
CHILD = "dd if=/dev/zero of=/dev/shm/eaten bs=1M count=48 2>/dev/null; rm /dev/shm/eaten;"
MEMORY = ("--memory", "24Mi", "--swap", "0")


@pytest.fixture(scope="module")
def tools(busybox: Path) -> Path:
    """One image for all files of a machine: to import one takes seconds there."""
    return busybox


@pytest.fixture
def detached(shared: Pyrun, tools: Path) -> Callable[..., str]:
    """A pod in the background, in a scope of its own, as from a login; its UUID."""

    def start(script: str, *flags: str, image: Path | None = None) -> str:
        words = ["run", "--detach", "--keep", *flags, image or tools, "--exec", "/bin/sh", "--", "-c", script]
        command = ["systemd-run", "--quiet", "--scope", COMMAND, "--root", shared.root, *words]
        return subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=120, check=True).stdout.strip()

    return start


def end_of(shared: Pyrun, uuid: str) -> list[object]:
    """How it ended, by what `status` says, which is what the record has and `inspect` shows."""
    shared("wait", uuid)
    found = json.loads(shared("status", "--format", "json", uuid, code=0).out)
    (shown,) = json.loads(shared("inspect", uuid, code=0).out)
    assert shown["exit"].get("oom_victim") == shown.get("oom_victim") == found.get("oom_victim")
    shared("rm", uuid, code=0)
    return [found["signal"] or found["code"], found.get("oom", False), found.get("oom_victim")]


@pytest.mark.parametrize(
    ("script", "flags", "expected"),
    [
        ("exec dd if=/dev/zero of=/dev/shm/eaten bs=1M count=48", (), [9, True, "main"]),
        (f"{CHILD} exec dd if=/dev/zero of=/dev/shm/eaten bs=1M count=48", (), [9, True, "main"]),
        (f"{CHILD} exit 0", (), [0, True, "child"]),
        (f"{CHILD} kill -9 $$", (), [9, True, "child"]),
        (f"{CHILD} {CHILD} kill -9 $$", (), [9, True, "child"]),
        (f"{CHILD} exit 0", ("--oom-group",), [9, True, "group"]),
        ("kill -9 $$", (), [9, False, None]),
    ],
)
def test_who_was_killed(shared: Pyrun, detached: Callable[..., str], script: str, flags: tuple[str, ...], expected: list[object]) -> None:
    """The kernel's log says which process it was; signal 9 alone does not."""
    assert end_of(shared, detached(script, *MEMORY, *flags)) == expected


def test_a_kill_from_outside_after_that_of_a_child(shared: Pyrun, detached: Callable[..., str]) -> None:
    """By pyrun, which kills all of the pod, so that nobody can look, or of the app alone; what the log does not hold is not claimed."""
    for how in ("pyrun", "alone", "cleared"):
        uuid = detached(f"{CHILD} touch /dev/shm/done; sleep 1000", *MEMORY)
        init = json.loads(shared("status", "--format", "json", uuid, code=0).out)["pid"]
        wait_until(Path(f"/proc/{init}/root/dev/shm/done").exists)
        app = int(Path(f"/proc/{init}/task/{init}/children").read_text().split()[0])
        if how == "cleared":
            subprocess.run(["dmesg", "--clear"], check=True)
        if how == "pyrun":
            shared("kill", "--signal", "KILL", uuid, code=0)
        else:
            os.kill(app, 9)
        assert end_of(shared, uuid) == [9, True, "child" if how == "alone" else None], how


def test_a_process_that_is_called_like_the_log(shared: Pyrun, detached: Callable[..., str]) -> None:
    """What looks like the number of the app, in the name of a process that is killed, is a name; one with a line's end leaves it open."""
    for echo, expected in (("echo -n", "child"), ("echo", None)):
        eater = f'read app </dev/shm/app; {echo} ",pid=$app," >/proc/self/comm; x=a; while :; do x=$x$x; done'
        script = f"while [ ! -s /dev/shm/app ]; do sleep 0.1; done; sh -c '{eater}'; kill -9 $$"
        uuid = detached(script, *MEMORY)
        init = json.loads(shared("status", "--format", "json", uuid, code=0).out)["pid"]
        app = Path(f"/proc/{init}/task/{init}/children").read_text().split()[0]
        Path(f"/proc/{init}/root/dev/shm/app").write_text(app)
        assert end_of(shared, uuid) == [9, True, expected]


def test_who_of_several(shared: Pyrun, tools: Path) -> None:
    """Each app has a record of its own, and its group is not mistaken for one of the same name."""
    eat = "exec dd if=/dev/zero of=/dev/shm/eaten bs=1M count=48"
    words: list[object] = ["run", "--detach", "--keep", "--exit-policy", "last-exit"]
    for name, script in (("a", f"{CHILD} kill -9 $$"), ("b", f"sleep 2; {eat}")):
        words += [*(["---"] if name == "b" else []), tools, "--name", name, *MEMORY, "--exec", "/bin/sh", "--", "-c", script]
    command = ["systemd-run", "--quiet", "--scope", COMMAND, "--root", shared.root, *words]
    uuid = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=120, check=True).stdout.strip()
    shared("wait", uuid)
    apps = json.loads(shared("status", "--format", "json", uuid, code=0).out)["apps"]
    assert [(one["signal"], one["oom_victim"]) for one in apps] == [(9, "child"), (9, "main")], apps
    shared("rm", uuid, code=0)
