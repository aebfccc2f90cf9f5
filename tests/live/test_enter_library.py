"""`Container.exec`: one more process for a program that has started a pod."""

from __future__ import annotations

import json
import os
import select
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import Pyrun
from waiting import wait_until

import pyrun
from pyrun import ConfigError, Container, ExecError, Runtime, StateError, UsageError
from pyrun.pod import enter
from pyrun.pod.live import find_live


@pytest.fixture
def app(shared: Pyrun, probe_image: Path) -> Iterator[Container]:
    shared("fetch", probe_image, code=0)
    runtime = Runtime(str(shared.root))
    with runtime.start("example.com/probe", ["sleep", "0"], exec="/probe", stdout=os.open(os.devnull, os.O_WRONLY)) as container:
        yield container


def said(app: Container, *argv: str, **more: object) -> str:
    read, write = os.pipe()
    process = app.exec(argv, stdout=write, **more)  # type: ignore[arg-type]
    os.close(write)
    with open(read, encoding="utf-8") as file:
        text = file.read()
    assert process.wait() == 0
    return text


def test_exit_codes_and_signals(app: Container) -> None:
    for number in (0, 3, 255):
        assert app.exec(["/probe", "exit", str(number)]).wait() == number
    process = app.exec(["/probe", "kill", "15"])
    assert process.wait() == process.wait() == process.returncode == -15


def test_it_is_confined_as_the_app(app: Container) -> None:
    seen = json.loads(said(app, "/probe", "report", set_env={"A": "b"}, user="app", working_dir="/tmp"))
    assert (seen["uid"][0], seen["cwd"], seen["status"]["NoNewPrivs"], seen["status"]["Seccomp"]) == (1000, "/tmp", "1", "2")
    assert "A=b" in seen["env"] and seen["hostname"] == f"pyrun-{app.uuid}" and sorted(seen["fds"]) == ["0", "1", "2"]


def test_its_streams_are_those_of_start(app: Container) -> None:
    assert app.exec(["/probe", "exit", "0"]).wait() == 0
    before = len(os.listdir("/proc/self/fd"))
    with app.exec(["/probe", "report"], stdin=pyrun.PIPE, stdout=pyrun.PIPE, stderr=pyrun.DEVNULL) as process:
        assert process.stdin and process.stdout and process.stderr is None
        assert json.loads(process.stdout.read())["hostname"] == f"pyrun-{app.uuid}"
        assert process.wait() == 0
    with pytest.raises(UsageError, match="use stream stdout"):
        app.exec(["/probe", "report"], stdout=-9)
    with app.exec(["/probe", "report"], stdout=pyrun.DEVNULL, stderr=pyrun.STDOUT) as process:
        assert process.wait() == 0
    assert len(os.listdir("/proc/self/fd")) == before


def test_no_word_is_cut_off(app: Container) -> None:
    odd: list[dict[str, Any]] = [{"argv": ["/probe", "a\0b"]}, {"argv": "/probe"}, {"set_env": {"A": "x\0B=y"}}, {"set_env": {"A=B": "c"}}]
    for words in odd:
        with pytest.raises(UsageError):
            app.exec(**{"argv": ["/probe", "report"], **words})


def test_waiting_without_waiting(app: Container) -> None:
    process = app.exec(["/probe", "trap", "10"], stdout=os.open(os.devnull, os.O_WRONLY))
    assert process.poll() is None
    process.kill(signal.SIGKILL)
    assert select.select([process], [], [], 20)[0] == [process]
    assert process.poll() == -9 and process.poll() == -9


def test_a_block_ends_what_it_began(app: Container) -> None:
    with app.exec(["/probe", "sleep", "0"], stdout=os.open(os.devnull, os.O_WRONLY)) as process:
        assert process.poll() is None
    with pytest.raises(ProcessLookupError):
        process.kill()


def test_errors(app: Container) -> None:
    with pytest.raises(ExecError) as missing:
        app.exec(["/bin/missing"]).wait()
    assert missing.value.exit_code == 127 and missing.value.filename == "/bin/missing"
    with pytest.raises(ConfigError):
        app.exec(["/probe"], user="nobody-here")
    with pytest.raises(ExecError):
        app.exec([])
    app.kill(9)
    app.wait()
    app.close()
    with pytest.raises(StateError):
        app.exec(["/probe", "exit", "0"])


def test_it_is_found_once_and_let_go(app: Container, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who enters again enters the same process's namespaces, a pause is seen each time, and no descriptor stays."""
    found: list[object] = []
    monkeypatch.setattr(enter, "find_live", lambda *words: found.append(words) or find_live(*words))
    first = said(app, "/probe", "report")
    held = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        assert json.loads(said(app, "/probe", "report"))["namespaces"] == json.loads(first)["namespaces"]
    app.pod.pause()
    with pytest.raises(StateError, match="paused"):
        app.exec(["/probe", "exit", "0"])
    app.pod.resume()
    assert app.exec(["/probe", "exit", "3"]).wait() == 3 and len(os.listdir("/proc/self/fd")) == held
    assert len(found) == 1
    app.close()
    assert len(os.listdir("/proc/self/fd")) == held - 4  # the supervisor's two, and the two that are entered by
    with pytest.raises(StateError):
        app.exec(["/probe", "exit", "0"])
    assert len(os.listdir("/proc/self/fd")) == held - 4


@pytest.mark.parametrize("way", ["wait", "poll", "communicate"])
def test_its_end_lets_go(app: Container, way: str) -> None:
    def entered_by() -> list[str]:
        links = [Path(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")]
        return [os.readlink(link) for link in links if link.is_symlink() and app.uuid in os.readlink(link)]

    assert app.exec(["/probe", "exit", "0"]).wait() == 0
    assert len(entered_by()) == 1
    app.kill(9)
    if way == "poll":
        wait_until(lambda: app.poll() is not None)
    else:
        getattr(app, way)()
    assert entered_by() == []
