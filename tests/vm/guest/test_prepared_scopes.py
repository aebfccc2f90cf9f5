"""Prepared pods with limits where only systemd can make a place for them: the launcher asks it, and no Python is started."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import COMMAND, Pyrun
from launched import programs, traced

LOGIN = ("systemd-run", "--quiet", "--scope")  # nobody's to divide, as the session of a login is not


def prepare(shared: Pyrun, *flags: str) -> str:
    return shared("prepare", "--rm", *flags, shared.probe_image, "--exec", "/probe", "--", "sleep", "0", code=0).out.strip()


def start(shared: Pyrun, folder: Path, uuid: str, *before: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [*before, *traced(folder), str(COMMAND), "--root", str(shared.root), "run-prepared", "--detach", uuid]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env={**os.environ, **(env or {})})


def group_of(shared: Pyrun, uuid: str) -> Path:
    return Path(json.loads(shared("status", "--format", "json", uuid, code=0).out)["cgroup"])


def shown(uuid: str, names: str) -> dict[str, str]:
    out = subprocess.run(["systemctl", "show", "-p", names, f"pyrun-{uuid}.scope"], capture_output=True, text=True, check=True).stdout
    return dict(line.split("=", 1) for line in out.splitlines())


def end(shared: Pyrun, uuid: str) -> None:
    """The scope goes with the pod."""
    scope = group_of(shared, uuid).parent
    shared("rm", "--force", uuid, code=0)
    deadline = time.monotonic() + 60
    while scope.exists():
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.mark.parametrize("flags", [(), ("--cgroup-manager", "systemd"), ("--slice", "batch-night.slice")])
def test_below_a_login(shared: Pyrun, tmp_path: Path, flags: tuple[str, ...]) -> None:
    uuid = prepare(shared, "--memory", "64Mi", "--pids-limit", "30", "--cpuset-cpus", "0", *flags)
    said = start(shared, tmp_path, uuid, *LOGIN)
    assert (said.returncode, said.stdout) == (0, f"{uuid}\n"), said.stderr
    assert programs(tmp_path) == ["pyrun", "keeper"]
    group = group_of(shared, uuid)
    above = "batch.slice/batch-night.slice" if "--slice" in flags else "machine.slice"
    assert group == Path(f"/sys/fs/cgroup/{above}/pyrun-{uuid}.scope/pyrun-{uuid}")
    assert (group / "memory.max").read_text() == f"{64 << 20}\n" and (group / "pids.max").read_text() == "30\n"
    limits = {"MemoryMax": str(80 << 20), "TasksMax": "46", "AllowedCPUs": "0"} if flags else {}
    wanted = {
        "Slice": os.path.basename(above),
        "Delegate": "yes",
        "CollectMode": "inactive-or-failed",
        "Description": f"pyrun pod {uuid}",
        **limits,
    }
    assert shown(uuid, ",".join(wanted)) == wanted
    end(shared, uuid)


def test_a_command_line_with_limits_that_comes_again(shared: Pyrun, tmp_path: Path) -> None:
    """The launcher prepares the pod as well, and asks systemd for a scope for this one."""
    words = ["run", "--detach", "--rm", "--memory", "64Mi", str(shared.probe_image), "--exec", "/probe", "--", "sleep", "0"]
    command = [*LOGIN, *traced(tmp_path), str(COMMAND), "--root", str(shared.root), *words]
    for wanted in (["pyrun", "python3", "keeper"], ["pyrun", "keeper"]):
        said = subprocess.run(command, capture_output=True, text=True, timeout=300)
        uuid = said.stdout.strip()
        assert (said.returncode, said.stderr, programs(tmp_path)) == (0, "", wanted)
        group = group_of(shared, uuid)
        assert group == Path(f"/sys/fs/cgroup/machine.slice/pyrun-{uuid}.scope/pyrun-{uuid}")
        assert (group / "memory.max").read_text() == f"{64 << 20}\n"
        end(shared, uuid)


def test_in_the_foreground_the_process_moves(shared: Pyrun, tmp_path: Path) -> None:
    uuid = shared("prepare", "--rm", "--memory", "64Mi", shared.probe_image, "--exec", "/probe", "--", "exit", "7", code=0).out.strip()
    command = [*LOGIN, *traced(tmp_path), str(COMMAND), "--root", str(shared.root), "run-prepared", uuid]
    assert subprocess.run(command, timeout=300).returncode == 7
    assert programs(tmp_path)[:2] == ["pyrun", "keeper"] and "python3" not in programs(tmp_path)


def test_a_service_that_is_not_delegated_is_refused(shared: Pyrun, tmp_path: Path) -> None:
    """systemd would take its main process away."""
    for flags, told in (((), "is not delegated to"), (("--cgroup-manager", "systemd"), "would lose its main process")):
        uuid = prepare(shared, "--memory", "64Mi", *flags)
        said = start(shared, tmp_path, uuid, "systemd-run", "--quiet", "--collect", "--pipe", "--wait")
        assert said.returncode == 125 and told in said.stderr and "hint: " in said.stderr, said
        assert programs(tmp_path) == ["pyrun"], "the launcher says it itself"
        shared("rm", uuid, code=0)


def test_a_scope_of_that_name_is_explained(shared: Pyrun, tmp_path: Path) -> None:
    """The answer of systemd is an error, which the launcher says as Python would."""
    uuid = prepare(shared, "--memory", "64Mi")
    with subprocess.Popen(["systemd-run", "--quiet", "--scope", f"--unit=pyrun-{uuid}.scope", "sleep", "1000"]) as other:
        try:
            while subprocess.run(["systemctl", "is-active", "--quiet", f"pyrun-{uuid}.scope"]).returncode != 0:
                time.sleep(0.1)
            said = start(shared, tmp_path, uuid, *LOGIN)
            assert said.returncode == 125 and f"ask systemd for pyrun-{uuid}.scope: " in said.stderr, said
            assert programs(tmp_path) == ["pyrun"], "the launcher says it itself"
        finally:
            other.kill()
    shared("rm", uuid, code=0)


@pytest.fixture
def own() -> Iterator[dict[str, str]]:
    """The environment of who calls root's own systemd, which ends with the test."""
    subprocess.run(["systemctl", "start", "user@0.service"], check=True)
    yield {**os.environ, "XDG_RUNTIME_DIR": "/run/user/0", "DBUS_SESSION_BUS_ADDRESS": "unix:path=/run/user/0/bus"}
    subprocess.run(["systemctl", "stop", "user@0.service", "user-runtime-dir@0.service"], check=True)


