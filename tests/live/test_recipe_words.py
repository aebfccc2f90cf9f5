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

UUID = "00000000-0000-4000-8000-000000000000"  # which no pod has
SHOW = 'for one; do printf "<%s>" "$one"; done; printf "%s" "$A"'


class Line:
    """How a command line went, and whether an interpreter had to decide."""

    def __init__(self, pyrun: Pyrun, folder: Path, *words: str | Path, cwd: Path | None = None) -> None:
        log = folder / "execs"
        command = ["strace", "-f", "-qq", "-s", "32", "-e", "trace=execve", "-o", log, COMMAND, *words]
        encoded = [os.fsencode(word) for word in command]
        done = subprocess.run(encoded, env=pyrun.environment(), stdin=subprocess.DEVNULL, capture_output=True, timeout=60, cwd=cwd)
        self.code, self.out, self.error = done.returncode, os.fsdecode(done.stdout), os.fsdecode(done.stderr)
        self.python = any("python3" in line and "= 0" in line for line in log.read_text(errors="replace").splitlines())


@pytest.fixture
def line(pyrun: Pyrun, tmp_path: Path) -> Callable[..., Line]:
    return lambda *words, cwd=None: Line(pyrun, tmp_path, *words, cwd=cwd)


def test_other_arguments_need_no_interpreter(pyrun: Pyrun, line: Callable[..., Line]) -> None:
    command = ("run", pyrun.probe_image, "--exec", "/probe", "--")
    assert line(*command, "exit", "7").python
    for code in (3, 0, 7):
        again = line(*command, "exit", str(code))
        assert (again.code, again.python) == (code, False)
    assert len(list((pyrun.root / "cache/run").iterdir())) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        [""],
        ["", "", ""],
        ["a\nb", " ", "\t"],
        ["\udcff\udcfe", "é"],
        ["--", "-e", "A=2", "--root"],
        ["x" * 100_000],
        ["n"] * 5000,
        [UUID, f"a{UUID}b"],
    ],
    ids=["empty", "empties", "blanks", "bytes", "options", "long", "many", "uuid"],
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


def test_another_host_name_needs_no_interpreter(line: Callable[..., Line], busybox: Path) -> None:
    command = (busybox, "--exec", "/bin/sh", "--", "-c", "hostname; cat /etc/hosts")
    for name, python in (("first", True), ("web-1.example.org", False), ("x" * 64, False), ("z", False)):
        for flags in ([f"--hostname={name}"], ["--hostname", name]):
            seen = line("run", *flags, *command)
            assert seen.out == f"{name}\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n127.0.1.1\t{name}\n"
            assert seen.python == python
    for name in ("-a", "a.", "a_b", "x" * 65, "a b", "a..b"):
        assert line("run", f"--hostname={name}", *command).code == 2


def test_a_host_name_on_the_hosts_network(line: Callable[..., Line], busybox: Path) -> None:
    """The file of names is the host's, whatever it is called."""
    hosts = Path("/etc/hosts").read_text()
    for name in ("first", "other", "localhost"):
        seen = line("run", "--net=host", "--hostname", name, busybox, "--exec", "/bin/sh", "--", "-c", "hostname; cat /etc/hosts")
        assert seen.out == f"{name}\n{hosts}"


def test_another_name_needs_no_interpreter(pyrun: Pyrun, line: Callable[..., Line], busybox: Path) -> None:
    command = ("-e", "A=1", busybox, "--keep", "--exec", "/bin/sh", "--", "-c", 'printf "%s %s" "$AC_APP_NAME" "$A"')
    for name, python in (("first", True), ("a.much-longer_name", False), ("b", False)):
        for flags in ([f"--name={name}"], ["--name", name]):
            seen = line("run", *flags, *command)
            assert (seen.out, seen.python) == (f"{name} 1", python)
    records = [json.loads((pod / "pod").read_text()) for pod in (pyrun.root / "pods/exited").iterdir()]
    assert sorted(record["app"] for record in records) == sorted(["first", "a.much-longer_name", "b"] * 2)
    assert len({tuple(record) for record in records}) == 1
    for name in ("two words", 'a"b', "é", "a..b"):
        assert line("run", "--name", name, *command).code == 2


def test_the_uuid_is_saved_without_an_interpreter(pyrun: Pyrun, line: Callable[..., Line], tmp_path: Path) -> None:
    command = (pyrun.probe_image, "--keep", "--exec", "/probe", "--", "exit", "0")
    for number in range(3):
        seen = line("run", "--uuid-file-save", tmp_path / f"uuid-{number}", *command)
        assert (seen.code, seen.python) == (0, number == 0)
    assert line("run", f"--uuid-file-save={tmp_path}/uuid-0", *command).python
    assert not line("run", f"--uuid-file-save={tmp_path}/uuid-3", *command).python
    said = [(tmp_path / f"uuid-{number}").read_text() for number in range(4)]
    assert {f"{pod.name}\n" for pod in (pyrun.root / "pods/exited").iterdir()} >= set(said)
    assert len(set(said)) == 4
    assert (tmp_path / "uuid-2").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("how", ["link", "nowhere", "directory"])
