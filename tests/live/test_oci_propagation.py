"""A mount that says how it spreads, in a root that says otherwise for all (mount_namespaces(7); config.md, "Linux mount options")."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from bundles import Runtime

KINDS = ("rprivate", "private", "rslave", "slave", "", "rshared")  # of linux.rootfsPropagation


@pytest.fixture
def oci(tmp_path: Path, probe: Path) -> Runtime:
    return Runtime(tmp_path, probe)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A shared mount of the host's, with a directory to mount on."""
    path = tmp_path / "place"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", path], check=True)
    subprocess.run(["mount", "--make-shared", path], check=True)
    for name in ("in", "out"):
        (path / name).mkdir()
    yield path
    subprocess.run(["umount", "--recursive", path], check=True)


def shown(pid: int | str, where: Path | str) -> str:
    """The optional fields of the mount at a place, such as shared:7."""
    lines = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
    fields = next(line.split() for line in reversed(lines) if line.split()[4] == str(where))
    return " ".join(fields[6 : fields.index("-")])


def begin(oci: Runtime, place: Path, *options: str) -> str:
    oci.config["mounts"] += [
        {"destination": "/named", "type": "bind", "source": str(place), "options": ["rbind", *options]},
        {"destination": "/plain", "type": "bind", "source": str(place), "options": ["rbind"]},
        {"destination": "/memory", "type": "tmpfs", "source": "tmpfs"},
    ]
    for name in ("bounding", "effective", "permitted"):
        oci.config["process"]["capabilities"][name] = ["CAP_SYS_ADMIN"]
    oci.command("/bin/sh", "-c", "mount -t tmpfs inside /named/out && exec sleep 1000")
    oci("run", "--detach", "one")
    return str(oci.state("one")["pid"])


def wait_for(pid: str) -> None:
    subprocess.run(
        ["sh", "-c", f"for i in $(seq 100); do grep -q ' /named/out ' /proc/{pid}/mountinfo && exit; sleep 0.05; done; exit 1"], check=True
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_bind_that_is_shared_is_so_with_its_source(oci: Runtime, place: Path, kind: str) -> None:
    """Both ways; and nothing else goes out, unless the root is shared."""
    oci.config["linux"]["rootfsPropagation"] = kind
    pid = begin(oci, place, "rshared")
    try:
        wait_for(pid)
        assert shown(pid, "/named") == shown("self", place).split()[0]
        assert os.path.ismount(place / "out")
        subprocess.run(["mount", "-t", "tmpfs", "late", place / "in"], check=True)
        assert shown(pid, "/named/in").startswith("shared:")
        if kind != "rshared":
            assert "shared:" not in shown(pid, "/plain") and "shared:" not in shown(pid, "/memory") and "shared:" not in shown(pid, "/")
        assert ("master:" in shown(pid, "/plain")) == (kind in ("rslave", "slave", ""))
    finally:
        oci("delete", "--force", "one")


@pytest.mark.parametrize("kind", KINDS)
def test_a_bind_that_is_private_stays_so(oci: Runtime, place: Path, kind: str) -> None:
    oci.config["linux"]["rootfsPropagation"] = kind
    pid = begin(oci, place, "rprivate")
    try:
        wait_for(pid)
        assert shown(pid, "/named") == "" and not os.path.ismount(place / "out")
        assert ("shared:" in shown(pid, "/memory")) == (kind == "rshared")
    finally:
        oci("delete", "--force", "one")


@pytest.mark.parametrize("kind", ["rprivate", "private"])
def test_a_bind_that_is_a_slave_takes_what_comes_later(oci: Runtime, place: Path, kind: str) -> None:
    oci.config["linux"]["rootfsPropagation"] = kind
    pid = begin(oci, place, "rslave")
    try:
        wait_for(pid)
        assert shown(pid, "/named").startswith("master:") and not os.path.ismount(place / "out")
    finally:
        oci("delete", "--force", "one")
