"""One recipe for all command lines that differ only in what goes to the app: its arguments and the values of its variables."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import archives
import mkoci
import pytest
from harness import COMMAND, Pyrun

SHOW = 'for one; do printf "<%s>" "$one"; done; printf "%s" "$A"'


class Line:
    """How a command line went, and whether an interpreter had to decide."""

    def __init__(self, pyrun: Pyrun, folder: Path, *words: str | Path) -> None:
        log = folder / "execs"
        command = ["strace", "-f", "-qq", "-s", "32", "-e", "trace=execve", "-o", log, COMMAND, *words]
        encoded = [os.fsencode(word) for word in command]
        done = subprocess.run(encoded, env=pyrun.environment(), stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
        self.code, self.out, self.error = done.returncode, os.fsdecode(done.stdout), os.fsdecode(done.stderr)
        self.python = any("python3" in line and "= 0" in line for line in log.read_text(errors="replace").splitlines())


@pytest.fixture
def line(pyrun: Pyrun, tmp_path: Path) -> Callable[..., Line]:
    return lambda *words: Line(pyrun, tmp_path, *words)


def test_other_arguments_need_no_interpreter(pyrun: Pyrun, line: Callable[..., Line]) -> None:
    command = ("run", pyrun.probe_image, "--exec", "/probe", "--")
    assert line(*command, "exit", "7").python
    for code in (3, 0, 7):
        again = line(*command, "exit", str(code))
        assert (again.code, again.python) == (code, False)
    assert len(list((pyrun.root / "cache/run").iterdir())) == 1


@pytest.mark.parametrize(
    "arguments",
    [[""], ["", "", ""], ["a\nb", " ", "\t"], ["\udcff\udcfe", "é"], ["--", "-e", "A=2", "--root"], ["x" * 100_000], ["n"] * 5000],
    ids=["empty", "empties", "blanks", "bytes", "options", "long", "many"],
)
def test_every_argument_arrives(line: Callable[..., Line], busybox: Path, arguments: list[str]) -> None:
    command = ("run", busybox, "-e", "A=", "--exec", "/bin/sh", "--", "-c", SHOW, "sh")
    line(*command)
    again = line(*command, *arguments)
    assert (again.code, again.python) == (0, False)
    assert again.out == "".join(f"<{word}>" for word in arguments)


@pytest.mark.parametrize("form", [["-e", "A={}"], ["--env", "A={}"], ["--set-env", "A={}"], ["--env=A={}"], ["--set-env=A={}"]])
def test_other_values_need_no_interpreter(line: Callable[..., Line], busybox: Path, form: list[str]) -> None:
    command = ["run", *form, "-e", "LAST=z", busybox, "--exec", "/bin/sh", "--", "-c", 'printf "<%s>" "$A" "$LAST" "$HOME"']
    for number, value in enumerate(["one", "", "two words\n", "a=b=c", "\udcff"]):
        seen = line(*[word.format(value) if isinstance(word, str) else word for word in command])
        assert (seen.code, seen.python) == (0, number == 0)
        assert seen.out == f"<{value}><z></>"


def test_names_and_order_of_variables_decide(line: Callable[..., Line], busybox: Path) -> None:
    """HOME is set for those who do not."""
    for flags, home in (([], "/"), (["-e", "HOMELY=x"], "/"), (["-e", "HOME=x"], "x"), (["-eHOME=y"], "y"), (["-eHOME=z"], "z")):
        for python in (True, False):
            seen = line("run", *flags, busybox, "--exec", "/bin/sh", "--", "-c", 'printf "%s" "$HOME"')
            assert (seen.out, seen.python) == (home, python)


def test_what_pyrun_sets_itself_stays(line: Callable[..., Line], busybox: Path) -> None:
    for value in ("pyrun", "other"):
        command = ("-e", f"container={value}", "-e", f"AC_APP_NAME={value}", "--exec", "/bin/sh", "--", "-c")
        assert line("run", busybox, *command, 'printf "%s %s" "$container" "$AC_APP_NAME"').out == "pyrun busybox"


def test_the_path_decides(line: Callable[..., Line], busybox: Path) -> None:
    """By it the program is found."""
    for _ in range(2):
        for path, code in (("/bin", 0), ("/nowhere", 127)):
            for flags in (["-e", f"PATH={path}"], [f"--env=PATH={path}"]):
                assert line("run", *flags, busybox, "--exec", "true").code == code


def test_nothing_of_an_earlier_line_is_kept(pyrun: Pyrun) -> None:
    """Arguments and values may be secrets: the next line's pod has nothing of them, nor has the disk."""
    for secret in ("zqxjk-one", "zqxjk-two"):
        pyrun("run", "-e", f"A={secret}", pyrun.probe_image, "--exec", "/probe", "--", "exit", "0", secret, code=0)
    (recipe,) = (pyrun.root / "cache/run").iterdir()
    assert b"zqxjk" not in recipe.read_bytes()