def test_a_file_for_the_uuid_that_cannot_be_written(pyrun: Pyrun, tmp_path: Path, how: str) -> None:
    command = (pyrun.probe_image, "--exec", "/probe", "--", "exit", "0")
    path = tmp_path / "file"
    pyrun("run", "--uuid-file-save", path, *command, code=0)
    path.unlink()
    if how == "link":
        path.symlink_to(tmp_path / "elsewhere")
    elif how == "directory":
        path.mkdir()
    else:
        path = tmp_path / "missing/file"
    refused = pyrun("run", "--uuid-file-save", path, *command, code=125)
    assert "save the pod's UUID in" in refused.err
    assert not (tmp_path / "elsewhere").exists()
    assert [list((pyrun.root / "pods" / phase).iterdir()) for phase in ("preparing", "running")] == [[], []]


def test_what_looks_like_a_uuid_stays_as_it_is(line: Callable[..., Line], busybox: Path) -> None:
    """In words that decide, in those that are handed on, and in values."""
    command = ("run", busybox, "-e", f"A={UUID}", "-e", f"PATH=/bin:/{UUID}", "--exec", "/bin/sh", "--", "-c")
    first, again = (line(*command, f'echo "$1 $A $PATH {UUID}"', "sh", UUID) for _ in range(2))
    assert first.out == again.out == f"{UUID} {UUID} /bin:/{UUID} {UUID}\n" and not again.python


@pytest.fixture
def named(pyrun: Pyrun, busybox: Path) -> str:
    """The name of a stored image."""
    pyrun("fetch", busybox)
    found: str = json.loads(pyrun("image", "list", "--format", "json").out)[0]["name"]
    return found


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """Two directories with the file `data` in them that says which."""
    found = [tmp_path / "one", tmp_path / "two"]
    for folder in found:
        folder.mkdir()
        (folder / "data").write_text(folder.name)
    return found


def test_the_current_directory_decides_where_something_is_relative(line: Callable[..., Line], named: str, folders: list[Path]) -> None:
    show = ("run", "-v", "./data:/data:ro", named, "--exec", "/bin/cat", "--", "/data")
    seen = [line(*show, cwd=folder) for folder in folders * 2]
    assert [(one.code, one.out, one.python) for one in seen] == [(0, "one", True), (0, "two", True), (0, "one", False), (0, "two", False)]


def test_and_nowhere_else(pyrun: Pyrun, line: Callable[..., Line], named: str, folders: list[Path]) -> None:
    volumes = ["-v", f"{folders[0]}/data:/a", "--mount", f"type=bind,source={folders[1]}/data,target=/b"]
    saved = folders[1] / "uuid"
    show = ("run", *volumes, "--uuid-file-save", "uuid", named, "--exec", "/bin/cat", "--", "/a", "/b")
    for folder, python in zip([*folders, Path("/")], (True, False, False), strict=True):
        here = [*show[: show.index("uuid")], str(saved), *show[show.index("uuid") + 1 :]] if folder == Path("/") else show
        seen = line(*here, cwd=folder)
        assert (seen.code, seen.out, seen.python) == (0, "onetwo", python)
    assert saved.exists() and (folders[0] / "uuid").exists()
    assert len(list((pyrun.root / "cache/run").iterdir())) == 1


@pytest.mark.parametrize("kind", ["file", "layout", "link", "directory"])
def test_a_name_that_is_a_file_there_is_looked_at(line: Callable[..., Line], named: str, folders: list[Path], kind: str) -> None:
    """`pyrun run NAME` takes a file of that name, or a directory that holds an image, for the image."""
    show = ("run", named, "--exec", "/bin/echo", "--", "stored")
    assert line(*show, cwd=folders[0]).python and not line(*show, cwd=folders[1]).python
    there = folders[1] / named
    there.parent.mkdir(parents=True, exist_ok=True)
    if kind == "link":
        there.symlink_to("nowhere")
    elif kind == "file":
        there.write_text("no image")
    else:
        there.mkdir()
        if kind == "layout":
            (there / "oci-layout").write_text("no image")
    seen = line(*show, cwd=folders[1])
    assert (seen.out == "stored\n", seen.python) == (kind in ("link", "directory"), kind != "link"), seen.error
    for _ in range(2):
        seen = line(*show, cwd=folders[0])
        assert (seen.code, seen.out) == (0, "stored\n")
