"""`--format json` where the output is the app's own: standard output stays that, what pyrun says is lines of JSON on standard error."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pexpect
import pytest
from harness import COMMAND, Pyrun, Result
from waiting import status, wait_until

JSON = ("--format", "json")
POD = {"uuid", "pod_name", "app", "name", "image"}
END = {"code", "signal", "started", "finished", "exit_code"}
IMAGE = "example.com/busybox"


@pytest.fixture
def stored(pyrun: Pyrun, busybox: Path) -> Pyrun:
    pyrun("fetch", busybox, code=0)
    return pyrun


def left(pyrun: Pyrun) -> list[Path]:
    """What there is of pods, by their phase."""
    return [one for name in ("preparing", "prepared", "running", "exited", "garbage") for one in (pyrun.root / "pods" / name).glob("*")]


def script(text: str) -> tuple[str, ...]:
    return IMAGE, "--exec", "/bin/sh", "--", "-c", text


def last(text: str) -> dict[str, Any]:
    """The record, which is the last line and begins one."""
    before, line, rest = text.rpartition("\n")[0].rpartition("\n")[2], text.splitlines()[-1], text.endswith("\n")
    assert rest and before == line
    found: dict[str, Any] = json.loads(line)
    return found


def error(said: Result) -> dict[str, Any]:
    assert said.err.count("\n") == 1 and said.out == ""
    found: dict[str, Any] = json.loads(said.err)
    assert found["exit_code"] == said.code
    return found


FORMS: dict[str, tuple[str, ...]] = {
    "run": (),
    "named": ("--pod-name", "web"),
    "kept": ("--keep",),
    "checked": ("--health-cmd", "true"),
    "restarting": ("--restart", "on-failure:1"),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("prepared", [False, True])
@pytest.mark.parametrize(
    ("end", "code", "signal"), [("exit 3", 3, 0), ("kill -9 $$", 0, 9), ("exit 0", 0, 0)], ids=["bad", "killed", "good"]
)
def test_how_a_pod_ended(stored: Pyrun, form: str, prepared: bool, end: str, code: int, signal: int) -> None:
    """By whatever program it was watched; what the app wrote last to standard error had no end of line."""
    begun = time.time_ns()
    words = (*FORMS[form], *script(f"echo out; printf err >&2; {end}"))
    exit_code = 128 + signal if signal else code
    if prepared:
        uuid = stored("prepare", *(() if form == "kept" else ("--rm",)), *(one for one in words if one != "--keep"), code=0).out.strip()
        said = stored("run-prepared", *JSON, uuid, code=exit_code)
    else:
        said = stored("run", *JSON, *words, code=exit_code)
    times = 2 if form == "restarting" and exit_code else 1
    assert said.out == "out\n" * times and said.err.startswith("err" * times + "\n{") and said.err.count("\n") == 2
    told = last(said.err)
    native = set() if form in ("run", "named", "kept") else {"restarts"}
    assert set(told) == POD | END | {"state"} | native
    assert (told["code"], told["signal"], told["exit_code"], told["state"]) == (code, signal, exit_code, "exited")
    assert begun < told["started"] < told["finished"] < time.time_ns() and told.get("restarts", 0) == times - 1
    assert (told["app"], told["name"], told["pod_name"]) == ("busybox", IMAGE, "web" if form == "named" else "")
    assert not prepared or told["uuid"] == uuid
    if form == "kept":
        found = status(stored, told["uuid"])
        assert {name: found[name] for name in told} == told, "as it stands in the status"
    else:
        assert left(stored) == []
    stored("gc", code=0)


def test_several_apps(stored: Pyrun) -> None:
    words: tuple[str, ...] = (IMAGE, "--name", "one", "--exec", "/bin/sh", "--", "-c", "exit 4", "---")
    words += (IMAGE, "--name", "two", "--exec", "/bin/sleep", "--", "1000")
    told = last(stored("run", *JSON, *words, code=4).err)
    assert (told["code"], told["exit_code"], told["restarts"]) == (4, 4, 0)
    one, two = told["apps"]
    assert one["name"] == "one" and one["code"] == 4 and two["name"] == "two" and two["signal"] == 15
    assert set(one) == {"name", "code", "signal", "started", "finished"}


def test_the_record_comes_when_all_is_done(stored: Pyrun) -> None:
    """Who reads slowly keeps no pod from being removed: standard error is full until it is read."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    with pytest.raises(BlockingIOError):
        while True:
            os.write(write, b"x" * 4096)
    os.set_blocking(write, True)
    with stored.start("run", *JSON, "--keep", *script("exit 3"), stderr=write) as process:
        os.close(write)
        wait_until(lambda: any(one.parent.name == "exited" for one in left(stored)))
        (uuid,) = (one.name for one in left(stored))
        stored("rm", uuid, code=0)
        assert process.poll() is None
        with os.fdopen(read) as file:
            assert last(file.read())["uuid"] == uuid
        assert process.wait() == 3


