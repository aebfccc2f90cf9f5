"""Recipes of OCI containers that somebody touched, and creates that were killed: neither may be of consequence (native/again.c)."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from bundles import NO_PYTHON, Alone, Runtime, recipes


@pytest.fixture
def oci(tmp_path: Path, probe: Path) -> Runtime:
    return Runtime(tmp_path, probe)


@pytest.fixture
def alone(tmp_path: Path, oci: Runtime) -> Alone:
    return Alone(tmp_path / "alone", oci)


def prepare(oci: Runtime) -> None:
    oci.command("/bin/echo", "hello")
    oci("run", "one")


def damage(recipe: Path, how: str) -> None:
    data = bytearray(recipe.read_bytes())
    if how.startswith("cut"):
        recipe.write_bytes(data[: int(how[4:])])
    elif how.startswith("word"):
        at = 4 * int(how[5:])
        data[at : at + 4] = b"\xf0\xff\xff\xff"
        recipe.write_bytes(data)
    elif how == "plan":
        start = int.from_bytes(data[24:28], "little")
        data[start + 64 : start + 4096] = b"\xff" * 4032
        recipe.write_bytes(data)
    elif how == "link":
        recipe.rename(recipe.parent.parent.parent / "other")
        recipe.symlink_to("../../other")
    elif how == "owner":
        os.chown(recipe, 1000, 0)
    elif how == "folder":
        recipe.parent.chmod(0o755)
    elif how == "folder's owner":
        os.chown(recipe.parent, 1000, 0)
    else:
        recipe.chmod(int(how, 8))


HOSTILE = ["cut 0", "cut 63", "cut 64", "cut 300", "cut 9000", *(f"word {n}" for n in range(15)), "plan", "link", "owner", "folder"]


@pytest.mark.parametrize("how", [*HOSTILE, "folder's owner", "0602", "0620", "0640"])
def test_a_recipe_that_somebody_touched_is_not_used(oci: Runtime, alone: Alone, how: str) -> None:
    prepare(oci)
    alone("run", "two")
    (recipe,) = recipes(oci)
    damage(recipe, how)
    alone("run", "two", code=NO_PYTHON)
    assert not oci.leftovers() and not Path("/sys/fs/cgroup/two").exists()
    assert oci("run", "two").stdout == "hello\n"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        '{"a"',
        '{"a":',
        '{"a":"',
        '{"a":"\\',
        '{"a":*}',
        '{"a":[*]}',
        '{"a":{"b":[1,,',
        '{"a":]}',
        "[[[[",
        '{"root":{"path":"rootfs"} *',
        "\0",
    ],
)
def test_what_is_no_json_is_told(oci: Runtime, text: str) -> None:
    """By Python, which comes after the launcher has given up."""
    (oci.bundle / "config.json").write_text(text)
    assert "config.json" in oci("create", "one", code=1).stderr
    assert not oci.leftovers()


def test_there_is_an_end_to_recipes(oci: Runtime, alone: Alone) -> None:
    prepare(oci)
    for number in range(140):
        (oci.root / ".recipes" / f"{number:016x}").touch()
    oci.command("/bin/echo", "other")
    oci("run", "two")
    assert len(recipes(oci)) == 1
    assert alone("run", "two") == "other\n"


@pytest.mark.parametrize(
    "call", ["flock:1", "mkdirat:2", "socketpair:1", "clone:1", "write:2", "mknodat:1", "fcntl:4", "renameat:1", "renameat:2", "renameat:3"]
)
def test_a_create_that_is_killed_is_nobodys_trouble(oci: Runtime, alone: Alone, call: str) -> None:
    oci.command("/bin/sleep", "1000")
    for name in ("zero", "one"):
        (alone if name == "one" else oci)("create", name)
        oci("delete", "--force", name)
    kind, number = call.split(":")
    words = ["strace", "-o", "/dev/null", "-e", f"inject={kind}:signal=KILL:when={number}"]
    words += [str(alone.program), "--root", str(oci.root), "create", "one"]
    done = subprocess.run(words, cwd=oci.bundle, stdin=subprocess.DEVNULL, env={**os.environ, "ALONE": "1"})
    assert done.returncode in (-9, 137)
    if "state" in os.listdir(oci.root / "one"):  # it was nearly done: a container that has stopped
        oci("delete", "--force", "one")
    oci("create", "one")
    assert oci.state("one")["status"] == "created"
    oci("start", "one")
    oci("delete", "--force", "one")
    assert not oci.leftovers() and not Path("/sys/fs/cgroup/one").exists()
