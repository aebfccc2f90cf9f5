"""registries.conf as podman reads it: which files, which table, where to ask; and that nothing odd in it is passed over."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyrun.errors import ImageError, UsageError
from pyrun.images.registry.config import Registries, read
from pyrun.images.registry.reference import parse

HEX = "0123456789abcdef" * 4
DIGEST = f"@sha256:{HEX}"


def configured(folder: Path, text: str, **drop_ins: str) -> Registries:
    system = folder / "etc"
    (system / "registries.conf.d").mkdir(parents=True, exist_ok=True)
    (system / "registries.conf").write_text(text)
    for name, more in drop_ins.items():
        (system / "registries.conf.d" / f"{name}.conf").write_text(more)
    return read({}, str(system))


def places(found: Registries, text: str) -> list[tuple[str, bool]]:
    return [(str(place.reference), place.insecure) for place in found.places(parse(f"docker://{text}"))]


MIRRORS = """
[[registry]]
prefix = "example.com/team"
location = "inner.example.net:5000/x"
[[registry.mirror]]
location = "one.example.net"
[[registry.mirror]]
location = "two.example.net/cache"
insecure = true
pull-from-mirror = "digest-only"
[[registry.mirror]]
location = "three.example.net"
pull-from-mirror = "tag-only"

[[registry]]
location = "docker.io"
mirror-by-digest-only = true
[[registry.mirror]]
location = "hub.example.net/library"

[[registry]]
prefix = "*.wild.example"
insecure = true

