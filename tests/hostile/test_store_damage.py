"""A damaged store: every flipped bit is found, and what is broken at random is cleared up without harm (SEC-41, 57)."""

from __future__ import annotations

import os
import random
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from canary import Canary
from faulty import Template, held
from harness import Signer
from scale import scaled

from pyrun.errors import PyrunError
from pyrun.images.importer import import_file
from pyrun.images.prune import collect, remove_image
from pyrun.images.store import Store
from pyrun.images.trust import Keyring
from pyrun.images.verify import verify_image, verify_store

pytestmark = [pytest.mark.needs_root, pytest.mark.stress]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Template:
    """With a signed image too."""
    made = Template(tmp_path_factory.mktemp("damage"))
    home = tmp_path_factory.mktemp("gpg")
    home.chmod(0o700)
    signer = Signer(home, "pyrun tests <tests@example.com>")
    try:
        signer.sign(made.new)
        keyring = Keyring(str(made.root))
        keyring.add(str(signer.public), "example.com")
        import_file(Store(str(made.root)), str(made.new), keyring=keyring)
    finally:
        signer.close()
    return made


def found(store: Store) -> list[str]:
    """Everything that `image verify --all` finds."""
    keyring = Keyring(store.root)
    return [problem for image_id in store.ids() for problem in verify_image(store, image_id, keyring)] + verify_store(store)


def flip(path: Path, chance: random.Random) -> Callable[[], None]:
    """Flips one bit of a file where it lies; returns what flips it back."""
    info = path.stat()
    place, bit = chance.randrange(info.st_size), 1 << chance.randrange(8)

    def turn() -> None:
        with path.open("r+b", buffering=0) as file:
            file.seek(place)
            byte = file.read(1)[0]
            file.seek(place)
            file.write(bytes((byte ^ bit,)))
        os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))

    turn()
    return turn


def test_sec_41_every_flipped_bit_is_found(template: Template, tmp_path: Path) -> None:
    store = template.copy(tmp_path / "root")
    assert found(store) == []
    chance = random.Random(41)
    kinds = ("blobs", "layers", "images", "refs", "tags", "imports")
    files = {
        kind: [path for path in sorted(Path(store.root, kind).rglob("*")) if stat.S_ISREG(path.lstat().st_mode) and path.stat().st_size]
        for kind in kinds
    }
    assert any(path.name.endswith(".asc") for path in files["blobs"]) and all(files.values())
    for number in range(scaled(90)):
        path = chance.choice(files[kinds[number % len(kinds)]])
        back = flip(path, chance)
        assert found(store), f"a flipped bit of {path} was not found"
        back()
    assert found(store) == []


def test_sec_41_every_change_of_a_tree_is_found(template: Template, tmp_path: Path) -> None:
    store = template.copy(tmp_path / "root")
    layer = Path(store.layer_dir(store.find_id("example.com/base")))
    hello, link = layer / "etc" / "hello", layer / "etc" / "link"

    def relink(target: str) -> None:
        link.unlink()
        link.symlink_to(target)

    changes: list[tuple[Callable[[], object], Callable[[], object]]] = [
        (lambda: hello.chmod(0o600), lambda: hello.chmod(0o644)),
        (lambda: (layer / "bin" / "su").chmod(0o755), lambda: (layer / "bin" / "su").chmod(0o4755)),
        (lambda: os.chown(hello, 1, 0), lambda: os.chown(hello, 0, 0)),
        (lambda: os.lchown(link, 0, 1), lambda: os.lchown(link, 0, 0)),
        (lambda: os.chown(layer, 1, 0), lambda: os.chown(layer, 0, 0)),
        (lambda: os.setxattr(hello, "user.new", b"x"), lambda: os.removexattr(hello, "user.new")),
        (
            lambda: os.setxattr(layer / "etc", "trusted.overlay.opaque", b"y"),
            lambda: os.removexattr(layer / "etc", "trusted.overlay.opaque"),
        ),
        (lambda: hello.rename(layer / "etc" / "hellp"), lambda: (layer / "etc" / "hellp").rename(hello)),
        (lambda: relink("hellp"), lambda: relink("hello")),
        ((layer / "more").touch, (layer / "more").unlink),
        (lambda: os.link(hello, layer / "more"), (layer / "more").unlink),
        ((layer.parent / "strange").touch, (layer.parent / "strange").unlink),
    ]
    for number, (change, back) in enumerate(changes):
        change()
        assert found(store), number
        back()
        assert found(store) == [], number


