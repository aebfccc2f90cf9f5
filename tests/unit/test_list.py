"""`pyrun list` by the launcher alone prints what Python prints, or leaves it to Python."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import COMMAND, TOP
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyrun.cli.main import main
from pyrun.pod.state import Pods, new_uuid
from pyrun.pod.status import ALIVE, COPIED, ENDED

WAYS: tuple[list[str], ...] = (
    [],
    ["--full"],
    ["--no-legend"],
    ["-q"],
    ["--format", "json"],
    ["--format=table", "--full", "--no-legend"],
    ["--quiet", "--format=json"],
)
LEFT_TO_PYTHON = 99
MINUTE = 60 * 10**9
# half a minute beside each step of "3m ago", so that no step lies between the two listings
NOW = time.time_ns() + MINUTE // 2

Files = dict[str, str]
Pod = tuple[str, Files, bool]  # phase, files, whether its supervisor lives


@pytest.fixture(scope="module")
def launcher() -> Iterator[Path]:
    """The launcher beside an interpreter that only says that it was asked."""
    with tempfile.TemporaryDirectory() as directory:
        program = Path(directory, "pyrun")
        shutil.copy(COMMAND, program)
        program.with_name("python3").write_text(f"#!/bin/sh\nexit {LEFT_TO_PYTHON}\n")
        program.with_name("python3").chmod(0o755)
        yield program


def make(root: Path, pods: list[Pod]) -> list[int]:
    """Writes the pods; returns the descriptors whose locks say that the running ones live."""
    os.close(Pods(str(root)).fd)
    held = []
    for phase, files, alive in pods:
        folder = root / "pods" / phase / new_uuid()
        folder.mkdir()
        for name, text in files.items():
            (folder / name).write_text(text)
        if alive:
            held.append(os.open(folder, os.O_RDONLY))
            fcntl.flock(held[-1], fcntl.LOCK_EX)
    return held


def by_python(root: Path, *words: str) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main(["--root", str(root), "list", *words]) == 0
    return out.getvalue()


def by_launcher(launcher: Path, root: Path, *words: str) -> str | None:
    done = subprocess.run([launcher, "--root", root, "list", *words], capture_output=True, text=True, check=False)
    assert done.stderr == "" and done.returncode in (0, LEFT_TO_PYTHON), done
    return None if done.returncode else done.stdout


def record(**more: object) -> str:
    names: dict[str, object] = {"app": "web", "image": "sha512-" + "7a" * 64, "name": "example.com/web", "keep": True, "insecure": []}
    whole = {"uuid": "u", **names, "pod_name": "shop", "restart": "no", "log": "auto", "created": NOW - 5 * MINUTE, "cgroup": "", **more}
    return json.dumps(whole, separators=(",", ":"))


def ended(**more: object) -> str:
    return json.dumps({"restarts": 0, "code": 3, "signal": 0, "started": NOW - 4 * MINUTE, "finished": NOW - 2 * MINUTE, **more}) + "\n"


def run(**more: object) -> str:
    whole = {"keeper": 7, "keeper_start": 1, "pid": 9, "start": 2, "started": NOW - 3 * MINUTE, "restarts": 2, "cgroup": "/nowhere", **more}
    return json.dumps({name: value for name, value in whole.items() if value is not None})


USUAL: list[Pod] = [
    ("preparing", {"pod": record(pod_name="")}, False),
    ("prepared", {"pod": record(created=NOW - 600 * MINUTE)}, False),
    ("prepared", {"pod": record(created=NOW + 600 * MINUTE)}, False),
    ("running", {"pod": record(), "run": run()}, True),
    ("running", {"pod": record(cgroup="/nowhere/a\\x2db.service")}, True),
    ("running", {"pod": record(), "run": run(cgroup='/a"\\x2d', pid=None, started=None)}, True),
    ("running", {"pod": record(), "run": run(pid=None), "exit": ended()}, True),
    ("running", {"pod": record(), "run": run(), "health": '{"health":"unhealthy","failing":3,"code":1,"output":"no"}'}, True),
    ("running", {"pod": record(), "run": run(), "exit": ended()}, False),
    ("running", {"pod": record()}, False),
    ("exited", {"pod": record(), "exit": ended()}, False),
    (
        "exited",
        {"pod": record(name="a-longer-name.example.com/x"), "exit": ended(code=0, signal=9, oom=True, oom_group=True, oom_victim="group")},
        False,
    ),
    ("exited", {"pod": record(), "exit": ended(code=125, lost=True, log_dropped=12)}, False),
    ("exited", {"pod": record(), "exit": ended(lost=False)}, False),
    ("exited", {"pod": record(exit_policy="main-app", pid_namespace="app")}, False),
]
ISOLATED: Pod = ("prepared", {"pod": record(isolators=[{"name": "resource/memory", "value": {"limit": "64Mi"}}])}, False)


@pytest.mark.parametrize("words", WAYS, ids=" ".join)
def test_usual_pods_need_no_python(launcher: Path, tmp_path: Path, words: list[str]) -> None:
    assert by_launcher(launcher, tmp_path, *words) is None, "the directories are made by Python"
    os.close(Pods(str(tmp_path)).fd)
    assert by_launcher(launcher, tmp_path, *words) == by_python(tmp_path, *words), "none"
    make(tmp_path, USUAL * 3)
    expected = by_python(tmp_path, *words)
    assert by_launcher(launcher, tmp_path, *words) == expected
    assert expected.count("\n") >= 3 * len(USUAL)
    make(tmp_path, [ISOLATED])
    assert by_launcher(launcher, tmp_path, *words) == (None if words == ["--format", "json"] else by_python(tmp_path, *words))


@pytest.mark.parametrize(
    "words", [["--full", "--full"], ["-qq"], ["--format"], ["--format", "yaml"], ["--help"], ["x"], ["-q", "--root", "/x"]]
)
def test_other_words_are_for_python(launcher: Path, tmp_path: Path, words: list[str]) -> None:
    make(tmp_path, [])
    assert by_launcher(launcher, tmp_path, *words) is None


@pytest.mark.parametrize(
    "change",
    [
        lambda pods: (pods / "prepared" / new_uuid()).mkdir(),
        lambda pods: (pods / "exited" / "Foo.bar").mkdir(),
        lambda pods: (pods / "prepared" / "file").write_text("x"),
        lambda pods: (pods / "prepared" / "link").symlink_to("/tmp"),
        lambda pods: (pods / "exited").rmdir(),
        lambda pods: make(pods.parent, [("prepared", {"pod": record(apps=[{"name": "a", "image_name": "b"}])}, False)]),
        lambda pods: make(pods.parent, [("prepared", {"pod": ""}, False)]),
        lambda pods: make(pods.parent, [("prepared", {"pod": record(name="\x1b[31mred")}, False)]),
        lambda pods: make(pods.parent, [("exited", {"pod": record(), "exit": ended() + "x" * 9000}, False)]),
    ],
    ids=["empty", "no UUID", "file", "link", "phase", "apps", "no record", "escape", "long"],
)
def test_whatever_stands_there_is_listed(launcher: Path, tmp_path: Path, change: Callable[[Path], object]) -> None:
    """Python lists it, damaged or not; the launcher says the same or nothing."""
    make(tmp_path, [USUAL[1]])
    change(tmp_path / "pods")
    for words in WAYS:
        expected = by_python(tmp_path, *words)
        assert by_launcher(launcher, tmp_path, *words) in (None, expected)


def test_both_know_the_same_members() -> None:
    """What a later version adds to Python's listing it adds to the launcher's."""
    text = (TOP / "native" / "list_text.c").read_text()
    for name, members in (("first", COPIED), ("alive", ALIVE), ("ended", ENDED)):
        (found,) = re.findall(rf"\b{name}\[\] = {{([A-Z_, \n]+)}}", text)
        assert [word.strip().lower() for word in found.split(",")] == list(members)


VALUES: st.SearchStrategy[Any] = st.one_of(
    st.sampled_from(
        ["", "web", "a b ", "ä", "x\\y", 'q"', "\x7f", "\u2028", "x" * 300, None, True, False, 0, 1, -1, 2**63, 10**18, 10**30, 1.5]
    ),
    st.sampled_from([[], {}, [1, [{"a": "}"}]], {"a": [None]}, NOW - 90 * MINUTE, NOW - 4000 * MINUTE]),
)
KEYS = st.sampled_from(
    "app name image created restart log exit_policy pid_namespace pod_name apps cgroup keeper started pid code oom lost".split()
)
ODD = st.dictionaries(KEYS, VALUES, max_size=3)
TEXT = st.one_of(
    st.just(None),
    ODD.map(lambda more: record(**more)),
    ODD.map(lambda more: ended(**more)),
    ODD.map(lambda more: run(**more)),
    ODD.map(lambda more: json.dumps(more, ensure_ascii=False)),
    st.sampled_from(
        [
            '{"code":01}',
            '{"code":1,}',
            '{"code":1}x',
            '{"code":1e3}',
            '{ "code" : 1 }\n',
            '{"code":2,"code":3}',
            "[]",
            "{",
            '{"a":"\\u0041"}',
        ]
    ),
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    pods=st.lists(
        st.tuples(st.sampled_from(["preparing", "prepared", "running", "exited"]), TEXT, TEXT, TEXT, TEXT, st.booleans()),
        min_size=1,
        max_size=3,
    ),
    words=st.sampled_from(WAYS),
)
def test_odd_records(launcher: Path, pods: list[tuple[Any, ...]], words: list[str]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        made = []
        for phase, pod, one, other, third, alive in pods:
            texts = {"pod": pod if pod is not None else record(), "run": one, "exit": other, "health": third}
            made.append((phase, {name: text for name, text in texts.items() if text is not None}, alive))
        held = make(Path(directory), made)
        try:
            expected = by_python(Path(directory), *words)
            assert by_launcher(launcher, Path(directory), *words) in (None, expected)
        finally:
            for fd in held:
                os.close(fd)


def test_output_that_breaks(launcher: Path, tmp_path: Path) -> None:
    """A reader that has gone is exit code 141, as ever; a full disk is Python's to report."""
    make(tmp_path, [USUAL[1]] * 3)
    reader, writer = os.pipe()
    os.close(reader)
    assert subprocess.run([launcher, "--root", tmp_path, "list"], stdout=writer, check=False).returncode == 141
    os.close(writer)
    with open("/dev/full", "w") as full:
        assert subprocess.run([launcher, "--root", tmp_path, "list"], stdout=full, check=False).returncode == LEFT_TO_PYTHON
