"""User and group strings to ids (appc IM-13 to IM-16): exact ids or a refusal, never 0 by accident."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyrun.errors import ConfigError, ImageError, PyrunError
from pyrun.images.passwd import MAX_ID, Identity, resolve_user
from pyrun.images.rootfs import RootFS

PASSWD = b"""root:x:0:0:root:/root:/bin/sh
app:x:1000:1001:App:/home/app:/bin/sh
1000:x:42:43:digits:/home/digits:/bin/sh
nohome:x:50:51
relative:x:52:53::home:/bin/sh
toobig:x:2147483648:1:::
wraps:x:4294967296:1:::
minus:x:-1:1:::
empty:x::1:::
octal:x:010:1:::
blank:x: 7:1:::
badgid:x:60:x:::
short:x
+:x:::::
+nis::::::
max:x:2147483647:2147483647::/:
app:x:9:9:second:/:
#comment:x:3:3:::
"""
GROUP = b"""root:x:0:
app:x:1001:app
staff:x:50:app,root
2000:x:77:
badgroup:x:4294967295:
short:x
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "passwd").write_bytes(PASSWD)
    (tmp_path / "etc" / "group").write_bytes(GROUP)
    return tmp_path


@pytest.fixture
def resolve(root: Path) -> Callable[..., Identity]:
    return lambda *arguments, **options: resolve_user(RootFS([str(root)]), *arguments, **options)


def ids(identity: Identity) -> tuple[int, int]:
    return identity.uid, identity.gid


# user -> (uid, gid) without a group, or None for a refusal.
USERS: dict[str, tuple[int, int] | None] = {
    "root": (0, 0),
    "app": (1000, 1001),
    "1000": (42, 43),
    "1001": (1001, 0),
    "0": (0, 0),
    "42": (42, 43),
    "50": (50, 51),
    "nohome": (50, 51),
    "relative": (52, 53),
    "max": (MAX_ID, MAX_ID),
    "2147483647": (MAX_ID, MAX_ID),
    "2147483648": None,
    "4294967295": None,
    "4294967296": None,
    "18446744073709551616": None,
    "1" + "0" * 5000: None,
    "-1": None,
    "-0": None,
    "+0": None,
    "00": None,
    "007": None,
    "0x0": None,
    "0b0": None,
    "1e3": None,
    "1_000": None,
    "1000.0": None,
    " 0": None,
    "0 ": None,
    "0\n": None,
    "\t0": None,
    "\u0660": None,  # Arabic-Indic zero: str.isdigit says yes
    "\u00b2": None,
    "\uff10": None,
    "": None,
    ":": None,
    "root:x": None,
    "root:0": None,
    "root\0": None,
    "Root": None,
    "toobig": None,
    "wraps": None,
    "minus": None,
    "empty": None,
    "octal": None,
    "blank": None,
    "badgid": None,
    "60": None,  # known under its number, so its group decides, and that is no number
    "short": None,
    "+": None,
    "+nis": None,
    "#comment": (3, 3),  # passwd(5) knows no comments
    "nobody": None,
    "\udcff": None,
    "ro*t": None,
    "~": None,
    ".": None,
}


@pytest.mark.parametrize(("user", "expected"), USERS.items(), ids=lambda value: ascii(value)[:24])
def test_users(resolve: Callable[..., Identity], user: str, expected: tuple[int, int] | None) -> None:
    if expected is None:
        with pytest.raises(ConfigError) as caught:
            resolve(user, None)
        assert caught.value.hint and str(caught.value).isprintable()
    else:
        assert ids(resolve(user, None)) == expected


@pytest.mark.parametrize("user", ["\ud800", "\udc00x", "/\udfff"])
def test_half_surrogate_pairs(resolve: Callable[..., Identity], user: str) -> None:
    with pytest.raises(ConfigError):
        resolve(user, None)


GROUPS: dict[str, int | None] = {
    "root": 0,
    "app": 1001,
    "staff": 50,
    "2000": 77,
    "3000": 3000,
    "0": 0,
    "badgroup": None,
    "4294967295": None,
    "2147483648": None,
    "2147483647": MAX_ID,
    "wheel": None,
    "short": None,
    "-1": None,
    "00": None,
    "": None,
}


@pytest.mark.parametrize(("group", "expected"), GROUPS.items())
def test_groups(resolve: Callable[..., Identity], group: str, expected: int | None) -> None:
    if expected is None:
        with pytest.raises(ConfigError, match="resolve group"):
            resolve("app", group)
    else:
        assert ids(resolve("app", group)) == (1000, expected)


def test_group_makes_the_passwd_group_irrelevant(resolve: Callable[..., Identity]) -> None:
    assert ids(resolve("badgid", "staff")) == (60, 50)


