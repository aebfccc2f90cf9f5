"""`run` of pods that a keeper looks after, the same command line again: the launcher makes the pod, and no Python is started."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import COMMAND, Pyrun
from launched import programs, traced
from waiting import status, wait_until

NATIVE, PYTHON = ["pyrun", "keeper"], ["pyrun", "python3", "keeper"]
IMAGE = "example.com/busybox"
Again = Callable[..., tuple[subprocess.CompletedProcess[str], list[str]]]


@pytest.fixture
def stored(pyrun: Pyrun, busybox: Path) -> Iterator[Pyrun]:
    pyrun("fetch", busybox, code=0)
    yield pyrun
    for uuid in os.listdir(pyrun.root / "pods/running"):
        pyrun("rm", "--force", uuid, code=0)
    pyrun("gc", "--grace-period", "0s", code=0)


@pytest.fixture
def again(stored: Pyrun, tmp_path: Path) -> Again:
    """Runs a command line; what it said, and what the process became before it was the keeper."""

    def call(*words: str | Path, env: dict[str, str] | None = None, **more: Any) -> tuple[subprocess.CompletedProcess[str], list[str]]:
        wait_until(lambda: phases(stored).keys().isdisjoint(("garbage", "preparing")))  # which is Python's to sweep
        command = [*traced(tmp_path), str(COMMAND), "run", *map(str, words)]
        done = subprocess.run(command, env=stored.environment(env or {}), capture_output=True, text=True, timeout=120, **more)
        became = programs(tmp_path)
        return done, became[: became.index("keeper") + 1] if "keeper" in became else became

    return call


def script(text: str) -> tuple[str, ...]:
    return IMAGE, "--exec", "/bin/sh", "--", "-c", text


def recipes(pyrun: Pyrun) -> list[Path]:
    return sorted((pyrun.root / "cache/run").glob("*"))


def phases(pyrun: Pyrun) -> dict[str, list[str]]:
    """What there is of pods and their names."""
    found: dict[str, list[str]] = {}
    for path in (pyrun.root / "pods").glob("*/*"):
        found.setdefault(path.parent.name, []).append(path.name)
    return found


def settled(pyrun: Pyrun) -> None:
    """Nothing is left of pods that went with their end, which Python would sweep first."""
    wait_until(lambda: phases(pyrun).keys() <= {"names"})  # the name of a pod that is gone is nobody's


def test_in_the_background(stored: Pyrun, again: Again) -> None:
    """Each is a pod like the first, with its own UUID wherever that stands, and times of its own."""
    words = ("--detach", "--keep", "-e", "A=B", *script("hostname; echo $A; echo err >&2; exit 3"))
    seen = []
    for wanted in (PYTHON, NATIVE, NATIVE):
        done, became = again(*words)
        assert (done.returncode, done.stderr, became) == (0, "", wanted)
        uuid = done.stdout.strip()
        stored("wait", uuid, code=3)
        found = status(stored, uuid)
        said = stored("logs", uuid, code=0)
        host = json.loads(stored("inspect", uuid, code=0).out)[0].get("hostname") or said.out.splitlines()[0]
        assert said.err == "err\n" and said.out == f"{host}\nB\n"
        seen.append({name: value for name, value in found.items() if name not in ("uuid", "created", "started", "finished", "age")})
        held = {path.name: path.read_bytes() for path in (stored.root / "pods/exited" / uuid).iterdir() if path.is_file()}
        others = [other.encode() for other in os.listdir(stored.root / "pods/exited") if other != uuid]
        assert not [name for name, data in held.items() for other in others if other in data or other[:8] in data]
        assert json.loads(held["command"])["words"] == list(words)
    assert len(recipes(stored)) == 1 and recipes(stored)[0].stat().st_mode & 0o777 == 0o600
    uuids = os.listdir(stored.root / "pods/exited")
    assert len({status(stored, uuid)["created"] for uuid in uuids}) == 3
    assert json.dumps(seen[0]).replace(uuids[0], "") and [sorted(one) for one in seen[1:]] == [sorted(seen[0])] * 2
    assert stored("list", code=0).out.count("exited (3)") == 3


def test_a_service_with_a_name(stored: Pyrun, again: Again) -> None:
    """In the foreground; the name is free again when the pod has ended, and belongs to it while it runs."""
    words = ("--pod-name", "web", *script("echo here; exit 4"))
    for wanted in (PYTHON, NATIVE, NATIVE):
        done, became = again(*words)
        assert (done.returncode, done.stdout, done.stderr, became) == (4, "here\n", "", wanted)
        settled(stored)
    stay = ("--detach", "--pod-name", "web", *script("exec sleep 1000"))
    for wanted in (PYTHON, NATIVE):
        done, became = again(*stay)
        assert (done.returncode, became) == (0, wanted)
        uuid = done.stdout.strip()
        assert status(stored, "web")["uuid"] == uuid and os.readlink(stored.root / "pods/names/web") == uuid
        done, became = again(*stay)
        assert done.returncode == 125 and f"pod {uuid[:8]} has that name" in done.stderr and became == ["pyrun", "python3"]
        stored("rm", "--force", "web", code=0)


def test_a_name_that_a_pod_left_behind(stored: Pyrun, again: Again) -> None:
    """What a killed supervisor leaves is Python's to sweep; a name of nobody's is taken at once, one of an ended pod never."""
    words = ("--detach", "--keep", "--pod-name", "web", *script("exec sleep 1000"))
    again(*words)
    stored("rm", "--force", "web", code=0)
    names = stored.root / "pods/names"
    (names / "web").symlink_to("00000000-0000-4000-8000-000000000000")
    done, became = again(*words)
    assert became == NATIVE and os.readlink(names / "web") == done.stdout.strip()
    stored("stop", "web", code=0)
    wait_until(lambda: status(stored, "web")["state"] == "exited")
    held = os.readlink(names / "web")
    done, became = again(*words)
    assert done.returncode == 125 and "has that name" in done.stderr and became == ["pyrun", "python3"]
    assert os.readlink(names / "web") == held and phases(stored).keys() == {"exited", "names"}
    done, became = again("--take-name", *words)
    assert (done.returncode, became) == (0, PYTHON) and os.readlink(names / "web") == done.stdout.strip()


@pytest.mark.parametrize("step", ["mkdirat", "writev", "symlinkat", "symlinkat:when=2", "renameat"])
def test_killed_while_it_makes_the_pod(stored: Pyrun, again: Again, step: str) -> None:
    """The name is not held by what is half made: a service starts again at once."""
    words = ("--pod-name", "web", *script("exit 4"))
    assert again(*words)[0].returncode == 4
    settled(stored)
    name, _, when = step.partition(":")
    inject = f"inject={name}:signal=SIGKILL:{when or 'when=1'}"
    command = ["strace", "-qq", "-o", "/dev/null", "-e", inject, str(COMMAND), "run", *words]
    assert subprocess.run(command, env=stored.environment(), capture_output=True, timeout=120).returncode == -9
    assert subprocess.run([str(COMMAND), "run", *words], env=stored.environment(), capture_output=True, timeout=120).returncode == 4
    for half in (stored.root / "pods/preparing").iterdir():
        os.utime(half, (0, 0))  # one of this moment could be somebody's who has not locked it yet
    stored("gc", code=0)
    settled(stored)


@pytest.mark.parametrize(
    "flags",
    [
        ("--restart", "on-failure:1"),
        ("--health-cmd", "true", "--health-interval", "1s"),
        ("--detach", "--rm", "--log-driver", "none"),
        ("--detach", "--rm", "--hostname", "here"),
        ("--detach", "--rm", "-v", "/etc:/data:ro"),
    ],
    ids=lambda flags: flags[-1],
)
def test_whatever_it_is_kept_for(stored: Pyrun, again: Again, flags: tuple[str, ...]) -> None:
    for wanted in (PYTHON, NATIVE):
        done, became = again(*flags, *script("test ! -d /data || test -e /data/passwd; sleep 0.1; exit $?"))
        assert (done.returncode, done.stderr, became) == (0, "", wanted)
        settled(stored)


@pytest.mark.parametrize("what", ["argument", "value", "image", "key", "directory", "environment"])
def test_anything_else_is_decided_anew(stored: Pyrun, again: Again, busybox: Path, tmp_path: Path, what: str) -> None:
    words = ["--detach", "--rm", "-e", "A=B", *script("true")]
    more: dict[str, Any] = {}
    for wanted in (PYTHON, NATIVE):
        assert again(*words)[1] == wanted
        settled(stored)
    if what == "argument":
        words[-1] = "false"
    elif what == "value":
        words[words.index("A=B")] = "A=C"
    elif what == "image":
        stored("image", "tag", IMAGE, "example.com/other", code=0)
    elif what == "key":
        (key,) = (path for path in (stored.root / "trust").rglob("*") if path.is_file())
        key.unlink()
    elif what == "directory":
        more["cwd"] = tmp_path
    else:
        more["env"] = {"PYRUN_DEBUG": "1"}
    done, became = again(*words, **more)
    assert became == (["pyrun", "python3"] if what == "key" else PYTHON)
    assert (done.returncode, "trust" in done.stderr) == ((125, True) if what == "key" else (0, False))


@pytest.mark.parametrize(
    "flags",
    [
        ("--insecure-options=new-privs",),
        ("--device", "/dev/fuse"),
        ("--uuid-file-save", "/dev/null"),
        ("--set-env-file", "/dev/null"),
        ("--format", "json"),
        ("--tty",),
    ],
    ids=lambda flags: flags[-2] if len(flags) > 2 else flags[0],
)
def test_what_is_never_kept(stored: Pyrun, again: Again, flags: tuple[str, ...]) -> None:
    for _ in range(2):
        done, became = again("--detach", "--rm", *flags, *script("true"))
        assert done.returncode == 0 and became == PYTHON, done.stderr
    assert recipes(stored) == []


def test_several_at_once(stored: Pyrun, again: Again) -> None:
    """Each is a pod of its own; of those that want one name one has it."""
    free, named = ("--detach", *script("exec sleep 1000")), ("--detach", "--pod-name", "one", *script("exec sleep 1000"))
    for words in (free, named):
        uuid = again(*words)[0].stdout.strip()
        stored("rm", "--force", uuid, code=0)
    racers = [stored.start("run", *words) for words in (free, named) for _ in range(6)]
    said = [one.communicate(timeout=120) for one in racers]
    assert [one.returncode for one in racers[:6]] == [0] * 6 and sorted(one.returncode for one in racers[6:]) == [0] + [125] * 5, said
    assert len(os.listdir(stored.root / "pods/running")) == 7
    assert phases(stored).keys() == {"running", "names"}


def test_a_recipe_that_was_damaged_decides_nothing(stored: Pyrun, again: Again) -> None:
    """Cut, or with another number in its header: nothing of a start that it came to is left."""
    words = ("--detach", "--rm", *script("true"))
    again(*words)
    (recipe,) = recipes(stored)
    data = recipe.read_bytes()
    for at in range(8, 13 * 4, 4):
        for value in (0, 0x7FFFFFFF, 0xFFFFFFFF):
            recipe.write_bytes(data[:at] + value.to_bytes(4, "little") + data[at + 4 :])
            done, _ = again(*words)
            assert done.returncode in (0, 125) and "Traceback" not in done.stderr, (at, value, done)
            settled(stored)
    recipe.write_bytes(data[:-200])
    assert again(*words)[1] == PYTHON
    settled(stored)