[[registry]]
prefix = "example.com/team/secret"
blocked = true
"""


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("example.com/other:1", ["example.com/other:1"]),
        ("example.com/teams/app:1", ["example.com/teams/app:1"]),
        ("example.com/team/app:1", ["one.example.net/app:1", "three.example.net/app:1", "inner.example.net:5000/x/app:1"]),
        (f"example.com/team/app{DIGEST}",
         [f"one.example.net/app{DIGEST}", f"two.example.net/cache/app{DIGEST}", f"inner.example.net:5000/x/app{DIGEST}"]),
        ("busybox:1", ["docker.io/library/busybox:1"]),
        (f"busybox{DIGEST}", [f"hub.example.net/library/library/busybox{DIGEST}", f"docker.io/library/busybox{DIGEST}"]),
        ("a.b.wild.example:5000/app:1", ["a.b.wild.example:5000/app:1"]),
        ("wild.example/app:1", ["wild.example/app:1"]),
    ],
)  # fmt: skip
def test_places(tmp_path: Path, asked: str, expected: list[str]) -> None:
    assert [name for name, _ in places(configured(tmp_path, MIRRORS), asked)] == expected


def test_insecure_is_of_one_place(tmp_path: Path) -> None:
    found = configured(tmp_path, MIRRORS)
    assert [insecure for _, insecure in places(found, f"example.com/team/app{DIGEST}")] == [False, True, False]
    assert places(found, "x.wild.example/app:1") == [("x.wild.example/app:1", True)]
    assert places(found, "wild.example/app:1") == [("wild.example/app:1", False)]


def test_blocked(tmp_path: Path) -> None:
    found = configured(tmp_path, MIRRORS)
    for name in ("example.com/team/secret:1", "example.com/team/secret/app:1"):
        with pytest.raises(ImageError, match="its registry is blocked"):
            places(found, name)
    assert len(places(found, "example.com/team/secrets:1")) == 3


def test_later_files_win(tmp_path: Path) -> None:
    first = '[[registry]]\nlocation = "a.example"\ninsecure = true\n[aliases]\nx = "a.example/x"\ny = "a.example/y"\n'
    found = configured(
        tmp_path, first, b='[[registry]]\nlocation = "a.example"\nblocked = true\n[aliases]\nx = ""\n', a='[aliases]\ny = "b.example/y"\n'
    )
    with pytest.raises(ImageError):
        places(found, "a.example/app:1")
    assert found.alias("x") is None and str(found.alias("y")) == "b.example/y:latest"


def test_short_names(tmp_path: Path) -> None:
    text = 'unqualified-search-registries = ["docker.io"]\n[aliases]\napp = "example.com/team/app"\n"a/b" = "example.com/c"\n'
    found = configured(tmp_path, text)
    assert str(found.alias("app:1")) == "example.com/team/app:1"
    assert str(found.alias(f"app{DIGEST}")) == f"example.com/team/app{DIGEST}"
    assert str(found.alias("a/b")) == "example.com/c:latest"
    assert found.alias("other") is None and found.alias("b") is None and found.search == ["docker.io"]
    with pytest.raises(UsageError):
        found.alias("app:")


def test_which_files(tmp_path: Path) -> None:
    system, home = tmp_path / "etc", tmp_path / "home"
    for folder, word in ((system, "system"), (home / ".config" / "containers", "home")):
        (folder / "registries.conf.d").mkdir(parents=True)
        (folder / "registries.conf").write_text(f'[aliases]\nwhere = "{word}.example/x"\n{word} = "main.example/x"\n')
        (folder / "registries.conf.d" / "1.conf").write_text(f'[aliases]\n{word}-d = "drop.example/x"\n')
    found = read({"HOME": str(home)}, str(system))
    assert set(found.aliases) == {"where", "home", "system-d", "home-d"} and found.aliases["where"] == "home.example/x"
    assert set(read({}, str(system)).aliases) == {"where", "system", "system-d"}
    alone = tmp_path / "alone.conf"
    alone.write_text('[aliases]\nonly = "x.example/x"\n')
    assert set(read({"CONTAINERS_REGISTRIES_CONF": str(alone), "HOME": str(home)}, str(system)).aliases) == {"only"}
    assert read({}, str(tmp_path / "nothing")).tables == {}
    with pytest.raises(ImageError, match="does not exist"):
        read({"CONTAINERS_REGISTRIES_CONF": str(tmp_path / "missing")}, str(system))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x = ", "not TOML"),
        ("\xff", "not TOML"),
        ("[registries.search]\nregistries = ['a']", "version 1"),
        ("registry = 1", "not a list"),
        ("[[registry]]\ninsecure = true", "no prefix"),
        ("[[registry]]\nlocation = 'a.example'\nblock = true", "block in"),
        ("[[registry]]\nlocation = 'a.example'\nblocked = 'yes'", "no bool"),
        ("[[registry]]\nprefix = 'a.*.example'\nblocked = true", "no prefix"),
        ("[[registry]]\nprefix = '*.example/x'\nblocked = true", "no prefix"),
        ("[[registry]]\nlocation = 'a.example'\n[[registry.mirror]]\ninsecure = true", "no location"),
        ("[[registry]]\nlocation = 'a.example'\n[[registry.mirror]]\nlocation = 'b'\npull-from-mirror = 'no'", "none of all"),
        ("[[registry]]\nlocation = 'a.example'\nmirror = [1]", "not a table"),
        ("[[registry]]\nlocation = 'a.example'\nmirror-by-digest-only = true\n"
         "[[registry.mirror]]\nlocation = 'b.example'\npull-from-mirror = 'all'", "both"),
        ("aliases = 1", "not a table of names"),
    ],
)  # fmt: skip
def test_refused(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        configured(tmp_path, text)


def test_location_that_is_none(tmp_path: Path) -> None:
    found = configured(tmp_path, '[[registry]]\nprefix = "a.example"\nlocation = "B../x"\n')
    with pytest.raises(ImageError, match="makes no reference"):
        places(found, "a.example/app:1")


def test_file_that_others_may_change(tmp_path: Path) -> None:
    configured(tmp_path, "")
    (tmp_path / "etc" / "registries.conf").chmod(0o664)
    with pytest.raises(ImageError, match="others may change it"):
        read({}, str(tmp_path / "etc"))
