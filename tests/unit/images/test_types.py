"""The shared types of the App Container specification (rule ids of section 2 stand in the test ids)."""

from __future__ import annotations

import pytest

from pyrun.images import types

PREDICATES = {
    "TYP-01": (
        types.is_identifier,
        ["a", "0", "example.com/app", "example.com/a-b_c~d", "a.b/c", "x" * 5000],
        ["", "a//b", "a..b", "A", "a/", "-a", "a:b", "/a", "a b", "a\n", "ä", "a-.b", "example.com/App", "٣"],
    ),
    "TYP-02": (
        types.is_name,
        ["a", "a-b", "web-1", "0-0"],
        ["", "a.b", "a--b", "a-", "-a", "A", "a_b", "a/b", "a\n"],
    ),
    "TYP-04": (
        types.parse_version,
        ["0.8.11", "0.8.11+git", "1.0.0-alpha.1", "1.0.0-0a.x-y+build.007", "10.20.30", "0.0.0"],
        ["", "1.0", "v0.8.11", "00.8.1", "0.8.011", "1.0.0-01", "1.0.0-", "1.0.0+", "1.0.0-a..b", "1.0.0+a_b",
         "1.0.0.0", "1.0.x", " 1.0.0", "٣.0.0"],
    ),
    "TYP-06": (
        types.is_image_id,
        ["sha512-" + "0a" * 64],
        ["", "sha512-", "sha512:" + "0" * 128, "sha256-" + "0" * 64, "sha512-" + "0" * 127, "sha512-" + "G" * 128, "sha512-" + "A" * 128],
    ),
    "TYP-08": (
        types.is_timestamp,
        ["2014-10-27T19:32:27Z", "2014-10-27T19:32:27.678Z", "2014-10-27T19:32:27.67826152-07:00",
         "2016-02-29T23:59:60+05:30", "2014-10-27t19:32:27z"],
        [
            "", "2014-10-27 19:32:27Z", "2014-10-27T19:32:27", "2014-10-27", "2015-02-29T00:00:00Z", "2014-13-01T00:00:00Z",
            "2014-10-27T24:00:00Z", "2014-10-27T19:32:27.Z", "2014-10-27T19:32:27+7:00", "14-10-27T19:32:27Z", "2014-10-27T19:32Z",
            "2014-10-27T19:32:27Zx", "2014-00-10T00:00:00Z", "2014/10/27T19:32:27Z", "20141-0-27T19:32:27Z", "2014-10-27T19:32:27+25:00",
        ],
    ),
    "IM-24": (
        types.is_env_name,
        ["A", "_", "a.b-c", "PATH", "x1"],
        ["", "A=B", "A B", "1A", ".a", "-a", "A\0", "Ä"],
    ),
    "ACE-65": (types.is_errno_name, ["EPERM", "E2BIG", "EACCESS", "E"], ["", "eperm", "1", "PERM", "E-X"]),
}  # fmt: skip


@pytest.mark.parametrize(("rule", "text"), [(rule, text) for rule, (_, good, _) in PREDICATES.items() for text in good])
def test_accepts(rule: str, text: str) -> None:
    assert PREDICATES[rule][0](text)


@pytest.mark.parametrize(("rule", "text"), [(rule, text) for rule, (_, _, bad) in PREDICATES.items() for text in bad])
def test_refuses(rule: str, text: str) -> None:
    assert not PREDICATES[rule][0](text)


QUANTITIES = [
    ("ACE-74", "123Mi", 1, 128974848),
    ("ACE-74", "125952Ki", 1, 128974848),
    ("ACE-74", "0.3", 1000, 300),
    ("ACE-74", "300m", 1000, 300),
    ("ACE-75", "1K", 1, 1000),
    ("ACE-75", "1k", 1, 1000),
    ("ACE-75", "2Ki", 1, 2048),
    ("ACE-75", "1M", 1, 10**6),
    ("ACE-75", "1G", 1, 10**9),
    ("ACE-75", "1T", 1, 10**12),
    ("ACE-75", "1P", 1, 10**15),
    ("ACE-75", "1E", 1, 10**18),
    ("ACE-75", "1Ei", 1, 1 << 60),
    ("ACE-75", 64, 1, 64),
    ("ACE-76", "1500m", 1, 2),
    ("ACE-76", "0.1", 1, 1),
    ("ACE-76", "1.5Ki", 1, 1536),
    ("ACE-76", "0", 1, 0),
    *[("ACE-75", bad, 1, None) for bad in ("", "-1", "+1", "1X", "Mi", "1.Mi", ".5", "1e3", "1ki", "1mi", "1 M", "1,5", "0x10", "9" * 31)],
    *[("ACE-75", bad, 1, None) for bad in (-1, True, 1.5, None)],
]  # fmt: skip


@pytest.mark.parametrize(("rule", "text", "scale", "units"), QUANTITIES)
def test_quantities(rule: str, text: object, scale: int, units: int | None) -> None:
    assert types.parse_quantity(text, scale) == units
