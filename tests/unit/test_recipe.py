"""Recipes: a decision written for the launcher is the one that was made (runtime/pod/{recipe,cache}.py, native/recipe.h)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from struct import Struct
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from pyrun.cli import bundle, bundling
from pyrun.engine.installed import apart, stamps
from pyrun.images import trust
from pyrun.plan import ops
from pyrun.pod import cache
from pyrun.pod.place import scope_of
from pyrun.pod.recipe import _HEAD, Recipe, _checks, clock

BLANK = "01234567-89ab-4cde-8f01-2345678990ff"
NATIVE = Path(__file__).resolve().parents[2] / "native"


@pytest.fixture(autouse=True)
def launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that a launcher became, which has not imported all there is."""
    monkeypatch.setattr(sys.modules["__main__"], "launcher", "/a/bin/pyrun", raising=False)
    monkeypatch.setattr(cache, "stamps", lambda: stamps()[:9])
    monkeypatch.setattr(cache, "apart", lambda: (b"", stamps()[:9] or None))


def recipe(tmp_path: Path, plan: bytes = b"plan of " + BLANK.encode()) -> Recipe:
    decided = tmp_path / "decided"
    decided.write_text("yes")
    info = decided.stat()
    check = (str(decided), (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns), 0)
    return Recipe(plan, f'{{"uuid":"{BLANK}"', [], [], [check])


def key_of(*words: str) -> bytes:
    line = cache.split(list(words))
    assert line is not None
    return cache.key_of(line, 0, here=True)


def in_c(folder: Path, formats: str, values: str) -> list[str]:
    """What a C program that includes the header prints of these values."""
    program = folder / "sizes.c"
    program.write_text(
        "#include <stdint.h>\n#include <stdio.h>\n#include <stddef.h>\n"
        f'#include "{NATIVE}/recipe.h"\n'
        f'int main(void) {{ printf("{formats}", {values}); }}\n'
    )
    subprocess.run(["gcc", "-o", folder / "sizes", program], check=True)
    return subprocess.run([folder / "sizes"], check=True, capture_output=True, text=True).stdout.split()


def test_layout_is_that_of_the_header(tmp_path: Path) -> None:
    values = (
        "sizeof(struct recipe_header), sizeof(struct recipe_check), RECIPE_MAGIC, RECIPE_VERSION, offsetof(struct recipe_header, helper),"
        " offsetof(struct recipe_check, path), sizeof(struct recipe_patch), RECIPE_RECORD"
    )
    said = in_c(tmp_path, "%zu %zu %u %u %zu %zu %zu %s", values)
    assert said[:4] == [str(cache._HEADER.size), str(cache.CHECK.size), str(cache.MAGIC), str(cache.VERSION)]
    assert said[4:] == ["40", "40", str(cache._PATCH.size), _HEAD]


def test_hash_is_fnv_1a() -> None:
    assert cache.name_of(b"") == "cbf29ce484222325"  # the offset basis, by definition
    assert cache.name_of(b"foobar") == "85944171f73967e8"  # a test vector of the algorithm's authors


