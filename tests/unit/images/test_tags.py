"""Names that the owner of the store gives: what they may be, whom they may not replace, and what becomes of them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from pyrun.errors import ImageError, NotFoundError, SignatureError, UsageError
from pyrun.images import tags
from pyrun.images.importer import import_file
from pyrun.images.prune import collect_tmp, remove_image
from pyrun.images.store import Image, Store
from pyrun.images.trust import Keyring
from pyrun.images.verify import verify_store

Build = Callable[..., Path]
Stored = Callable[..., Image]

pytestmark = pytest.mark.needs_root


def test_a_tag_is_a_name(store: Store, stored: Stored) -> None:
    one, two = stored(version="1"), stored(version="2")
    assert tags.make(store, one.id, "app:stable") == ""
    assert store.find("app:stable").id == store.find("app").id == one.id
    assert tags.make(store, two.id, "app:stable") == one.id, "it moves, and says from where"
    assert store.find("app:stable").id == two.id
    tags.make(store, one.id, "app:next")
    assert store.find("app").id == one.id, "the newest tag"
    assert store.find("app:stable").id == two.id
    with pytest.raises(NotFoundError):
        store.find("app:old")
    assert tags.by_image(store) == {one.id: ["app:next"], two.id: ["app:stable"]}


@pytest.mark.parametrize(
    "text",
    [
        *("", "./app", "/app", "App", "app:", "app:a/b", "app:1:2", "a//b", "app.aci", "app:1.aci", "oci:app", "docker:x", "x" * 201),
        *("abcdef", "123456", "sha512-12", "app,version=1", "app app", "\x1b[31m", "-app", "..", "app/", "äpp"),
    ],
)
def test_what_is_no_name(store: Store, stored: Stored, text: str) -> None:
    image = stored()
    with pytest.raises(UsageError) as caught:
        tags.make(store, image.id, text)
    assert caught.value.hint and not os.listdir(f"{store.root}/tags")


def test_own_names_come_first(store: Store, stored: Stored) -> None:
    app, tool = stored(), stored("example.com/tool")
    with pytest.raises(ImageError, match="brought this name") as caught:
        tags.make(store, tool.id, "example.com/app")
    assert app.id[:19] in caught.value.hint
    tags.make(store, app.id, "example.com/app:newest")
    tags.make(store, app.id, "example.com/later")
    later = stored("example.com/later")
    assert store.find("example.com/later").id == later.id, "the image that brings the name hides the tag"


def test_names_below_a_trusted_prefix(store: Store, stored: Stored, build: Build, trusted: Keyring, keyfile: Callable[[str], str]) -> None:
    unsigned = import_file(store, str(build("example.com/free", signer="")), keyring=trusted, allow_unsigned=True)
    with pytest.raises(ImageError, match=r"names below example\.com are for images that its trusted keys signed"):
        tags.make(store, unsigned.id, "example.com/prod")
    tags.make(store, unsigned.id, "prod")
    trusted.add(keyfile("other"), "example.org")
    other = import_file(store, str(build("example.org/app", signer="other")), keyring=trusted)
    with pytest.raises(SignatureError):
        tags.make(store, other.id, "example.com/prod")
    signed = stored()
    tags.make(store, signed.id, "example.com/prod")
    with pytest.raises(SignatureError):
        tags.make(store, signed.id, "example.org/app/prod")


def test_tags_go_with_their_image(store: Store, stored: Stored) -> None:
    one, two = stored(version="1"), stored(version="2")
    tags.make(store, one.id, "first")
    tags.make(store, two.id, "second")
    remove_image(store, one.id)
    assert [tag.text for tag in tags.stored(store)] == ["second"]
    os.unlink(store.image_path(two.id))
    assert [problem for problem in verify_store(store) if "tag second" in problem]
    collect_tmp(store)
    assert os.listdir(f"{store.root}/tags") == [] and verify_store(store) == []


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"name":"app","id":"sha512-00","created":1}', b'{"name":1,"id":2,"created":3}'])
def test_damaged_tags(store: Store, stored: Stored, data: bytes) -> None:
    image = stored()
    tags.make(store, image.id, "app")
    path = Path(store.root, "tags", "app")
    path.write_bytes(data)
    with pytest.raises(NotFoundError):
        store.find("app")
    assert verify_store(store) == [f"tag {path}: damaged; `pyrun image gc` removes it"]
    tags.make(store, image.id, "app")
    assert store.find("app").id == image.id and verify_store(store) == []
    path.write_bytes(data)
    assert collect_tmp(store) == 1


def test_many_tag_at_once(store: Store, stored: Stored) -> None:
    images = [stored(version=str(number)) for number in range(3)]
    problems: list[Exception] = []

    def work(number: int) -> None:
        try:
            tags.make(store, images[number % 3].id, f"app:{number % 4}")
        except Exception as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == [] and [tag.text for tag in tags.stored(store)] == ["app:0", "app:1", "app:2", "app:3"]
    assert os.listdir(f"{store.root}/tmp") == []
