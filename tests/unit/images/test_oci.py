"""OCI layouts: what is accepted, what each wrong document is refused for, and that a refusal leaves nothing (C01..C07, C19, B18, B19)."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import archives
import mkoci
import pytest
from mkoci import Layout, layer

from pyrun.errors import ArchiveError, DigestError, ImageError, ManifestError, PyrunError, SignatureError
from pyrun.images import prune, resolve
from pyrun.images.store import Image, Store
from pyrun.images.trust import Keyring
from pyrun.images.verify import verify_image

pytestmark = pytest.mark.needs_root  # layers keep the owners that the archive says

Leftovers = Callable[[], list[str]]
Load = Callable[..., Image]
Prepare = Callable[[Layout], object]
HELLO = layer(archives.file(b"hello", b"hello"))


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "app")


@pytest.fixture
def load(store: Store, layout: Layout) -> Load:
    """Imports the layout, or what another reference means."""

    def run(reference: str = "", ref: str = "") -> Image:
        text = reference or f"oci:{layout.path}" + (f":{ref}" if ref else "")
        return resolve.find(store, text, unsigned=True)

    return run


def rootfs(store: Store, image: Image, number: int = 0) -> Path:
    return Path(store.layer_dir(image.layers[number]))


def test_what_lands_in_the_store(load: Load, layout: Layout, store: Store, keyring: Keyring) -> None:
    entry = layout.image(layer(archives.file(b"a", b"1")), layer(archives.file(b"b", b"22")), ref="1.2")
    image = load()
    assert image.id == entry["digest"].replace(":", "-")
    assert (image.kind, image.name, image.labels) == ("oci", "app", {"version": "1.2", "os": "linux", "arch": "amd64"})
    assert image.blob == image.id and len(image.blobs) == 3 and len(image.layers) == 2
    assert (rootfs(store, image, 0) / "b").read_bytes() == b"22" and (rootfs(store, image, 1) / "a").read_bytes() == b"1"
    for blob in (image.blob, *image.blobs):
        assert Path(store.blob_path(blob)).read_bytes() == (layout.path / "blobs" / blob.replace("-", "/")).read_bytes()
    assert image.size == 3 + sum(os.stat(store.blob_path(blob)).st_size for blob in (image.blob, *image.blobs))
    assert verify_image(store, image.id, keyring) == [] and image.signature is None
    assert store.find("app:1.2").id == store.find("app").id == store.find(image.id[7:20]).id == image.id


@pytest.mark.parametrize("compression", ["tar", "gzip", "zstd"])
def test_compressions(load: Load, layout: Layout, store: Store, compression: str) -> None:
    layout.image(HELLO, compression=compression)
    assert (rootfs(store, load()) / "hello").read_bytes() == b"hello"


@pytest.mark.parametrize("compression", ["tar", "gzip", "zstd"])
@pytest.mark.parametrize("scheme", ["", "oci-archive:"])
def test_archives(load: Load, layout: Layout, store: Store, tmp_path: Path, compression: str, scheme: str) -> None:
    entry = layout.image(HELLO)
    path = layout.archive(tmp_path / "some.app.tar.gz", compression)
    image = load(f"{scheme}{path}")
    assert (image.id[7:], image.name) == (entry["digest"][7:], "some.app")
    assert os.listdir(f"{store.root}/tmp") == []


def test_plain_directory(load: Load, layout: Layout) -> None:
    entry = layout.image()
    assert load(str(layout.path)).id[7:] == entry["digest"][7:]


def test_unsigned_is_refused_each_time(layout: Layout, store: Store, leftovers: Leftovers, tmp_path: Path) -> None:
    layout.image()
    path = layout.archive(tmp_path / "a.tar")
    for text in (f"oci:{layout.path}", str(layout.path), f"oci-archive:{path}", str(path)):
        with pytest.raises(SignatureError) as caught:
            resolve.find(store, text)
        assert "--insecure-options=image" in caught.value.hint
    assert leftovers() == []
    resolve.find(store, f"oci:{layout.path}", unsigned=True)
    for text in (f"oci:{layout.path}", "app"):
        with pytest.raises(SignatureError):
            resolve.find(store, text)
    with pytest.raises(SignatureError):  # one that is named has to be good all the same
        resolve.find(store, f"oci:{layout.path}", signature="x.asc", unsigned=True)


def test_second_time_nothing_is_read(load: Load, layout: Layout, store: Store) -> None:
    layout.image()
    first = load()
    for blob in (layout.path / "blobs" / "sha256").iterdir():
        blob.unlink()
    assert load().id == first.id
    with pytest.raises(ImageError, match="missing"):
        load(ref="latest")  # another reading of the same file


def test_layers_are_shared(load: Load, layout: Layout, store: Store, keyring: Keyring) -> None:
    layout.image(HELLO, ref="one")
    layout.image(HELLO, layer(archives.file(b"more", b"x")), ref="two")
    one, two = load(ref="one"), load(ref="two")
    assert one.layers[0] == two.layers[1] and len(os.listdir(f"{store.root}/layers")) == 2
    prune.remove_image(store, two.id)
    assert verify_image(store, one.id, keyring) == []
    assert len(os.listdir(f"{store.root}/layers")) == 1 and len(os.listdir(f"{store.root}/blobs/sha256")) == 3
    assert prune.collect_tmp(store) == 0
    prune.remove_image(store, one.id)
    assert [name for kind in ("layers", "blobs/sha256", "images", "refs", "imports") for name in os.listdir(f"{store.root}/{kind}")] == []


def test_a_layer_twice_counts_once(load: Load, layout: Layout) -> None:
    other = layer(archives.file(b"other", b""))
    layout.image(HELLO, other, HELLO)
    assert [layer_id[7:] for layer_id in load().layers] == [mkoci.sha256(HELLO)[7:], mkoci.sha256(other)[7:]]


def test_verify_finds_a_changed_blob(load: Load, layout: Layout, store: Store, keyring: Keyring) -> None:
    layout.image()
    image = load()
    for blob in image.blobs:
        path = Path(store.blob_path(blob))
        data = path.read_bytes()
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        assert any(blob[7:] in problem for problem in verify_image(store, image.id, keyring))
        path.write_bytes(data)


def test_unclosed_and_absolute(load: Load, layout: Layout, store: Store) -> None:
    """As umoci writes them: no zero blocks at the end; names from the root."""
    layout.image(archives.file(b"/etc/x", b"x") + archives.hardlink(b"/etc/y", b"/etc/x"), archives.file(b"z") + bytes(512), layer())
    image = load()
    assert (rootfs(store, image, 2) / "etc" / "y").read_bytes() == b"x"


def test_cut_where_it_shows(load: Load, layout: Layout, store: Store, leftovers: Leftovers) -> None:
    """Without the last block's padding a layer is whole; without some of its data it is not, nor in the middle of a header."""
    whole = archives.file(b"f", b"12345")
    for length in (100, 512 + 4):
        layout.image(whole[:length])
        layout.index({"schemaVersion": 2, "manifests": layout.entries[-1:]})
        with pytest.raises(ArchiveError):
            load()
    assert leftovers() == []
    layout.image(whole[: 512 + 5])
    layout.index({"schemaVersion": 2, "manifests": layout.entries[-1:]})
    assert (rootfs(store, load()) / "f").read_bytes() == b"12345"


