"""The form of isolators; the rule ids stand in the test ids."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pyrun.errors import ManifestError
from pyrun.images.isolators import check_isolators
from pyrun.images.manifest import parse_image_manifest
from pyrun.images.schema import Object, fields

RETAIN, REMOVE = "os/linux/capabilities-retain-set", "os/linux/capabilities-remove-set"
SC_RETAIN, SC_REMOVE = "os/linux/seccomp-retain-set", "os/linux/seccomp-remove-set"
SELINUX = {"user": "u", "role": "r", "type": "t", "level": "s0:c1"}


def app(*isolators: Any) -> list[dict[str, Any]]:
    document = {
        "acKind": "ImageManifest", "acVersion": "0.8.11", "name": "a",
        "app": {"exec": [], "user": "0", "group": "0", "isolators": list(isolators)},
    }  # fmt: skip
    found: list[dict[str, Any]] = parse_image_manifest(json.dumps(document).encode())["app"]["isolators"]
    return found


GOOD: list[tuple[str, str, Any]] = [
    ("ACE-50", "example.com/foo", None),
    ("ACE-50", "example.com/foo", {"anything": [1]}),
    ("ACE-55", RETAIN, {"set": ["CAP_NET_ADMIN"]}),
    ("ACE-57", REMOVE, {"set": ["CAP_PONIES"]}),
    ("ACE-58", "os/linux/no-new-privileges", True),
    ("ACE-61", SC_REMOVE, {"set": ["reboot"], "errno": "EPERM"}),
    ("ACE-63", SC_RETAIN, {"set": ["read"], "errno": ""}),
    ("ACE-65", SC_RETAIN, {"set": ["read"], "errno": "EACCESS"}),
    ("ACE-67", SC_RETAIN, {"set": ["@appc.io/all"]}),
    ("ACE-68", SC_REMOVE, {"set": ["@appc.io/empty", "@docker/default-blacklist"]}),
    ("ACE-71", "os/linux/selinux-context", SELINUX),
    ("ACE-73", "os/linux/apparmor-profile", {"profile": "x"}),
    ("ACE-75", "resource/memory", {"limit": "64Mi", "request": "1K"}),
    ("ACE-77", "resource/cpu", {"request": "250m"}),
    ("ACE-80", "resource/block-bandwidth", {"default": True, "limit": "2M"}),
    ("ACE-80", "resource/cpu", {"default": False, "limit": 2}),
    ("ACE-83", "os/linux/cpu-shares", 2),
    ("ACE-83", "os/linux/cpu-shares", 262144),
    ("ACE-83", "os/linux/oom-score-adj", -1000),
    ("ACE-83", "os/linux/oom-score-adj", 1000),
]

BAD: list[tuple[str, str, Any, str]] = [
    ("TYP-07", "Bad Name", 1, ".name"),
    ("ACE-56", RETAIN, {"set": []}, ".value.set"),
    ("ACE-56", REMOVE, {}, ".value.set"),
    ("ACE-56", REMOVE, {"set": [""]}, ".value.set[0]"),
    ("ACE-56", REMOVE, {"set": "CAP_CHOWN"}, ".value.set"),
    ("ACE-56", REMOVE, None, ".value"),
    ("ACE-58", "os/linux/no-new-privileges", "true", ".value"),
    ("ACE-61", SC_REMOVE, {"set": []}, ".value.set"),
    ("ACE-62", SC_RETAIN, {"errno": "EPERM"}, ".value.set"),
    ("ACE-65", SC_RETAIN, {"set": ["read"], "errno": "eperm"}, ".value.errno"),
    ("ACE-65", SC_RETAIN, {"set": ["read"], "errno": 1}, ".value.errno"),
    ("ACE-66", SC_RETAIN, {"set": ["read", "@appc.io/foo"]}, ".value.set[1]"),
    *[("ACE-71", "os/linux/selinux-context", {k: v for k, v in SELINUX.items() if k != gone}, f".value.{gone}") for gone in SELINUX],
    ("ACE-71", "os/linux/selinux-context", {**SELINUX, "role": "a:b"}, ".value.role"),
    ("ACE-73", "os/linux/apparmor-profile", {}, ".value.profile"),
    *[("ACE-75", "resource/memory", {"limit": bad}, ".value.limit") for bad in ("-1", "1X", "", True, 1.5, -1)],
    ("ACE-77", "resource/memory", {}, ".value.limit"),
    ("ACE-80", "resource/memory", {"default": True, "limit": "1"}, ".value.default"),
    ("ACE-80", "resource/block-iops", {"limit": "1"}, ".value.default"),
    ("ACE-80", "resource/block-iops", {"default": "true", "limit": "1"}, ".value.default"),
    ("ACE-80", "resource/network-bandwidth", {"default": True, "limit": "1", "request": "1"}, ".value.request"),
    *[("ACE-83", "os/linux/cpu-shares", bad, ".value") for bad in (1, 262145, "2", True, 2.0)],
    *[("ACE-83", "os/linux/oom-score-adj", bad, ".value") for bad in (-1001, 1001, None)],
    ("ACE-85", "os/unix/sysctl", {"net.ipv4.ip_forward": "1"}, ".name"),
]


@pytest.mark.parametrize(("rule", "name", "value"), GOOD)
def test_accepts(rule: str, name: str, value: Any) -> None:
    assert app({"name": name, "value": value})[0]["name"] == name


@pytest.mark.parametrize(("rule", "name", "value", "where"), BAD)
def test_refuses(rule: str, name: str, value: Any, where: str) -> None:
    with pytest.raises(ManifestError) as caught:
        app({"name": "example.com/other", "value": 0}, {"name": name, "value": value})
    assert caught.value.subject == f"app.isolators[1]{where}"
    assert caught.value.hint


def test_typ_07_name_and_value_are_required() -> None:
    for missing, item in (("value", {"name": "a"}), ("name", {"value": 1})):
        with pytest.raises(ManifestError) as caught:
            app(item)
        assert caught.value.subject == f"app.isolators[0].{missing}"


@pytest.mark.parametrize(
    "names",
    [(RETAIN, REMOVE), (SC_REMOVE, SC_RETAIN), (RETAIN, RETAIN), (SC_RETAIN, SC_RETAIN)],
    ids=["ACE-56", "ACE-60", "twice", "ACE-60-twice"],
)
def test_contradictions_are_refused(names: tuple[str, str]) -> None:
    with pytest.raises(ManifestError, match=r"app\.isolators\[1\]"):
        app(*({"name": name, "value": {"set": ["x"]}} for name in names))


def test_two_unknown_isolators_of_one_name_pass() -> None:
    assert len(app({"name": "x", "value": 1}, {"name": "x", "value": 2})) == 2


def test_values_come_out_in_canonical_spelling() -> None:
    assert app({"Name": "resource/memory", "VALUE": {"Limit": "64Mi"}}) == [
        {"name": "resource/memory", "value": {"limit": "64Mi", "default": False}}
    ]


def test_ace_84_85_scope_of_a_pod() -> None:
    def pod(name: str, value: Any) -> None:
        check_isolators(Object({"isolators": [{"name": name, "value": value}]}, "", fields("isolators")), scope="pod")

    pod("os/unix/sysctl", {"net.ipv4.ip_forward": "1"})
    pod("resource/memory", {"limit": "1G"})
    for name, value in ((RETAIN, {"set": ["CAP_CHOWN"]}), ("os/linux/no-new-privileges", True), (SC_REMOVE, {"set": ["x"]})):
        with pytest.raises(ManifestError, match="belongs to an app"):
            pod(name, value)
    with pytest.raises(ManifestError):
        pod("os/unix/sysctl", {"net.ipv4.ip_forward": 1})
