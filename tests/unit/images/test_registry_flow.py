"""Layers that are unpacked while they come: cut, begun anew, different, never complete; only what was verified is kept."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from registries import Authority, ImageParts, Reply, Request, Scripted, digest_of

from pyrun.errors import ArchiveError, DigestError, ImageError
from pyrun.images import worker
from pyrun.images.flow import Flow
from pyrun.images.registry.pull import pull
from pyrun.images.registry.transport import Patience
from pyrun.images.store import Image, Store
from pyrun.images.trust.gate import Gate

Answer = Callable[[Request], Reply]
PARTS = ImageParts({f"file{number}": bytes([number]) * 40_000 for number in range(40)})
OTHER = ImageParts({f"file{number}": bytes([number + 100]) * 40_000 for number in range(40)})
LAYER = digest_of(PARTS.layer)
ETAG = f'"{LAYER}"'
pytestmark = pytest.mark.needs_root


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = Authority(tmp_path_factory.mktemp("ca"))
    made.issue("server")
    return made


class Remote:
    """A registry whose layer is answered by `layer`; `pull` pulls from it, `asked` are the ranges of the layer that were asked for."""

    def __init__(self, authority: Authority, store: Store, folder: Path) -> None:
        self.layer: Answer = PARTS.answer
        self.store = store
        self.server = Scripted((authority.folder / "server.crt", authority.folder / "server.key"), self.answer)
        self.options = {
            "environ": {},
            "system": str(folder),
            "patience": Patience(back_off=0.001, head=5, idle=5),
            "certs_dirs": authority.certs_dirs(self.server.place),
            "sleep": lambda _: None,
        }

    def answer(self, request: Request) -> Reply:
        return self.layer(request) if request.path.endswith(LAYER) else PARTS.answer(request)

    def pull(self) -> Image:
        return pull(self.store, f"docker://{self.server.place}/app:1", Gate(self.store, unsigned=True), **self.options)

    @property
    def asked(self) -> list[str]:
        return [request.headers.get("range", "") for request in self.server.seen if request.path.endswith(LAYER)]


@pytest.fixture
def remote(authority: Authority, store: Store, tmp_path: Path) -> Iterator[Remote]:
    made = Remote(authority, store, tmp_path)
    with made.server:
        yield made


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tasks of unpack workers, by what they read: "pipe" or "file"."""
    found: list[str] = []
    real = worker.run

    def run(task: str, source: int, *arguments: object, **more: object) -> object:
        found.append("pipe" if os.readlink(f"/proc/self/fd/{source}").startswith("pipe:") else "file")
        return real(task, source, *arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(worker, "run", run)
    return found


def intact(store: Store, image: Image) -> bool:
    root = Path(store.layer_dir(image.layers[0]))
    blob = Path(store.blob_path(LAYER.replace(":", "-"))).read_bytes()
    return digest_of(blob) == LAYER and all((root / f"file{n}").read_bytes() == bytes([n]) * 40_000 for n in range(40))


def ranged(request: Request, etag: str = ETAG, layer: bytes = PARTS.layer) -> Reply:
    start = int(request.headers["range"].removeprefix("bytes=").removesuffix("-"))
    if request.headers.get("if-range", etag) != etag:
        return Reply(layer, headers={"ETag": etag})
    return Reply(layer[start:], 206, {"ETag": etag, "Content-Range": f"bytes {start}-{len(layer) - 1}/{len(layer)}"})


def test_unpacked_while_it_comes(remote: Remote, runs: list[str]) -> None:
    """The worker has written files before the registry has sent the whole layer."""
    seen = threading.Event()

    def held(request: Request) -> Reply:
        reply = PARTS.answer(request)
        reply.hold = (1_200_000, lambda: seen.wait(20))
        return reply

    def watch() -> None:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and not list(Path(remote.store.root).glob("tmp/*/layer-*/rootfs/file3")):
            time.sleep(0.005)
        found.append(list(Path(remote.store.root).glob("tmp/*/layer-*/rootfs/file3")) != [])
        seen.set()

    found: list[bool] = []
    remote.layer = held
    watcher = threading.Thread(target=watch)
    watcher.start()
    image = remote.pull()
    watcher.join()
    assert found == [True] and runs == ["pipe"] and intact(remote.store, image)


@pytest.mark.parametrize("cut", [1, 700_000, len(PARTS.layer) - 1])
def test_cut_and_resumed(remote: Remote, runs: list[str], cut: int) -> None:
    remote.layer = lambda request: ranged(request) if "range" in request.headers else Reply(PARTS.layer, headers={"ETag": ETAG}, cut=cut)
    assert intact(remote.store, remote.pull())
    assert remote.asked == ["", f"bytes={cut}-"] and runs == ["pipe"]


def test_begun_anew(remote: Remote, runs: list[str], leftovers: Callable[[], list[str]]) -> None:
    """What came before the cut was something else: it is in the worker already, so the worker's tree is thrown away."""
    turns = [Reply(OTHER.layer, headers={"ETag": '"old"'}, cut=800_000, length=len(PARTS.layer))]
    remote.layer = lambda _: turns.pop() if turns else Reply(PARTS.layer, headers={"ETag": ETAG})
    assert intact(remote.store, remote.pull())
    assert remote.asked == ["", "bytes=800000-"] and runs == ["pipe", "file"]
    assert not [path for path in leftovers() if path.startswith("tmp/")]


def test_other_bytes_are_never_kept(remote: Remote, leftovers: Callable[[], list[str]]) -> None:
    """A good archive, even of the right DiffID's size, that has not the digest; and one that only its end makes wrong."""
    for layer in (OTHER.layer, PARTS.layer[:-1] + b"x"):
        remote.layer = lambda _, layer=layer: Reply(layer)  # type: ignore[misc]
        with pytest.raises(DigestError):
            remote.pull()
        assert leftovers() == []


def test_never_complete(remote: Remote, leftovers: Callable[[], list[str]]) -> None:
    remote.layer = lambda request: Reply(PARTS.layer, cut=0) if "range" in request.headers else Reply(PARTS.layer, cut=500_000)
    with pytest.raises(ImageError):
        remote.pull()
    assert leftovers() == []


def test_what_is_wrong_with_the_archive_is_said_when_all_of_it_is_here(authority: Authority, store: Store, tmp_path: Path) -> None:
    broken = ImageParts({"x": b"y" * 3_000_000})
    broken.layer = b"\xff" * 2_000_000
    text = broken.manifest.decode()
    old = next(digest for digest, data in broken.blobs.items() if len(data) > 1_000_000)
    size = len(broken.blobs[old])
    broken.manifest = text.replace(old, digest_of(broken.layer)).replace(f'"size": {size}', f'"size": {len(broken.layer)}').encode()
    broken.blobs[digest_of(broken.layer)] = broken.layer
    remote = Remote(authority, store, tmp_path)
    remote.answer = broken.answer  # type: ignore[method-assign]
    remote.server.answer = broken.answer
    with remote.server, pytest.raises(ArchiveError):
        remote.pull()


def test_flow_hands_on_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abcdef" * 500_000)
    with Flow(3_000_000) as flow:
        hasher = hashlib.sha256()
        flow.begin()
        flow.advance(str(path), 6)
        assert os.read(flow.fd, 100) == b"abcdef"
        flow.advance(str(path), 2_999_994)
        got = 0
        while piece := os.read(flow.fd, 1 << 16):
            hasher.update(piece)
            got += len(piece)
        assert got == 2_999_994 and flow.whole
    for count, whole in ((0, False), (5, False), (3_000_000, True)):
        with Flow(3_000_000) as flow:
            flow.begin()
            flow.advance(str(path), count)
            flow.end()
            assert flow.whole is whole
    with Flow(10) as flow:
        flow.advance(str(path), 5)
        flow.begin()
        assert not flow.whole
