"""Who we are to a registry: files of podman and docker, helpers, and what is refused of them."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from pyrun.errors import ImageError
from pyrun.images.registry import credentials
from pyrun.images.registry.auth import parse_challenges

SECRET = "hunter2-very-secret"


def entry(user: str = "me", secret: str = SECRET) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{secret}".encode()).decode()}


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"HOME": str(tmp_path / "home"), "XDG_RUNTIME_DIR": str(tmp_path / "run")}


def write(path: Path, document: object, mode: int = 0o600) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    path.chmod(mode)
    return path


def test_none(environ: dict[str, str]) -> None:
    assert credentials.find("example.com", "app", environ=environ) is None


def test_places_in_their_order(environ: dict[str, str], tmp_path: Path) -> None:
    write(tmp_path / "home/.docker/config.json", {"auths": {"example.com": entry("docker")}})
    assert credentials.find("example.com", "app", environ=environ).user == "docker"  # type: ignore[union-attr]
    write(tmp_path / "home/.config/containers/auth.json", {"auths": {"example.com": entry("home")}})
    assert credentials.find("example.com", "app", environ=environ).user == "home"  # type: ignore[union-attr]
    write(tmp_path / "run/containers/auth.json", {"auths": {"example.com": entry("run")}})
    assert credentials.find("example.com", "app", environ=environ).user == "run"  # type: ignore[union-attr]
    named = write(tmp_path / "named.json", {"auths": {"other.com": entry()}})
    assert credentials.find("example.com", "app", environ={**environ, "REGISTRY_AUTH_FILE": str(named)}) is None


def test_the_longest_key_counts(environ: dict[str, str], tmp_path: Path) -> None:
    auths = {"example.com": entry("host"), "example.com/team": entry("team"), "example.com/team/app": entry("app")}
    write(tmp_path / "run/containers/auth.json", {"auths": auths})
    for repository, user in (("team/app", "app"), ("team/other", "team"), ("teamwork/app", "host"), ("x", "host")):
        assert credentials.find("example.com", repository, environ=environ).user == user  # type: ignore[union-attr]
    assert credentials.find("example.com:5000", "team/app", environ=environ) is None
    assert credentials.find("xexample.com", "team/app", environ=environ) is None


def test_docker_hub_has_a_key_of_its_own(environ: dict[str, str], tmp_path: Path) -> None:
    write(tmp_path / "home/.docker/config.json", {"auths": {"https://index.docker.io/v1/": entry("hub")}})
    assert credentials.find("docker.io", "library/x", environ=environ).user == "hub"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("document", "mode", "reason"),
    [
        ({"auths": {"example.com": entry()}}, 0o644, "others than its owner may read it"),
        ({"auths": {"example.com": {"auth": "!!!"}}}, 0o600, "not user:password"),
        ({"auths": {"example.com": entry(secret=SECRET + "\r\nX: y")}}, 0o600, "not user:password"),
        ({"auths": {"example.com": {"identitytoken": SECRET}}}, 0o600, "identity token"),
        ('{"auths": {"a": "' + SECRET + '\\ud800"}}', 0o600, "not valid JSON"),
        ('{"x": 1, "x": "' + SECRET + '"}', 0o600, "not valid JSON"),
        ("[]", 0o600, "not a JSON object"),
        ({"credsStore": "../../tmp/evil"}, 0o600, "helper"),
        ({"credHelpers": {"example.com": "nowhere"}}, 0o600, "not found in"),
    ],
)
def test_refused_without_telling(environ: dict[str, str], tmp_path: Path, document: object, mode: int, reason: str) -> None:
    write(tmp_path / "run/containers/auth.json", document, mode)
    with pytest.raises(ImageError) as caught:
        credentials.find("example.com", "app", environ=environ)
    error = caught.value
    assert reason in str(error) and error.hint
    assert SECRET not in repr((str(error), error.hint, error.args)) and error.__cause__ is None


def test_a_loose_file_that_is_not_used_is_none_of_our_business(environ: dict[str, str], tmp_path: Path) -> None:
    write(tmp_path / "run/containers/auth.json", {"auths": {"other.com": entry()}}, 0o644)
    assert credentials.find("example.com", "app", environ=environ) is None


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_root: None) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir(mode=0o755)
    monkeypatch.setattr(credentials, "HELPER_DIRS", (str(folder), "/usr/bin", "/bin"))
    return folder / "docker-credential-test"


def test_helper(environ: dict[str, str], tmp_path: Path, helper: Path) -> None:
    write(tmp_path / "run/containers/auth.json", {"credHelpers": {"example.com": "test"}})
    write(helper, '#!/bin/sh\nread host\necho "{\\"Username\\": \\"$1-$host\\", \\"Secret\\": \\"s\\"}"\n', 0o755)
    found = credentials.find("example.com", "app", environ={**environ, "PATH": "/nowhere", "LD_PRELOAD": "/nowhere.so"})
    assert found is not None and (found.user, found.secret) == ("get-example.com", "s")
    helper.chmod(0o777)
    with pytest.raises(ImageError, match="others than root may change it"):
        credentials.find("example.com", "app", environ=environ)


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ('echo "credentials not found in native keychain"; exit 1', None),
        (f'echo "{SECRET}"; exit 3', "exit code 3"),
        (f'echo "{SECRET}"', "its answer"),
        ('echo \'{"Username": "<token>", "Secret": "x"}\'', "identity token"),
    ],
)
def test_helpers_that_fail(environ: dict[str, str], tmp_path: Path, helper: Path, script: str, reason: str | None) -> None:
    write(tmp_path / "run/containers/auth.json", {"credsStore": "test"})
    write(helper, f"#!/bin/sh\n{script}\n", 0o755)
    if reason is None:
        assert credentials.find("example.com", "app", environ=environ) is None
        return
    with pytest.raises(ImageError, match=reason) as caught:
        credentials.find("example.com", "app", environ=environ)
    assert SECRET not in str(caught.value) + caught.value.hint


def test_credentials_are_not_shown() -> None:
    assert SECRET not in repr(credentials.Credential("me", SECRET, "/file"))


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        (['Basic realm="x"'], [("basic", {"realm": "x"})]),
        (
            ['Bearer realm="https://a/t?x=1,2",service="s s",scope=plain'],
            [("bearer", {"realm": "https://a/t?x=1,2", "service": "s s", "scope": "plain"})],
        ),
        (['Negotiate, BASIC realm="a\\"b"'], [("negotiate", {}), ("basic", {"realm": 'a"b'})]),
        (["Negotiate", 'Bearer realm = "r"'], [("negotiate", {}), ("bearer", {"realm": "r"})]),
        (['Bearer realm="a", realm="b"'], [("bearer", {"realm": "a"})]),
        ([""], []),
        (["=,=,="], []),
        (['Bearer realm="unfinished'], [("bearer", {"realm": ""})]),
    ],
)
def test_challenges(headers: list[str], found: list[tuple[str, dict[str, str]]]) -> None:
    assert parse_challenges(headers) == found
