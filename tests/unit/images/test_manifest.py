"""Image manifests: every rule of the specification with good and bad values; the rule ids stand in the test ids."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from pyrun.errors import ManifestError
from pyrun.images.manifest import check_platform, parse_image_manifest

ID = "sha512-" + "ab" * 64
MINIMAL: dict[str, Any] = {"acKind": "ImageManifest", "acVersion": "0.8.11", "name": "example.com/app"}
ARCHES = ("amd64", "i386", "aarch64", "aarch64_be", "armv6l", "armv7l", "armv7b", "ppc64", "ppc64le", "s390x")
ABSENT = object()
APP = {"exec": ["/bin/true"], "user": "0", "group": "0"}


def build(path: str, value: Any) -> dict[str, Any]:
    """The minimal manifest, with an app where the path needs one, and one member set or removed."""
    document: dict[str, Any] = copy.deepcopy(MINIMAL)
    if path.startswith("app."):
        document["app"] = copy.deepcopy(APP)
    *way, last = path.split(".")
    place = document
    for step in way:
        place = place[step]
    if value is ABSENT:
        del place[last]
    else:
        place[last] = value
    return document


def parse(document: object) -> dict[str, Any]:
    return parse_image_manifest(json.dumps(document).encode())


def port(**changes: Any) -> list[dict[str, Any]]:
    fields = {"name": "www", "protocol": "tcp", "port": 80, **changes}
    return [{key: value for key, value in fields.items() if value is not ABSENT}]


def handler(name: str, command: Any = ("/x",)) -> dict[str, Any]:
    return {"name": name, "exec": list(command)}


def pair(name: Any, value: Any) -> dict[str, Any]:
    return {"name": name, "value": value}


def platform(os: str, arch: str) -> list[dict[str, Any]]:
    return [pair("os", os), pair("arch", arch)]


# (rule, member, value)
GOOD: list[tuple[str, str, Any]] = [
    ("IM-01", "name", "a"),
    ("TYP-04", "acVersion", "0.8.11+git"),
    ("TYP-04", "acVersion", "0.8.2-rc.1"),
    ("TYP-05", "acVersion", "0.1.0"),
    ("TYP-10", "somethingElse", {"x": [1]}),
    ("IM-02", "name", "example.com/a-b_c~d.e/f"),
    ("IM-03", "labels", [pair("version", ""), pair("a.io/b", "x y")]),
    ("IM-03", "labels", None),
    ("IM-05", "labels", [pair("arch", "vax")]),
    ("IM-05", "labels", [pair("os", "linux")]),
    *[("IM-06", "labels", platform("linux", arch)) for arch in ARCHES],
    ("IM-06", "labels", platform("freebsd", "arm")),
    ("IM-06", "labels", platform("darwin", "x86_64")),
    ("IM-08", "app", None),
    ("IM-09", "app.exec", ABSENT),
    ("IM-09", "app.exec", []),
    ("IM-11", "app.exec", ["/bin/echo", "$HOME *", "", "ünï"]),
    ("IM-12", "app.user", "/etc/passwd"),
    ("IM-16", "app.supplementaryGIDs", [0, 4294967294]),
    ("IM-18", "app.eventHandlers", [handler("pre-start"), handler("post-stop")]),
    ("IM-21", "app.workingDirectory", "/a/../b"),
    ("IM-23", "app.environment", [pair("a.b-c", "${X}"), pair("_", "")]),
    ("IM-26", "app.mountPoints", [{"name": "data", "path": "/data", "readOnly": True}, {"name": "x-1", "path": "/"}]),
    ("IM-27", "app.ports", port(port=65535)),
    ("IM-27", "app.ports", port(port=1, count=65535)),
    ("IM-27", "app.ports", port(protocol="sctp", socketActivated=True)),
    ("IM-31", "app.userLabels", {"Odd Key": "x", "odd key": "y", "": ""}),
    ("IM-31", "app.userAnnotations", {"https://a/b": "x"}),
    ("IM-32", "dependencies", [{"imageName": "example.com/a"}]),
    ("IM-32", "dependencies", [{"imageName": "b", "imageID": ID, "labels": [pair("version", "1")], "size": 0}]),
    ("IM-36", "pathWhitelist", []),
    ("IM-36", "pathWhitelist", ["/", "/etc/passwd", "/etc/"]),
    ("IM-37", "annotations", [pair("authors", "Ä <a@b>"), pair("a.io/b", "")]),
    ("IM-38", "annotations", [pair("created", "2014-10-27T19:32:27.67826152+02:00")]),
    ("IM-38", "annotations", [pair("homepage", "https://example.com"), pair("documentation", "http://example.com/x?y#z")]),
    ("IM-39", "annotations", [pair("appc.io/executor/supports-systemd-notify", "true")]),
]  # fmt: skip

# (rule, member, value, path that the error names)
BAD: list[tuple[str, str, Any, str]] = [
    *[("IM-01", name, ABSENT, name) for name in MINIMAL],
    *[("IM-01", name, None, name) for name in MINIMAL],
    *[("TYP-03", "acKind", kind, "acKind") for kind in ("imagemanifest", "PodManifest", "", 1)],
    *[("TYP-04", "acVersion", text, "acVersion") for text in ("1.0", "v0.8.11", "0.0.0", "00.8.1", "", 8)],
    *[("TYP-05", "acVersion", text, "acVersion") for text in ("99.0.0", "1.0.0", "0.8.12", "0.9.0")],
    *[("IM-02", "name", text, "name") for text in ("", "A", "a//b", "a:b", "../a", 5, "a\0")],
    ("IM-03", "labels", [pair("a", "1"), pair("a", "1")], "labels[1].name"),
    ("IM-03", "labels", [pair("name", "1")], "labels[0].name"),
    ("IM-03", "labels", [pair("a", 1)], "labels[0].value"),
    ("IM-03", "labels", [pair("A", "1")], "labels[0].name"),
    ("IM-03", "labels", [{"name": "a"}], "labels[0].value"),
    ("IM-03", "labels", {"version": "1"}, "labels"),
    ("IM-03", "labels", ["version"], "labels[0]"),
    ("IM-06", "labels", platform("linux", "x86_64"), "labels[1].value"),
    ("IM-06", "labels", platform("linux", "arm64"), "labels[1].value"),
    ("IM-06", "labels", platform("windows", "amd64"), "labels[0].value"),
    ("IM-08", "app", [], "app"),
    ("IM-09", "app.exec", "/bin/true", "app.exec"),
    ("IM-09", "app.exec", ["/bin/true", 5], "app.exec[1]"),
    ("IM-09", "app.exec", ["/bin/true\0"], "app.exec[0]"),
    *[("IM-12", f"app.{name}", value, f"app.{name}") for name in ("user", "group") for value in (ABSENT, None, "", 0)],
    *[("IM-16", "app.supplementaryGIDs", [5, value], "app.supplementaryGIDs[1]") for value in (-1, "1", 4294967295, True, 1.0, None)],
    ("IM-18", "app.eventHandlers", [handler("preStart")], "app.eventHandlers[0].name"),
    ("IM-18", "app.eventHandlers", [handler("pre-start"), handler("pre-start")], "app.eventHandlers[1].name"),
    ("IM-18", "app.eventHandlers", [{"name": "pre-start"}], "app.eventHandlers[0].exec"),
    ("IM-18", "app.eventHandlers", [handler("pre-start", ())], "app.eventHandlers[0].exec"),
    *[("IM-21", "app.workingDirectory", text, "app.workingDirectory") for text in ("", "a", "./a", 1)],
    *[("IM-23", "app.environment", [pair("OK", "1"), pair(name, "x")], "app.environment[1].name") for name in ("A=B", "A B", "", 1)],
    ("IM-23", "app.environment", {"A": "B"}, "app.environment"),
    ("IM-23", "app.environment", [{"name": "A"}], "app.environment[0].value"),
    ("IM-23", "app.environment", [pair("A", "x\0y")], "app.environment[0].value"),
    *[("IM-24", "app.environment", [pair(name, "x")], "app.environment[0].name") for name in ("1A", ".a", "-a")],
    ("IM-24", "app.environment", [pair("A", "1"), pair("B", "1"), pair("A", "2")], "app.environment[2].name"),
    ("IM-26", "app.mountPoints", [{"name": "a.b", "path": "/x"}], "app.mountPoints[0].name"),
    ("IM-26", "app.mountPoints", [{"name": "a"}], "app.mountPoints[0].path"),
    ("IM-26", "app.mountPoints", [{"path": "/x"}], "app.mountPoints[0].name"),
    ("IM-26", "app.mountPoints", [{"name": "a", "path": "x"}], "app.mountPoints[0].path"),
    ("IM-26", "app.mountPoints", [{"name": "a", "path": "/x", "readOnly": "true"}], "app.mountPoints[0].readOnly"),
    *[("IM-27", "app.ports", port(port=value), "app.ports[0].port") for value in (0, 65536, "80", ABSENT, 80.0)],
    *[("IM-27", "app.ports", port(count=value), "app.ports[0].count") for value in (0, -1, "1")],
    ("IM-27", "app.ports", port(port=65535, count=2), "app.ports[0].count"),
    *[("IM-27", "app.ports", port(name=value), "app.ports[0].name") for value in (ABSENT, "", "W", "a.b")],
    *[("IM-27", "app.ports", port(protocol=value), "app.ports[0].protocol") for value in (ABSENT, "", 6)],
    ("IM-27", "app.ports", port(socketActivated=1), "app.ports[0].socketActivated"),
    ("IM-31", "app.userLabels", {"a": 1}, "app.userLabels.a"),
    ("IM-31", "app.userAnnotations", [pair("a", "b")], "app.userAnnotations"),
    ("IM-32", "dependencies", [{"imageID": ID}], "dependencies[0].imageName"),
    ("IM-32", "dependencies", [{"imageName": "A"}], "dependencies[0].imageName"),
    ("IM-32", "dependencies", [{"imageName": "a", "size": -1}], "dependencies[0].size"),
    ("IM-32", "dependencies", [{"imageName": "a", "imageID": "sha512-abc"}], "dependencies[0].imageID"),
    ("IM-32", "dependencies", [{"imageName": "a", "labels": [pair("x", "1"), pair("x", "1")]}], "dependencies[0].labels[1].name"),
    *[("IM-36", "pathWhitelist", ["/a", value], "pathWhitelist[1]") for value in ("a", "", 1, "./a")],
    ("IM-37", "annotations", [pair("a", "1"), pair("a", "2")], "annotations[1].name"),
    ("IM-37", "annotations", [pair("A", "1")], "annotations[0].name"),
    ("IM-37", "annotations", [pair("a", None)], "annotations[0].value"),
    ("IM-38", "annotations", [pair("created", "2014-10-27 19:32:27Z")], "annotations[0].value"),
    ("IM-38", "annotations", [pair("homepage", "ftp://example.com")], "annotations[0].value"),
    ("IM-38", "annotations", [pair("homepage", "/relative")], "annotations[0].value"),
    ("IM-38", "annotations", [pair("documentation", "https://")], "annotations[0].value"),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "path", "value"), GOOD)
def test_accepts(rule: str, path: str, value: Any) -> None:
    parse(build(path, value))


@pytest.mark.parametrize(("rule", "path", "value", "where"), BAD)
def test_refuses(rule: str, path: str, value: Any, where: str) -> None:
    with pytest.raises(ManifestError) as caught:
        parse(build(path, value))
    assert caught.value.subject == where
    assert caught.value.hint
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b'"x"', b"{}x", b"\xef\xbb\xbf{}", b'{"acKind": NaN}'], ids=repr)
def test_aci_19_must_be_one_json_object(data: bytes) -> None:
    with pytest.raises(ManifestError):
        parse_image_manifest(data)


def test_defaults_are_filled_in() -> None:
    manifest = parse({**MINIMAL, "app": {"user": "0", "group": "0", "ports": port(), "mountPoints": [{"name": "a", "path": "/a"}]}})
    assert manifest["labels"] == manifest["dependencies"] == manifest["pathWhitelist"] == manifest["annotations"] == []
    app = manifest["app"]
    assert app["exec"] == app["environment"] == app["isolators"] == app["eventHandlers"] == app["supplementaryGIDs"] == []
    assert app["workingDirectory"] == "/"
    assert app["userLabels"] == app["userAnnotations"] == {}
    assert app["ports"] == [{"name": "www", "protocol": "tcp", "port": 80, "count": 1, "socketActivated": False}]
    assert app["mountPoints"] == [{"name": "a", "path": "/a", "readOnly": False}]


def test_im_08_no_app_stays_no_app() -> None:
    assert "app" not in parse(MINIMAL)


def test_typ_09_names_match_without_regard_to_case() -> None:
    document = {**MINIMAL, "app": {**APP, "supplementaryGids": [7], "WORKINGDIRECTORY": "/x"}}
    document["Labels"] = [{"NAME": "version", "Value": "1"}]
    manifest = parse(document)
    assert manifest["app"]["supplementaryGIDs"] == [7]
    assert manifest["app"]["workingDirectory"] == "/x"
    assert manifest["labels"] == [pair("version", "1")]


def test_typ_09_one_member_in_two_spellings_is_refused() -> None:
    with pytest.raises(ManifestError) as caught:
        parse({**MINIMAL, "app": {**APP, "supplementaryGids": [7], "supplementaryGIDs": [8]}})
    assert caught.value.subject == "app.supplementaryGIDs"


def test_typ_10_unknown_members_are_kept() -> None:
    manifest = parse({**MINIMAL, "x-custom": {"a": [1]}, "app": {**APP, "restart": None}})
    assert manifest["x-custom"] == {"a": [1]}


def test_hostile_names_are_escaped() -> None:
    with pytest.raises(ManifestError) as caught:
        parse({**MINIMAL, "name": "a\x1b[31m\n\u202eevil"})
    assert str(caught.value).isprintable()
    assert "\\x1b" in str(caught.value)


HOST = ("Linux", "x86_64")


@pytest.mark.parametrize(
    ("labels", "host"),
    [
        ([], HOST),
        ([pair("arch", "vax")], HOST),
        ([pair("os", "linux")], HOST),
        (platform("linux", "amd64"), HOST),
        (platform("linux", "i386"), HOST),
        (platform("linux", "aarch64"), ("Linux", "aarch64")),
        (platform("linux", "armv6l"), ("Linux", "armv7l")),
    ],
)
def test_im_07_runs_here(labels: list[dict[str, Any]], host: tuple[str, str]) -> None:
    check_platform(parse({**MINIMAL, "labels": labels}), host)


@pytest.mark.parametrize(
    ("labels", "host"),
    [
        (platform("linux", "aarch64"), HOST),
        (platform("freebsd", "amd64"), HOST),
        ([pair("os", "darwin")], HOST),
        (platform("linux", "amd64"), ("Linux", "riscv64")),
        (platform("linux", "armv7l"), ("Linux", "armv6l")),
    ],
)
def test_im_07_does_not_run_here(labels: list[dict[str, Any]], host: tuple[str, str]) -> None:
    with pytest.raises(ManifestError, match="this host is linux/") as caught:
        check_platform(parse({**MINIMAL, "labels": labels}), host)
    assert caught.value.hint