def amd64() -> dict[str, Any]:
    return {"platform": {"os": "linux", "architecture": "amd64"}}


@pytest.mark.parametrize("kind", ["oci.image.layer.nondistributable.v1.tar+gzip", "docker.image.rootfs.foreign.diff.tar.gzip"])
def test_layers_that_may_not_be_distributed_are_layers_where_they_are_there(load: Load, layout: Layout, kind: str) -> None:
    """image-spec, manifest.md: implementations must support them; their urls are asked for nothing (C11)."""
    entry = layout.image(layer_type=f"application/vnd.{kind}")
    assert load().id[7:] == entry["digest"][7:]


def test_names(load: Load, layout: Layout) -> None:
    first = layout.image(ref="one")
    layout.image(layer(archives.file(b"two")), ref="localhost:5000/Some/App:two")
    with pytest.raises(ImageError, match=r"it holds several: localhost:5000/Some/App:two, one"):
        load()
    with pytest.raises(ImageError, match="none is called three"):
        load(ref="three")
    assert load(ref="one").id[7:] == first["digest"][7:]
    image = load(ref="localhost:5000/Some/App:two")
    assert (image.name, image.labels["version"]) == ("localhost:5000/some/app", "two")
    assert load("localhost:5000/some/app:two").id == load("localhost:5000/some/app").id == image.id


