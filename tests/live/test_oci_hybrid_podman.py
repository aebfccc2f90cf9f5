"""podman with `pyrun-oci` on a hybrid host, where it works with cgroup v1 itself: it finds limits and figures where it looks for them."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from bundles import OCI, make_root
from hybrids import CONTROLLERS, REASON, SHOW, TAG, has_version_1

MORE = ("cpuacct", "devices", "freezer")  # which podman looks for too
IMAGE = "localhost/busybox:1"
MIB = 1 << 20
CONFIGURATION = """
[containers]
default_ulimits = ["nofile=20000:20000", "nproc=20000:20000"]
[engine]
runtime_supports_nocgroup = ["pyrun-oci"]
runtime_supports_json = ["pyrun-oci"]
"""


OWN = ["--pull=never", "--network=none", "--cgroup-parent", f"/{TAG}-podman"]


def has_more() -> bool:
    text = Path("/proc/self/cgroup").read_text()
    return has_version_1() and all(f":{name}:" in text for name in MORE)


pytestmark = pytest.mark.skipif(not has_more(), reason=f"{REASON}; or it lacks {', '.join(MORE)} there, without which podman takes none")


class Podman:
    """podman in a mount namespace that shows such a host."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "containers.conf").write_text(CONFIGURATION)
        (folder / "tmp").mkdir()
        more = "".join(f"mkdir {name}; mount -t cgroup -o {name} cgroup {name} || exit 77\n" for name in MORE)
        more = f"cd /sys/fs/cgroup\n{more}mkdir -p /run/containers; mount -t tmpfs tmpfs /run/containers; echo ready\ncd /"
        command = ["unshare", "--mount", "sh", "-c", SHOW.replace('cd "$OLDPWD"', more), "sh", "sleep", "infinity"]
        self.holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.holder.stdout is not None and self.holder.stdout.readline() == "ready\n"
        self.holder.stdout.close()

    def run(self, *words: object, code: int = 0) -> str:
        command = ["nsenter", "-t", str(self.holder.pid), "-m", "--", *map(str, words)]
        environment = {**os.environ, "CONTAINERS_CONF": str(self.folder / "containers.conf"), "HOME": str(self.folder)}
        done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
        assert done.returncode == code, (words, done)
        return done.stdout

    def __call__(self, *words: object, code: int = 0) -> str:
        own = self.folder / "podman"
        places = ["--root", own / "root", "--runroot", own / "run", "--tmpdir", own / "tmp", "--storage-driver", "vfs"]
        return self.run("podman", *places, "--cgroup-manager", "cgroupfs", "--events-backend", "file", "--runtime", OCI, *words, code=code)

    def close(self) -> None:
        self("rm", "--all", "--force", "--time", "0")
        shown = [f"/sys/fs/cgroup/{name}/{TAG}-podman" for name in (*CONTROLLERS, *MORE, "unified")]
        left = self.run("find", *shown, "-mindepth", "1", "-type", "d", "!", "-name", "conmon")
        self.run("find", *shown, "-depth", "-type", "d", "-exec", "rmdir", "{}", ";")
        self.holder.kill()
        self.holder.wait()
        assert left == ""


@pytest.fixture(scope="module")
def podman(tmp_path_factory: pytest.TempPathFactory, probe: Path) -> Iterator[Podman]:
    folder = tmp_path_factory.mktemp("podman")
    make_root(folder / "rootfs", probe)
    subprocess.run(["tar", "-C", folder / "rootfs", "-cf", folder / "image.tar", "."], check=True)
    made = Podman(folder)
    try:
        made("import", folder / "image.tar", IMAGE)
        yield made
    finally:
        made.close()


LIMITS = ["--memory", "64m", "--pids-limit", "50", "--cpus", ".5"]


def test_limits(podman: Podman) -> None:
    """Those of the command line, in force; `stats`, `exec`, `update`, `pause` and `rm` know of them."""
    name = podman("run", "--detach", *OWN, *LIMITS, IMAGE, "/bin/sleep", "1000").strip()

    def held() -> list[str]:
        files = "memory memory.limit_in_bytes memory memory.memsw.limit_in_bytes pids pids.max cpu cpu.cfs_quota_us".split()
        above = [f"/sys/fs/cgroup/{one}/{TAG}-podman/libpod-{name}" for one in files[::2]]
        return podman.run("cat", *(f"{where}/{file}" for where, file in zip(above, files[1::2], strict=True))).split()

    assert held() == [str(64 * MIB), str(128 * MIB), "50", "50000"]
    (figures,) = json.loads(podman("stats", "--no-stream", "--format", "json", name))
    assert figures["pids"] == "1" and figures["mem_usage"].endswith("/ 67.11MB"), figures
    assert int(podman("exec", name, "/probe", "fork", "100")) in range(40, 50)
    podman("update", "--memory", "32m", "--memory-swap", "40m", "--cpus", "1.5", name)
    assert held() == [str(32 * MIB), str(40 * MIB), "50", "150000"]
    podman("pause", name)
    assert podman("inspect", "--format", "{{.State.Status}}", name) == "paused\n"
    podman("unpause", name)
    podman("rm", "--force", "--time", "0", name)


@pytest.mark.parametrize("flags", [[], ["--pids-limit", "0"]])
def test_without_limits(podman: Podman, flags: list[str]) -> None:
    """podman limits the processes of everybody who does not say otherwise; what containers take is shown in any case."""
    words = ["run", "--detach", *OWN, *flags, IMAGE, "/bin/sleep", "1000"]
    name = podman(*words).strip()
    (figures,) = json.loads(podman("stats", "--no-stream", "--format", "json", name))
    assert figures["pids"] == "1" and "kB / " in figures["mem_usage"], figures
    shown = podman("exec", name, "cat", "/proc/1/cgroup")
    assert sum(line.endswith(f"/libpod-{name}") for line in shown.splitlines()) >= len(CONTROLLERS), shown
    podman("update", "--cpus", "1", name)
    podman("rm", "--force", "--time", "0", name)


def test_memory(podman: Podman) -> None:
    words = ["--rm", *OWN, "--memory", "16m", "--memory-swap", "16m", "--tmpfs", "/e"]
    podman("run", *words, IMAGE, "/bin/sh", "-c", "exec busybox dd if=/dev/zero of=/e/file bs=1M count=40", code=137)
