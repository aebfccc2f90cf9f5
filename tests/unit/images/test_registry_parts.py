"""Different images that share layers, fetched at once: each blob comes once, and a failure of one fetch is none of the others."""

from __future__ import annotations

import collections
import json
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from net import Net
from registries import CONFIG, LAYER, MANIFEST, Authority, ImageParts, Reply, Request, Scripted, descriptor, digest_of
from scale import scaled

from pyrun.errors import ImageError
from pyrun.images.registry.parts import Parts
from pyrun.images.staging import sweep
from pyrun.images.store import Store
from pyrun.images.verify import verify_image

pytestmark = pytest.mark.needs_root  # layers keep the owners that the archive says


@pytest.fixture
def net(tmp_path: Path, store: Store) -> Iterator[Net]:
    (tmp_path / "ca").mkdir()
    with ExitStack() as stack:
        yield Net(Authority(tmp_path / "ca"), store, tmp_path, stack)


class Sharing:
    """A registry with images, by tag, of two layers that all have and one of their own."""

    def __init__(self, count: int) -> None:
        self.common = [ImageParts({f"common{number}": bytes(200_000) + bytes([number])}) for number in (1, 2)]
        self.hold: dict[str, threading.Event] = {}
        self.fail: set[str] = set()
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, bytes] = {}
        for number in range(count):
            own = ImageParts({f"own{number}": b"own"})
            layers = [one.layer for one in (*self.common, own)]
            config = json.loads(own.config)
            config["rootfs"]["diff_ids"] = list(map(digest_of, layers))
            encoded = json.dumps(config).encode()
            document = {"schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor(CONFIG, encoded)}
            self.manifests[str(number)] = json.dumps({**document, "layers": [descriptor(LAYER, one) for one in layers]}).encode()
            self.blobs |= {digest_of(data): data for data in (encoded, *layers)}

    def answer(self, request: Request) -> Reply:
        kind, _, name = request.path.removeprefix("/v2/app/").partition("/")
        if kind == "manifests":
            found = self.manifests.get(name) or next((one for one in self.manifests.values() if digest_of(one) == name), None)
            return Reply(found, headers={"Content-Type": MANIFEST}) if found else Reply(b"", 404)
        if name in self.hold:
            self.hold[name].wait(60)
        return Reply(b"x" * len(self.blobs[name])) if name in self.fail else Reply(self.blobs[name])

    def asked(self, server: Scripted) -> collections.Counter[str]:
        return collections.Counter(request.path.rpartition("/")[2] for request in list(server.seen) if "/blobs/" in request.path)


@pytest.mark.stress
def test_each_blob_comes_once(net: Net, store: Store) -> None:
    count = scaled(6)
    sharing = Sharing(count)
    server = net.serve(sharing.answer)
    net.known(server)
    layer = digest_of(sharing.common[0].layer)
    sharing.hold[layer] = threading.Event()
    with ThreadPoolExecutor(count) as pool:
        pulls = [pool.submit(net.pull, f"{server.place}/app:{number}") for number in range(count)]
        while sum("/manifests/" in request.path for request in list(server.seen)) < count:  # all have begun
            assert not any(one.done() for one in pulls)
        sharing.hold[layer].set()
        images = [one.result(60) for one in pulls]
    assert len({image.id for image in images}) == count
    assert set(sharing.asked(server).values()) == {1} and len(sharing.asked(server)) == len(sharing.blobs)
    assert all(verify_image(store, image.id, None) == [] for image in images)  # type: ignore[arg-type]
    assert os.listdir(f"{store.root}/tmp") == []


def test_what_one_brought_survives_its_failure(net: Net, store: Store) -> None:
    """The layer of its own is wrong: it is refused, while the other has the common ones from it, or brings them itself."""
    sharing = Sharing(2)
    sharing.fail.add(digest_of(ImageParts({"own0": b"own"}).layer))
    server = net.serve(sharing.answer)
    net.known(server)
    with ThreadPoolExecutor(2) as pool:
        bad, good = (pool.submit(net.pull, f"{server.place}/app:{number}") for number in range(2))
        with pytest.raises(ImageError):
            bad.result(60)
        image = good.result(60)
    assert verify_image(store, image.id, None) == []  # type: ignore[arg-type]
    assert len(os.listdir(f"{store.root}/images")) == 1 and os.listdir(f"{store.root}/tmp") == []


def test_a_wait_ends_with_the_fetch(store: Store) -> None:
    """Somebody else brings it and takes for ever; the fetch that waits is given up for another reason."""
    store.ensure()
    digest = "sha256-" + "0" * 64
    one, other = Parts(store), Parts(store)
    with one.turn(digest), ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(lambda: other.turn(digest).__enter__())
        other.stop()
        with pytest.raises(ImageError, match="stopped"):
            waiting.result(60)


def test_what_a_killed_one_left(store: Store, tmp_path: Path) -> None:
    """It may be taken, since it is whole; and it is swept once nobody holds it."""
    store.ensure()
    digest = "sha256-" + "1" * 64
    (tmp_path / "blob").write_bytes(b"blob")
    owner, taker = Parts(store), Parts(store)
    owner.offer(digest, str(tmp_path / "blob"))
    assert sweep(store.root) == 0
    assert not taker.take(digest, 5, str(tmp_path / "wrong")) and taker.take(digest, 4, str(tmp_path / "taken"))
    for _, fd in owner._offered:
        os.close(fd)  # as the kernel does
    owner._offered.clear()
    assert sweep(store.root) == 1 and os.listdir(f"{store.root}/tmp") == []
    assert (tmp_path / "taken").read_bytes() == b"blob"
