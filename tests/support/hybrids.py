"""A view of this host as a hybrid one: controllers in hierarchies of cgroup version 1 beside a v2 tree.

It is a mount namespace of the caller's own.  The host's mounts are not touched.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

from bundles import OCI, Runtime

CONTROLLERS = ("memory", "cpu", "cpuset", "pids", "blkio")
SHOW = f"""
mount -t tmpfs none /sys/fs/cgroup && cd /sys/fs/cgroup && mkdir {" ".join(CONTROLLERS)} unified && mount -t cgroup2 cgroup2 unified
for c in {" ".join(CONTROLLERS)}; do mount -t cgroup -o $c cgroup $c || exit 77; done
cd "$OLDPWD" && exec "$@"
"""
TAG = f"oci-{os.urandom(4).hex()}"  # the hierarchies are the host's: others may run these tests at the same time
ONE = f"{TAG}-one"
REASON = "this host has no controllers in cgroup version 1; tests/vm is for the others"


def has_version_1() -> bool:
    """Whether this kernel has its controllers there; one that a v2 tree has cannot be mounted."""
    with open("/proc/self/cgroup") as file:
        return all(f":{name}:" in text for text in [file.read()] for name in CONTROLLERS)


def inside(*words: object) -> list[str]:
    """A command line that runs `words` there."""
    return ["unshare", "--mount", "sh", "-c", SHOW, "sh", *map(str, words)]


def own_groups() -> dict[str, str]:
    """This process's own groups, by controller, as the view shows them."""
    lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    return {name: f"/sys/fs/cgroup/{name}{path.rstrip('/')}" for _, name, path in lines if name in CONTROLLERS}


def seen(path: str) -> str | None:
    """A file of a hierarchy of version 1, None where it is not there."""
    done = subprocess.run(inside("cat", path), capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else None


def groups(name: str) -> set[str]:
    """All groups of version 1 that `name`, a pattern of find(1), fits."""
    find = f"cd /sys/fs/cgroup && find {' '.join(CONTROLLERS)} -type d -name '{name}'"
    return set(subprocess.run(inside("sh", "-c", find), capture_output=True, text=True, check=True).stdout.split())


def wrapped(path: Path, program: Path) -> Path:
    path.write_text(f"#!/bin/sh\nexec unshare --mount sh -c '{SHOW}' sh {program} \"$@\"\n")
    path.chmod(0o755)
    return path


def tree() -> list[str]:
    """What is left in the v2 tree."""
    return [str(path) for path in Path("/sys/fs/cgroup").glob(f"**/{TAG}-*")]


def limit(oci: Runtime, **resources: Any) -> None:
    oci.config["linux"]["resources"] = resources


def at(controller: str, group: str = ONE) -> str:
    return f"/sys/fs/cgroup/{controller}/{group}"


def files(*names: str, group: str = ONE) -> list[str]:
    """What files of version 1 hold, the first line of each."""
    paths = [f"{at(name.partition('.')[0], group)}/{name}" for name in names]
    done = subprocess.run(inside("head", "-qn", "1", *paths), capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def places(pid: int | str) -> dict[str, str]:
    lines = [line.split(":", 2) for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()]
    return {name: path for _, name, path in lines}


def refused(oci: Runtime, *words: str | Path, told: tuple[str, ...], verb: str = "run", code: int = 1) -> None:
    done = oci(verb, *words, code=code)
    assert all(word in done.stderr for word in told) and done.stderr.count("hint: ") == 1 and "Traceback" not in done.stderr, done.stderr


class Hybrid(Runtime):
    """`pyrun-oci` as it is started there."""

    def __init__(self, folder: Path, probe: Path) -> None:
        super().__init__(folder, probe)
        self.program = wrapped(folder / "hybrid", OCI)
        self.config["ociVersion"] = "1.3.0"
        self.config["linux"]["cgroupsPath"] = f"/{ONE}"

    def check_that_nothing_is_left(self) -> None:
        for name in self.leftovers():  # of a test that failed
            self("delete", "--force", name)
        assert groups(f"{TAG}-*") == set() and tree() == []
