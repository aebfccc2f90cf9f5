"""What is found by who calls it crun, by a link, and knows that one."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from bundles import OCI, Runtime, recipes


@pytest.fixture
def crun(tmp_path: Path, probe: Path) -> Runtime:
    made = Runtime(tmp_path, probe)
    made.program = tmp_path / "crun"
    made.program.symlink_to(OCI)
    return made


def status(oci: Runtime, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((oci.root / name / "status").read_text())
    return found


@pytest.mark.parametrize("name", ["crun", "pyrun-oci", "runc"])
def test_a_container_has_the_file_status(crun: Runtime, tmp_path: Path, name: str) -> None:
    """Whoever made it, and by whichever name: Python, and the launcher, once Python has decided."""
    crun.program = tmp_path / name
    if name != "crun":
        crun.program.symlink_to(OCI)
    crun.command("/bin/sleep", "1000")
    for made_before in (False, True):
        assert bool(recipes(crun)) == made_before
        for words, detached in ((("create",), True), (("run", "--detach"), True)):
            crun(*words, "one")
            try:
                state, known = json.loads(crun("state", "one").stdout), status(crun, "one")
                assert state["status"] == ("created" if words[0] == "create" else "running")
                assert {name: known[name] for name in ("pid", "bundle", "rootfs", "created", "owner")} == {
                    name: state[name] for name in ("pid", "bundle", "rootfs", "created", "owner")
                }
                started = Path(f"/proc/{known['pid']}/stat").read_text().rpartition(")")[2].split()[19]
                assert known["process-start-time"] == int(started) and known["detached"] is detached
                assert Path(f"/proc/{known['pid']}/cgroup").read_text().strip().endswith(known["cgroup-path"]) and known["cgroup-path"]
                assert (known["scope"], known["systemd-cgroup"]) == ("", False)
                streams = [os.readlink(f"/proc/{known['pid']}/fd/{number}") for number in range(3)]
                assert json.loads(known["external_descriptors"]) == streams
                assert not (crun.root / "one" / "status.new").exists()
            finally:
                crun("delete", "--force", "one")
    assert not crun.leftovers()


def test_a_stream_with_a_quote_in_its_name(crun: Runtime, tmp_path: Path) -> None:
    """Which the launcher leaves to Python."""
    crun.command("/bin/sleep", "1000")
    crun("create", "one")
    crun("delete", "--force", "one")
    odd = tmp_path / 'a "quoted" file'
    with odd.open("w") as file:
        command = [crun.program, "--root", crun.root, "create", "--bundle", crun.bundle, "one"]
        subprocess.run(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, check=True)
    try:
        assert json.loads(status(crun, "one")["external_descriptors"]) == ["/dev/null", str(odd), str(odd)]
    finally:
        crun("delete", "--force", "one")


def test_features_are_said_by_its_names_too(crun: Runtime) -> None:
    found = json.loads(crun("features").stdout)
    version, commit = crun("--version").stdout.splitlines()[:2]
    assert f" crun version {found['annotations']['run.oci.crun.version']}," in version
    assert commit == f"commit: {found['annotations']['run.oci.crun.commit']}" and commit[8:].isalnum()
    words = [found["annotations"][name] for name in ("run.oci.crun.checkpoint.enabled", "org.opencontainers.runc.checkpoint.enabled")]
    assert words[0] == words[1] and found["annotations"]["run.oci.crun.wasm"] == "false"
    crun.program = OCI
    ours = json.loads(crun("features").stdout)
    assert not any(name.startswith("run.oci.crun") for name in ours["annotations"])
    assert {**found, "annotations": {}} == {**ours, "annotations": {}}


@pytest.mark.parametrize("name", ["crun", "pyrun-oci", "runc"])
def test_a_command_and_the_no_new_privs_of_its_container(crun: Runtime, tmp_path: Path, name: str) -> None:
    """By the name of crun it is asked for anew; by the launcher, and by Python where an option is left to that."""
    crun.program = tmp_path / name
    if name != "crun":
        crun.program.symlink_to(OCI)
    command = ["one", "/bin/grep", "NoNewPrivs", "/proc/self/status"]
    crun.config["process"]["noNewPrivileges"] = True
    crun.start_sleeping()
    described = {**crun.config["process"], "args": command[1:]}
    (tmp_path / "process.json").write_text(json.dumps(described))
    try:
        for options in ([], ["--ignore-paused"]):
            assert crun("exec", *options, *command).stdout.split()[1] == str(int(name != "crun"))
            assert crun("exec", *options, "--no-new-privs", *command).stdout.split()[1] == "1"
        assert crun("exec", "--process", tmp_path / "process.json", "one").stdout.split()[1] == "1"
    finally:
        crun("delete", "--force", "one")
