"""The corpus in Docker archives and through `cp`, documents as skopeo reads them, archives that are exchanged meanwhile."""

from __future__ import annotations

import json
import os
import random
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from archives import COMPRESS, END, file
from canary import Canary
from corpus import CORPUS, OUTSIDE
from mkoci import CONFIG, LAYER, MANIFEST, Layout, docker_archive, encode, layer
from scale import scaled

from pyrun.errors import ImageError, PyrunError
from pyrun.images import oci_layer, resolve
from pyrun.images.limits import MIB, Limits
from pyrun.images.remove import remove_tree
from pyrun.images.store import Store
from pyrun.images.unpack import Policy
from pyrun.pod.files import _Copy

pytestmark = pytest.mark.needs_root  # layers keep the owners that the archive says

LIMITS = Limits(total=1 << 30, ratio_floor=64 * MIB)


@pytest.fixture
def canary() -> Iterator[Canary]:
    """The directory that hostile members aim at."""
    yield Canary(OUTSIDE)
    parent = os.open(OUTSIDE.parent, os.O_RDONLY | os.O_DIRECTORY)
    remove_tree(parent, os.fsencode(OUTSIDE.name))
    os.close(parent)


def leftovers(store: Store) -> list[str]:
    paths = [path.relative_to(store.root) for path in Path(store.root).rglob("*") if not path.is_dir() or path.is_symlink()]
    return sorted(str(path) for path in paths if path.parts[0] != "locks")


@pytest.mark.stress
@pytest.mark.timeout(0)
@pytest.mark.parametrize("old", [True, False], ids=["old", "new"])
def test_sec_01_the_corpus_in_docker_archives(tmp_path: Path, canary: Canary, monkeypatch: pytest.MonkeyPatch, old: bool) -> None:
    """As a layer in an archive whose documents are right: refused and nothing kept, or imported; nothing outside in either case."""
    monkeypatch.chdir(OUTSIDE)
    names = random.Random(int(old)).sample(sorted(CORPUS), min(len(CORPUS), scaled(4)))
    for name in names:
        store = Store(str(tmp_path / f"store-{name}"))
        archive = docker_archive(
            tmp_path / "image.tar", {"layers": [layer(file(b"null", b"base")), CORPUS[name]], "tags": ["x:1"]}, old=old
        )
        try:
            resolve.find(store, f"docker-archive:{archive}", unsigned=True)
        except ImageError as error:
            assert str(error).isprintable() and error.hint and "defect" not in error.hint, name
            assert leftovers(store) == [], name
        canary.assert_untouched()


