"""Prepared pods: made once, run once, without Python (PRP-01..06, SEC-54)."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from harness import COMMAND, Pyrun
from waiting import phase, wait_until

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def prepare(pyrun: Pyrun, *command: str, flags: tuple[str, ...] = ()) -> str:
    uuid = pyrun("prepare", *flags, pyrun.probe_image, "--exec", "/probe", "--", *command, code=0).out.strip()
    assert UUID.fullmatch(uuid)
    return uuid


def test_it_runs_once_with_its_own_exit_code(pyrun: Pyrun) -> None:
    uuid = prepare(pyrun, "exit", "7")
    assert phase(pyrun, "prepared") == [uuid] and phase(pyrun, "running") == []
    pyrun("run-prepared", uuid, code=7)
    assert phase(pyrun, "exited") == [uuid] and phase(pyrun, "prepared") == []
    record = json.loads((pyrun.root / "pods" / "exited" / uuid / "exit").read_text())
    assert (record["code"], record["signal"]) == (7, 0)
    again = pyrun("run-prepared", uuid, code=125)
    assert again.err == f"pyrun: start pod {uuid}: it is exited\nhint: a prepared pod runs once: see `pyrun prepare`\n"


def test_no_python_runs(pyrun: Pyrun, tmp_path: Path) -> None:
    """From the launcher's first instruction on: launcher, keeper, helper, app."""
    uuid = prepare(pyrun, "exit", "0")
    trace = tmp_path / "trace"
    command = ["strace", "-f", "-qq", "-e", "trace=execve,execveat", "-o", trace, COMMAND, "run-prepared", uuid]
    assert subprocess.run(command, env=pyrun.environment(), timeout=60).returncode == 0
    programs = [line.split("(", 1)[1].split(",")[0] for line in trace.read_text().splitlines() if "execve" in line and " = 0" in line]
    assert [program.strip('"').rpartition("/")[2] for program in programs[:2]] == ["pyrun", "keeper"]
    assert len(programs) == 4 and "python" not in "".join(programs[::3])


@pytest.mark.parametrize("how", ["uuid", "upper case", "prefix", "name", "file"])
def test_what_a_pod_can_be_called(pyrun: Pyrun, tmp_path: Path, how: str) -> None:
    file = tmp_path / "uuid"
    uuid = prepare(pyrun, "exit", "9", flags=("--pod-name", "web-1", "--uuid-file-save", str(file)))
    words = {"uuid": [uuid], "upper case": [uuid.upper()], "prefix": [uuid[:4]], "name": ["web-1"], "file": ["--uuid-file", str(file)]}[how]
    pyrun("run-prepared", *words, code=9)


def test_names_are_unique_while_their_pod_is_there(pyrun: Pyrun) -> None:
    first = prepare(pyrun, "exit", "0", flags=("--pod-name", "web"))
    refused = pyrun("prepare", "--pod-name", "web", pyrun.probe_image, code=125)
    assert refused.err.startswith(f"pyrun: name a pod web: pod {first[:8]} has that name\nhint: ")
    assert phase(pyrun, "prepared") == [first] and phase(pyrun, "preparing") == []
    pyrun("run-prepared", "web", code=0)
    pyrun("gc", code=0)
    assert prepare(pyrun, "exit", "0", flags=("--pod-name", "web")) != first
    for bad in ("", "Web", "-x", "a/b", "..", "x" * 64, first):
        assert "hint: " in pyrun("prepare", f"--pod-name={bad}", pyrun.probe_image, code=2).err


def test_of_many_who_start_it_exactly_one_wins(pyrun: Pyrun) -> None:
    """PRP-04: whoever loses says so, and nothing of the pod is harmed."""
    for detach in ((), ("--detach",)):
        uuid = prepare(pyrun, "exit", "3" if not detach else "0")
        racers = [pyrun.start("run-prepared", *detach, uuid) for _ in range(8)]
        said = [one.communicate(timeout=60) for one in racers]
        codes = sorted(one.returncode for one in racers)
        assert codes == [0 if detach else 3] + [125] * 7, said
        assert all(err.count("\n") == 2 and "hint: " in err for one, (_, err) in zip(racers, said, strict=True) if one.returncode == 125)
        wait_until(lambda: phase(pyrun, "exited").count(uuid) == 1)  # noqa: B023  # who starts it in the background does not wait for its end


def test_a_step_that_fails_is_explained(pyrun: Pyrun) -> None:
    """The error is the one of `run`, in the foreground and in the background, and nothing is left."""
    for detach in ((), ("--detach",)):
        uuid = pyrun("prepare", pyrun.probe_image, "--exec", "/missing", code=0).out.strip()
        failed = pyrun("run-prepared", *detach, uuid, code=127)
        assert failed.err.startswith("pyrun: execute /missing: no such file or directory\nhint: ") and failed.out == ""
        assert "from: --exec" in failed.err
        assert [name for name in ("prepared", "running", "exited", "garbage") if phase(pyrun, name)] == []


def test_it_expires(pyrun: Pyrun) -> None:
    """PRP-05: a day by default; never while somebody starts it."""
    uuid = prepare(pyrun, "exit", "0")
    assert pyrun("gc", code=0).out == "" and phase(pyrun, "prepared") == [uuid]
    record = pyrun.root / "pods" / "prepared" / uuid / "pod"
    os.utime(record.parent, (1, 1))
    assert pyrun("gc", code=0).out == "", "a date by itself makes nothing old"
    record.write_text(
        json.dumps({**json.loads(record.read_text()), "uptime": 1 << 62})
    )  # made before the last boot: the date is all there is
    os.utime(record.parent, (1, 1))
    assert pyrun("gc", "--expire-prepared", "90000d", code=0).out == ""
    assert uuid in pyrun("gc", code=0).out
    assert phase(pyrun, "prepared") == phase(pyrun, "garbage") == []
    uuid = prepare(pyrun, "exit", "0")
    assert uuid in pyrun("gc", "--expire-prepared", "0s", code=0).out


def test_its_image_stays_in_the_store(pyrun: Pyrun) -> None:
    prepare(pyrun, "exit", "0")
    assert "uses it" in pyrun("image", "rm", "example.com/probe", code=125).err


def test_volumes_and_copies_are_made_at_once(pyrun: Pyrun) -> None:
    uuid = prepare(pyrun, "try", "mkdir", "/etc/x", flags=("--no-overlay", "-v", "data,kind=empty", "--mount", "volume=data,target=/data"))
    assert (pyrun.root / "pods" / "prepared" / uuid / "rootfs" / "probe").exists()
    pyrun("run-prepared", uuid, code=0)


@pytest.mark.parametrize("version", [1, 99])
@pytest.mark.parametrize("name", ["keep", "plan"])
def test_another_version_s_plan_is_refused(pyrun: Pyrun, name: str, version: int) -> None:
    """Version 1 of `keep` had no word about sockets."""
    uuid = prepare(pyrun, "exit", "0")
    path = pyrun.root / "pods" / "prepared" / uuid / name
    data = bytearray(path.read_bytes())
    data[4] = version + (name == "plan")
    path.write_bytes(data)
    assert "another version" in pyrun("run-prepared", uuid, code=125).err
    assert phase(pyrun, "prepared") == [uuid]
