"""Configurations that only look alike to the launcher (native/again_key.c): what is blank in a key may not decide anything."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from bundles import NO_PYTHON, Alone, Runtime, recipes

ONE, TWO = "a1" * 32, "b2c3" * 16


@pytest.fixture
def oci(tmp_path: Path, probe: Path) -> Runtime:
    return Runtime(tmp_path, probe)


@pytest.fixture
def alone(tmp_path: Path, oci: Runtime) -> Alone:
    return Alone(tmp_path / "alone", oci)


def bundle(oci: Runtime, name: str) -> Path:
    """Another bundle with the same config.json, and a file of its own below `data`."""
    made = oci.folder / name
    (made / "data").mkdir(parents=True)
    (made / "data" / "file").write_text(f"of {name}\n")
    shutil.copy(oci.bundle / "config.json", made)
    (made / "rootfs").symlink_to(oci.bundle / "rootfs")
    return made


def mount(oci: Runtime, **members: Any) -> None:
    oci.config["mounts"].append({"destination": "/mnt", "type": "bind", "source": "data", "options": ["bind"], **members})


@pytest.mark.parametrize("name", [ONE, f"of-{ONE[:12]}"])
def test_a_bundle_named_after_its_container(oci: Runtime, alone: Alone, name: str) -> None:
    mount(oci)
    oci.command("/bin/cat", "/mnt/file")
    own = bundle(oci, name)
    assert oci("run", "--bundle", own, ONE).stdout == f"of {name}\n"
    alone("run", "--bundle", own, TWO, code=NO_PYTHON)
    assert oci("run", "--bundle", own, TWO).stdout == f"of {name}\n"
    assert alone("run", "--bundle", own, "b2" * 32) == f"of {name}\n", "what is no id may be in it"


def test_a_home_named_after_its_container(oci: Runtime, alone: Alone) -> None:
    home = f"/home/{ONE[:12]}"
    (oci.bundle / "rootfs" / "etc" / "passwd").write_text(f"root:x:0:0::{home}:\n")
    oci.command("/bin/sh", "-c", "echo $HOME")
    assert oci("run", ONE).stdout == f"{home}\n"
    alone("run", TWO, code=NO_PYTHON)
    assert oci("run", TWO).stdout == alone("run", "b2" * 32) == f"{home}\n"


@pytest.mark.parametrize("member", ["type", "options"])
def test_a_bind_mount_in_disguise(oci: Runtime, alone: Alone, member: str) -> None:
    mount(oci, **({"options": ["ro"]} if member == "type" else {"type": "none"}))
    oci.command("/bin/cat", "/mnt/file")
    text = (oci.bundle / "config.json").read_text()
    at = text.index("/mnt")
    (oci.bundle / "config.json").write_text(text[:at] + text[at:].replace('"bind"', '"b\\u0069nd"'))
    first, second = bundle(oci, "first"), bundle(oci, "second")
    assert oci("run", "--bundle", first, "one").stdout == "of first\n"
    alone("run", "--bundle", second, "two", code=NO_PYTHON)
    assert oci("run", "--bundle", second, "two").stdout == "of second\n"


def test_what_is_bound_on_proc_is_looked_at_each_time(oci: Runtime, alone: Alone) -> None:
    """Whatever its type says: the options make it a bind mount."""
    source = oci.folder / "p"
    (source / "self").mkdir(parents=True)
    (source / "sys" / "kernel").mkdir(parents=True)
    (source / "self" / "stat").touch()
    oci.config["mounts"][0] = {"destination": "/proc", "type": "proc", "source": str(source), "options": ["rbind"]}
    for name in ("maskedPaths", "readonlyPaths"):
        oci.config["linux"][name] = []
    oci.command("/bin/true")
    oci("create", "one", code=None)
    oci("delete", "--force", "one", code=None)
    shutil.rmtree(source / "sys")
    alone("run", "two", code=NO_PYTHON)
    assert "only procfs may be there" in oci("run", "two", code=1).stderr


def test_an_empty_root_is_refused_each_time(oci: Runtime, alone: Alone) -> None:
    oci.command("/bin/true")
    shutil.copytree(oci.bundle / "rootfs", oci.bundle, symlinks=True, dirs_exist_ok=True)
    oci("run", "one")
    oci.config["root"]["path"] = ""
    oci.write()
    alone("run", "two", code=NO_PYTHON)
    assert "root.path" in oci("run", "two", code=1).stderr


def test_a_namespace_by_a_relative_path_is_refused_each_time(oci: Runtime, alone: Alone) -> None:
    holder = oci.start_sleeping("holder")
    space = next(one for one in oci.config["linux"]["namespaces"] if one["type"] == "network")
    for path, code in ((f"/proc/{holder}/ns/net", 0), ("net", 1)):
        space["path"] = path
        (oci.bundle / "net").symlink_to(f"/proc/{holder}/ns/net") if code else None
        oci.command("/bin/true")
        if code:
            alone("run", "one", code=NO_PYTHON)
        told = oci("run", "one", code=code).stderr
        assert ("namespaces" in told) == bool(code)
    oci("delete", "--force", "holder")


def test_digits_outside_of_strings_are_no_id(oci: Runtime, alone: Alone) -> None:
    """A number, where the next of the kind has what is no JSON at all."""
    number, word = "100000000e05", "abcdefabcdef"
    oci.command("/bin/true")
    text = (oci.bundle / "config.json").read_text()
    for digits, code in ((number, 0), (word, 1)):
        (oci.bundle / "config.json").write_text(text[:-1] + f', "org.example.more": {digits}}}')
        if code:
            alone("run", digits + "0" * 52, code=NO_PYTHON)
        assert ("JSON" in oci("run", digits + "0" * 52, code=code).stderr) == bool(code)


def test_digits_behind_a_backslash_are_no_id(oci: Runtime, alone: Alone) -> None:
    """`\\b` and `\\f` stand for one character, and what follows is no id."""
    oci.command("/bin/echo", "X")
    text = (oci.bundle / "config.json").read_text()
    for turn, digits in enumerate(("b1c2d3e4f5a6", "f1c2d3e4f5a6")):
        (oci.bundle / "config.json").write_text(text.replace('"X"', f'"\\{digits}"'))
        name = digits + "0" * 52
        if turn:
            alone("run", name, code=NO_PYTHON)
        assert oci("run", name).stdout == json.loads(f'"\\{digits}"') + "\n"


def test_digits_behind_quotes_within_a_string_are_an_id(oci: Runtime, alone: Alone) -> None:
    for turn, name in enumerate((ONE, TWO)):
        words = f'"{name}" \\"{name[:12]}\\ \\\\{name[:12]}'
        oci.command("/bin/echo", words)
        assert (alone("run", name) if turn else oci("run", name).stdout) == words + "\n"
    assert len(recipes(oci)) == 1
