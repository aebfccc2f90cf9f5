"""The bundle of what a start imports: written once, used while it fits, never in the way."""

from __future__ import annotations

import marshal
import os
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import Pyrun
from prefixes import Prefix


class Installation(Prefix):
    """One that runs images of a store."""

    def __init__(self, prefix: Path, shared: Pyrun) -> None:
        super().__init__(prefix)
        self.shared = shared

    @property
    def bundle(self) -> Path:
        return self.package / "__pycache__" / f"run.{sys.implementation.cache_tag}.bundle"

    def run(self, code: int = 0, *flags: str) -> str:
        """A run that has to decide."""
        for recipe in (self.shared.root / "cache" / "run").iterdir():
            recipe.unlink()
        done = self(*flags, "example.com/probe", "--exec", "/probe", "--", "exit", str(code))
        assert (done.returncode, done.stdout) == (code, ""), done.stderr
        return done.stderr

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [self.command, "run", *words]
        return subprocess.run(command, env=self.shared.environment(), capture_output=True, text=True, timeout=60)


@pytest.fixture
def installed(shared: Pyrun, tmp_path: Path) -> Iterator[Installation]:
    shared("run", shared.probe_image, "--exec", "/probe", "--", "exit", "0", code=0)
    yield Installation(tmp_path, shared)


def spans(data: bytes) -> tuple[int, int]:
    """Where the code is that a start needs, and where it ends: struct recipe_stamps of native/recipe.h."""
    size, _, _, length = struct.unpack("=4I", data[8:24])
    return size, size + length


def names(data: bytes) -> list[str]:
    at = spans(data)[0]
    sizes = marshal.loads(data[at:])[3]
    at += struct.unpack_from("=I", data, 28)[0]
    return [entry[0] for place, size in enumerate(sizes) for entry in marshal.loads(data[at + sum(sizes[:place]) :][:size])]


def spoil_pieces(bundle: Path) -> None:
    """Overwrite what no ordinary start reads."""
    data = bundle.read_bytes()
    _, start = spans(data)
    assert len(data) - start > 50_000, "there is much that a start does not call"
    bundle.write_bytes(data[:start] + b"?" * (len(data) - start))


def test_written_once_and_used(installed: Installation) -> None:
    installed.run()
    held = names(installed.bundle.read_bytes())
    assert {"pyrun", "pyrun.cli.run", "pyrun.plan.planner"} <= set(held)
    assert held.index("pyrun") < held.index("pyrun.plan.ops") < held.index("pyrun.plan.planner") < held.index("pyrun.cli.run")
    first = installed.bundle.stat()
    # what is in it is what runs: the sources are not even read, only their times
    for path in installed.package.rglob("*.py"):
        info = path.stat()
        path.write_bytes(b"!" * info.st_size)
        os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))
    shutil.rmtree(installed.package / "pod" / "__pycache__")
    installed.run(7)
    assert installed.bundle.stat().st_ino == first.st_ino


def test_with_it_a_start_does_without_os(installed: Installation) -> None:
    """Importing it takes a millisecond; what one of the modules asks of it that `posix` has not, imports it."""
    installed.run()
    python = installed.command.with_name("python3")
    target = os.readlink(python)
    python.unlink()
    python.write_text(f'#!/bin/sh\nexec {target} -X importtime "$@"\n')
    python.chmod(0o755)
    found = [line.rpartition("|")[2].strip() for line in installed.run().splitlines()]
    assert "gc" in found, "the list is of the right thing"
    assert {"os", "_collections_abc", "posixpath", "stat"}.isdisjoint(found)


def test_an_ordinary_start_reads_nothing_but_what_it_calls(installed: Installation) -> None:
    installed.run()
    spoil_pieces(installed.bundle)
    held = installed.bundle.stat()
    assert installed.run(7) == ""
    assert installed.bundle.stat().st_ino == held.st_ino


LATER = (
    ("-v", "/usr:/usr:ro", "--user", "app", "--readonly-rootfs", "--umask", "027", "--rlimit", "nofile=100"),
    ("--caps-retain", "CAP_KILL", "--seccomp", "mode=remove,errno=EPERM,sync", "--supplementary-gids", "7"),
    ("--hostname", "one", "--working-dir", "/", "--set-env", "A=B", "--uuid-file-save", "/dev/null"),
)


def test_what_the_first_start_did_not_call_is_read_when_it_is_called(installed: Installation) -> None:
    installed.run()
    first = installed.bundle.stat()
    for flags in LATER:
        assert installed.run(7, *flags) == ""
    assert installed.bundle.stat().st_ino == first.st_ino
    # and a decision rests on all modules, also those of which nothing was read
    (recipe,) = (installed.shared.root / "cache" / "run").iterdir()
    assert f"{installed.package}/cli/verbs_pods.py".encode() in recipe.read_bytes()


def test_help_and_errors_are_the_same_with_it(installed: Installation) -> None:
    """What they are made of is left out, or in the pieces."""
    lines = [("--help",), ("--no-such",), ("--caps-retain",), ("--umask", "9", "x"), ("--pull-policy", "never", "example.com/none")]
    before = [installed(*line) for line in lines]
    installed.run()
    assert installed.bundle.exists()
    after = [installed(*line) for line in lines]
    assert [(one.returncode, one.stdout, one.stderr) for one in after] == [(one.returncode, one.stdout, one.stderr) for one in before]
    assert "--uuid-file-save" in after[0].stdout and [one.returncode for one in after] == [0, 2, 2, 2, 125]


def change(bundle: Path, at: int, new: bytes) -> None:
    data = bundle.read_bytes()
    bundle.write_bytes(data[:at] + new + data[at + len(new) :])


