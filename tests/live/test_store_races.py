"""Images are run, fetched, removed, collected and tagged at the same time: nothing that is used goes, and nothing else goes wrong."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import Pyrun, Result
from scale import scaled
from waiting import wait_until

pytestmark = pytest.mark.stress

# What may be said to somebody whose image was removed a moment before
GONE = ("nothing in the store answers to it", "not in the store", "not in the store or not complete")


def at_once(*jobs: Callable[[], object]) -> None:
    """Runs the jobs in threads of their own; raises what the first of them raised."""
    problems: list[BaseException] = []

    def work(job: Callable[[], object]) -> None:
        try:
            job()
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if problems:
        raise problems[0]


def fine(result: Result, *codes: int) -> None:
    """It did what it should, or said that the image is not there any more."""
    allowed = result.code in codes or (result.code == 125 and any(text in result.err for text in GONE))
    assert allowed and "Traceback" not in result.err and "internal error" not in result.err, repr(result)


def test_runs_against_removals(pyrun: Pyrun, image: Callable[..., Path]) -> None:
    path = image("example.com/contended", ["/probe", "exit", "7"])
    pyrun("fetch", path, code=0)
    rounds = range(scaled(8))

    def by_name() -> None:
        for _ in rounds:
            fine(pyrun("run", "--quiet", "--pull-policy", "never", "example.com/contended"), 7)

    def by_file() -> None:
        for _ in rounds:
            fine(pyrun("run", "--quiet", path), 7)

    def removal() -> None:
        for _ in rounds:
            result = pyrun("image", "rm", "example.com/contended")
            assert result.code == 0 or "uses it" in result.err or any(text in result.err for text in GONE), repr(result)

    def collection() -> None:
        for _ in rounds:
            fine(pyrun("image", "gc", "--all"), 0)
            fine(pyrun("gc"), 0)

    def naming() -> None:
        for _ in rounds:
            fine(pyrun("image", "tag", "example.com/contended", "short"), 0)

    at_once(by_name, by_file, removal, collection, naming)
    pyrun("image", "verify", "--all", code=0)
    pyrun("run", "--quiet", path, code=7)
    pyrun("image", "rm", "example.com/contended", code=0)
    pyrun("image", "gc", code=0)
    assert [list((pyrun.root / kind).iterdir()) for kind in ("images", "layers", "tags", "tmp")] == [[]] * 4


def test_what_a_pod_uses_stays(pyrun: Pyrun, image: Callable[..., Path]) -> None:
    for name in ("used", "idle"):
        pyrun("fetch", image(f"example.com/{name}", ["/probe", "sleep", "600"]), code=0)
    running = pyrun.start("run", "example.com/used")
    try:
        wait_until(lambda: any((pyrun.root / "pods" / "running").glob("*/pod")))
        assert "uses it" in pyrun("image", "rm", "example.com/used", code=125).err
        at_once(*[lambda: fine(pyrun("image", "gc", "--all"), 0)] * 3, lambda: fine(pyrun("image", "rm", "example.com/used"), 125))
        facts = json.loads(pyrun("image", "list", "--format", "json", code=0).out)
        assert [fact["name"] for fact in facts] == ["example.com/used"]
        pyrun("image", "verify", "--all", code=0)
        assert pyrun("image", "list", "-q", "--filter", "used=yes", code=0).out == facts[0]["id"] + "\n"
    finally:
        running.terminate()
        running.communicate()
    pyrun("gc", code=0)
    pyrun("image", "gc", "--all", code=0)
    assert json.loads(pyrun("image", "list", "--format", "json", code=0).out) == []
