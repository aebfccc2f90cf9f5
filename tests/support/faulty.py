"""A store to break: three images that share and depend, copied afresh for each blow, and what must hold afterwards."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import archives
import mkoci
from harness import COMMAND
from mkaci import Image

from pyrun.images import tags
from pyrun.images.importer import import_file
from pyrun.images.layered import import_layered
from pyrun.images.prune import collect
from pyrun.images.resolve import parse
from pyrun.images.store import Store
from pyrun.images.trust import Keyring
from pyrun.images.trust.gate import Gate
from pyrun.images.verify import verify_image, verify_store

UNSIGNED = "--insecure-options=image"
# Everything that changes a file system or a lock; openat(2) is left out, since most of them only read.
MUTATING = (
    "write,pwrite64,copy_file_range,ftruncate,fsync,fdatasync,syncfs,rename,renameat,renameat2,link,linkat,symlink,symlinkat,"
    "unlink,unlinkat,rmdir,mkdir,mkdirat,mknod,mknodat,chown,lchown,fchown,fchownat,chmod,fchmod,fchmodat,utimensat,"
    "setxattr,fsetxattr,flock"
)
PASSING = ("locks", "cache", "trust")  # hold nothing that is committed


class Template:
    """The store, and files that are not in it yet; `copy` gives it anew."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "template"
        base = Image("example.com/base", ["/bin/sh"], version="1.0")
        base.add("/etc/hello", b"hello" * 100)
        base.symlink("/etc/link", "hello")
        base.add("/bin/su", b"su" * 3000, mode=0o4755, uid=3)
        app = Image("example.com/app", ["/bin/app"], version="2.0")
        app.manifest["dependencies"] = [{"imageName": "example.com/base"}]
        app.add("/etc/app", b"app")
        new = Image("example.com/new", ["/bin/new"], version="3.0")
        new.add("/usr/share/new", os.urandom(1 << 15))
        self.new = new.write(folder / "new.aci")
        layout, later = mkoci.Layout(folder / "shop"), mkoci.Layout(folder / "later")
        below = mkoci.layer(archives.file(b"etc/a", b"a" * 700), archives.file(b"root/.profile", b"p"))
        above = mkoci.layer(archives.file(b"etc/.wh.a", b""), archives.file(b"etc/c", b"c"))
        layout.image(below, above, ref="1")
        later.image(below, mkoci.layer(archives.file(b"etc/d", b"d")), ref="2")
        self.later = f"oci:{later.path}"
        store = Store(str(self.root))
        for path in (base.write(folder / "base.aci"), app.write(folder / "app.aci")):
            import_file(store, str(path), allow_unsigned=True, keyring=Keyring(store.root))
        import_layered(store, parse(f"oci:{layout.path}"), Gate(store, unsigned=True))
        tags.make(store, store.find_id("shop"), "web:1")

    def copy(self, root: Path) -> Store:
        shutil.rmtree(root, ignore_errors=True)
        subprocess.run(["cp", "-a", self.root, root], check=True)
        return Store(str(root))


def orphan(store: Store) -> None:
    os.unlink(store.image_path(store.find_id("shop")))
    Path(store.root, "tmp", "left-1-00").mkdir()


# verb -> the command line, and what is done to the store before
VERBS: dict[str, tuple[Callable[[Template], tuple[str, ...]], Callable[[Store], object]]] = {
    "fetch": (lambda made: ("fetch", "-q", UNSIGNED, str(made.new)), lambda store: None),
    "fetch-oci": (lambda made: ("fetch", "-q", UNSIGNED, made.later), lambda store: None),
    "rm": (lambda made: ("image", "rm", "shop"), lambda store: None),
    "gc": (lambda made: ("image", "gc"), orphan),
    "gc-all": (lambda made: ("image", "gc", "--all"), lambda store: None),
    "tag": (lambda made: ("image", "tag", "shop", "web:2"), lambda store: None),
    "untag": (lambda made: ("image", "rm", "web:1"), lambda store: None),
}


def pyrun(root: Path, *words: str, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "PYRUN_ROOT": str(root)}
    return subprocess.run([*before, str(COMMAND), *words], env=environment, capture_output=True, text=True, timeout=120, check=False)


def strace(*options: str, follow: bool = False) -> tuple[str, ...]:
    """The beginning of a command line that runs the rest under strace, all of its processes if it is to `follow`."""
    return ("strace", *(("-f", "--seccomp-bpf") if follow else ()), "-qq", *options)


def problems(store: Store) -> list[str]:
    """What is wrong with the images that are there; names that lead to nothing may be left by a crash."""
    keyring = Keyring(store.root)
    return [problem for image_id in store.ids() for problem in verify_image(store, image_id, keyring)]


def settled(store: Store) -> None:
    """Collects garbage, of which nothing may be left for a second time, and nothing be wrong afterwards."""
    collect(store)
    again = collect(store)
    assert (again.count, again.spared) == (0, [])
    assert problems(store) == [] and verify_store(store) == []
    assert os.listdir(f"{store.root}/tmp") == []


def held(root: Path, *, notes: bool = True) -> list[str]:
    """The names of everything that is committed."""
    found = []
    for path in root.rglob("*"):
        place = path.relative_to(root)
        if place.parts[0] not in PASSING and (notes or place.parts[0] != "imports"):
            found.append(str(place))
    return sorted(found)


def sample(count: int, most: int, seed: str) -> list[int]:
    """At most `most` numbers out of 1..count, first and last among them, always the same ones."""
    if count <= most:
        return list(range(1, count + 1))
    chosen = random.Random(seed).sample(range(2, count), max(0, most - 2))
    return sorted({1, count, *chosen})