class Breaker:
    """Breaks a store at random, in everything but the state of pods and keys."""

    def __init__(self, root: Path, chance: random.Random, canary: Canary) -> None:
        self.root, self.chance, self.canary = root, chance, canary
        self.ways = [
            self.remove,
            self.cut,
            self.garble,
            self.into_directory,
            self.into_link,
            self.stray_file,
            self.stray_directory,
            self.fifo,
        ]

    def anything(self) -> Path:
        places = [path for path in self.root.rglob("*") if path.relative_to(self.root).parts[0] not in ("locks", "trust")]
        deep = [path for path in places if len(path.relative_to(self.root).parts) >= 2]
        return self.chance.choice(deep)

    def blow(self) -> str:
        way, path = self.chance.choice(self.ways), self.anything()
        try:
            way(path)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError, FileExistsError):
            return "nothing"
        return f"{way.__name__} {path.relative_to(self.root)}"

    def remove(self, path: Path) -> None:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()

    def cut(self, path: Path) -> None:
        os.truncate(path, self.chance.randrange(3))

    def garble(self, path: Path) -> None:
        with path.open("r+b") as file:
            file.write(self.chance.randbytes(20))

    def into_directory(self, path: Path) -> None:
        self.remove(path)
        (path / "below").mkdir(parents=True)

    def into_link(self, path: Path) -> None:
        self.remove(path)
        path.symlink_to(self.canary.path)

    def stray_file(self, path: Path) -> None:
        (path.parent / f"stray-{self.chance.randrange(100)}").write_bytes(b"{}")

    def stray_directory(self, path: Path) -> None:
        (path.parent / f"sha256-{'0' * 64}" / "rootfs").mkdir(parents=True)

    def fifo(self, path: Path) -> None:
        os.mkfifo(path.parent / f"fifo-{self.chance.randrange(100)}")


def whole(store: Store) -> dict[str, list[str]]:
    """The images without a fault, and the names of everything in their layers."""
    keyring = Keyring(store.root)
    good = [image_id for image_id in store.ids() if not verify_image(store, image_id, keyring)]
    return {image_id: [name for layer in store.load(image_id).layers for name in held(Path(store.layer_dir(layer)))] for image_id in good}


def test_sec_57_gc_converges_on_broken_stores(template: Template, tmp_path: Path) -> None:
    canary = Canary(tmp_path / "canary")
    for seed in range(scaled(12)):
        chance = random.Random(seed)
        store = template.copy(tmp_path / "root")
        breaker = Breaker(Path(store.root), chance, canary)
        done = [breaker.blow() for _ in range(chance.randrange(1, 5))]
        before = whole(store)
        try:
            collect(store)
            again = collect(store)
            assert again.count == 0, "one pass is enough"
            assert whole(store) == before, "what was whole is whole"
            for image_id in store.ids():
                if image_id not in before and not any(image_id in store.load(other).needs for other in before):
                    try_remove(store, image_id)
            collect(store)
            assert not again.spared or collect(store).count == 0
            assert whole(store) == before
        except (AssertionError, OSError, PyrunError) as error:
            raise AssertionError(f"seed {seed}: {done}: {error!r}") from error
        canary.assert_untouched()


def try_remove(store: Store, image_id: str) -> None:
    """Removes a broken image, unless one that is left depends on it."""
    try:
        remove_image(store, image_id)
    except PyrunError as error:
        assert "depends on it" in str(error), error
