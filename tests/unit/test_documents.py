"""Configuration documents on disk: versions change all at once, whoever reads or is killed meanwhile."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from pyrun.errors import ConfigError, PyrunError, StateError, UsageError
from pyrun.pod import documents


@pytest.fixture
def root(tmp_path: Path) -> str:
    return str(tmp_path)


def test_set_get_list_and_remove(root: str) -> None:
    assert documents.names(root) == []
    assert documents.change(root, "shop", {"a": "1", "b.conf": "x=\n\udcff"}) == 1
    assert documents.read(root, "shop") == (1, {"a": "1", "b.conf": "x=\n\udcff"})
    assert documents.change(root, "shop", {"a": "1"}) == 1, "nothing has changed"
    assert documents.change(root, "shop", {"c": "3"}, without=["a"]) == 2
    assert documents.read(root, "shop") == (2, {"b.conf": "x=\n\udcff", "c": "3"})
    assert documents.change(root, "shop", {"d": "4"}, replace=True) == 3
    assert sorted(os.listdir(f"{root}/config/shop")) == ["..2", "..3", "..data", "d"], "the last version stays for whoever reads it"
    assert Path(root, "config/shop/d").read_text() == "4"
    assert documents.names(root) == ["shop"]
    documents.remove(root, "shop")
    assert documents.names(root) == [] and os.listdir(f"{root}/config") == [".lock"]
    with pytest.raises(StateError, match="none of that name"):
        documents.read(root, "shop")


def test_modes_let_any_user_of_a_pod_read_and_nobody_of_the_host(root: str) -> None:
    before = os.umask(0o077)
    try:
        documents.change(root, "shop", {"a": "1"})
    finally:
        os.umask(before)
    assert os.stat(f"{root}/config").st_mode & 0o777 == 0o700
    for path, mode in (("shop", 0o755), ("shop/..data", 0o755), ("shop/a", 0o644)):
        assert os.stat(f"{root}/config/{path}").st_mode & 0o777 == mode


@pytest.mark.parametrize("name", ["", "A", "..", ".x", "a/b", "-a", "a-", "a b", "a" * 254])
def test_bad_names(root: str, name: str) -> None:
    with pytest.raises(UsageError):
        documents.change(root, name, {"a": "1"})


@pytest.mark.parametrize("key", ["", ".", "..", "..data", "a/b", "a b", "\u00e9", "a" * 254])
def test_bad_keys(root: str, key: str) -> None:
    with pytest.raises(UsageError):
        documents.change(root, "shop", {key: "1"})
    assert documents.names(root) == []


def test_too_much_and_too_little(root: str) -> None:
    with pytest.raises(ConfigError, match="larger than 1 MiB"):
        documents.change(root, "shop", {"a": "x" * (1 << 20)})
    documents.change(root, "shop", {"a": "1"})
    with pytest.raises(ConfigError, match="no such key"):
        documents.change(root, "shop", {}, without=["b"])


def test_readers_see_one_version_whole(root: str) -> None:
    documents.change(root, "shop", {"a": "0", "b": "0"})
    stop = threading.Event()
    bad: list[object] = []

    def look() -> None:
        while not stop.is_set():
            try:
                _, found = documents.read(root, "shop")
            except PyrunError as error:
                bad.append(error)
            else:
                bad.extend([found] if found["a"] != found["b"] else [])

    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    for number in range(30):
        documents.change(root, "shop", {"a": str(number), "b": str(number)})
    stop.set()
    for thread in threads:
        thread.join()
    assert bad == []


def test_what_a_killed_writer_left_is_overwritten(root: str) -> None:
    documents.change(root, "shop", {"a": "1"})
    os.mkdir(f"{root}/config/shop/..2")
    Path(root, "config/shop/..2/half").write_text("x")
    os.symlink("..2", f"{root}/config/shop/..new")
    assert documents.read(root, "shop") == (1, {"a": "1"})
    assert documents.change(root, "shop", {"a": "2"}) == 2
    assert sorted(os.listdir(f"{root}/config/shop")) == ["..1", "..2", "..data", "a"]


def test_watch_tells_each_change_and_the_end(root: str) -> None:
    documents.change(root, "shop", {"a": "1"})
    seen = documents.watch(root, "shop")
    assert next(seen) == (1, {"a": "1"})
    documents.change(root, "shop", {"a": "2"})
    assert next(seen) == (2, {"a": "2"})
    documents.remove(root, "shop")
    assert list(seen) == []
