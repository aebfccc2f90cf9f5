"""The clients of an OCI runtime, each with a root of its own, in namespaces where they are alone.

They want to make cgroups at the root of the tree, with nobody else in it, and dockerd wants a network to itself: so they
share a mount, cgroup and network namespace, with the tree mounted anew below a cgroup of theirs.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bundles import OCI

_ENTER = 'echo $$ > /sys/fs/cgroup/leaf/cgroup.procs; cd "$0"; exec "$@"'
_HOLD = """
umount -R /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir /sys/fs/cgroup/leaf
echo $$ > /sys/fs/cgroup/leaf/cgroup.procs
mkdir -p /run/containers
mount -t tmpfs tmpfs /run/containers
echo ready
exec sleep infinity
"""
PODMAN = """
[containers]
pids_limit = 0
default_ulimits = ["nofile=20000:20000", "nproc=20000:20000"]
[engine]
runtime_supports_nocgroup = ["pyrun-oci"]
runtime_supports_json = ["pyrun-oci"]
"""


class Clients:
    """`command` makes of a command line one that runs there; `run` runs it."""

    def __init__(self, folder: Path, pid: int) -> None:
        self.folder = folder
        self.pid = pid
        (folder / "containers.conf").write_text(PODMAN)
        (folder / "tmp").mkdir()

    def command(self, *words: str | Path) -> list[str]:
        inside = ["nsenter", "-t", str(self.pid), "-m", "-n", "-C", "--", "sh", "-c", _ENTER, str(self.folder)]
        return [*inside, *map(str, words)]

    def environment(self) -> dict[str, str]:
        return {**os.environ, "CONTAINERS_CONF": str(self.folder / "containers.conf"), "HOME": str(self.folder)}

    def run(self, *words: str | Path, code: int | None = 0, timeout: float = 60, **more: Any) -> subprocess.CompletedProcess[str]:
        streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, **more}
        if "input" in more:
            del streams["stdin"]
        done = subprocess.run(self.command(*words), env=self.environment(), capture_output=True, text=True, timeout=timeout, **streams)
        assert code is None or done.returncode == code, f"{words}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def podman_words(self) -> list[str]:
        own = self.folder / "podman"
        places = ["--root", own / "root", "--runroot", own / "run", "--tmpdir", own / "tmp", "--storage-driver", "vfs"]
        kinds = ["--cgroup-manager", "cgroupfs", "--events-backend", "file", "--runtime", OCI]
        return ["podman", *map(str, [*places, *kinds])]

    def podman(self, *words: str | Path, **more: Any) -> subprocess.CompletedProcess[str]:
        return self.run(*self.podman_words(), *words, **more)

    @contextlib.contextmanager
    def daemon(self, *words: str | Path, ready: Path, log: str) -> Iterator[subprocess.Popen[bytes]]:
        """A daemon of the clients', until the end of the block; ready once the socket is there."""
        with (self.folder / log).open("wb") as file:
            process = subprocess.Popen(self.command(*words), env=self.environment(), stdin=subprocess.DEVNULL, stdout=file, stderr=file)
            try:
                deadline = time.monotonic() + 30
                while not ready.exists():
                    assert process.poll() is None and time.monotonic() < deadline, (self.folder / log).read_text()
                    time.sleep(0.05)
                yield process
            finally:
                process.terminate()
                process.wait(timeout=30)


@contextlib.contextmanager
def clients(folder: Path) -> Iterator[Clients]:
    group = Path("/sys/fs/cgroup/clients")
    group.mkdir()
    words = ["unshare", "--mount", "--propagation", "private", "--cgroup", "--net", "bash", "-euc", _HOLD]
    enter = ["sh", "-c", 'echo $$ > "$0"; exec "$@"', str(group / "cgroup.procs")]
    holder = subprocess.Popen([*enter, *words], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == "ready\n"
        holder.stdout.close()
        yield Clients(folder, holder.pid)
    finally:
        (group / "cgroup.kill").write_text("1")
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        deadline = time.monotonic() + 60
        while group.exists() and time.monotonic() < deadline:
            for top, _, _ in os.walk(group, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(top)
            time.sleep(0.02)
