"""Starting a program, its streams and its end (IM-09..11, F29, SEC-60; exit codes of DESIGN: 126, 127, 128+n)."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import Pyrun
from mkaci import Image

Make = Callable[..., Path]
Shell = Callable[..., str]


def programs(made: Image, probe: Path) -> None:
    made.program("/usr/bin/tool", probe)
    made.program("/work/tool", probe)
    made.add("/usr/local/bin/tool", b"not executable")
    made.program("/opt/own", probe)
    made.add("/script", b"#!/probe report\n", mode=0o755)
    made.add("/lost", b"#!/no/such/interpreter\n", mode=0o755)
    made.add("/garbage", b"\1\2\3\4 not a program", mode=0o755)
    made.add("/empty", b"", mode=0o755)
    made.add("/data", b"plain", mode=0o644)
    made.add("/private", probe.read_bytes(), mode=0o700)
    made.directory("/directory")
    made.symlink("/loop", "loop")
    made.symlink("/dangling", "/nowhere")
    made.add("/dynamic", dynamic(), mode=0o755)


def dynamic() -> bytes:
    """The start of an x86-64 program whose loader is not there."""
    loader = b"/lib/no-such-loader.so\0"
    head = b"\x7fELF\2\1\1" + bytes(9) + b"\2\0\x3e\0\1\0\0\0" + (0x401000).to_bytes(8, "little") + (64).to_bytes(8, "little") + bytes(8)
    head += bytes(4) + (64).to_bytes(2, "little") + (56).to_bytes(2, "little") + (1).to_bytes(2, "little") + bytes(6)
    interpreter = (3).to_bytes(4, "little") + (4).to_bytes(4, "little")
    interpreter += b"".join(value.to_bytes(8, "little") for value in (120, 0x400078, 0x400078, len(loader), len(loader), 1))
    return head + interpreter + loader + bytes(200)


@pytest.fixture(scope="module")
def tools(image: Make, probe: Path) -> Path:
    return image("example.com/tools", ["tool", "report"], edit=lambda made: programs(made, probe))


def argv(result_out: str) -> list[str]:
    found: list[str] = json.loads(result_out)["argv"]
    return found


def test_im_10_bare_names_are_looked_up(shared: Pyrun, tools: Path) -> None:
    """IM-10: the first executable one on PATH; argv[0] stays as written."""
    assert argv(shared("run", tools, code=0).out) == ["tool", "report"]
    assert argv(shared("run", "-e", "PATH=/opt:/work", tools, "--exec", "own", "--", "report", code=0).out)[0] == "own"
    shared("run", "-e", "PATH=/opt", tools, code=127)
    shared("run", "-e", "PATH=/usr/local/bin", tools, code=126)


def test_relative_names_start_at_the_working_directory(shared: Pyrun, tools: Path) -> None:
    assert argv(shared("run", "-w", "/work", tools, "--exec", "./tool", "--", "report", code=0).out)[0] == "./tool"
    shared("run", "-w", "/", tools, "--exec", "./tool", code=127)
    assert shared(
        "run", "-w", "/opt", "-e", "PATH=", tools, "--exec", "own", "--", "exit", "0", code=0
    )  # an empty element is the directory itself


def test_im_11_arguments_are_literal(shared: Pyrun, tools: Path) -> None:
    """IM-11: no shell, no expansion, no reading of what looks like options."""
    words = ["report", "$HOME", "*", "", " ", "a b", "--name", "--", "-x", "\n", "'\"\\", "\N{SNOWMAN}".encode().decode("latin-1")]
    assert argv(shared("run", tools, "--exec", "/usr/bin/tool", "--", *words[:-1], "\N{SNOWMAN}", code=0).out)[1:] == words


def test_arguments_end_at_three_dashes(shared: Pyrun, tools: Path) -> None:
    seen = json.loads(shared("run", tools, "--", "one", "two", "---", "--hostname", "after", code=0).out)
    assert seen["argv"] == ["tool", "report", "one", "two"]
    assert seen["hostname"] == "after"


def test_exec_replaces_the_program_and_its_arguments(shared: Pyrun, tools: Path) -> None:
    assert argv(shared("run", tools, "--exec", "/script", code=0).out)[-1] == "/script"
    assert argv(shared("run", tools, "--", "more", code=0).out) == ["tool", "report", "more"]


@pytest.mark.parametrize(
    ("program", "code", "reason"),
    [
        ("/missing", 127, "no such file"),
        ("/data/x", 127, "not a directory"),
        ("nowhere-on-path", 127, "no such file"),
        ("/dangling", 127, "no such file"),
        ("/lost", 127, "interpreter"),
        ("/dynamic", 127, "interpreter or program loader"),
        ("/data", 126, "permission denied"),
        ("/directory", 126, "permission denied"),
        ("/garbage", 126, "exec format error"),
        ("/empty", 126, "exec format error"),
        ("/loop", 126, "symbolic links"),
        ("/" + "x" * 300, 126, "name too long"),
    ],
)
def test_what_cannot_be_executed(shared: Pyrun, tools: Path, program: str, code: int, reason: str) -> None:
    failed = shared("run", tools, "--exec", program, code=code)
    lines = failed.err.splitlines()
    assert lines[0].startswith(f"pyrun: execute {program}: ") and reason in lines[0]
    assert lines[1].startswith("hint: ") and lines[2] == "from: --exec"
    assert len(lines) == 3 and failed.out == ""


def test_a_program_of_somebody_else(shared: Pyrun, tools: Path) -> None:
    assert "permission denied" in shared("run", "--user", "app", tools, "--exec", "/private", code=126).err
    shared("run", tools, "--exec", "/private", "--", "exit", "0", code=0)


def test_im_09_nothing_to_execute(shared: Pyrun, image: Make) -> None:
    """IM-09: an image without a program needs --exec."""
    path = image("example.com/no-app", [], edit=lambda made: made.manifest.pop("app", None))
    assert "no app section" in shared("run", path, code=125).err
    assert shared("run", path, "--exec", "/probe", "--", "exit", "9", code=9)


@pytest.mark.parametrize("number", [0, 1, 2, 42, 124, 125, 126, 127, 128, 129, 137, 200, 254, 255])
def test_exit_codes_pass_through(shared: Pyrun, number: int) -> None:
    result = shared.probe("exit", str(number), code=number)
    assert result.err == ""


@pytest.mark.parametrize("number", [*range(1, 17), 24, 25, 30, 31, signal.SIGRTMIN, signal.SIGRTMAX])
def test_deaths_by_signal(shared: Pyrun, number: int) -> None:
    assert shared.probe("kill", str(int(number)), code=128 + number).err == ""


def test_streams_are_apart_and_whole(shared: Pyrun, busybox: Path) -> None:
    script = "head -c 3000000 /dev/zero; echo problem >&2"
    result = shared("run", busybox, "--exec", "/bin/sh", "--", "-c", script, code=0)
    assert len(result.out) == 3_000_000
    assert result.err == "problem\n"


def test_standard_input_only_when_asked_for(shared: Pyrun, busybox: Path) -> None:
    cat = [busybox, "--exec", "/bin/cat"]
    assert shared("run", *cat, input="secret\n", code=0).out == ""
    assert shared("run", "-i", *cat, input="to the app\n", code=0).out == "to the app\n"
    big = "0123456789abcdef" * 50_000
    assert shared("run", "--interactive", *cat, input=big, code=0).out == big
    assert shared.report()["fds"]["0"] == "/dev/null"


def test_output_to_files_and_to_a_closed_pipe(shared: Pyrun, busybox: Path, tmp_path: Path) -> None:
    command = [str(word) for word in ("run", busybox, "--exec", "/bin/sh", "--", "-c")]
    with (tmp_path / "out").open("wb") as out:
        shared.start(*command, "echo to a file", stdout=out).communicate()
    assert (tmp_path / "out").read_text() == "to a file\n"
    reader, writer = os.pipe()
    os.close(reader)
    running = shared.start(*command, "while echo x; do :; done", stdout=writer)
    os.close(writer)
    running.communicate(timeout=60)
    assert running.returncode in (1, 128 + signal.SIGPIPE)


def test_background_processes_do_not_hold_the_pod(shared: Pyrun) -> None:
    """The app's end is the pod's end, whatever it left running and whoever still holds its streams."""
    assert shared.probe("linger", "3600", code=0).out == ""


@pytest.mark.parametrize("count", [1, 1000])
def test_orphans_are_reaped(shared: Pyrun, count: int) -> None:
    """F29: `probe orphan` ends only when process 1 has reaped every one."""
    shared.probe("orphan", str(count), code=0)


def test_no_zombie_remains(shell: Shell) -> None:
    script = "for i in 1 2 3 4 5; do (true & true & exec true) & done; wait; sleep 0.1; ps -o stat,comm | grep -c '^ *Z'; ps | wc -l"
    assert shell(script).split()[0] == "0"
