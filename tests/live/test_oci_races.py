"""`pyrun-oci` where others are at work at the same time, and where names lead elsewhere than they seem."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from bundles import OCI, Runtime


@pytest.fixture
def oci(tmp_path: Path, probe: Path) -> Runtime:
    return Runtime(tmp_path, probe)


def test_of_many_creates_of_one_name_one_wins_and_lives(oci: Runtime) -> None:
    oci.command("/bin/sleep", "1000")
    for _ in range(5):
        words = [str(word) for word in (OCI, "--root", oci.root, "create", "--bundle", oci.bundle, "one")]
        racers = [subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for _ in range(4)]
        assert sorted(racer.wait(timeout=30) for racer in racers) == [0, 1, 1, 1]
        assert oci.state("one")["status"] == "created", "the losers leave it alone"
        oci("start", "one")
        oci("delete", "--force", "one")
    assert not oci.leftovers()


def test_a_cgroup_in_which_others_live_is_refused_and_they_live_on(oci: Runtime) -> None:
    own = "/sys/fs/cgroup" + Path("/proc/self/cgroup").read_text().strip().partition("::")[2].rstrip("/")
    parent = Path(own) / f"others-{os.getpid()}"
    (parent / "service").mkdir(parents=True)
    with subprocess.Popen(["sleep", "1000"]) as service:
        try:
            (parent / "service" / "cgroup.procs").write_text(str(service.pid))
            oci.config["linux"]["cgroupsPath"] = "/" + str(parent).removeprefix("/sys/fs/cgroup/")
            oci.command("/bin/true")
            failed = oci("run", "one", code=1).stderr
            assert "there are processes in it already" in failed and "linux.cgroupsPath" in failed
            assert service.poll() is None and not oci.leftovers()
        finally:
            service.kill()
            service.wait()
            (parent / "service").rmdir()
            parent.rmdir()


def test_exec_where_few_descriptors_are_allowed(oci: Runtime) -> None:
    oci.config["process"]["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 50, "hard": 50}]
    oci.start_sleeping()
    assert oci("exec", "one", "/bin/sh", "-c", "ulimit -n").stdout == "50\n"
    oci("delete", "--force", "one")


def test_mount_points_are_made_in_what_covers_them(oci: Runtime, tmp_path: Path) -> None:
    """A directory that is remembered from before a mount is not the one behind it."""
    (tmp_path / "file").write_text("content\n")
    (tmp_path / "etc").mkdir()
    file = {"source": str(tmp_path / "file"), "type": "bind", "options": ["bind"]}
    oci.config["mounts"] += [
        {**file, "destination": "/etc/hosts"},
        {"destination": "/etc", "source": str(tmp_path / "etc"), "type": "bind", "options": ["bind"]},
        {**file, "destination": "/etc/resolv.conf"},
    ]
    assert oci.shell("ls /etc; cat /etc/resolv.conf; ls /dev | grep -c null") == "resolv.conf\ncontent\n1\n"


def test_files_that_the_caller_names_may_be_links(oci: Runtime, tmp_path: Path) -> None:
    oci.command("/bin/echo", "linked")
    (tmp_path / "elsewhere.json").write_text((oci.bundle / "config.json").read_text())
    (oci.bundle / "config.json").unlink()
    (oci.bundle / "config.json").symlink_to(tmp_path / "elsewhere.json")
    assert oci("run", "one").stdout == "linked\n"
    oci.config["process"]["args"] = ["/bin/sleep", "1000"]
    (tmp_path / "elsewhere.json").write_text(json.dumps(oci.config))
    oci("run", "--detach", "one")
    process = json.dumps({**oci.config["process"], "args": ["/bin/echo", "more"]})
    (tmp_path / "process.json").write_text(process)
    (tmp_path / "link.json").symlink_to("process.json")
    assert oci("exec", "--process", tmp_path / "link.json", "one").stdout == "more\n"
    oci("delete", "--force", "one")
