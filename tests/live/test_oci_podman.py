"""podman with `pyrun-oci`: what works with crun works with it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from bundles import Told, make_root
from clients import Clients, clients

IMAGE = "localhost/busybox:1"


@pytest.fixture(scope="module")
def podman(tmp_path_factory: pytest.TempPathFactory, probe: Path) -> Iterator[Clients]:
    folder = tmp_path_factory.mktemp("podman")
    make_root(folder / "rootfs", probe)
    subprocess.run(["tar", "-C", folder / "rootfs", "-cf", folder / "image.tar", "."], check=True)
    with clients(folder) as made:
        made.podman("import", folder / "image.tar", IMAGE)
        yield made
        made.podman("rm", "--all", "--force", "--time", "0")


def run(podman: Clients, *words: str, code: int = 0) -> str:
    return podman.podman("run", "--rm", "--pull=never", "--network=none", *words, code=code).stdout


@pytest.fixture(scope="module")
def running(podman: Clients) -> str:
    """A container that ends with 9 when it is asked to."""
    loop = "trap 'exit 9' TERM; while true; do sleep 0.1; done"
    podman.podman("run", "--detach", "--pull=never", "--network=none", "--name", "lives", IMAGE, "/bin/sh", "-c", loop)
    return "lives"


def terminal(podman: Clients, *words: str) -> subprocess.CompletedProcess[str]:
    """Runs podman on a terminal, that of script(1).  Programs wait a moment: what is on its way when a session ends, the kernel drops."""
    line = subprocess.list2cmdline([*podman.podman_words(), *words])
    return podman.run("script", "--quiet", "--return", "--command", line, "/dev/null", code=None)


@pytest.mark.parametrize(
    ("flags", "command", "shows"),
    [
        ([], "id -u; hostname | wc -c; exit 0", "0\n13\n"),
        (
            ["--user", "1000:1000"],
            "id -u; grep -E '^(CapEff|Seccomp):' /proc/self/status",
            "1000\nCapEff:\t0000000000000000\nSeccomp:\t2\n",
        ),
        (["--cap-drop", "all", "--cap-add", "kill"], "grep CapBnd /proc/self/status", "CapBnd:\t0000000000000020\n"),
        (["--hostname", "here", "--env", "A=b"], "hostname; echo $A", "here\nb\n"),
        (["--oom-score-adj", "100"], "cat /proc/self/oom_score_adj", "100\n"),
        (
            ["--uidmap", "0:100000:1000", "--gidmap", "0:100000:1000"],
            "grep -c 100000 /proc/self/uid_map; id -u; echo > /dev/null",
            "1\n0\n",
        ),
        (["--security-opt", "no-new-privileges"], "grep NoNewPrivs /proc/self/status", "NoNewPrivs:\t1\n"),
        (["--privileged"], "grep Seccomp: /proc/self/status", "Seccomp:\t0\n"),
        (["--ipc=host", "--uts=host", "--pid=host"], "test -d /proc/1/task && echo ok", "ok\n"),
    ],
)
def test_run(podman: Clients, flags: list[str], command: str, shows: str) -> None:
    assert run(podman, *flags, IMAGE, "/bin/sh", "-c", command) == shows


@pytest.mark.parametrize(("program", "code"), [("/bin/none", 127), ("none", 127), ("/etc", 126)])
def test_programs_that_cannot_be_executed(podman: Clients, program: str, code: int) -> None:
    run(podman, IMAGE, program, code=code)


def test_exit_codes(podman: Clients) -> None:
    run(podman, IMAGE, "/bin/sh", "-c", "exit 7", code=7)


def test_volumes(podman: Clients, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content\n")
    flags = ["--volume", f"{tmp_path}:/there:ro", "--volume", "named:/kept"]
    script = "cat /there/file; echo 1 > /kept/a; touch /there/x 2>/dev/null || echo refused"
    assert run(podman, *flags, IMAGE, "/bin/sh", "-c", script) == "content\nrefused\n"
    assert run(podman, "--volume", "named:/kept", IMAGE, "cat", "/kept/a") == "1\n"


def test_exec(podman: Clients, running: str) -> None:
    assert podman.podman("exec", "--interactive", running, "cat", input="through\n").stdout == "through\n"
    flags = ["--env", "A=b", "--workdir", "/tmp", "--user", "1000"]
    assert podman.podman("exec", *flags, running, "/bin/sh", "-c", "id -u; pwd; echo $A").stdout == "1000\n/tmp\nb\n"
    podman.podman("exec", running, "/bin/sh", "-c", "exit 3", code=3)
    podman.podman("exec", running, "none", code=127)
    podman.podman("exec", running, "/etc", code=126)


def test_terminals(podman: Clients, running: str) -> None:
    done = terminal(podman, "exec", "-it", running, "/bin/sh", "-c", "tty; sleep 0.5; exit 5")
    assert "/dev/pts/" in done.stdout and done.returncode == 5
    done = terminal(podman, "run", "--rm", "-it", "--pull=never", "--network=none", IMAGE, "/bin/sh", "-c", "tty; sleep 0.5; exit 6")
    assert "/dev/pts/0" in done.stdout and done.returncode == 6


def test_build(podman: Clients, tmp_path: Path) -> None:
    """The output of a step is that of its program: nothing of ours is in between."""
    (tmp_path / "Containerfile").write_text(f"FROM {IMAGE}\nRUN echo a step of it; echo kept >/kept\n")
    build = ["build", "--pull=never", "--network=none", "--isolation=oci", "--quiet=false", "--tag", "localhost/built:1", tmp_path]
    done = podman.podman(*build)
    shown = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("a step") or "pyrun" in line]
    assert shown == ["a step of it"]
    assert run(podman, "localhost/built:1", "cat", "/kept") == "kept\n"
    podman.podman("rmi", "localhost/built:1")


def test_pause_top_stats_cp(podman: Clients, running: str, tmp_path: Path) -> None:
    podman.podman("pause", running)
    assert json.loads(podman.podman("inspect", running).stdout)[0]["State"]["Status"] == "paused"
    podman.podman("unpause", running)
    assert "sleep" in podman.podman("top", running, "comm").stdout
    assert running in podman.podman("stats", "--no-stream", running).stdout
    (tmp_path / "file").write_text("copied\n")
    podman.podman("cp", tmp_path / "file", f"{running}:/tmp/file")
    assert podman.podman("exec", running, "cat", "/tmp/file").stdout == "copied\n"


def test_healthcheck(podman: Clients) -> None:
    podman.podman("run", "--detach", "--pull=never", "--network=none", "--name", "checked", "--health-cmd", "true", IMAGE, "sleep", "1000")
    podman.podman("healthcheck", "run", "checked")
    podman.podman("rm", "--force", "--time", "0", "checked")


def test_pod(podman: Clients) -> None:
    infra = ["--infra-image", IMAGE, "--infra-command", "/bin/sleep 1000"]
    # without a cgroup of the pod's own: for that podman wants every controller there is
    podman.podman("pod", "create", "--name", "two", "--network=none", "--share-parent=false", *infra)
    for name in ("first", "second"):
        podman.podman("run", "--detach", "--pull=never", "--pod", "two", "--name", name, IMAGE, "sleep", "1000")
    names = {podman.podman("exec", name, "/bin/sh", "-c", "echo $(hostname)").stdout for name in ("first", "second")}
    assert len(names) == 1, "they share the host name"
    podman.podman("pod", "stop", "--time", "0", "two")
    podman.podman("pod", "rm", "--force", "two")


def test_stop_start_kill(podman: Clients, running: str) -> None:
    podman.podman("stop", "--time", "5", running)
    assert podman.podman("wait", running).stdout == "9\n"
    podman.podman("start", running)
    podman.podman("kill", running)
    assert podman.podman("wait", running).stdout == "137\n"
    podman.podman("rm", running)


@pytest.mark.parametrize(
    "flags", [[], ["--user", "1000", "--volume", "/tmp:/mnt:ro"], ["--privileged"], ["--hostname", "here", "--read-only"]]
)
def test_only_the_first_container_of_a_kind_needs_python(podman: Clients, tmp_path: Path, flags: list[str]) -> None:
    """podman sends variables and mounts in any order, and ids, times and paths that are another container's each time."""
    told = Told(tmp_path / "told")
    words = [*podman.podman_words(), "--runtime", told.program, "run", "--rm", "--pull=never", "--network=none"]
    names = set()
    for _ in range(4):
        done = podman.run(
            *words, *flags, "--env", f"KIND={tmp_path}", IMAGE, "/bin/sh", "-c", "hostname; cat /etc/hostname; echo; echo $KIND"
        )
        name, file, kind = done.stdout.split()
        assert name == file and kind == str(tmp_path)
        names.add(name)
    assert told.creates() == 1 and len(names) == (1 if "--hostname" in flags else 4)