def test_name_and_home(resolve: Callable[..., Identity]) -> None:
    facts = {user: (resolve(user, None).name, resolve(user, None).home) for user in ("app", "1000", "42", "1001", "nohome", "relative")}
    assert facts == {
        "app": ("app", "/home/app"),
        "1000": ("1000", "/home/digits"),
        "42": ("1000", "/home/digits"),
        "1001": ("", "/"),
        "nohome": ("nohome", "/"),
        "relative": ("relative", "/"),
    }


def test_supplementary_groups_are_those_given(resolve: Callable[..., Identity]) -> None:
    assert resolve("app", None).groups == ()  # the app is a member of staff: the image's groups are not joined
    assert resolve("app", None, [5, 6]).groups == (5, 6)
    for bad in (-1, MAX_ID + 1):
        with pytest.raises(ConfigError, match="out of range"):
            resolve("app", None, [bad])


@pytest.mark.needs_root
def test_owner_of_a_file(root: Path, resolve: Callable[..., Identity]) -> None:
    for name, uid, gid in (("one", 7, 8), ("two", 9, 10), ("known", 1000, 5)):
        (root / name).touch()
        os.chown(root / name, uid, gid)
    (root / "link").symlink_to("one")
    os.chown(root / "link", 11, 12, follow_symlinks=False)
    assert ids(resolve("/one", "/two")) == (7, 10)
    assert ids(resolve("/one", None)) == (7, 8)
    assert ids(resolve("/link", "/link")) == (11, 12)
    assert ids(resolve("/known", None)) == (1000, 1001)
    assert ids(resolve("/../one", "staff")) == (7, 50)
    assert ids(resolve("/", "/")) == (os.stat(root).st_uid, os.stat(root).st_gid)


@pytest.mark.parametrize("user", ["/none", "/none/../etc", "/etc/passwd/x", "/\0", "//host"])
def test_owner_of_nothing(resolve: Callable[..., Identity], user: str) -> None:
    for arguments in ((user, None), ("app", user)):
        with pytest.raises(ConfigError, match="the image has no such file"):
            resolve(*arguments)


@pytest.mark.needs_root
def test_owner_out_of_range(root: Path, resolve: Callable[..., Identity]) -> None:
    (root / "file").touch()
    os.chown(root / "file", 2**32 - 2, 0)
    with pytest.raises(ConfigError, match="its owner is out of range"):
        resolve("/file", None)


def test_no_files_at_all(tmp_path: Path) -> None:
    rootfs = RootFS([str(tmp_path)])
    assert ids(resolve_user(rootfs, "5", "6")) == (5, 6)
    assert ids(resolve_user(rootfs, "0", None)) == (0, 0)
    for user in ("root", "daemon"):  # known to the host
        with pytest.raises(ConfigError, match="the image knows no such user"):
            resolve_user(rootfs, user, None)


def test_host_files_are_never_read(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "passwd").symlink_to("/etc/passwd")
    with pytest.raises(ImageError, match="too many levels"):
        resolve_user(RootFS([str(tmp_path)]), "root", None)
    (tmp_path / "etc" / "passwd").unlink()
    (tmp_path / "etc" / "passwd").symlink_to("../../../../../../etc/hostname")
    with pytest.raises(ConfigError):
        resolve_user(RootFS([str(tmp_path)]), "root", None)


def special(kind: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        if kind == "fifo":
            os.mkfifo(path)
        elif kind == "directory":
            path.mkdir()
        elif kind == "large":
            path.touch()
            os.truncate(path, 1 << 30)
        elif kind == "loop":
            path.symlink_to(path.name)
        elif kind == "socket":
            import socket

            with socket.socket(socket.AF_UNIX) as sock:
                sock.bind(os.path.relpath(path))
        else:
            os.mknod(path, 0o20666, os.makedev(1, 5))

    return make


@pytest.mark.needs_root
@pytest.mark.parametrize("kind", ["fifo", "directory", "large", "loop", "device", "socket"])
@pytest.mark.parametrize("name", ["passwd", "group"])
def test_hostile_account_files(root: Path, resolve: Callable[..., Identity], kind: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    (root / "etc" / name).unlink()
    special(kind)(root / "etc" / name)
    start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ImageError) as caught:
        resolve("0", "0")
    assert time.monotonic() - start < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20 << 10
    assert str(root) not in str(caught.value)


@given(st.binary(max_size=200), st.text(max_size=12))
def test_any_file_and_any_user(tmp_path_factory: pytest.TempPathFactory, data: bytes, user: str) -> None:
    root = tmp_path_factory.mktemp("root")
    (root / "etc").mkdir()
    (root / "etc" / "passwd").write_bytes(data)
    try:
        identity = resolve_user(RootFS([str(root)]), user, None)
    except PyrunError:
        return
    assert 0 <= identity.uid <= MAX_ID and 0 <= identity.gid <= MAX_ID
    assert identity.home.startswith("/")


def test_origin_reaches_the_error(resolve: Callable[..., Identity]) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve("nobody", None, origin="--user nobody")
    assert caught.value.origin == "--user nobody"
