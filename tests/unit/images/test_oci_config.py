"""Image configurations: what becomes of every member, and which are refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pyrun.errors import ManifestError
from pyrun.images.layered import normal_name
from pyrun.images.oci_config import app_manifest, parse_config, platform_labels
from pyrun.images.platform import Platform, appc_arch, rank

DIFF = "sha256:" + "a" * 64


def encode(config: dict[str, Any] | None = None, **top: Any) -> bytes:
    document = {"architecture": "amd64", "os": "linux", "config": config, "rootfs": {"type": "layers", "diff_ids": [DIFF]}, **top}
    return json.dumps({key: value for key, value in document.items() if value is not None}).encode()


def app(**config: Any) -> dict[str, Any]:
    return parse_config(encode(config)).app


def test_everything() -> None:
    raw = {
        "User": "app:staff",
        "ExposedPorts": {"80/tcp": {}, "53/udp": {}, "8000-8010": {}},
        "Env": ["A=1", "B=x=y", "A=2", "EMPTY="],
        "Entrypoint": ["/bin/sh", "-c"],
        "Cmd": ["echo"],
        "Volumes": {"/var/lib/My_Data": {}, "/var/lib/my-data/": {}},
        "WorkingDir": "srv//app/../x",
        "Labels": {"a": "1", "A": "2"},
        "StopSignal": "SIGINT",
        "Healthcheck": {"Test": ["CMD", "true"], "Interval": 30000000000},
    }
    parsed = parse_config(encode(raw, history=[{"created_by": "x"}], variant="v2"))
    assert parsed.diff_ids == [DIFF.replace(":", "-")] and str(parsed.platform) == "linux/amd64/v2"
    made = app_manifest(parsed, "x", platform_labels(parsed))
    assert made["labels"] == [{"name": "os", "value": "linux"}, {"name": "arch", "value": "amd64"}]
    assert made["annotations"] == [{"name": "A", "value": "2"}, {"name": "a", "value": "1"}]
    assert made["config"] == raw
    found = made["app"]
    assert (found["exec"], found["entrypoint"], found["cmd"]) == (["/bin/sh", "-c", "echo"], ["/bin/sh", "-c"], ["echo"])
    assert (found["user"], found["group"], found["workingDirectory"]) == ("app", "staff", "/srv/x")
    assert [(item["name"], item["value"]) for item in found["environment"]] == [("A", "2"), ("B", "x=y"), ("EMPTY", "")]
    assert [(point["name"], point["path"]) for point in found["mountPoints"]] == [
        ("volume-var-lib-my-data", "/var/lib/My_Data"),
        ("volume-var-lib-my-data-x", "/var/lib/my-data"),
    ]
    assert [(port["name"], port["protocol"], port["port"], port["count"]) for port in found["ports"]] == [
        ("53-udp", "udp", 53, 1),
        ("80-tcp", "tcp", 80, 1),
        ("8000-8010-tcp", "tcp", 8000, 11),
    ]


@pytest.mark.parametrize("config", [None, {}, {"Entrypoint": None, "Cmd": None, "Env": None, "Volumes": None, "User": "", "Labels": None}])
def test_nothing(config: dict[str, Any] | None) -> None:
    found = parse_config(encode(config)).app
    assert (found["exec"], found["user"], found["workingDirectory"], found["environment"]) == ([], "0", "/", [])
    assert "group" not in found


@pytest.mark.parametrize(("user", "wanted"), [("1000", ("1000", None)), ("1000:50", ("1000", "50")), ("web", ("web", None))])
def test_users(user: str, wanted: tuple[str, str | None]) -> None:
    found = app(User=user)
    assert (found["user"], found.get("group")) == wanted


@pytest.mark.parametrize(
    "config",
    [
        {"User": "a:"},
        {"User": ":b"},
        {"User": "a:b:c"},
        {"User": "/etc/shadow"},
        {"User": "a:/etc/shadow"},
        {"User": 0},
        {"Env": ["NOVALUE"]},
        {"Env": ["=x"]},
        {"Env": ["A=\0"]},
        {"Env": {"A": "1"}},
        {"Cmd": "a string"},
        {"Cmd": [1]},
        {"Entrypoint": ["a\0b"]},
        {"ExposedPorts": {"0/tcp": {}}},
        {"ExposedPorts": {"65536": {}}},
        {"ExposedPorts": {"90-80/tcp": {}}},
        {"ExposedPorts": {"80/icmp": {}}},
        {"ExposedPorts": {"\u0664/tcp": {}}},
        {"ExposedPorts": ["80"]},
        {"Volumes": ["/x"]},
        {"Volumes": {"/x\0": {}}},
        {"WorkingDir": 1},
        {"Labels": {"a": 1}},
        {"cmd": ["a"], "Cmd": ["b"]},
    ],
)
def test_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ManifestError) as caught:
        parse_config(encode(config))
    assert caught.value.hint


@pytest.mark.parametrize(
    "top",
    [
        {"os": None},
        {"architecture": None},
        {"architecture": ""},
        {"variant": 0},
        {"os.features": ""},
        {"variant": 8},
        {"rootfs": None},
        {"rootfs": {"type": "other", "diff_ids": []}},
        {"rootfs": {"type": "layers", "diff_ids": ["sha256:" + "A" * 64]}},
        {"rootfs": {"type": "layers", "diff_ids": ["sha512:" + "a" * 128]}},
        {"rootfs": {"type": "layers", "diff_ids": DIFF}},
    ],
)
def test_refused_around(top: dict[str, Any]) -> None:
    with pytest.raises(ManifestError):
        parse_config(encode({}, **top) if None not in top.values() else json.dumps({**json.loads(encode({})), **top}).encode())


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("busybox:1.36", ("busybox", "1.36")),
        ("localhost:5000/A/b", ("localhost:5000/a/b", "")),
        ("localhost:5000/a/b:T1", ("localhost:5000/a/b", "T1")),
        ("host/a@sha256:" + "0" * 64, ("host/a", "")),
        ("../../etc/passwd", ("etc/passwd", "")),
        ("we ird,name=x:1", ("we-ird-name-x", "1")),
        ("\u202e:1", ("image", "1")),
    ],
)
def test_names(text: str, wanted: tuple[str, str]) -> None:
    assert normal_name(text) == wanted


@pytest.mark.parametrize(
    ("platform", "label"),
    [
        (("arm64", "v8"), "aarch64"),
        (("386", ""), "i386"),
        (("arm", "v7"), "armv7l"),
        (("arm", "v6"), "armv6l"),
        (("riscv64", ""), "riscv64"),
        (("ppc64le", ""), "ppc64le"),
    ],
)
def test_architectures(platform: tuple[str, str], label: str) -> None:
    assert appc_arch(Platform("linux", *platform)) == label


def test_ranks() -> None:
    host = [Platform("linux", "arm", "v7"), Platform("linux", "arm", "v6"), Platform("linux", "arm")]
    offered = [
        Platform("linux", "arm", "v6"),
        Platform("linux", "arm", "v7"),
        Platform("windows", "arm", "v7"),
        None,
        Platform("linux", "arm64"),
    ]
    assert [rank(one, host) for one in offered] == [1, 0, -1, 3, -1]