def append(path: Path) -> None:
    path.write_text(path.read_text() + "\nraise SystemExit(99)\n")


SPOILT: dict[str, Callable[[Installation], object]] = {
    "a source changed": lambda one: os.utime(one.package / "plan" / "planner.py", ns=(1, 1)),
    "a source is gone": lambda one: (one.package / "cli" / "bundle.py").rename(one.package / "cli" / "kept"),
    "cut short": lambda one: os.truncate(one.bundle, 5000),
    "cut short behind what a start needs": lambda one: os.truncate(one.bundle, one.bundle.stat().st_size - 1),
    "empty": lambda one: os.truncate(one.bundle, 0),
    "nothing but what it begins with": lambda one: one.bundle.write_bytes(one.bundle.read_bytes()[: spans(one.bundle.read_bytes())[0]]),
    "of another version": lambda one: change(one.bundle, 16, b"\0\0\0\0"),
    "of another format": lambda one: change(one.bundle, 4, b"\377"),
    "of another kind": lambda one: change(one.bundle, 0, b"\0\0\0\0"),
    "nonsense": lambda one: change(one.bundle, spans(one.bundle.read_bytes())[0], b"nonsense" * 9),
    "of a size that is none": lambda one: change(one.bundle, 8, b"\377" * 4),
    "of too many sources": lambda one: change(one.bundle, 12, b"\377" * 4),
    "of more at its beginning than there is": lambda one: change(one.bundle, 28, b"\377" * 3 + b"\177"),
    "of more code than there is": lambda one: change(one.bundle, 20, b"\377" * 3 + b"\177"),
    "the helper is another one": lambda one: os.utime(one.package / "native" / "helper", ns=(1, 1)),
}


@pytest.mark.parametrize("how", SPOILT)
def test_one_that_does_not_fit_is_replaced(installed: Installation, how: str) -> None:
    installed.run()
    before = installed.bundle.read_bytes()
    SPOILT[how](installed)
    if how == "a source is gone":
        (installed.package / "cli" / "kept").rename(installed.package / "cli" / "bundle.py")
        os.utime(installed.package / "cli" / "bundle.py", ns=(1, 1))
    time.sleep(0.1)  # a run that begins as a source changes writes nothing
    assert installed.run(3) == ""
    after = installed.bundle.read_bytes()
    assert after[16:20] == before[16:20] and sorted(names(after)) == sorted(names(before))
    assert installed.run(4) == ""


def test_a_changed_source_counts_at_once(installed: Installation) -> None:
    installed.run()
    append(installed.package / "cli" / "run.py")
    shutil.rmtree(installed.shared.root / "cache" / "run", ignore_errors=True)
    done = subprocess.run([installed.command, "run", "x"], env=installed.shared.environment(), capture_output=True, timeout=60)
    assert done.returncode == 99


def test_the_launcher_judges_it_and_so_does_python(installed: Installation) -> None:
    """Where `python3` is a link Python gets it open and looks at no source; where it is a script the launcher does not know whose it is."""
    installed.run()
    made = installed.bundle.stat()
    python = installed.command.with_name("python3")
    log = installed.command.with_name("log")
    trace = ["strace", "-f", "-qq", "-e", "trace=newfstatat,stat", "-o", str(log)]
    command = [*trace, str(installed.command), "run", "example.com/probe", "--exec", "/probe", "--", "exit", "0"]
    shutil.rmtree(installed.shared.root / "cache" / "run", ignore_errors=True)
    subprocess.run(command, env=installed.shared.environment(), check=True, timeout=60)
    by_launcher = log.read_text()
    target = os.readlink(python)
    python.unlink()
    python.write_text(f'#!/bin/sh\nexec {" ".join(trace)} {target} "$@"\n')
    python.chmod(0o755)
    installed.run(1)
    for calls in (by_launcher, log.read_text()):
        assert calls.count("/plan/planner.py") == 1, calls
    assert installed.bundle.stat().st_ino == made.st_ino


def test_recipes_rest_on_what_it_was_made_of(installed: Installation) -> None:
    """What the bundle says of its sources is in them as it stands."""
    installed.run()
    installed.run(1)
    data = installed.bundle.read_bytes()
    (recipe,) = (installed.shared.root / "cache" / "run").iterdir()
    assert data[: spans(data)[0]] in recipe.read_bytes()
    words = ("example.com/probe", "--exec", "/probe", "--", "exit", "1")
    python = installed.command.with_name("python3")
    python.rename(python.with_name("kept"))
    assert installed(*words).returncode == 1, "the recipe is enough"
    os.utime(installed.package / "plan" / "planner.py", ns=(1, 1))
    fallback = installed(*words)  # by another interpreter, which may know nothing of pyrun
    python.with_name("kept").rename(python)
    installed.bundle.unlink(missing_ok=True)
    assert installed(*words).returncode == 1
    assert fallback.returncode in (1, 125) and data[: spans(data)[0]] not in recipe.read_bytes()


def test_where_nothing_can_be_written(installed: Installation) -> None:
    """A file in place of the directory: nothing is said, nothing is missing."""
    for path in list(installed.package.rglob("__pycache__")):
        shutil.rmtree(path)
    (installed.package / "__pycache__").write_text("")
    assert installed.run(5) == ""
    assert (installed.package / "__pycache__").read_text() == ""


def test_errors_name_lines_of_the_sources(installed: Installation) -> None:
    installed.run()
    words = [installed.command, "run", "--debug", "example.com/none-of-this", "--exec", "/x"]
    done = subprocess.run(words, env=installed.shared.environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 125
    assert f'File "{installed.package}/cli/run.py", line ' in done.stderr
    assert "image = find_image(args, store)" in done.stderr