def test_key_holds_root_directory_and_every_word_that_decides(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYRUN_ROOT", "/r")
    assert key_of("run", "a b", "") == b"3\0/r\0/a/bin/pyrun\0run\0a b\0\0" + os.fsencode(tmp_path) + b"\0"
    line = cache.split(["run", "a b", ""])
    assert line is not None and cache.key_of(line, 0, here=False) == b"0\0/r\0/a/bin/pyrun\0run\0a b\0\0"
    assert key_of("run", "a", "b") != key_of("run", "a b")


def test_saved_file_points_at_its_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = recipe(tmp_path)
    cache.save(str(tmp_path), ["run", "x"], made, "/path/helper", {})
    (path,) = (tmp_path / "cache/run").iterdir()
    data = path.read_bytes()
    key = key_of("run", "x")
    assert path.name == cache.name_of(key)
    assert path.stat().st_mode & 0o777 == 0o600
    _, _, size, checks, key_at, key_size, plan, plan_size, record, record_size, helper, *more = Struct("=14I").unpack_from(data)
    assert (size, checks, more, data[-1]) == (len(data), 1 + len(cache.stamps()), [0, 0, 0], 0)
    assert plan % 8 == 0
    assert data[key_at : key_at + key_size] == key
    assert data[plan : plan + plan_size] == made.block
    assert data[record : record + record_size].decode() == made.record
    assert data[helper:].split(b"\0")[0] == b"/path/helper"


def test_recipes_do_not_pile_up(tmp_path: Path) -> None:
    made = recipe(tmp_path)
    for number in range(cache.KEPT + 3):
        cache.save(str(tmp_path), ["run", str(number)], made, "/helper", {})
    assert len(list((tmp_path / "cache/run").iterdir())) == 3


def test_what_may_not_be_repeated_is_not_written(tmp_path: Path) -> None:
    made = recipe(tmp_path)
    cache.save(str(tmp_path), ["run", "x"], Recipe(made.block, made.record, [], ["a note"], None), "/helper", {})
    cache.save(str(tmp_path), ["run", "x"], Recipe(made.block, made.record, ["/layer"], [], made.checks), "/helper", {})
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("change", ["content", "replaced", "gone"])
def test_fresh_until_what_decided_changes(tmp_path: Path, change: str) -> None:
    made = recipe(tmp_path)
    decided = tmp_path / "decided"
    assert made.fresh()
    if change == "content":
        decided.write_text("no!")
    elif change == "replaced":
        other = tmp_path / "other"
        other.write_text("yes")
        other.rename(decided)
    else:
        decided.unlink()
    assert not made.fresh()


def test_the_blank_becomes_the_uuid_everywhere(tmp_path: Path) -> None:
    made = recipe(tmp_path, f"/pods/{BLANK}/upper\0pyrun-{BLANK}\0".encode())
    uuid = "01234567-89ab-4cde-8f01-23456789abcd"
    assert made.block_for(uuid) == f"/pods/{uuid}/upper\0pyrun-{uuid}\0".encode()
    assert made.record_for(uuid, 7, '/c"g') == f'{{"uuid":"{uuid}","created":7,"cgroup":"/c\\"g"}}'


def test_of_some_only_the_kind_counts(tmp_path: Path) -> None:
    made = recipe(tmp_path)
    source = tmp_path / "source"
    source.mkdir()
    counted = Recipe(made.block, made.record, [], [], [(str(source), (0, 0, 0, 0, 0), 0o040000)])
    (source / "new").touch()
    assert counted.fresh()
    (source / "new").unlink()
    source.rmdir()
    source.touch()
    assert not counted.fresh()


def test_without_a_launcher_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody would find it: the installation is part of the key."""
    monkeypatch.delattr(sys.modules["__main__"], "launcher")
    cache.save(str(tmp_path), ["run", "x"], recipe(tmp_path), "/helper", {})
    assert not (tmp_path / "cache").exists()


@pytest.fixture
def bundled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[ModuleType, bytes]:
    """A module that came from a bundle, and what that begins with."""
    module = ModuleType("pyrun.another")
    module.__file__ = str(tmp_path / "another.py")
    Path(module.__file__).touch()
    monkeypatch.setitem(sys.modules, "pyrun.another", module)
    held = bundling._sources([module.__file__], 0, 0, 0)
    monkeypatch.setattr(bundle, "_sources", held)
    monkeypatch.setattr(bundle, "names", frozenset(("pyrun.another",)))
    return module, held


def test_of_what_comes_from_a_bundle_its_stamps_count(bundled: tuple[ModuleType, bytes]) -> None:
    """They are from when it was loaded, so it may have changed since."""
    module, held = bundled
    info = os.stat(module.__file__ or "")
    stamp = info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns
    Path(module.__file__ or "").unlink()
    assert dict(stamps())[module.__file__ or ""] == stamp
    seen, more = apart()
    assert seen == held and more is not None and module.__file__ not in dict(more)


def test_layout_of_what_a_bundle_begins_with(tmp_path: Path) -> None:
    values = (
        "sizeof(struct recipe_stamps), offsetof(struct recipe_stamps, python), offsetof(struct recipe_stamps, first_size),"
        " RECIPE_STAMPS_MAGIC, RECIPE_STAMPS_VERSION"
    )
    said = in_c(tmp_path, "%zu %zu %zu %u %u", values)
    assert said == [str(bundling._HEADER.size), "16", "28", str(bundling._MAGIC), str(bundling._VERSION)]


def test_a_saved_file_has_it_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bundled: tuple[ModuleType, bytes]) -> None:
    _, held = bundled
    monkeypatch.setattr(cache, "apart", lambda: (held, []))
    cache.save(str(tmp_path), ["run", "x"], recipe(tmp_path), "/helper", {})
    (path,) = (tmp_path / "cache/run").iterdir()
    data = path.read_bytes()
    *_, own, size, limits, limits_size = Struct("=20I").unpack_from(data)
    assert own % 8 == 0 and data[own : own + size] == held and size == len(held)
    assert (limits, limits_size) == (own + size, 0), "it has none"


@pytest.mark.parametrize("manager", ["", "@cgroupfs", "@systemd"])
def test_what_a_place_for_limits_is_found_by(tmp_path: Path, manager: str) -> None:
    """As in the directory of a prepared pod, under the UUID that stands for any."""
    plan = ops.Plan([ops.op(ops.LIMIT, "memory.max", "67108864", origin="--memory")], clone_flags=0)
    made = recipe(tmp_path, ops.encode(plan))
    made.controllers = [*filter(None, [manager]), "memory"]
    cache.save(str(tmp_path), ["run", "x"], made, "/helper", {})
    (path,) = (tmp_path / "cache/run").iterdir()
    data = path.read_bytes()
    *_, limits, size = Struct("=20I").unpack_from(data)
    words, _, scope = data[limits : limits + size].partition(b"\0")
    assert words.decode().split() == made.controllers
    assert scope == scope_of(BLANK, made.controllers, made.block).get("scope", b"")
    assert (f"pyrun-{BLANK}.scope".encode() in scope) == (manager != "@cgroupfs")
    assert (b"MemoryMax" in scope) == (manager == "@systemd")


def test_a_module_that_changed_since_it_was_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What decided may have been another one."""
    module = ModuleType("pyrun.another")
    module.__file__ = str(tmp_path / "another.py")
    monkeypatch.setitem(sys.modules, "pyrun.another", module)
    made = recipe(tmp_path)
    with pytest.raises(FileNotFoundError):
        stamps()
    cache.save(str(tmp_path), ["run", "x"], made, "/helper", {})
    Path(module.__file__).touch()
    assert stamps() == []
    cache.save(str(tmp_path), ["run", "x"], made, "/helper", {})
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("there", [False, True])
def test_a_key_of_the_vendors_may_appear(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    """It takes back the mark that accepts unsigned images."""
    vendor = tmp_path / "vendor"
    monkeypatch.setattr(trust, "SYSTEM_DIR", str(vendor))
    mark = Path(trust.scope_dir(str(tmp_path / "trust"), "ex.com")) / trust.UNSIGNED
    mark.parent.mkdir(parents=True)
    mark.write_text("accepted")
    if there:
        (vendor / "prefix.d").mkdir(parents=True)
    store: Any = SimpleNamespace(root=str(tmp_path), layer_path=lambda _: str(tmp_path), image_path=lambda _: str(mark))
    (tmp_path / "complete").touch()
    image: Any = SimpleNamespace(
        id="", kind="aci", judged=None, signature=None, origin={"place": "ex.com/team/app"}, needs=[], layers=["layer"]
    )
    config: Any = SimpleNamespace(network="none", mounts=[])
    later = clock() + 10**9
    made = Recipe(b"", "", [], [], _checks(store, image, config, [], later))
    assert made.fresh()
    Path(trust.scope_dir(str(vendor), "ex.com/team")).mkdir(parents=True)
    assert not made.fresh()
    assert _checks(store, image, config, [], later) is None
