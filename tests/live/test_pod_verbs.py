"""Smaller promises of the verbs about pods."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import Pyrun

Detach = Callable[..., str]


@pytest.fixture
def detach(pyrun: Pyrun, busybox: Path) -> Iterator[Detach]:
    def begin(script: str, *flags: str) -> str:
        return pyrun("run", "--detach", *flags, busybox, "--exec", "/bin/sh", "--", "-c", script, code=0).out.strip()

    yield begin
    for uuid in os.listdir(pyrun.root / "pods" / "running"):
        pyrun("rm", "--force", uuid, code=0)
    pyrun("gc", code=0)


def test_waiting_has_an_end(pyrun: Pyrun, detach: Detach) -> None:
    uuid = detach("sleep 1000")
    begun = time.monotonic()
    assert pyrun("wait", "--timeout", "1", uuid, code=124).out == ""
    assert pyrun("status", "--wait", "--timeout", "1", uuid, code=124).out == ""
    assert 2 <= time.monotonic() - begun < 20
    waiting = [pyrun.start("status", "--wait", "--format", "json", uuid) for _ in range(3)]
    pyrun("kill", "-s", "ABRT", uuid, code=0)
    for one in waiting:
        out, err = one.communicate(timeout=60)
        assert (one.returncode, err, json.loads(out)["signal"]) == (134, "", signal.SIGABRT)


def test_several_at_once_and_each_error_said(pyrun: Pyrun, detach: Detach) -> None:
    one, other = detach("sleep 1000"), detach("sleep 1000")
    stopped = pyrun("stop", one, "nobody", other, code=125)
    assert stopped.out.split() == [one, other] and stopped.err.startswith("pyrun: find pod nobody: there is none")
    assert "needs a POD" in pyrun("stop", code=2).err
    first = pyrun("rm", one[:1], other[:2] if one[0] != other[0] else other)
    assert first.code in (0, 125), "a beginning that fits several is refused"


def test_a_beginning_that_fits_several(pyrun: Pyrun) -> None:
    folder = pyrun.root / "pods" / "exited"
    pyrun("run", pyrun.probe_image, "--exec", "/probe", "--", "exit", "0", code=0)
    for last in "12":
        (folder / f"aaaaaaaa-2222-4333-8444-55555555555{last}").mkdir()
    refused = pyrun("status", "aaaa", code=125)
    assert "2 pods begin so" in refused.err and "hint: write more of the UUID" in refused.err
    assert "damaged" in pyrun("list", code=0).out
    pyrun("gc", code=0)
    assert os.listdir(folder) == []


def test_rm_spares_what_runs(pyrun: Pyrun, detach: Detach) -> None:
    uuid = detach("sleep 1000")
    assert "it runs" in pyrun("rm", uuid, code=125).err
    pyrun("rm", "--force", uuid, code=0)
    assert pyrun("list", "--no-legend", code=0).out == ""


def test_mark_only_deletes_nothing(pyrun: Pyrun, detach: Detach) -> None:
    uuid = detach("sleep 1000")
    run = json.loads((pyrun.root / "pods" / "running" / uuid / "run").read_text())
    os.kill(run["keeper"], signal.SIGKILL)
    held = os.pidfd_open(run["supervisor"]) if Path(f"/proc/{run['supervisor']}").exists() else -1
    if held >= 0:
        import select

        poll = select.poll()
        poll.register(held, select.POLLIN)
        poll.poll(20_000)
        os.close(held)
    assert pyrun("gc", "--mark-only", code=0).out == f"marked crashed pod {uuid}\n"
    assert os.listdir(pyrun.root / "pods" / "exited") == [uuid]
    assert pyrun("gc", "--mark-only", code=0).out == ""


def test_the_image_s_own_stop_signal(pyrun: Pyrun, detach: Detach) -> None:
    """OCI image configuration, StopSignal: what `stop` sends unless it is told otherwise."""
    uuid = detach("trap 'exit 7' QUIT; trap 'exit 8' TERM; echo ready; while :; do sleep 0.02; done")
    while not pyrun("logs", uuid, code=0).out:
        pass
    record = pyrun.root / "pods" / "running" / uuid / "pod"
    record.write_text(json.dumps({**json.loads(record.read_text()), "stop_signal": "SIGQUIT"}))
    pyrun("stop", uuid, code=0)
    assert pyrun("wait", uuid, code=7)


def test_interrupting_a_waiter_harms_nobody(pyrun: Pyrun, detach: Detach) -> None:
    uuid = detach("sleep 1000")
    for verb in ("wait", "logs"):
        one = pyrun.start(verb, *(["-f"] if verb == "logs" else []), uuid)
        deadline = time.monotonic() + 20
        while (
            b"do_sys_poll" not in Path(f"/proc/{one.pid}/stack").read_bytes() and b"poll" not in Path(f"/proc/{one.pid}/wchan").read_bytes()
        ):
            assert time.monotonic() < deadline
        one.send_signal(signal.SIGINT)
        out, err = one.communicate(timeout=20)
        assert (one.returncode, out, err) == (130, "", "")
    assert json.loads(pyrun("status", "--format", "json", uuid, code=0).out)["state"] == "running"
