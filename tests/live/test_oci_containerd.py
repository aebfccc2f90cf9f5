"""containerd and dockerd with `pyrun-oci`, each with a root of its own: what works with runc works with it."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from bundles import OCI, Told, make_root
from clients import Clients, clients

IMAGE = "localhost/busybox:1"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, probe: Path) -> Iterator[Clients]:
    folder = tmp_path_factory.mktemp("world")
    make_root(folder / "rootfs", probe)
    subprocess.run(["tar", "-C", folder / "rootfs", "-cf", folder / "image.tar", "."], check=True)
    with clients(folder) as made, containerd(made):
        yield made


@contextlib.contextmanager
def containerd(made: Clients) -> Iterator[None]:
    own = made.folder / "containerd"
    config = f"""
version = 2
root = "{own}/root"
state = "{own}/state"
disabled_plugins = [
  "io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.aufs", "io.containerd.internal.v1.opt",
]
[grpc]
address = "{own}/sock"
[ttrpc]
address = "{own}/ttrpc"
"""
    own.mkdir()
    (own / "config.toml").write_text(config)
    with made.daemon("containerd", "--config", own / "config.toml", ready=own / "sock", log="containerd.log"):
        made.podman("import", made.folder / "image.tar", IMAGE)
        made.podman("save", "--format", "oci-archive", "--output", made.folder / "oci.tar", IMAGE)
        ctr(made, "image", "import", "--snapshotter", "native", made.folder / "oci.tar")
        yield


def ctr(world: Clients, *words: str | Path, code: int | None = 0) -> subprocess.CompletedProcess[str]:
    return world.run("ctr", "--address", world.folder / "containerd/sock", *words, code=code)


def run(world: Clients, name: str, *command: str, flags: tuple[str, ...] = (), code: int = 0) -> str:
    own = ["--snapshotter", "native", "--runc-binary", str(OCI), "--runc-root", str(world.folder / "runc"), "--cpu-shares", "0"]
    return ctr(world, "run", *own, *flags, IMAGE, name, *command, code=code).stdout


def test_ctr_run(world: Clients) -> None:
    assert run(world, "one", "/bin/echo", "hi", flags=("--rm",)) == "hi\n"
    run(world, "two", "/bin/sh", "-c", "exit 4", flags=("--rm",), code=4)
    assert (
        "no such file or directory"
        in ctr(
            world, "run", "--rm", "--snapshotter", "native", "--runc-binary", OCI, "--cpu-shares", "0", IMAGE, "three", "/none", code=1
        ).stderr
    )


def test_only_the_first_container_of_a_kind_needs_python(world: Clients, tmp_path: Path) -> None:
    told = Told(tmp_path / "told")
    own = ["--snapshotter", "native", "--runc-binary", told.program, "--runc-root", tmp_path / "runc", "--cpu-shares", "0", "--rm"]
    for name in ("first", "another", "third-of-its-kind"):
        assert ctr(world, "run", *own, IMAGE, name, "/bin/sh", "-c", "echo $HOME").stdout == "/root\n"
    assert told.creates() == 1


def test_ctr_tasks(world: Clients) -> None:
    run(world, "lives", "/bin/sleep", "1000", flags=("--detach",))
    assert "RUNNING" in ctr(world, "task", "list").stdout
    assert ctr(world, "task", "exec", "--exec-id", "x", "lives", "/bin/echo", "inside").stdout == "inside\n"
    ctr(world, "task", "exec", "--exec-id", "y", "lives", "/bin/sh", "-c", "exit 3", code=3)
    ctr(world, "task", "pause", "lives")
    assert "PAUSED" in ctr(world, "task", "list").stdout
    ctr(world, "task", "resume", "lives")
    assert len(ctr(world, "task", "ps", "lives").stdout.splitlines()) == 2
    ctr(world, "task", "metrics", "lives")
    ctr(world, "task", "kill", "--signal", "SIGKILL", "lives")
    deadline = time.monotonic() + 60
    while "STOPPED" not in ctr(world, "task", "list").stdout:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    ctr(world, "task", "delete", "lives", code=None)
    ctr(world, "container", "delete", "lives")


@pytest.fixture(scope="module")
def docker(world: Clients) -> Iterator[Clients]:
    own = world.folder / "docker"
    own.mkdir()
    (own / "daemon.json").write_text("{}")
    net = ["--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-masq=false"]
    places = ["--data-root", own / "data", "--exec-root", own / "exec", "--pidfile", own / "pid", "--host", f"unix://{own}/sock"]
    more = ["--config-file", own / "daemon.json", "--storage-driver", "vfs", "--containerd", world.folder / "containerd/sock"]
    runtime = ["--add-runtime", f"pyrun-oci={OCI}", "--default-runtime", "pyrun-oci"]
    with world.daemon("dockerd", *net, *places, *more, *runtime, ready=own / "sock", log="docker.log"):
        world.podman("save", "--format", "docker-archive", "--output", world.folder / "docker.tar", IMAGE)
        call(world, "load", "--input", world.folder / "docker.tar")
        yield world


def call(world: Clients, *words: str | Path, code: int | None = 0) -> subprocess.CompletedProcess[str]:
    return world.run("docker", "--host", f"unix://{world.folder}/docker/sock", *words, code=code)


def test_docker_run(docker: Clients, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content\n")
    script = "id -u; cat /there; grep -E '^(Seccomp|CapEff):' /proc/self/status"
    done = call(docker, "run", "--rm", "--network=none", "--volume", f"{tmp_path}/file:/there:ro", IMAGE, "/bin/sh", "-c", script)
    assert done.stdout == "0\ncontent\nCapEff:\t00000000a80425fb\nSeccomp:\t2\n"
    call(docker, "run", "--rm", "--network=none", IMAGE, "/bin/sh", "-c", "exit 5", code=5)
    call(docker, "run", "--rm", "--network=none", IMAGE, "none", code=127)
    call(docker, "run", "--rm", "--network=none", IMAGE, "/etc", code=126)
    assert call(docker, "run", "--rm", "--network=none", "--user", "1000", "--read-only", IMAGE, "id", "-u").stdout == "1000\n"


def test_docker_life(docker: Clients) -> None:
    call(
        docker,
        "run",
        "--detach",
        "--network=none",
        "--name",
        "lives",
        IMAGE,
        "/bin/sh",
        "-c",
        "trap 'exit 9' TERM; while :; do sleep 0.1; done",
    )
    assert call(docker, "exec", "lives", "/bin/echo", "inside").stdout == "inside\n"
    call(docker, "exec", "lives", "/bin/sh", "-c", "exit 3", code=3)
    assert "sleep" in call(docker, "top", "lives").stdout
    call(docker, "pause", "lives")
    assert json.loads(call(docker, "inspect", "lives").stdout)[0]["State"]["Status"] == "paused"
    call(docker, "unpause", "lives")
    call(docker, "stop", "--time", "5", "lives")
    assert json.loads(call(docker, "inspect", "lives").stdout)[0]["State"]["ExitCode"] == 9
    call(docker, "start", "lives")
    call(docker, "kill", "lives")
    call(docker, "rm", "--force", "lives")


def test_docker_terminal(docker: Clients) -> None:
    line = f"docker --host unix://{docker.folder}/docker/sock run --rm -it --network=none {IMAGE} /bin/sh -c 'tty; sleep 0.5; exit 6'"
    done = docker.run("script", "--quiet", "--return", "--command", line, "/dev/null", code=None)
    assert "/dev/pts/0" in done.stdout and done.returncode == 6, done.stdout
