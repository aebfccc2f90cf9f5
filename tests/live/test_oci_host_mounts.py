"""Containers without a mount namespace of their own (runtime-spec config-linux.md, "Namespaces": it is the runtime's then)."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bundles import OCI, Runtime


@pytest.fixture
def oci(tmp_path: Path, probe: Path) -> Iterator[Runtime]:
    made = Runtime(tmp_path, probe)
    linux = made.config["linux"]
    linux["namespaces"] = [one for one in linux["namespaces"] if one["type"] != "mount"]
    yield made
    made("delete", "--force", "one")


def mounted(oci: Runtime) -> list[list[str]]:
    """The fields of what the host has mounted below the bundle."""
    lines = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [fields for fields in lines if fields[4].startswith(str(oci.bundle))]


def test_it_has_the_hosts_mount_namespace_and_a_root_of_its_own(oci: Runtime) -> None:
    seen = oci.shell("busybox readlink /proc/self/ns/mnt; ls /; cat /proc/1/comm; test -c /dev/null && echo 1 > /dev/null && echo written")
    assert os.readlink("/proc/self/ns/mnt") in seen and "probe" in seen and "written" in seen and "\nsh\n" in seen
    assert mounted(oci) == []


def test_its_mounts_are_nobody_elses_and_end_with_it(oci: Runtime) -> None:
    outside = oci.folder / "outside"
    outside.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "outside", outside], check=True)
    try:
        subprocess.run(["mount", "--make-shared", outside], check=True)
        oci.config["mounts"].append({"destination": "/out", "type": "bind", "source": str(outside), "options": ["rbind"]})
        oci.config["mounts"].append({"destination": "/out/deep", "type": "tmpfs", "source": "deep"})
        oci.start_sleeping()
        below = mounted(oci)
        assert {str(oci.bundle / "rootfs" / name) for name in ("", "proc", "out", "out/deep")} <= {fields[4] for fields in below}
        assert not any(word.startswith("shared:") for fields in below for word in fields)
        assert f" {outside}/deep " not in Path("/proc/self/mountinfo").read_text()
        assert "sleep" in Path(f"/proc/{oci.state('one')['pid']}/comm").read_text()
        oci("delete", "--force", "one")
        assert mounted(oci) == []
        assert f" {outside} " in Path("/proc/self/mountinfo").read_text()
    finally:
        subprocess.run(["umount", outside], check=True)


def test_exec_begins_in_its_root(oci: Runtime) -> None:
    oci.start_sleeping()
    seen = oci("exec", "one", "/bin/sh", "-c", "pwd; ls /; ls /proc/self/fd; busybox readlink /proc/self/ns/mnt").stdout
    assert "probe" in seen and os.readlink("/proc/self/ns/mnt") in seen
    assert os.readlink(f"/proc/{oci.state('one')['pid']}/root") == str(oci.bundle / "rootfs")
    numbers = [int(word) for word in seen.split() if word.isdigit()]
    assert max(numbers) <= 3  # nothing of the host's is open


@pytest.mark.parametrize("linux", [None, {}, {"namespaces": []}])
def test_exec_in_one_that_has_no_namespaces_at_all(oci: Runtime, linux: dict[str, Any] | None) -> None:
    if linux is None:
        del oci.config["linux"]
    else:
        oci.config["linux"] = linux
    del oci.config["hostname"]
    oci.config["mounts"] = [one for one in oci.config["mounts"] if one["type"] not in ("sysfs", "cgroup", "mqueue")]
    pid = oci.start_sleeping()
    for name in ("cgroup", "ipc", "mnt", "net", "pid", "uts"):
        assert os.readlink(f"/proc/{pid}/ns/{name}") == os.readlink(f"/proc/self/ns/{name}")
    assert oci("exec", "one", "/bin/cat", "/etc/passwd").stdout.startswith("root:x:0:0")
    oci("delete", "--force", "one")
    assert mounted(oci) == []


def test_what_is_mounted_on_its_root_already_stays(oci: Runtime) -> None:
    root = oci.bundle / "rootfs"
    subprocess.run(["mount", "--bind", root, root], check=True)
    try:
        oci.start_sleeping()
        oci("delete", "--force", "one")
        assert [fields[4] for fields in mounted(oci)] == [str(root)]
    finally:
        subprocess.run(["umount", root], check=True)


def test_a_create_that_fails_leaves_no_mount(oci: Runtime) -> None:
    oci.command("/bin/none")
    oci("create", "one", code=1)
    assert mounted(oci) == [] and oci.leftovers() == []
    oci.config["mounts"].append({"destination": "/x", "type": "bind", "source": "/does/not/exist", "options": ["bind"]})
    oci.command("/bin/true")
    oci("create", "one", code=1)
    assert mounted(oci) == [] and oci.leftovers() == []


def test_a_create_that_is_killed_leaves_its_mounts_to_delete(oci: Runtime) -> None:
    oci.config["hooks"] = {"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", f"touch {oci.folder}/there; exec sleep 20"]}]}
    oci.command("/bin/true")
    with subprocess.Popen([OCI, "--root", oci.root, "create", "one"], cwd=oci.bundle, start_new_session=True) as making:
        for _ in range(600):
            if (oci.folder / "there").exists():
                break
            time.sleep(0.1)
        os.killpg(making.pid, signal.SIGKILL)
    assert mounted(oci) != []
    oci("delete", "--force", "one")
    assert mounted(oci) == [] and oci.leftovers() == []


def test_the_root_may_be_read_only_and_paths_masked(oci: Runtime) -> None:
    oci.config["root"]["readonly"] = True
    oci.config["linux"]["maskedPaths"] = ["/etc/passwd"]
    script = "touch /etc/x 2>&1; cat /etc/passwd; echo end; touch /tmp/x 2>&1"
    seen = oci.shell(script + " || true")
    assert seen.count("Read-only file system") == 2 and "root:" not in seen
    (oci.bundle / "rootfs" / "etc" / "x").write_text("the host's may be written")


@pytest.mark.parametrize(
    ("member", "value", "words"),
    [
        ("rootfsPropagation", "shared", "would share its mounts with all"),
        ("namespaces", [{"type": "user"}], "has a user namespace, but no mount namespace"),
    ],
)
def test_what_cannot_go_with_it_is_refused(oci: Runtime, member: str, value: object, words: str) -> None:
    oci.config["linux"][member] = value
    oci.config.pop("hostname")
    oci.command("/bin/true")
    assert words in oci("create", "one", code=1).stderr
    assert mounted(oci) == []


def test_who_makes_one_is_told(oci: Runtime) -> None:
    oci.command("/bin/true")
    assert "without a mount namespace the mounts are the host's" in oci("run", "one").stderr
