"""Which prepared pod a command line of `run-prepared` means: the launcher finds it, or says what is wrong.  No Python is started."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from harness import Pyrun
from launched import launch
from waiting import wait_until

FORMS = {
    "UUID": lambda uuid: [uuid],
    "upper case": lambda uuid: [uuid.upper()],
    "name": lambda uuid: ["web-1"],
    "prefix": lambda uuid: [uuid[:9]],
    "prefix in upper case, behind a dash": lambda uuid: ["-q", "--", uuid[:13].upper()],
    "file": lambda uuid: ["--uuid-file", "file"],
    "file in one word": lambda uuid: ["--quiet", "--uuid-file=file", "--format", "text"],
    "file with a name": lambda uuid: ["--uuid-file=name", "--format=text"],
    "root behind the verb": lambda uuid: ["--root", "ROOT", uuid[:9]],
    "root by its other name": lambda uuid: ["--debug", "--dir=ROOT", uuid[:9]],
}


@pytest.mark.parametrize("form", FORMS)
def test_it_is_found_without_python(pyrun: Pyrun, tmp_path: Path, form: str) -> None:
    """By whatever names it, beside a pod that has ended and one that runs."""
    words = ["prepare", "--pod-name", "web-1", "--uuid-file-save", tmp_path / "file", pyrun.probe_image, "--exec", "/probe", "--"]
    uuid = pyrun(*words, "exit", "9", code=0).out.strip()
    pyrun("run", "--detach", pyrun.probe_image, "--exec", "/probe", "--", "sleep", "0", code=0)
    pyrun("run", "--keep", pyrun.probe_image, "--exec", "/probe", "--", "exit", "0", code=0)
    (tmp_path / "name").write_text(" web-1\n\n")
    said, became = launch(pyrun, tmp_path, *(word.replace("ROOT", str(pyrun.root)) for word in FORMS[form](uuid)), cwd=tmp_path)
    assert (said.returncode, said.stderr, became[:2]) == (9, "", ["pyrun", "keeper"])
    assert (pyrun.root / "pods" / "exited" / uuid).is_dir()
    pyrun("rm", "--force", *(path.name for path in (pyrun.root / "pods" / "running").iterdir()), code=0)


@pytest.mark.parametrize("words", [["-d", "--format", "json"], ["--format=json", "-qd"], ["--detach", "--format=json"]])
def test_it_says_what_it_started_as_json(pyrun: Pyrun, tmp_path: Path, words: list[str]) -> None:
    uuid = pyrun("prepare", pyrun.probe_image, "--exec", "/probe", "--", "sleep", "0", code=0).out.strip()
    said, became = launch(pyrun, tmp_path, *words, uuid[:8])
    assert (json.loads(said.stdout), became) == ({"uuid": uuid, "state": "running"}, ["pyrun", "keeper"])
    pyrun("rm", "--force", uuid, code=0)


NAMES = ["plain", "é 日本 \U0001f600", 'a "quoted\\" one', "\x7f\x1b"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("several", [False, True])
def test_the_line_of_how_it_ended_begins_without_python(pyrun: Pyrun, tmp_path: Path, name: str, several: bool) -> None:
    """As Python would begin it, whatever the record says."""
    more = ["---", pyrun.probe_image, "--name", "two", "--exec", "/probe", "--", "sleep", "0"] if several else []
    found = []
    for python in (False, True):
        words = ["prepare", "--rm", "--pod-name", "lines", pyrun.probe_image, "--name", "one", "--exec", "/probe", "--", "exit", "3", *more]
        uuid = pyrun(*words, code=0).out.strip()
        file = pyrun.root / "pods" / "prepared" / uuid / "pod"
        file.write_text(json.dumps({**json.loads(file.read_text()), "image": name}, ensure_ascii=python))
        if python:
            command = [*pyrun.within, sys.executable, "-m", "pyrun", "run-prepared", "--format", "json", uuid]
            said = subprocess.run(command, env=pyrun.environment(), capture_output=True, text=True, timeout=120)
        else:
            said, became = launch(pyrun, tmp_path, "--format", "json", uuid)
            assert became[:2] == ["pyrun", "keeper"]
        line = said.stderr.splitlines()[-1]
        assert said.returncode == 3 and line.isascii() and line.isprintable(), said.stderr
        told = json.loads(line)
        assert (told["uuid"], told["pod_name"], told["image"], told["state"]) == (uuid, "lines", name, "exited")
        found.append({name: value for name, value in told.items() if name not in ("uuid", "started", "finished", "apps")})
    assert found[0] == found[1]


@pytest.mark.parametrize("where", ["relative", "below", "variable"])
def test_a_relative_root_is_found(pyrun: Pyrun, tmp_path: Path, where: str) -> None:
    uuid = pyrun("prepare", "--rm", pyrun.probe_image, "--exec", "/probe", "--", "exit", "4", code=0).out.strip()
    root = os.path.relpath(pyrun.root, tmp_path)
    words = {"relative": ["--root", root], "below": [f"--dir=./x/..//{root}/"], "variable": []}[where]
    before = pyrun.within
    if where == "variable":
        pyrun.within = [*before, "env", f"PYRUN_ROOT={root}"]
    try:
        said, became = launch(pyrun, tmp_path, *words, uuid, cwd=tmp_path)
    finally:
        pyrun.within = before
    assert (said.returncode, became[:2]) == (4, ["pyrun", "keeper"]), said.stderr


def test_what_names_no_pod_is_explained(pyrun: Pyrun, tmp_path: Path) -> None:
    """And nothing is started: none of two that begin so, nor one of whose name another has."""
    folder = pyrun.root / "pods" / "prepared"
    one = pyrun("prepare", pyrun.probe_image, code=0).out.strip()
    other = one[:10] + ("0" if one[10] != "0" else "1") + one[11:]
    (folder / other).mkdir(mode=0o700)
    (tmp_path / "zero").write_bytes(one.encode() + b"\0 and more")
    for words, told in (
        (["--uuid-file", str(tmp_path / "zero")], f"pyrun: find pod {one}"),
        ([one[:10]], f"pyrun: find pod {one[:10]}: 2 pods begin so: {', '.join(sorted((one[:13], other[:13])))}\nhint: "),
        (["nobody"], "pyrun: find pod nobody: there is none of that name\nhint: "),
        ([""], "pyrun: find pod: there is none of that name\nhint: "),
        ([one, other], "pyrun: run-prepared: takes one pod\nhint: "),
        (["--uuid-file", str(tmp_path / "missing")], f"pyrun: option --uuid-file {tmp_path / 'missing'}: no such file"),
        (["--format", "json", one[:10]], '{"error": "find pod '),
        (["--nope", one], "pyrun: unknown option --nope of `pyrun run-prepared`\nhint: "),
        (["--debug", one[:10]], "the launcher: native/which.c, line "),
    ):
        said, became = launch(pyrun, tmp_path, *words)
        assert said.returncode in (2, 125) and said.stderr.startswith(told), said.stderr
        assert became == ["pyrun"] and sorted(os.listdir(folder)) == sorted((one, other))
    (folder / other).rename(pyrun.root / "pods" / "exited" / other)
    said, _ = launch(pyrun, tmp_path, one[:10])
    assert "2 pods begin so" in said.stderr and os.listdir(folder) == [one], "those that have ended count"


@pytest.mark.parametrize(
    ("owner", "more", "told"), [(0, 0o002, "everybody may write to it"), (65534, 0, "it belongs to another user (65534)")]
)
def test_a_root_of_others_is_refused(pyrun: Pyrun, tmp_path: Path, owner: int, more: int, told: str) -> None:
    """By whatever verb the launcher knows: what stands there, or is said to run there, would be executed."""
    uuid = pyrun("prepare", pyrun.probe_image, code=0).out.strip()
    process = pyrun.start("run", "--uuid-file-save", tmp_path / "uuid", pyrun.probe_image, "--exec", "/probe", "--", "sleep", "0")
    wait_until(lambda: (tmp_path / "uuid").exists() and pyrun("exec", (tmp_path / "uuid").read_text().strip(), "/probe").code == 0)
    runs = (tmp_path / "uuid").read_text().strip()
    run = ["run", pyrun.probe_image, "--exec", "/probe", "--", "exit", "0"]
    pyrun(*run, code=0)
    before = pyrun.root.stat()
    pyrun.root.chmod(before.st_mode | more)
    os.chown(pyrun.root, owner, -1)
    try:
        for words in (["run-prepared", uuid], ["enter", runs, "/probe"], ["exec", runs, "/probe"], ["list"], run):
            assert told in pyrun(*words, code=125).err
    finally:
        os.chown(pyrun.root, before.st_uid, -1)
        pyrun.root.chmod(before.st_mode)
        process.terminate()
        process.communicate(timeout=60)
    pyrun("rm", uuid, code=0)
