"""Annotations and forms of options that are crun's own, and clients use."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bundles import Runtime


@pytest.fixture
def oci(tmp_path: Path, probe: Path) -> Runtime:
    return Runtime(tmp_path, probe)


def test_a_log_may_be_called_a_file(oci: Runtime, tmp_path: Path) -> None:
    oci.root.mkdir()
    oci("--log", f"file:{tmp_path}/log", "--log-format", "json", "list")
    assert (tmp_path / "log").read_text() == ""
    oci("--log", f"file:{tmp_path}/log", "--log-format", "json", "state", "none", code=1)
    assert "does not exist" in json.loads((tmp_path / "log").read_text())["msg"]


@pytest.mark.parametrize("verb", ["state", "start", "kill", "delete", "exec"])
def test_a_log_that_cannot_be_written_is_told(oci: Runtime, tmp_path: Path, verb: str) -> None:
    """Before anything is done, by the verbs too that need no Python."""
    oci.command("/bin/sleep", "1000")
    oci("create" if verb == "start" else "run", *([] if verb == "start" else ["--detach"]), "one")
    more = {"kill": ("KILL",), "exec": ("true",)}.get(verb, ())
    before = oci.state("one")["status"]
    said = oci("--log", tmp_path / "missing" / "log", verb, "one", *more, code=2)
    assert said.stderr.startswith(f"pyrun-oci: open log {tmp_path}/missing/log: no such file or directory")
    assert oci.state("one")["status"] == before
    oci("--log", tmp_path / "log", "state", "one")
    assert (tmp_path / "log").read_text() == ""
    oci("delete", "--force", "one")


@pytest.mark.parametrize("users", [False, True])
def test_groups_of_the_caller_stay_on_demand(oci: Runtime, users: bool) -> None:
    """run.oci.keep_original_groups of crun, which podman's --group-add keep-groups asks for."""
    if users:
        oci.config["linux"]["namespaces"].append({"type": "user"})
        oci.config["linux"]["uidMappings"] = oci.config["linux"]["gidMappings"] = [{"containerID": 0, "hostID": 0, "size": 100}]
    oci.config["process"]["user"]["additionalGids"] = [7]
    own = {"extra_groups": [5, 777]}
    seen = {}
    for value in ("1", "0"):
        oci.config["annotations"] = {"run.oci.keep_original_groups": value}
        oci.command("/bin/sleep", "1000")
        oci("run", "--detach", "one", **own)
        for options in (["--user", "0"], ["--ignore-paused"]):
            seen[(value, *options)] = oci("exec", *options, "one", "grep", "^Groups:", "/proc/self/status", **own).stdout.split()[1:]
        pid = oci.state("one")["pid"]
        status = Path(f"/proc/{pid}/status").read_text()
        assert Path(f"/proc/{pid}/setgroups").read_text() == "allow\n", "a program may choose others"
        seen[(value,)] = status.partition("\nGroups:")[2].partition("\n")[0].split()
        oci("delete", "--force", "one")
    inside = ["5", "65534" if users else "777"]
    assert seen[("1",)] == ["5", "777"] and seen[("0",)] == ["7"]
    assert seen["1", "--user", "0"] == seen["1", "--ignore-paused"] == inside
    assert seen["0", "--user", "0"] == [] and seen["0", "--ignore-paused"] == ["7"]


def test_a_name_that_nobody_knows_is_refused_on_demand(oci: Runtime) -> None:
    """run.oci.seccomp_fail_unknown_syscall of crun."""
    rules = [{"names": ["mkdir", "surely_no_call"], "action": "SCMP_ACT_ERRNO"}]
    oci.config["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules}
    for value, code in (("", 0), ("0", 0), ("1", 1), ("0", 0)):
        oci.config["annotations"] = {"run.oci.seccomp_fail_unknown_syscall": value}
        oci.command("/bin/true")
        done = oci("run", "one", code=code)
        assert ("linux.seccomp.syscalls[0].names[1]" in done.stderr) == bool(code)