def test_below_the_systemd_of_root_as_a_user(shared: Pyrun, tmp_path: Path, own: dict[str, str]) -> None:
    """user@0.service: a unit that is delegated there is a place; one that is not gets a scope of the system's systemd."""
    scope = ("systemd-run", "--user", "--quiet", "--scope")
    for delegated in (True, False):
        uuid = prepare(shared, "--memory", "64Mi")
        words = [*scope, *(["--property=Delegate=yes"] if delegated else [])]
        # the tracer stays outside: nobody else may be in the scope
        command = [*traced(tmp_path), *words, str(COMMAND), "--root", str(shared.root), "run-prepared", "--detach", uuid]
        said = subprocess.run(command, capture_output=True, text=True, timeout=300, env=own)
        assert said.returncode == 0, said.stderr
        group = group_of(shared, uuid)
        assert (group / "memory.max").read_text() == f"{64 << 20}\n"
        if delegated:
            # Python asks where that systemd is of a version that leaves no mark
            marked = "user.delegate" in os.listxattr(group.parent)
            assert programs(tmp_path) == (["systemd-run", "pyrun", "keeper"] if marked else ["systemd-run", "pyrun", "python3", "keeper"])
            assert "/user@0.service/" in str(group)
        else:
            assert group.parent.parent.name == "machine.slice"
        end(shared, uuid)