ERRORS: dict[str, tuple[tuple[str, ...], int, str]] = {
    "usage": (("run", *JSON, "--umask", "9", IMAGE), 2, "option --umask"),
    "unknown": (("run", "--format=json", "--nonsense", IMAGE), 2, "unknown option --nonsense"),
    "no image": (("run", *JSON, "example.com/nothing", "--pull-policy", "never"), 125, "example.com/nothing"),
    "no program": (("run", *JSON, IMAGE, "--exec", "/nothing"), 127, "/nothing"),
    "kept, no program": (("run", *JSON, "--restart", "always", IMAGE, "--exec", "/nothing"), 127, "/nothing"),
    "several, no program": (("run", *JSON, IMAGE, "--name", "a", "---", IMAGE, "--name", "b", "--exec", "/nothing"), 127, "app b: "),
    "prepared": (("run-prepared", *JSON, "nobody"), 125, "find pod nobody"),
    "exec": (("exec", *JSON, "nobody", "true"), 125, "find pod nobody"),
    "enter": (("enter", *JSON, "nobody"), 125, "find pod nobody"),
    "attach": (("attach", *JSON, "nobody"), 125, "find pod nobody"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_what_goes_wrong(stored: Pyrun, case: str) -> None:
    words, code, told = ERRORS[case]
    found = error(stored(*words, code=code))
    assert told in found["error"] and found["hint"] and "traceback" not in found
    assert left(stored) == []
    if "no program" not in case:  # that is said by somebody else, see --debug
        assert error(stored(*words, code=code, env={"PYRUN_DEBUG": "1"}))["traceback"]


def test_a_prepared_pod_that_cannot_start(stored: Pyrun) -> None:
    """What its plan has for errors was written before anybody knew how they are wanted."""
    for more, code in (((), 127), (("--restart", "always"), 127)):
        uuid = stored("prepare", *more, IMAGE, "--exec", "/nothing", code=0).out.strip()
        assert "/nothing" in error(stored("run-prepared", *JSON, uuid, code=code))["error"]
    uuid = stored("prepare", *script("exit 3"), code=0).out.strip()
    with (stored.root / "pods" / "prepared" / uuid / "keep").open("r+b") as file:
        file.write(b"nonsense")
    assert "another version" in error(stored("run-prepared", *JSON, uuid, code=125))["error"]
    stored("rm", "--force", uuid, code=0)


def test_notes_are_lines_too(stored: Pyrun) -> None:
    said = stored("run", *JSON, "--no-overlay", *script("exit 3"), code=3)
    note, empty, record = said.err.splitlines()
    assert set(json.loads(note)) == {"note"} and empty == "" and json.loads(record)["code"] == 3


def test_nobody_else_gets_it(stored: Pyrun) -> None:
    """Nor what it needs: not in the app's environment, and a variable of that name of the caller's means nothing."""
    odd = {"PYRUN_END": '{"odd": 1, '}
    assert "PYRUN_END" not in stored("run", *JSON, "--inherit-env", *script("env"), code=0).out
    for _ in range(2):  # by Python, and by the launcher alone
        assert stored("run", *script("exit 3"), code=3, env=odd).err == ""
    assert stored("run", "--restart", "no", *script("exit 3"), code=3, env=odd).err == ""
    assert last(stored("run", *JSON, *script("exit 3"), code=3, env=odd).err)["code"] == 3


def test_a_pod_that_is_started_again_in_the_background(stored: Pyrun) -> None:
    """Nothing of it stays in the plan on the disk."""
    uuid = stored("prepare", *script("exit 3"), code=0).out.strip()
    stored("run-prepared", *JSON, uuid, code=3)
    stored("restart", uuid, code=0)
    stored("wait", uuid, code=3)
    assert stored("logs", uuid, code=0).err == ""
    stored("rm", uuid, code=0)


@pytest.fixture
def pod(stored: Pyrun) -> Iterator[str]:
    words = ("--detach", "--pod-name", "web", "--tty", "--interactive", *script("read word; echo got $word; sleep 0.1; exit 5"))
    yield (uuid := stored("run", *words, code=0).out.strip())
    stored("rm", "--force", uuid, code=0)


@pytest.mark.parametrize("verb", ["exec", "enter"])
def test_how_one_more_process_ended(stored: Pyrun, pod: str, verb: str) -> None:
    for name in (pod, "web"):
        for end, code, signal in (("exit 7", 7, 0), ("kill -15 $$", 0, 15)):
            said = stored(verb, *JSON, name, "/bin/sh", "-c", f"echo out; {end}", code=128 + signal if signal else code)
            told = last(said.err)
            assert said.out == "out\n" and set(told) == POD | END
            assert (told["uuid"], told["pod_name"], told["app"]) == (pod, "web", "busybox")
            assert (told["code"], told["signal"], told["exit_code"]) == (code, signal, said.code)
            assert told["started"] < told["finished"] < time.time_ns()
    assert "/nothing" in error(stored(verb, *JSON, pod, "/nothing", code=127))["error"]
    assert stored(verb, pod, "/bin/sh", "-c", "exit 7", code=7, env={"PYRUN_END": "{"}).err == ""


def attached(stored: Pyrun, pod: str, tmp_path: Path, *more: str) -> tuple[Any, Path]:
    """`attach` on a terminal, its standard error in a file."""
    command = ["sh", "-c", f'exec "$0" "$@" 2>{tmp_path}/err', str(COMMAND), "attach", *JSON, *more, pod]
    return pexpect.spawn(command[0], command[1:], env=stored.environment(), timeout=60), tmp_path / "err"


def test_attached_to_the_end(stored: Pyrun, pod: str, tmp_path: Path) -> None:
    child, err = attached(stored, pod, tmp_path)
    child.send("hello\r")
    child.expect(pexpect.EOF)
    child.close()
    told = json.loads(err.read_text())
    found = status(stored, pod)
    assert child.exitstatus == 5 and told == {name: found[name] for name in told} and set(told) >= POD | END | {"state"}


def test_attached_to_the_end_of_a_pod_that_goes_with_it(stored: Pyrun, tmp_path: Path) -> None:
    """Nothing of its record is there any more to be read: the keeper says how it ended."""
    begun = time.time_ns()
    uuid = stored("run", "--detach", "--rm", "--tty", "--interactive", *script("read word; kill -9 $$"), code=0).out.strip()
    child, err = attached(stored, uuid, tmp_path)
    child.send("hello\r")
    child.expect(pexpect.EOF)
    child.close()
    told = json.loads(err.read_text())
    assert (child.exitstatus, told["exit_code"], told["code"], told["signal"], told["uuid"]) == (137, 137, 0, 9, uuid)
    assert begun < told["started"] < told["finished"] < time.time_ns() and told["restarts"] == 0
    wait_until(lambda: left(stored) == [])


def test_attached_and_detached(stored: Pyrun, pod: str, tmp_path: Path) -> None:
    child, err = attached(stored, pod, tmp_path, "--detach-keys", "ctrl-b")
    child.send("\x02")
    child.expect(pexpect.EOF)
    child.close()
    told = json.loads(err.read_text())
    assert child.exitstatus == 0 and set(told) == POD | {"detached", "exit_code"} and told["detached"] and told["uuid"] == pod
    assert status(stored, pod)["state"] == "running"
