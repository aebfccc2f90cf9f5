"""Debian's podman with `pyrun-oci` where systemd is process 1: its scopes as root, and a user's own containers without root.

Few starts, each looked at from all sides: the processor is emulated.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from bundles import OCI, make_root
from waiting import wait_until

IMAGE = "localhost/busybox:1"
LOOP = "trap 'exit 9' TERM; while true; do sleep 0.1; done"
USER = "tenant"
CONF = '[containers]\n[engine]\nruntime_supports_json = ["pyrun-oci"]\n[network]\ndefault_rootless_network_cmd = "slirp4netns"\n'


class Podman:
    """podman as some user, with storage of its own."""

    def __init__(self, folder: Path, *before: str, **env: str) -> None:
        self.home = folder
        self.env = {**os.environ, "CONTAINERS_CONF": str(folder / "containers.conf"), **env}
        places = ["--root", folder / "root", "--runroot", folder / "run", "--tmpdir", folder / "tmp", "--storage-driver", "vfs"]
        kinds = ["--cgroup-manager", "systemd", "--events-backend", "file", "--runtime", OCI]
        self.words = [*before, "podman", *map(str, [*places, *kinds])]

    def __call__(self, *words: str | Path, code: int | None = 0, input: str = "") -> str:
        done = subprocess.run(
            [*self.words, *map(str, words)], env=self.env, capture_output=True, text=True, timeout=300, input=input, cwd="/"
        )
        assert code is None or done.returncode == code, f"{words}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def run(self, *words: str | Path, code: int = 0) -> str:
        return self("run", "--pull=never", *words, code=code)

    def terminal(self, *words: str, code: int) -> str:
        """On a terminal, that of script(1); programs wait a moment: what is on its way when a session ends, the kernel drops."""
        line = subprocess.list2cmdline([*self.words, *words])
        command = ["script", "--quiet", "--return", "--command", line, "/dev/null"]
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL, cwd="/")
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory, probe: Path) -> Path:
    folder = tmp_path_factory.mktemp("image")
    make_root(folder / "rootfs", probe)
    subprocess.run(["tar", "-C", folder / "rootfs", "-cf", folder / "image.tar", "."], check=True)
    return folder / "image.tar"


@pytest.fixture(scope="module")
def podman(tmp_path_factory: pytest.TempPathFactory, archive: Path) -> Iterator[Podman]:
    folder = tmp_path_factory.mktemp("podman")
    (folder / "containers.conf").write_text(CONF)
    made = Podman(folder)
    made("import", archive, IMAGE)
    yield made
    made("rm", "--all", "--force", "--time", "0")
    for name in ("conmon", "podman"):  # which clean up behind the last container
        wait_until(lambda name=name: subprocess.run(["pgrep", "-x", name], capture_output=True).returncode == 1, name)  # type: ignore[misc]


def values(group: Path, *names: str) -> list[str]:
    return [(group / name).read_text().strip() for name in names]


def scopes(slice: Path) -> list[Path]:
    return [path for path in slice.glob("libpod-*.scope") if "conmon" not in path.name]


def test_root_with_scopes_of_systemd(podman: Podman) -> None:
    limits = ["--memory", "64m", "--memory-swap", "64m", "--pids-limit", "50", "--cpus", "0.5"]
    podman.run("--detach", "--name", "lives", "--network=none", *limits, IMAGE, "/bin/sh", "-c", LOOP)
    (scope,) = scopes(Path("/sys/fs/cgroup/machine.slice"))
    assert values(scope, "memory.max", "memory.swap.max", "pids.max") == [str(64 << 20), "0", "50"]
    files = ("memory.max", "memory.swap.max", "pids.max", "cpu.max")
    assert values(scope / "container", *files) == [str(64 << 20), "0", "50", "50000 100000"]
    shown = subprocess.run(["systemctl", "show", "-p", "MemoryMax,TasksMax,ActiveState", scope.name], capture_output=True, text=True).stdout
    assert sorted(shown.splitlines()) == ["ActiveState=active", f"MemoryMax={64 << 20}", "TasksMax=50"]
    assert podman("exec", "--interactive", "--user", "1000", "lives", "/bin/sh", "-c", "id -u; cat", input="through\n") == "1000\nthrough\n"
    assert "/dev/pts/" in podman.terminal("exec", "-it", "lives", "/bin/sh", "-c", "tty; sleep 4; exit 5", code=5)
    usage = podman("stats", "--no-stream", "--format", "{{.MemUsage}} {{.PIDs}}", "lives")
    assert "/ 67.11MB" in usage and int(usage.split()[-1]) >= 1
    podman("pause", "lives")
    assert "frozen 1" in (scope / "container" / "cgroup.events").read_text()
    podman("unpause", "lives")
    podman("stop", "--time", "30", "lives")
    assert podman("wait", "lives") == "9\n"
    wait_until(lambda: not scope.exists(), "systemd keeps the scope")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("exported", [False, True])
def test_checkpoint_and_restore(podman: Podman, tmp_path: Path, exported: bool) -> None:
    """A container goes on counting where it was, and so does another one that is made of an exported checkpoint."""
    count = "trap 'exit 9' TERM; i=0; while true; do i=$((i+1)); echo $i >/data/new; mv /data/new /data/count; sleep 0.1; done"
    flags = ["--detach", "--name", "counts", "--network=none", "--memory", "64m", "--volume", f"{tmp_path}:/data"]

    def counted() -> int:
        path = tmp_path / "count"
        return int(path.read_text()) if path.exists() else 0

    podman.run(*flags, IMAGE, "/bin/sh", "-c", count)
    wait_until(lambda: counted() > 3, "it does not count")
    podman("container", "checkpoint", *(["--export", tmp_path / "exported.tar.gz"] if exported else []), "counts")
    seen = counted()
    assert seen > 3
    if exported:
        podman("rm", "counts")
        podman("container", "restore", "--import", tmp_path / "exported.tar.gz", "--name", "again")
    else:
        podman("container", "restore", "counts")
    name = "again" if exported else "counts"
    wait_until(lambda: counted() != seen, "it does not go on")
    assert counted() > seen, "it began anew"
    (scope,) = scopes(Path("/sys/fs/cgroup/machine.slice"))
    assert values(scope / "container", "memory.max") == [str(64 << 20)]
    assert podman("exec", name, "/bin/sh", "-c", "echo $PPID; tr '\\0' ' ' < /proc/1/cmdline").startswith("0\n/bin/sh -c trap")
    podman("stop", "--time", "30", name)
    assert podman("wait", name) == "9\n"
    wait_until(lambda: not scope.exists(), "systemd keeps the scope")
    podman("rm", name)


@pytest.fixture(scope="module")
def tenant(archive: Path) -> Iterator[Podman]:
    """A user with ranges of ids, a service manager and a bus of its own."""
    subprocess.run(["useradd", "--create-home", "--shell", "/bin/bash", USER], check=True)
    try:
        entry = pwd.getpwnam(USER)
        subprocess.run(["loginctl", "enable-linger", USER], check=True, timeout=120)
        runtime = Path(f"/run/user/{entry.pw_uid}")
        wait_until((runtime / "bus").exists, "the user's bus")
        home = Path(entry.pw_dir)
        shutil.copy(archive, home / "image.tar")
        (home / "containers.conf").write_text(CONF)
        identity = ["setpriv", f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--init-groups"]
        own = {"HOME": str(home), "USER": USER, "XDG_RUNTIME_DIR": str(runtime), "DBUS_SESSION_BUS_ADDRESS": f"unix:path={runtime}/bus"}
        made = Podman(home, *identity, **own)
        made("import", home / "image.tar", IMAGE)
        yield made
        made("rm", "--all", "--force", "--time", "0")
    finally:
        subprocess.run(["loginctl", "disable-linger", USER], check=True, timeout=120)
        subprocess.run(["loginctl", "terminate-user", USER], timeout=120)
        wait_until(lambda: subprocess.run(["pgrep", "-u", USER], capture_output=True).returncode == 1, "the user's processes end")
        subprocess.run(["userdel", "--remove", USER], check=True)


def test_a_user_without_root(tenant: Podman) -> None:
    """Himself inside (--userns=keep-id), with an interface of the container's own and the limits that his systemd may set."""
    flags = ["--userns=keep-id", "--network=slirp4netns", "--memory", "64m", "--pids-limit", "50", "--volume", f"{tenant.home}:/home"]
    tenant.run("--detach", "--name", "own", *flags, IMAGE, "/bin/sh", "-c", LOOP)
    uid = pwd.getpwnam(USER).pw_uid
    (scope,) = scopes(Path(f"/sys/fs/cgroup/user.slice/user-{uid}.slice/user@{uid}.service/user.slice"))
    assert values(scope / "container", "memory.max", "pids.max") == [str(64 << 20), "50"]
    shown = tenant("exec", "own", "/bin/sh", "-c", "id -u; ls /sys/class/net; touch /home/mine; wc -l </proc/self/uid_map")
    assert shown == f"{uid}\nlo\ntap0\n3\n" and os.stat(tenant.home / "mine").st_uid == uid
    assert "/dev/pts/" in tenant.terminal("exec", "-it", "own", "/bin/sh", "-c", "tty; sleep 4; exit 5", code=5)
    tenant("stop", "--time", "30", "own")
    assert tenant("wait", "own") == "9\n"
    wait_until(lambda: not scope.exists(), "systemd keeps the scope")


def test_a_user_who_is_root_inside(tenant: Podman) -> None:
    uid = pwd.getpwnam(USER).pw_uid
    script = "id -u; tr -s ' ' </proc/self/uid_map; touch /x; chown 1000 /x; stat -c %u /x; ls /sys/class/net"
    shown = tenant.run("--rm", "--network=none", IMAGE, "/bin/sh", "-c", script).splitlines()
    assert (shown[0], shown[1], shown[-2:]) == ("0", f" 0 {uid} 1", ["1000", "lo"]), shown