def change(path: str, value: Any) -> Prepare:
    """Changes index.json at a path such as manifests.0.size."""

    def run(layout: Layout) -> None:
        layout.image()
        document = json.loads((layout.path / "index.json").read_bytes())
        *way, last = path.split(".")
        place = document
        for step in way:
            place = place[int(step)] if isinstance(place, list) else place[step]
        place[last] = value
        layout.index(document)

    return run


def image(**options: Any) -> Prepare:
    return lambda layout: layout.image(**options)


def raw_index(data: bytes) -> Prepare:
    return lambda layout: layout.index(data)


def damage(layout: Layout, number: int, edit: Callable[[Path], object], **options: Any) -> None:
    """Changes the blob of the layer (0), the configuration (1) or the manifest (2)."""
    entry = layout.image(**options)
    manifest = json.loads((layout.path / "blobs" / "sha256" / entry["digest"][7:]).read_bytes())
    digest = [manifest["layers"][0], manifest["config"], entry][number]["digest"]
    edit(layout.path / "blobs" / "sha256" / digest[7:])


def damaged(number: int, edit: Callable[[Path], object], **options: Any) -> Prepare:
    return lambda layout: damage(layout, number, edit, **options)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\n")


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def link_out(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/passwd")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def deep(levels: int) -> Prepare:
    def run(layout: Layout) -> None:
        entry = layout.image()
        for _ in range(levels):
            entry = layout.nested(entry)
        layout.index({"schemaVersion": 2, "manifests": [entry]})

    return run


EMPTY = {"mediaType": "application/vnd.oci.empty.v1+json", "digest": mkoci.sha256(b"{}"), "size": 2}
BAD_DIGESTS = ["sha256:../../x", "sha256:" + "A" * 64, "sha256:abc", "sha1:" + "a" * 40, "sha256-" + "a" * 64, "md5:" + "a" * 32, 7]
HUGE = {"mediaType": mkoci.CONFIG, "digest": "sha256:" + "a" * 64, "size": 9 << 20}
FOREIGN = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
WRONG = {
    "both shapes": (raw_index(b'{"schemaVersion":2,"manifests":[],"layers":[]}'), ManifestError, "index and a manifest at once"),
    "both shapes, other case": (raw_index(b'{"schemaVersion":2,"manifests":[],"Layers":[]}'), ManifestError, "at once"),
    "manifest as index": (change("mediaType", mkoci.MANIFEST), ManifestError, "calls itself"),
    "index as manifest": (image(manifest={"mediaType": mkoci.INDEX}), ManifestError, "calls itself"),
    "manifest of an index": (image(manifest={"manifests": []}), ManifestError, "at once"),
    "old schema": (change("schemaVersion", 1), ManifestError, "schemaVersion"),
    "duplicate key": (raw_index(b'{"schemaVersion":2,"manifests":[],"manifests":[]}'), ManifestError, "occurs twice"),
    "twin key": (raw_index(b'{"schemaVersion":2,"manifests":[],"Manifests":[]}'), ManifestError, "occurs twice"),
    "not JSON": (raw_index(b"{"), ManifestError, "index.json|app"),
    "deep JSON": (raw_index(b'{"a":' + b"[" * 100 + b"]" * 100 + b"}"), ManifestError, "nested deeper"),
    "empty": (raw_index(b'{"schemaVersion":2,"manifests":[]}'), ManifestError, "holds nothing"),
    "size lies": (change("manifests.0.size", 10), ManifestError, "more than 10 bytes"),
    "size too large": (change("manifests.0.size", 100_000), DigestError, "instead of 100000"),
    "size beyond the cap": (change("manifests.0.size", 5 << 20), ManifestError, "are allowed"),
    "negative size": (change("manifests.0.size", -1), ManifestError, "size"),
    "config beyond the cap": (image(manifest={"config": HUGE}), ManifestError, "are allowed"),
    "layer changed": (damaged(0, flip), DigestError, "another digest"),
    "layer longer": (damaged(0, append), DigestError, "size"),
    "layer cut": (damaged(0, cut), DigestError, "size"),
    "layer missing": (damaged(0, Path.unlink), ImageError, "missing"),
    "config changed": (damaged(1, flip), DigestError, "another digest"),
    "config missing": (damaged(1, Path.unlink), ImageError, "missing"),
    "manifest changed": (damaged(2, flip), DigestError, "another digest"),
    "manifest longer": (damaged(2, append), ManifestError, "more than"),
    "manifest is a fifo": (damaged(2, fifo), ImageError, "not a regular file"),
    "layer leads out": (damaged(0, link_out), ImageError, "leads out"),
    "diff_id lies": (image(diff_ids=["sha256:" + "0" * 64]), DigestError, "the configuration says sha256-000000000000"),
    "diff_id of sha512": (image(diff_ids=["sha512:" + "0" * 128]), ManifestError, "not a DiffID"),
    "too few diff_ids": (image(layers=(), diff_ids=["sha256:" + "0" * 64] * 2), ManifestError, "1 layers, its configuration 2"),
    "no layers": (image(manifest={"layers": []}), ManifestError, "no layers"),
    "artifact type": (image(manifest={"artifactType": "application/x"}), ManifestError, 'artifact of type "application/x"'),
    "artifact config": (image(config_type="application/vnd.example+json"), ManifestError, "artifact of type application/vnd.example"),
    "empty config": (image(manifest={"config": EMPTY}), ManifestError, "artifact of type application/vnd.oci.empty"),
    "artifact in the index": (change("manifests.0.artifactType", "application/x"), ManifestError, "holds nothing"),
    "nondistributable and not there": (damaged(0, Path.unlink, layer_type=FOREIGN), ImageError, "missing"),
    "embedded other content": (change("manifests.0.data", "e30="), ManifestError, "not the content that the digest names"),
    "embedded no base64": (change("manifests.0.data", "?"), ManifestError, "not base64"),
    "layer type": (image(layer_type="application/vnd.in-toto+json"), ManifestError, "a layer of type"),
    "gzip said to be zstd": (image(layer_type=mkoci.LAYER + "+zstd"), ArchiveError, "compressed with gzip"),
    "gzip said to be plain": (image(layer_type=mkoci.LAYER), ArchiveError, "compressed with gzip"),
    "platform differs": (image(descriptor=amd64(), architecture="arm64"), ManifestError, "its configuration for linux/arm64"),
    "no architecture": (image(architecture=None), ManifestError, "architecture"),
    "rootfs type": (image(rootfs={"type": "base", "diff_ids": []}), ManifestError, "rootfs.type"),
    "nested five deep": (deep(5), ManifestError, "nested deeper than 4"),
    "other layout version": (
        lambda layout: (layout.image(), (layout.path / "oci-layout").write_text('{"imageLayoutVersion": "2.0"}')),
        ManifestError,
        "the only version",
    ),
    **{f"digest {value}": (change("manifests.0.digest", value), ManifestError, "is not a digest") for value in BAD_DIGESTS},
}


@pytest.mark.parametrize("name", WRONG)
def test_refused(load: Load, layout: Layout, leftovers: Leftovers, name: str) -> None:
    prepare, kind, reason = WRONG[name]
    prepare(layout)
    with pytest.raises(kind, match=reason) as caught:
        load()
    assert caught.value.hint
    assert leftovers() == []


def test_trailing_data_in_a_layer(load: Load, layout: Layout, leftovers: Leftovers) -> None:
    for tail in (b"x", bytes(100) + b"x"):
        shipped = mkoci.gzipped(HELLO) + tail
        blob = layout.blob(shipped, mkoci.LAYER + "+gzip")
        layout.image(HELLO, manifest={"layers": [blob]})
        layout.index({"schemaVersion": 2, "manifests": layout.entries[-1:]})
        with pytest.raises(ArchiveError):
            load()
    assert leftovers() == []


def test_right_inline_data_and_urls_mean_nothing(load: Load, layout: Layout) -> None:
    entry = layout.image()
    content = (layout.path / "blobs" / "sha256" / entry["digest"][7:]).read_bytes()
    entry |= {"data": base64.b64encode(content).decode(), "urls": ["http://127.0.0.1:1/"]}
    layout.index({"schemaVersion": 2, "manifests": [entry]})
    assert load().id[7:] == entry["digest"][7:]


def test_four_deep_and_in_circles(load: Load, layout: Layout) -> None:
    deep(4)(layout)
    load()


@pytest.mark.parametrize("path", ["nowhere", "file"])
def test_no_layout(load: Load, tmp_path: Path, path: str) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(PyrunError) as caught:
        load(f"oci:{tmp_path / path}")
    assert caught.value.hint