@pytest.mark.stress
@pytest.mark.timeout(0)
def test_sec_01_what_a_layer_plants_is_copied_out_by_cp(tmp_path: Path, canary: Canary, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trees that a layer may legally make, links to the host among them, copied as `cp POD:/ DIR` does it."""
    monkeypatch.chdir(OUTSIDE)
    names = random.Random(7).sample(sorted(CORPUS), min(len(CORPUS), scaled(60)))
    copied = 0
    for name in names:
        (tmp_path / "image").write_bytes(CORPUS[name])
        for folder in ("staging", "out"):
            (tmp_path / folder).mkdir(mode=0o700)
        staging, out = (os.open(tmp_path / folder, os.O_RDONLY | os.O_DIRECTORY) for folder in ("staging", "out"))
        try:
            with (tmp_path / "image").open("rb") as source:
                oci_layer.read_layer(source.fileno(), staging, LIMITS, Policy(conflicts="replace"), ("tar", "gzip", "zstd"))
            rootfs = os.open("rootfs", os.O_RDONLY | os.O_DIRECTORY, dir_fd=staging)
            try:
                _Copy(0, 0).start(rootfs, out, b"copy", "copy")
                copied += 1
            finally:
                os.close(rootfs)
        except PyrunError as error:
            assert str(error).isprintable() and error.hint, name
        finally:
            os.close(staging)
            os.close(out)
        canary.assert_untouched()
        parent = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
        for folder in ("staging", "out"):
            remove_tree(parent, os.fsencode(folder))
        os.close(parent)
    assert copied, "some of it is legal"


# Documents, as skopeo (containers/image) reads them


def twisted(document: dict[str, Any], member: str, other: Any, choose: random.Random) -> bytes:
    """A document in which one member is there twice, in other letters, nested too deep, or of another type."""
    text = json.dumps(document)
    spelled = choose.choice([member, member.upper(), member.title(), f"\\u{ord(member[0]):04x}{member[1:]}", f"{member}\\u0000"])
    more = f'"{spelled}": {json.dumps(other)}'
    kind = choose.randrange(6)
    if kind == 0:
        text = f"{{{more}, {text[1:]}"
    elif kind == 1:
        text = f"{text[:-1]}, {more}}}"
    elif kind == 2:
        text = json.dumps({**document, member: choose.choice([None, [], {}, "", 0, True, -1, 1e3, "x" * 300])})
    elif kind == 3:
        text = f'{text[:-1]}, "annotations": {"[" * choose.choice([3, 70, 12000])}'
    elif kind == 4:
        text = text.replace('"size": ', f'"size": {choose.choice(["0", "1e1", "-", "99999999999999999999", "1.0 "])}', 1)
    else:
        text = choose.choice(["\ufeff", " ", "[", ""]) + text + choose.choice(["x", "{}", "\n", "\0", ""])
    return text.encode()


def skopeo(*words: str | Path) -> subprocess.CompletedProcess[bytes]:
    env = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent"}
    return subprocess.run(["skopeo", "--insecure-policy", *words], capture_output=True, stdin=subprocess.DEVNULL, env=env, timeout=60)


@pytest.mark.stress
@pytest.mark.timeout(0)
@pytest.mark.parametrize("which", ["manifest", "config"])
def test_sec_35_what_is_accepted_is_read_as_skopeo_reads_it(tmp_path: Path, which: str) -> None:
    """Where we accept a document, skopeo does, and sees the same layers and the same command."""
    choose = random.Random(35)
    accepted = refused = 0
    for number in range(scaled(16)):
        layout = Layout(tmp_path / f"{which}-{number}")
        layers = [layer(file(name, name)) for name in (b"one", b"two")]
        blobs = [layout.blob(one, LAYER) for one in layers]
        diff_ids = [blob["digest"] for blob in blobs]
        config: Any = json.loads(layout.config(diff_ids, {"Cmd": ["/first"], "Env": ["A=1"]}))
        if which == "config":
            member, other = choose.choice(
                [("config", {"Cmd": ["/second"]}), ("rootfs", {"type": "layers", "diff_ids": diff_ids[:1]}), ("os", "x")]
            )
            config = twisted(config, member, other, choose)
        described = layout.blob(encode(config), CONFIG)
        manifest: Any = {"schemaVersion": 2, "mediaType": MANIFEST, "config": described, "layers": blobs}
        if which == "manifest":
            member, other = choose.choice([("layers", blobs[:1]), ("config", blobs[0]), ("mediaType", "x"), ("schemaVersion", 1)])
            manifest = twisted(manifest, member, other, choose)
        layout.entries.append(layout.blob(encode(manifest), MANIFEST))
        layout.index()
        started = time.process_time()
        try:
            image = resolve.find(Store(str(tmp_path / f"store-{number}")), f"oci:{layout.path}", unsigned=True)
        except ImageError as error:
            assert str(error).isprintable() and error.hint
            refused += 1
            continue
        finally:
            assert time.process_time() - started < 1
        accepted += 1
        target = tmp_path / f"dir-{number}"
        done = skopeo("copy", "--quiet", f"oci:{layout.path}", f"dir:{target}")
        assert done.returncode == 0, (manifest, config, done.stderr)
        theirs = {name for name in os.listdir(target) if len(name) == 64}
        assert theirs == {blob.partition("-")[2] for blob in image.blobs}, manifest
        inspected = skopeo("inspect", "--config", f"oci:{layout.path}")
        assert inspected.returncode == 0, (config, inspected.stderr)
        seen = json.loads(inspected.stdout)
        app = image.manifest["app"]
        assert isinstance(app, dict)
        assert ((seen.get("config") or {}).get("Cmd") or []) == app["exec"], config
        assert [one.replace(":", "-") for one in seen["rootfs"]["diff_ids"]] == image.manifest["diffIDs"], config
    assert accepted and refused


@pytest.mark.stress
@pytest.mark.timeout(0)
def test_sec_40_archives_that_are_exchanged_meanwhile(tmp_path: Path) -> None:
    """By renaming and in place, all the time: what comes in is one of the two as a whole, never a mixture."""
    ways: dict[str, Callable[[Path, bytes], object]] = {
        "rename": lambda path, data: (path.with_suffix(".new").write_bytes(data), path.with_suffix(".new").replace(path)),
        "in place": lambda path, data: path.write_bytes(data),
    }
    contents = [docker_archive(tmp_path / f"{name}.tar", {"layers": [file(b"f", name.encode() * 5000) + END], "tags": [f"{name}:1"]})
                for name in ("good", "evil")]  # fmt: skip
    shipped = [one.read_bytes() for one in contents] + [COMPRESS["gzip"](contents[0].read_bytes())[:-9]]
    path = tmp_path / "image.tar"
    for way, put in ways.items():
        put(path, shipped[0])
        over = threading.Event()

        def swap(put: Callable[[Path, bytes], object] = put, over: threading.Event = over) -> None:
            turn = 0
            while not over.is_set():
                turn += 1
                put(path, shipped[turn % 3])

        swapper = threading.Thread(target=swap)
        swapper.start()
        try:
            for number in range(scaled(5)):
                store = Store(str(tmp_path / f"store-{way}-{number}"))
                try:
                    image = resolve.find(store, f"docker-archive:{path}", unsigned=True)
                except PyrunError as error:
                    assert error.hint
                    assert not os.path.isdir(f"{store.root}/images") or os.listdir(f"{store.root}/images") == []
                    continue
                name = image.name.rpartition("/")[2]
                assert Path(store.layer_dir(image.layers[0]), "f").read_bytes() == name.encode() * 5000
        finally:
            over.set()
            swapper.join()
