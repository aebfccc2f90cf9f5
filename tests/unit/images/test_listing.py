"""The listing that the native writer leaves of what it has unpacked, and what is believed of it."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable
from pathlib import Path

import archives
import pytest
from archives import directory, file, hardlink, node, pax, symlink
from mkoci import Layout, layer

from pyrun.errors import ArchiveError
from pyrun.images import codec, commit, resolve, tree, unpack
from pyrun.images.limits import Limits
from pyrun.images.staging import Staging
from pyrun.images.store import Store
from pyrun.images.tar import Members
from pyrun.images.unpack import Policy, Unpacker

pytestmark = pytest.mark.needs_root

Listing = Callable[..., bytes]


@pytest.fixture
def listing(tmp_path: Path) -> Listing:
    """Unpacks members into `root` and returns the listing."""
    (tmp_path / "root").mkdir()

    def run(*members: bytes, depth: int = 256) -> bytes:
        limits = Limits(depth=depth)
        top, root = os.open(tmp_path, os.O_RDONLY), os.open(tmp_path / "root", os.O_RDONLY)
        try:
            with Unpacker(root, limits, Policy(conflicts="replace"), listed=True) as unpacker:
                reader = codec.reader(io.BytesIO(b"".join(members) + archives.END), limits=limits)
                assert not [*unpacker.others(Members(reader, limits))]
                unpacker.finish()
                unpacker.list(top)
        finally:
            os.close(top)
            os.close(root)
        return (tmp_path / "tree").read_bytes()

    return run


def test_every_kind_of_file(listing: Listing, tmp_path: Path) -> None:
    noted = pax(*((b"SCHILY.xattr.user." + name, b"v\0\xff") for name in (b"z", b"a,b", "é".encode(), b"\xff")))
    found = listing(
        directory(b"d", mode=0o2750, uid=1, gid=2), noted + directory(b"noted"), noted + file(b"d/noted", b"x"),
        file(b"d!/f", b"1"), file(b"d/f", b"2" * 300_000, mode=0o4755), file(b"-"), file(b"a b\n%\xff", b"3"), symlink(b"s", b"-"),
        symlink(b"s2", b"to a place"), hardlink(b"d/second", b"d/f"), hardlink(b"0first", b"d/f"), hardlink(b"s3", b"s"),
        node(b"c", b"3", 1, 3), node(b"b", b"4", 8, 70_000), node(b"p", b"6"),
        pax((b"SCHILY.xattr.security.capability", bytes.fromhex("0100000200200000000000000000000000000000"))) + file(b"able", b"x"),
    )  # fmt: skip
    assert found == b"".join(tree.lines(str(tmp_path / "root")))
    assert tree.total(found) == 300_000 + 4
    assert b"/d/f f 4755" in found and b" /0first -\n" in found and b"user.%FF=7600ff" in found


def test_deep_and_wide(listing: Listing, tmp_path: Path) -> None:
    """More levels than descriptors are kept, and directories to come back to."""
    deep = [pax((b"path", b"deep/" * level + b"zz")) + file(b"x", b"%d" % level) for level in range(255, 0, -7)]
    wide = [file(b"%d/%d/%d" % (one, other, third), b"x") for one in range(7) for other in range(7) for third in range(7)]
    found = listing(*deep, *wide)
    assert found == b"".join(tree.lines(str(tmp_path / "root")))


def test_what_takes_the_place_of_another(listing: Listing, tmp_path: Path) -> None:
    """An inode that was freed comes back with another content."""
    found = listing(*(file(b"same", b"%d" % number) for number in range(20)), file(b"dir/x"), file(b"dir", b"y"), file(b"last", b"z"))
    assert found == b"".join(tree.lines(str(tmp_path / "root")))


def test_a_listing_has_a_quota(listing: Listing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpack, "MAX_LISTING", 1 << 20)
    with pytest.raises(ArchiveError, match="more than 1 MiB"):
        listing(*(file(b"%05d" % number + b"\n" * 200) for number in range(3000)))


@pytest.mark.parametrize(
    "plant",
    [
        lambda path: path.symlink_to("/etc/passwd"),
        lambda path: path.mkdir(),
        os.mkfifo,
        lambda path: path.write_bytes(b"/ d 0755 0 0 - - - - - -\nnonsense\n"),
        lambda path: path.write_bytes(b"/ d 0755 0 0 - - - - - -"),
        lambda path: path.write_bytes(b"/ f 0755 0 0 huge 1 - - - -\n"),
    ],
    ids=["link", "directory", "pipe", "nonsense", "cut", "number"],
)
def test_what_a_worker_leaves_is_no_listing(store: Store, plant: Callable[[Path], object]) -> None:
    store.ensure()
    with Staging(store.root, "import") as staging:
        layer_path = Path(staging.path) / "layer"
        (layer_path / "rootfs").mkdir(parents=True)
        plant(layer_path / "tree")
        with pytest.raises(ArchiveError, match="left a listing that is none"):
            commit.commit_layer(store, staging, None, "sha256-" + "0" * 64)


def test_opaque_directories_are_listed_as_they_are(store: Store, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "app")
    noted = pax((b"SCHILY.xattr.user.note", b"1")) + directory(b"a b")
    marks = [file(place + b".wh..wh..opq") for place in (b"a b/", b"d/", b"d/e/", b"")]
    layout.image(layer(noted, file(b"a b/x"), *marks))
    image = resolve.find(store, f"oci:{layout.path}", unsigned=True)
    for name in image.layers:
        recorded = Path(store.layer_path(name), "tree").read_bytes()
        assert tree.difference(store.layer_dir(name), recorded) == ""
        assert recorded.count(b"trusted.overlay.opaque=79") == 4
        assert stat.S_ISREG(Path(store.layer_path(name), "tree").lstat().st_mode)
