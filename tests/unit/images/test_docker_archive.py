"""Docker archives, old and new: names, layers in every form, and what is wrong with some (C04, C20, B19)."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import archives
import mkoci
import pytest
from mkoci import docker_archive, layer

from pyrun.errors import ArchiveError, DigestError, ImageError, ManifestError, PyrunError
from pyrun.images import resolve
from pyrun.images.store import Image, Store
from pyrun.images.verify import verify_image

pytestmark = pytest.mark.needs_root  # layers keep the owners that the archive says

HELLO, MORE = layer(archives.file(b"hello", b"hello")), layer(archives.file(b"more", b"1"))
Load = Callable[..., Image]


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "saved.tar"


@pytest.fixture
def load(store: Store, target: Path) -> Load:
    return lambda ref="", scheme="docker-archive:": resolve.find(store, f"{scheme}{target}" + (f":{ref}" if ref else ""), unsigned=True)


def one(**changes: Any) -> dict[str, Any]:
    return {"layers": [HELLO, MORE], "tags": ["example.com/app:1.0"], **changes}


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("scheme", ["docker-archive:", ""])
def test_one_image(load: Load, target: Path, store: Store, old: bool, scheme: str) -> None:
    docker_archive(target, one(config={"Cmd": ["x"], "Env": ["A=1"]}), old=old)
    image = load(scheme=scheme)
    assert (image.kind, image.name, image.labels["version"]) == ("oci", "example.com/app", "1.0")
    assert [Path(store.layer_dir(one), name).exists() for one, name in zip(image.layers, ("more", "hello"), strict=True)] == [True, True]
    assert verify_image(store, image.id, None) == []  # type: ignore[arg-type]
    assert image.manifest["app"]["exec"] == ["x"]  # type: ignore[index]


def test_same_image_same_id(load: Load, target: Path) -> None:
    docker_archive(target, one(), old=True)
    first = load().id
    docker_archive(target, one(tags=["other:2"]), old=False)
    assert load().id == first


def test_layers_are_shared_with_layouts(load: Load, target: Path, store: Store, tmp_path: Path) -> None:
    layout = mkoci.Layout(tmp_path / "layout")
    layout.image(HELLO, MORE)
    there = resolve.find(store, f"oci:{layout.path}", unsigned=True)
    docker_archive(target, one())
    here = load()
    assert here.layers == there.layers and here.id != there.id


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_compressed_layers(load: Load, target: Path, compression: str) -> None:
    docker_archive(target, one(shipped=[archives.COMPRESS[compression](HELLO), MORE]))
    assert len(load().layers) == 2


def test_links_between_layers(load: Load, tmp_path: Path, target: Path) -> None:
    """skopeo and old Docker point from one layer to another."""
    docker_archive(tmp_path / "plain.tar", one(layers=[HELLO]))
    out = io.BytesIO()
    with tarfile.open(tmp_path / "plain.tar") as source, tarfile.open(fileobj=out, mode="w") as tar:
        for member in source.getmembers():
            data = source.extractfile(member)
            if member.name.endswith("layer.tar"):
                link = tarfile.TarInfo(member.name)
                link.type, link.linkname = tarfile.SYMTYPE, "../real.tar"
                tar.addfile(link)
                member.name = "real.tar"
            tar.addfile(member, data)
    target.write_bytes(out.getvalue())
    assert len(load().layers) == 1


def test_several(load: Load, target: Path) -> None:
    docker_archive(target, one(), one(layers=[HELLO], tags=["docker.io/library/busybox:latest", "box:2"]))
    with pytest.raises(ImageError, match=r"it holds several: example.com/app:1.0, docker.io/library/busybox:latest, box:2"):
        load()
    with pytest.raises(ImageError, match="none is called nothing"):
        load("nothing")
    assert load("busybox").id == load("box:2").id != load("example.com/app:1.0").id
    assert (load("busybox").name, load("example.com/app:1.0").name) == ("docker.io/library/busybox", "example.com/app")


def test_without_tags_it_is_called_as_the_file(load: Load, target: Path) -> None:
    docker_archive(target, one(tags=None))
    image = load()
    assert (image.name, "version" in image.labels) == ("saved", False)


def test_a_name_taken_over_is_the_newest(load: Load, target: Path, store: Store) -> None:
    docker_archive(target, one())
    first = load()
    docker_archive(target, one(layers=[MORE]))
    second = load()
    assert store.find("example.com/app:1.0").id == second.id and store.load(first.id).name == "example.com/app"


WRONG: dict[str, tuple[dict[str, Any], dict[str, Any], type[PyrunError], str]] = {
    "config changed": (one(config_bytes=b"{}"), {}, DigestError, "another digest than its name"),
    "layer swapped": (one(shipped=[MORE, MORE]), {}, DigestError, "the configuration says"),
    "layer damaged": (one(shipped=[mkoci.gzipped(HELLO)[:-2], MORE]), {}, ArchiveError, "ends in the middle"),
    "layer no tar": (one(shipped=[b"text", MORE]), {}, ImageError, "no tar archive"),
    "not a list": (one(), {"manifest": {}}, ManifestError, "not a list"),
    "no images": (one(), {"manifest": []}, ImageError, "it holds none"),
    "path leads out": (one(), {"manifest": [{"Config": "../../etc/passwd", "Layers": ["x"]}]}, ImageError, "leads out"),
    "path is absolute": (one(), {"manifest": [{"Config": "/etc/passwd", "Layers": ["x"]}]}, ImageError, "leads out"),
    "path is missing": (one(), {"manifest": [{"Config": "x.json", "Layers": ["x"]}]}, ImageError, "missing"),
    "twins": (one(), {"manifest": b'[{"Config":"a","config":"b","Layers":[]}]'}, ManifestError, "occurs twice"),
    "duplicates": (one(), {"manifest": b'[{"Config":"a","Config":"b","Layers":[]}]'}, ManifestError, "occurs twice"),
}


@pytest.mark.parametrize("name", WRONG)
def test_refused(load: Load, target: Path, leftovers: Callable[[], list[str]], name: str) -> None:
    image, options, kind, reason = WRONG[name]
    docker_archive(target, image, **options)
    with pytest.raises(kind, match=reason) as caught:
        load()
    assert caught.value.hint and leftovers() == []


@pytest.mark.parametrize(
    "member",
    [
        archives.node(b"dev", b"3", 1, 3),
        archives.node(b"fifo", b"6"),
        archives.file(b"../out"),
        archives.file(b"/out"),
        archives.symlink(b"d", b"/tmp") + archives.file(b"d/out"),
    ],
)
def test_hostile_archives(load: Load, target: Path, leftovers: Callable[[], list[str]], member: bytes) -> None:
    docker_archive(target, one())
    target.write_bytes(member + target.read_bytes())
    with pytest.raises(ArchiveError):
        load()
    assert leftovers() == []


def test_links_out_of_the_archive_lead_nowhere(load: Load, target: Path) -> None:
    document = b'[{"Config":"config.json","RepoTags":null,"Layers":["x"]}]'
    target.write_bytes(archives.symlink(b"config.json", b"/etc/passwd") + archives.file(b"manifest.json", document) + archives.END)
    with pytest.raises(ImageError, match="leads out"):
        load()
