"""The file that `image list` reads: never old, never believed when damaged, never missed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pyrun.images import catalog
from pyrun.images.prune import remove_image
from pyrun.images.store import Image, Store

Stored = Callable[..., Image]

pytestmark = pytest.mark.needs_root


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "_SETTLED", 0)


def names(store: Store) -> list[str]:
    return [row[1] for row in catalog.load(store.root).rows]


def kept(store: Store) -> Path:
    return Path(store.root, "cache", "images")


def test_nothing_is_kept_of_a_store_that_just_changed(store: Store, stored: Stored) -> None:
    assert names(store) == []
    stored()
    assert names(store) == ["example.com/app"]
    assert not kept(store).exists()


@pytest.mark.usefixtures("impatient")
def test_the_file_is_read_until_something_changes(store: Store, stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    one = stored(version="1")
    first = catalog.load(store.root)
    assert kept(store).exists()
    with monkeypatch.context() as patch:
        patch.setattr(catalog, "_build", lambda root: pytest.fail("the records were read"))
        again = catalog.load(store.root)
        assert [tuple(row) for row in again.rows] == first.rows and again.facts == first.facts
    stored(version="2")
    assert len(names(store)) == 2
    remove_image(store, one.id)
    assert len(names(store)) == 1
    row = catalog.load(store.root).rows[0]
    image = store.find("example.com/app")
    assert image.signature is not None
    assert list(row) == [image.id, image.name, "2", image.size, image.imported, image.signature["fingerprint"]]
    record = image.record()
    del record["manifest"]
    assert json.loads(catalog.load(store.root).facts) == {**record, "tags": []}


@pytest.mark.usefixtures("impatient")
def test_a_damaged_file_is_as_good_as_none(store: Store, stored: Stored) -> None:
    stored(version="1")
    stored(version="2")
    rows, facts = catalog.load(store.root).rows, catalog.load(store.root).facts
    whole = kept(store).read_bytes()
    for place in [*range(170), *range(170, len(whole), 61)]:
        kept(store).write_bytes(whole[:place] + bytes((whole[place] ^ 4,)) + whole[place + 1 :])
        found = catalog.load(store.root)
        assert [tuple(row) for row in found.rows] == rows and found.facts == facts, place
        kept(store).write_bytes(whole[:place])
        found = catalog.load(store.root)
        assert [tuple(row) for row in found.rows] == rows and found.facts == facts, place


@pytest.mark.usefixtures("impatient")
def test_damaged_records_are_told_each_time(store: Store, stored: Stored) -> None:
    image = stored()
    Path(store.image_path(image.id)).write_text("{")
    for _ in range(2):
        assert catalog.load(store.root).broken == [image.id]


@pytest.mark.usefixtures("impatient")
def test_a_store_that_cannot_be_written(store: Store, stored: Stored) -> None:
    stored()
    Path(store.root, "cache").write_text("in the way")
    assert names(store) == ["example.com/app"]
