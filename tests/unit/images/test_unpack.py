"""Members become files: metadata, links, nodes, conflicts, and what the policy leaves out."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from archives import END, GID, UID, base256, directory, file, hardlink, node, pax, snapshot, symlink

from pyrun.errors import ArchiveError, ImageError
from pyrun.images import codec, tree
from pyrun.images.limits import Limits
from pyrun.images.tar import Members
from pyrun.images.unpack import Policy, Unpacker

Unpack = Callable[..., Path]


@pytest.fixture
def unpack(tmp_path: Path) -> Unpack:
    """Unpacks members into a directory, whose listing by the native writer must be that by walking it, and returns it."""

    def run(*members: bytes, limits: Limits | None = None, **policy: str) -> Path:
        limits = limits or Limits()
        top = tmp_path / "root"
        top.mkdir(mode=0o700, exist_ok=True)
        fd, beside = os.open(top, os.O_RDONLY | os.O_DIRECTORY), os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            with Unpacker(fd, limits, Policy(**policy), listed=True) as unpacker:
                for member in Members(codec.reader(io.BytesIO(b"".join(members) + END), limits=limits), limits):
                    unpacker.add(member)
                unpacker.finish()
                unpacker.list(beside)
        finally:
            os.close(fd)
            os.close(beside)
        listing = (tmp_path / "tree").read_bytes()
        (tmp_path / "tree").unlink()
        assert tree.difference(str(top), listing) == ""
        return top

    return run


@pytest.fixture(autouse=True)
def no_descriptor_leaks() -> Any:
    """Every descriptor is closed again, after errors too."""
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) == before


def test_aci_06_attributes_of_files(unpack: Unpack) -> None:
    xattr = pax((b"mtime", b"1000000000.123456789"), (b"SCHILY.xattr.user.note", b"v\0w"))
    top = unpack(xattr + file(b"a", b"hello", mode=0o4751), file(b"b", b"", mode=0o7777))
    info = (top / "a").stat()
    assert (top / "a").read_bytes() == b"hello"
    assert stat.S_IMODE(info.st_mode) == 0o4751
    assert info.st_mtime_ns == 1000000000123456789
    assert os.getxattr(top / "a", "user.note") == b"v\0w"
    assert stat.S_IMODE((top / "b").stat().st_mode) == 0o7777


def test_attributes_of_what_nobody_may_write(unpack: Unpack) -> None:
    xattr = pax((b"SCHILY.xattr.user.note", b"v"))
    top = unpack(xattr + file(b"a", mode=0o440), xattr + directory(b"d", mode=0o555))
    assert [os.getxattr(top / name, "user.note") for name in ("a", "d")] == [b"v", b"v"]


@pytest.mark.needs_root
def test_aci_06_owners_and_file_capabilities(unpack: Unpack) -> None:
    capability = bytes.fromhex("0100000200040000000000000000000000000000")
    top = unpack(pax((b"SCHILY.xattr.security.capability", capability)) + file(b"a", b"x", uid=7, gid=8, mode=0o6755))
    info = (top / "a").stat()
    assert (info.st_uid, info.st_gid, stat.S_IMODE(info.st_mode)) == (7, 8, 0o6755)
    assert os.getxattr(top / "a", "security.capability") == capability
    assert "security.capability" not in os.listxattr(unpack(file(b"z")) / "z")


@pytest.mark.needs_root
def test_file_capabilities_can_be_stripped(unpack: Unpack) -> None:
    capability = bytes.fromhex("0100000200040000000000000000000000000000")
    top = unpack(pax((b"SCHILY.xattr.security.capability", capability)) + file(b"a", b"x"), capabilities="strip")
    assert os.listxattr(top / "a") == []


def test_aci_07_directory_times_survive_their_children(unpack: Unpack) -> None:
    top = unpack(directory(b".", mtime=1), directory(b"d", mtime=5), directory(b"d/e", mtime=6), file(b"d/e/f"), file(b"d/g"))
    assert [(top / p).stat().st_mtime for p in (".", "d", "d/e")] == [1, 5, 6]


def test_aci_07_directory_members_may_come_last(unpack: Unpack) -> None:
    top = unpack(file(b"d/e/f", b"x"), directory(b"d/e", mtime=6, mode=0o700), directory(b"d", mtime=5, mode=0o711))
    assert [((top / p).stat().st_mtime, oct((top / p).stat().st_mode)) for p in ("d", "d/e")] == [(5, "0o40711"), (6, "0o40700")]


def test_implied_directories(unpack: Unpack) -> None:
    top = unpack(file(b"a/b/c/d", b"x"), file(b"a/b2/c"))
    assert (top / "a/b/c/d").read_bytes() == b"x"
    assert stat.S_IMODE((top / "a/b").stat().st_mode) == 0o755


def test_deeper_than_the_cache_of_directories(unpack: Unpack) -> None:
    path = b"/".join(b"%d" % n for n in range(100))
    top = unpack(pax((b"path", path + b"/x")) + file(b"x", b"1"), file(b"0/y", b"2"), pax((b"path", path + b"/z")) + file(b"z", b"3"))
    assert (top / os.fsdecode(path) / "z").read_bytes() == b"3"


def test_modes_that_lock_out(unpack: Unpack) -> None:
    top = unpack(directory(b"d", mode=0), directory(b"d/e", mode=0o500), file(b"d/e/f", mode=0), file(b"d/g"))
    assert oct(top.joinpath("d").stat().st_mode) == "0o40000"
    top.joinpath("d").chmod(0o700)
    assert oct((top / "d/e").stat().st_mode) == "0o40500"


@pytest.mark.needs_root
def test_set_group_id_directories_do_not_leak_their_group(unpack: Unpack) -> None:
    top = unpack(
        directory(b"d", mode=0o2755, gid=1234), file(b"d/f", gid=0), directory(b"d/e", gid=0), symlink(b"d/l", b"x", gid=0),
        file(b"d/i/j", gid=0), node(b"d/p", b"6", gid=0),
    )  # fmt: skip
    assert {path.lstat().st_gid for path in (top / "d").rglob("*")} == {0}
    assert stat.S_IMODE((top / "d/e").stat().st_mode) == 0o755
    assert stat.S_IMODE((top / "d/i").stat().st_mode) == 0o755
    assert oct((top / "d").stat().st_mode) == "0o42755"


def test_links(unpack: Unpack) -> None:
    top = unpack(
        symlink(b"s", b"../../etc/passwd", mtime=7),
        file(b"d/f", b"x"),
        hardlink(b"h", b"./d/f"),
        hardlink(b"d/e/h", b"h"),
        hardlink(b"hs", b"s"),
    )
    assert os.readlink(top / "s") == "../../etc/passwd"
    assert (top / "s").lstat().st_mtime == 7
    assert (top / "h").stat().st_ino == (top / "d/f").stat().st_ino == (top / "d/e/h").stat().st_ino
    assert (top / "hs").lstat().st_ino == (top / "s").lstat().st_ino


def test_metadata_of_a_link_stays_off_its_target(unpack: Unpack) -> None:
    """B03, B04: the header of a hard link and of a symbolic link says nothing about the file."""
    xattr = pax((b"SCHILY.xattr.user.evil", b"1"))
    top = unpack(
        file(b"f", b"x", mode=0o600, mtime=5), xattr + hardlink(b"h", b"f", mode=0o777, mtime=9), xattr + symlink(b"s", b"f", mtime=9)
    )
    info = (top / "f").stat()
    assert (stat.S_IMODE(info.st_mode), info.st_mtime) == (0o600, 5)
    assert os.listxattr(top / "f") == []


@pytest.mark.needs_root
def test_aci_08_nodes(unpack: Unpack) -> None:
    top = unpack(node(b"p", b"6", mode=0o620, uid=3), node(b"c", b"3", 1, 3, mode=0o666), node(b"b", b"4", 8, 70000, gid=6))
    assert stat.S_ISFIFO((top / "p").lstat().st_mode)
    assert ((top / "p").lstat().st_uid, stat.S_IMODE((top / "p").lstat().st_mode)) == (3, 0o620)
    assert stat.S_ISCHR((top / "c").lstat().st_mode)
    assert (top / "c").lstat().st_rdev == os.makedev(1, 3)
    assert stat.S_ISBLK((top / "b").lstat().st_mode)
    assert (top / "b").lstat().st_rdev == os.makedev(8, 70000)


def test_aci_08_fifos_need_no_root(unpack: Unpack) -> None:
    assert stat.S_ISFIFO((unpack(node(b"p", b"6", mode=0o640)) / "p").lstat().st_mode)


@pytest.mark.parametrize(("major", "minor"), [(0, 0), (4096, 1), (1, 1 << 20)])
def test_impossible_devices_are_refused(unpack: Unpack, major: int, minor: int) -> None:
    with pytest.raises(ArchiveError, match="device"):
        unpack(node(b"c", b"3", major, minor))


def test_policy_can_refuse_devices(unpack: Unpack) -> None:
    with pytest.raises(ArchiveError, match="policy refuses"):
        unpack(node(b"c", b"3", 1, 3), nodes="refuse")
    assert unpack(node(b"p", b"6"), nodes="refuse")


XATTRS = [
    b"trusted.overlay.redirect", b"trusted.overlay.opaque", b"trusted.overlay.metacopy", b"trusted.overlay.overlay.redirect", b"trusted.x",
    b"user.overlay.redirect", b"user.overlay.opaque", b"user.overlay.whiteout", b"security.selinux", b"security.ima", b"security.evm",
    b"security.SMACK64", b"system.posix_acl_access", b"system.posix_acl_default", b"userx", b"", b"user", b"bogus.name",
    b"security.capabilityx",
]  # fmt: skip


@pytest.mark.parametrize("name", XATTRS)
def test_sec_07_attributes_that_are_stripped(unpack: Unpack, name: bytes) -> None:
    record = pax((b"SCHILY.xattr." + name, b"/../../etc"), (b"SCHILY.xattr.user.kept", b"1"))
    top = unpack(record + directory(b"d"), record + file(b"f"))
    assert os.listxattr(top / "d") == os.listxattr(top / "f") == ["user.kept"]


@pytest.mark.parametrize("mtime", [1 << 70, -(1 << 70), (1 << 33) * 4, -1])
def test_b21_odd_times_are_clamped(unpack: Unpack, mtime: int) -> None:
    top = unpack(
        file(b"f", mtime=base256(mtime, 12)), directory(b"d", mtime=base256(mtime, 12)), symlink(b"s", b"x", mtime=base256(mtime, 12))
    )
    assert (top / "f").exists()


@pytest.mark.parametrize("ids", [{"uid": base256(-1, 8)}, {"gid": base256(1 << 32, 8)}, {"uid": base256((1 << 32) - 1, 8)}])
def test_b20_ids_that_cannot_be(unpack: Unpack, ids: dict[str, bytes]) -> None:
    with pytest.raises(ArchiveError, match="owned by"):
        unpack(file(b"f", **ids))


def test_b17_names_are_bytes(unpack: Unpack) -> None:
    names = [b"\xff\xfe", b"new\nline", b"\x1b[31m", "\u202egnp.exe".encode(), b"back\\slash", b" ", b"...", b"~", b"-rf", b"a\tb"]
    top = unpack(*(file(name, name) for name in names))
    assert sorted(os.listdir(os.fsencode(top))) == sorted(names)


def test_whiteout_names_are_ordinary(unpack: Unpack) -> None:
    top = unpack(file(b"a"), file(b".wh.a", b"x"), file(b"d/.wh..wh..opq"))
    assert sorted(os.listdir(top)) == [".wh.a", "a", "d"]


TWICE = [
    (file(b"a"), file(b"a")),
    (file(b"a"), file(b"./a")),
    (file(b"a"), directory(b"a/")),
    (directory(b"a"), directory(b"a/")),
    (directory(b"a"), file(b"a")),
    (directory(b"a"), symlink(b"a", b"b")),
    (symlink(b"a", b"b"), file(b"a")),
    (symlink(b"a", b"b"), symlink(b"a", b"b")),
    (file(b"b") + hardlink(b"a", b"b"), file(b"a")),
    (file(b"b") + file(b"a"), hardlink(b"a", b"b")),
    (node(b"a", b"6"), node(b"a", b"6")),
    (file(b"a/b"), file(b"a")),
    (directory(b"."), directory(b"./")),
]


@pytest.mark.parametrize("members", TWICE)
def test_aci_02_duplicates_are_refused(unpack: Unpack, members: tuple[bytes, bytes]) -> None:
    with pytest.raises(ArchiveError, match="occurs twice"):
        unpack(*members)


def test_b16_with_replacement_the_last_member_wins(unpack: Unpack) -> None:
    top = unpack(
        file(b"a", b"1"), directory(b"a"), file(b"a/x", b"2"), symlink(b"a", b"/etc"), file(b"a", b"3", mode=0o600),
        directory(b"d", mtime=5), file(b"d/keep", b"k"), directory(b"d", mtime=6), symlink(b"s", b"d"),
        directory(b"s", mtime=9), file(b"s/f", b"4"),
        conflicts="replace",
    )  # fmt: skip
    found = snapshot(top)
    assert {path: entry[6] for path, entry in found.items()} == {".": b"", "a": b"3", "d": b"", "d/keep": b"k", "s": b"", "s/f": b"4"}
    assert (top / "d").stat().st_mtime == 6
    assert (top / "s").stat().st_mtime == 9


@pytest.mark.parametrize("conflicts", ["refuse", "replace"])
@pytest.mark.parametrize("target", [b"/etc", b"..", b".", b"d", b"/proc/self/root", b"s"])
def test_b02_nothing_is_written_through_links(unpack: Unpack, target: bytes, conflicts: str) -> None:
    for number, inner in enumerate((file(b"s/x", b"evil"), file(b"s/x/y"), directory(b"s/x"), symlink(b"s/x", b"y"), node(b"s/x", b"6"))):
        with pytest.raises(ArchiveError, match="not a directory"):
            unpack(*[directory(b"d"), symlink(b"s", target)][2 * bool(number) :], inner, conflicts=conflicts)
    assert not os.path.lexists("/etc/x")


HARDLINKS = {
    "absolute": hardlink(b"h", b"/etc/passwd"),
    "dotdot": hardlink(b"h", b"../../etc/passwd"),
    "through-link": symlink(b"s", b"/etc") + hardlink(b"h", b"s/passwd"),
    "through-relative-link": directory(b"d") + file(b"d/f") + symlink(b"s", b"d") + hardlink(b"h", b"s/f"),
    "directory": directory(b"d") + hardlink(b"h", b"d"),
    "root": hardlink(b"h", b"."),
    "fifo": node(b"p", b"6") + hardlink(b"h", b"p"),
    "missing": hardlink(b"h", b"nowhere"),
    "missing-parent": hardlink(b"h", b"no/where"),
    "later": hardlink(b"h", b"f") + file(b"f"),
    "itself": file(b"f") + hardlink(b"f", b"./f"),
    "below-file": file(b"f") + hardlink(b"h", b"f/x"),
}


@pytest.mark.parametrize("data", HARDLINKS.values(), ids=HARDLINKS)
def test_b03_hard_links_outside_are_refused(unpack: Unpack, data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/etc")
    with pytest.raises(ArchiveError) as caught:
        unpack(data)
    assert caught.value.hint


@pytest.mark.parametrize("data", [symlink(b".", b"/etc"), file(b"./"[:1], b"x"), node(b".", b"6"), hardlink(b".", b"x")])
def test_b05_the_root_is_a_directory(unpack: Unpack, data: bytes) -> None:
    with pytest.raises(ArchiveError, match="root of the tree"):
        unpack(file(b"x"), data)


def test_quotas(unpack: Unpack) -> None:
    with pytest.raises(ArchiveError, match="directories deep"):
        unpack(file(b"a/" * 20 + b"f"), limits=Limits(depth=20))
    with pytest.raises(ArchiveError, match="more than 10"):
        unpack(file(b"b/" * 20 + b"f"), limits=Limits(entries=10))
    with pytest.raises(ImageError, match="left on the store") as caught:
        unpack(file(b"big", bytes(70 << 20)), limits=Limits(free=1 << 60))
    assert caught.value.hint


FULL_DISK = """
import io, os, sys
from pyrun.errors import ImageError
from pyrun.images import codec
from pyrun.images.limits import Limits
from pyrun.images.tar import Members
from pyrun.images.unpack import Unpacker

limits = Limits(free=0)
with Unpacker(os.open(sys.argv[1], os.O_RDONLY), limits) as unpacker:
    try:
        for _ in unpacker.others(Members(codec.reader(sys.stdin.buffer, limits=limits), limits)):
            pass
    except ImageError as error:
        print(type(error).__name__, error.errno, error, error.hint, sep="|")
"""


@pytest.mark.needs_root
def test_kernel_errors_name_the_member(tmp_path: Path) -> None:
    """On a file system that is really full."""
    mount = 'mount -t tmpfs -o size=64k full "$1" && exec "$2" -c "$3" "$1"'
    words = ["unshare", "--mount", "--propagation", "private", "sh", "-c", mount, "sh", str(tmp_path), sys.executable, FULL_DISK]
    done = subprocess.run(words, input=file(b"a", bytes(100_000)) + END, capture_output=True, timeout=60)
    assert done.stdout.decode().startswith("ImageError|28|unpack a: no space left on device|free space"), done.stderr


def test_ids_are_the_callers_own_here(unpack: Unpack) -> None:
    info = (unpack(file(b"a")) / "a").stat()
    assert (info.st_uid, info.st_gid) == (UID, GID)