def test_the_plan_tells_the_arguments_of_its_own_line(pyrun: Pyrun) -> None:
    for number in ("0", "00"):
        sleeper = pyrun.start("run", "-e", f"A={number}", pyrun.probe_image, "--exec", "/probe", "--", "sleep", number)
        assert sleeper.stdout is not None and sleeper.stdout.readline() == "ready\n"
        (pod,) = (pyrun.root / "pods/running").iterdir()
        (app,) = json.loads(pyrun("cat-manifest", pod.name, code=0).out)["apps"]
        assert app["app"]["exec"] == ["/probe", "sleep", number]
        assert {"name": "A", "value": number} in app["app"]["environment"]
        sleeper.terminate()
        sleeper.communicate(timeout=60)


def test_a_line_that_python_refuses_is_refused(pyrun: Pyrun) -> None:
    command = (pyrun.probe_image, "--exec", "/probe", "--", "exit", "0")
    pyrun("run", "-e", "A=1", "-e", "B=1", *command, code=0)
    assert "set twice" in pyrun("run", "-e", "A=1", "-e", "A=1", *command, code=2).err
    assert "needs a value" in pyrun("run", "-e", "--name=1", "-e", "B=1", *command, code=2).err
    assert "not NAME=VALUE" in pyrun("run", "-e", "A", "-e", "B=1", *command, code=2).err


def test_several_images_are_several_apps(pyrun: Pyrun) -> None:
    one = (pyrun.probe_image, "--exec", "/probe", "--", "exit", "0")
    pyrun("run", *one, code=0)
    for _ in range(2):
        pyrun("run", *one, "---", "--name=other", pyrun.probe_image, "--exec", "/probe", "--", "exit", "5", code=5)
        pyrun("run", *one, "---", code=0)


@pytest.mark.parametrize("count", [16_381, 30_000], ids=["all", "too-many"])
def test_as_many_arguments_as_without(pyrun: Pyrun, count: int) -> None:
    command = ("run", pyrun.probe_image, "--exec", "/probe", "--", "exit", "0")
    first = pyrun(*command, *["x"] * count)
    assert first.code == (0 if count < 16_384 else 2)
    assert ("too many" not in first.err) == (count < 16_384)
    pyrun(*command, code=0)
    again = pyrun(*command, *["x"] * count)
    assert (again.code, again.err) == (first.code, first.err)


def test_a_default_command_is_another_decision(pyrun: Pyrun, image: Callable[..., Path]) -> None:
    path = image("example.com/default", ["/probe", "exit"])
    for _ in range(2):
        pyrun("run", path, "--", "3", code=3)
        pyrun("run", path, "--", "4", code=4)
        pyrun("run", path, code=0)
        pyrun("run", path, "--", code=0)


@pytest.fixture
def docker(pyrun: Pyrun, tmp_path: Path, probe: Path) -> Callable[..., str]:
    """Makes an OCI image of the probe that is accepted without a signature; returns its name."""
    layout = mkoci.Layout(tmp_path / "layout")
    pyrun("trust", "--yes", "--unsigned", str(layout.path), code=0)

    def make(ref: str, **config: list[str]) -> str:
        layout.entries = [one for one in layout.entries if one["annotations"][mkoci.REF] != ref]
        layout.entries.append(layout.image(mkoci.layer(archives.file(b"probe", probe.read_bytes(), mode=0o755)), ref=ref, config=config))
        layout.index()
        return f"oci:{layout.path}:{ref}"

    return make


def test_where_the_first_argument_is_the_program_it_decides(line: Callable[..., Line], docker: Callable[..., str]) -> None:
    name = docker("plain", Cmd=["/probe", "exit", "9"], Env=["PATH=/"])
    assert line("run", name).code == 9
    assert line("run", name, "--", "/probe", "exit", "3").python
    for program, python in (("/probe", False), ("probe", True), ("probe", False)):
        seen = line("run", name, "--", program, "exit", "4")
        assert (seen.code, seen.python) == (4, python)
    missing = line("run", name, "--", "other", "exit", "4")
    assert missing.code == 127 and "other" in missing.error
    assert line("run", name).code == 9


def test_an_entry_point_gets_other_arguments(line: Callable[..., Line], docker: Callable[..., str]) -> None:
    name = docker("entry", Entrypoint=["/probe", "exit"], Cmd=["9"])
    for python in (True, False):
        for code in ("3", "4"):
            seen = line("run", name, "--", code)
            assert (seen.code, seen.python) == (int(code), python and code == "3")
        assert line("run", name).code == 9


def test_a_recipe_in_the_way_is_decided_anew(line: Callable[..., Line], docker: Callable[..., str]) -> None:
    """One name is an image whose arguments all are free, then one whose first argument is the program, and back."""
    for _ in range(2):
        name = docker("changing", Entrypoint=["/probe"])
        for _ in range(2):
            assert line("run", name, "--", "exit", "5").code == 5
        name = docker("changing", Cmd=["/probe"])
        for number in range(2):
            seen = line("run", name, "--", "/probe", "exit", "6")
            assert (seen.code, seen.python) == (6, number == 0)
