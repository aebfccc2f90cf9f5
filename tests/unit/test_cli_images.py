"""The verbs trust, fetch and image from end to end: what is on stdout, what on stderr, and the exit code."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pexpect
import pytest
from mkaci import Image

from pyrun.cli.main import main

pytestmark = pytest.mark.needs_root


def gpg(home: str, *arguments: str, data: bytes = b"") -> bytes:
    command = ["/usr/bin/gpg", "--homedir", home, "--batch", "--quiet", "--no-tty", "--pinentry-mode", "loopback", "--passphrase", ""]
    return subprocess.run([*command, *arguments], input=data, capture_output=True, check=True).stdout


class Key:
    """One key pair."""

    def __init__(self, home: str) -> None:
        self.home = home
        gpg(home, "--quick-gen-key", "Release\x1b[31m <release@example.com>", "ed25519", "sign", "0")
        listing = gpg(home, "--with-colons", "--list-keys").decode()
        self.fingerprint = next(line.split(":")[9] for line in listing.splitlines() if line.startswith("fpr:"))
        self.public = gpg(home, "--armor", "--export")

    def sign(self, path: Path) -> None:
        Path(f"{path}.asc").write_bytes(gpg(self.home, "--armor", "--detach-sign", data=path.read_bytes()))


@pytest.fixture(scope="module")
def key() -> Iterator[Key]:
    with tempfile.TemporaryDirectory(prefix="pg-", dir="/tmp") as home:
        try:
            yield Key(home)
        finally:
            subprocess.run(["/usr/bin/gpgconf", "--homedir", home, "--kill", "all"], check=True, capture_output=True)


class Cli:
    """The command line with a root of its own; `out` and `err` are those of the last call."""

    def __init__(self, root: Path, key: Key, capture: pytest.CaptureFixture[str]) -> None:
        self.root, self.key, self.capture = root, key, capture
        self.out = self.err = ""
        self.keyfile = root.parent / "release.asc"
        self.keyfile.write_bytes(key.public)

    def __call__(self, *arguments: str | Path, code: int = 0) -> str:
        self.capture.readouterr()
        result = main(["--root", str(self.root), *map(str, arguments)])
        self.out, self.err = self.capture.readouterr()
        assert result == code, (self.out, self.err)
        assert "\x1b" not in self.out + self.err
        return self.out

    def trust(self, *options: str) -> None:
        assert self("trust", "--yes", *options, self.keyfile) == f"{self.key.fingerprint}\n"

    def image(self, name: str = "example.com/app", version: str = "1.0", signed: bool = True) -> Path:
        image = Image(name, ["/bin/true"], version=version)
        image.add("/etc/hello", b"hello")
        path = image.write(self.root.parent / f"{name.rpartition('/')[2]}-{version}.aci")
        if signed:
            self.key.sign(path)
        return path


@pytest.fixture
def cli(tmp_path: Path, key: Key, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    return Cli(tmp_path / "root", key, capsys)


def test_trust_shows_what_it_trusts(cli: Cli, key: Key) -> None:
    cli.trust("--prefix", "example.com")
    spaced = " ".join(key.fingerprint[i : i + 4] for i in range(0, 40, 4))
    assert spaced in cli.err and "Release\\x1b[31m <release@example.com>" in cli.err
    assert "ed25519, never expires" in cli.err and "example.com/..." in cli.err
    cli.trust()
    assert "ALL IMAGES" in cli.err


def test_trust_asks_and_refuses_without_a_terminal(cli: Cli) -> None:
    assert cli("trust", cli.keyfile, code=125) == ""
    assert "no terminal to ask" in cli.err and "add --yes" in cli.err
    assert cli("trust", "--list").splitlines()[1:] == []


@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("YES", 0), ("n", 125), ("", 125), ("maybe", 125)])
def test_trust_on_a_terminal(cli: Cli, answer: str, code: int) -> None:
    words = [str(word) for word in ("-m", "pyrun", "--root", cli.root, "trust", "--prefix", "example.com", cli.keyfile)]
    child: Any = pexpect.spawn(sys.executable, words, env={**os.environ, "NO_COLOR": "1"}, timeout=20, encoding="utf-8")
    child.expect(r"Trust this key for the images example\.com and example\.com/\.\.\.\? \[y/N\] ")
    child.sendline(answer)
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == code
    assert len(cli("trust", "--list").splitlines()) == 1 + (code == 0)


def test_trust_list_and_remove(cli: Cli, key: Key) -> None:
    assert json.loads(cli("trust", "--list", "--format", "json")) == []
    cli.trust("--prefix", "example.com/team")
    cli.trust()
    facts = json.loads(cli("trust", "--list", "--format", "json"))
    assert [(fact["fingerprint"], fact["prefix"], fact["origin"], fact["problem"]) for fact in facts] == [
        (key.fingerprint, "", "local", None),
        (key.fingerprint, "example.com/team", "local", None),
    ]
    head, first, second = cli("trust", "--list").splitlines()
    assert head.split()[:3] == ["FINGERPRINT", "TRUSTED", "FOR"]
    assert "(all images)" in first and "example.com/team" in second and "Release\\x1b[31m" in first
    assert (
        cli("trust", "--remove", key.fingerprint.lower(), "--prefix", "example.com/team")
        == f"removed {key.fingerprint} for example.com/team\n"
    )
    assert cli("trust", "--remove", key.fingerprint[-16:]) == f"removed {key.fingerprint} for all images\n"
    cli("trust", "--remove", key.fingerprint, code=125)
    assert "not trusted" in cli.err


def test_trust_has_verbs_of_its_own(cli: Cli, key: Key) -> None:
    cli.trust("--prefix", "example.com")
    cli.trust()
    assert cli("trust", "list") == cli("trust", "--list")
    assert [fact["prefix"] for fact in json.loads(cli("trust", "list", "--format", "json"))] == ["", "example.com"]
    assert cli("__complete", "--", "trust", "rm", key.fingerprint[:5]).startswith(f"{key.fingerprint}\ttrusted for ")
    assert cli("trust", "rm", "--prefix", "example.com", key.fingerprint) == f"removed {key.fingerprint} for example.com\n"
    assert cli("trust", "rm", key.fingerprint) == f"removed {key.fingerprint} for all images\n"
    assert cli("trust", "rm", "policy", code=125) == "" and "there is none" in cli.err
    assert "pyrun trust list" in cli("trust", "--help") and "usage: pyrun trust rm" in cli("trust", "rm", "--help")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ([], 2),
        (["rm"], 2),
        (["list", "x.key"], 2),
        (["--list", "x.key"], 2),
        (["--remove", "A" * 40, "x.key"], 2),
        (["--list", "--remove", "A" * 40], 2),
        (["--yes", "/nonexistent"], 125),
        (["--yes", "/dev/null"], 125),
        (["--remove", "ABC"], 125),
    ],
)
def test_trust_misused(cli: Cli, words: list[str], code: int) -> None:
    assert cli("trust", *words, code=code) == ""
    assert "hint:" in cli.err


def test_fetch_prints_full_ids(cli: Cli) -> None:
    cli.trust("--prefix", "example.com")
    one, two = cli.image(version="1"), cli.image(version="2")
    ids = cli("fetch", one, two).split()
    assert [len(image_id) for image_id in ids] == [135, 135] and cli.err == ""
    assert cli("fetch", one).split() == ids[:1]


def test_fetch_goes_on_after_a_failure(cli: Cli) -> None:
    cli.trust("--prefix", "example.com")
    good, bad = cli.image(version="1"), cli.image("example.org/other")
    assert len(cli("fetch", bad, "/nonexistent.aci", good, code=125).split()) == 1
    assert "trusted for example.com only" in cli.err and "/nonexistent.aci: no such file" in cli.err


def test_fetch_unsigned(cli: Cli) -> None:
    path = cli.image(signed=False)
    assert cli("fetch", path, code=125) == ""
    assert "no signature" in cli.err and "--insecure-options=image" in cli.err
    assert cli("fetch", "--insecure-options=image", path).startswith("sha512-")
    assert "note:" in cli.err
    cli("fetch", "--insecure-options=image", "--quiet", path)
    assert cli.err == ""
    cli("fetch", path, code=125)


def test_fetch_with_a_named_signature(cli: Cli) -> None:
    cli.trust("--prefix", "example.com")
    one, two = cli.image(version="1"), cli.image(version="2")
    elsewhere = one.with_name("elsewhere")
    Path(f"{one}.asc").rename(elsewhere)
    cli("fetch", "--signature", elsewhere, one)
    cli("fetch", "--signature", elsewhere, one, two, code=2)
    cli("fetch", "--signature", elsewhere, two, code=125)


@pytest.fixture
def filled(cli: Cli) -> Callable[[], list[str]]:
    cli.trust("--prefix", "example.com")
    cli("fetch", cli.image(version="1"), cli.image("example.com/tool", version="2"))
    cli("fetch", "--insecure-options=image", cli.image("example.org/free", signed=False))
    return lambda: [fact["name"] for fact in json.loads(cli("image", "list", "--format", "json"))]


def test_image_list(cli: Cli, filled: Callable[[], list[str]], key: Key) -> None:
    head, *rows = cli("image", "list").splitlines()
    assert head.split() == ["ID", "NAME", "VERSION", "SIZE", "IMPORTED", "SIGNED", "BY"]
    assert [row.split()[1] for row in rows] == ["example.org/free", "example.com/tool", "example.com/app"]
    assert len(rows[0].split()[0]) == 19 and rows[0].endswith("-") and rows[1].endswith(key.fingerprint[-16:])
    assert [row.split() for row in cli("image", "list", "--no-legend").splitlines()] == [row.split() for row in rows]
    full = cli("image", "list", "--full", "--no-legend").splitlines()
    assert len(full[1].split()[0]) == 135 and full[1].endswith(key.fingerprint)
    facts = json.loads(cli("image", "list", "--format", "json"))
    assert facts[0]["signature"] is None and facts[1]["signature"]["prefix"] == "example.com"
    assert facts[2]["labels"]["version"] == "1" and facts[2]["size"] > 0 and facts[2]["imported"] > 10**18


def test_image_list_of_nothing(cli: Cli) -> None:
    assert len(cli("image", "list").splitlines()) == 1
    assert json.loads(cli("image", "list", "--format", "json")) == []
    assert not cli.root.exists(), "looking makes no directories"


def test_image_list_names_damaged_records(cli: Cli, filled: Callable[[], list[str]]) -> None:
    image_id = cli("image", "list", "--full", "--no-legend").split()[0]
    (cli.root / "images" / image_id).write_text("{")
    assert filled() == ["example.com/tool", "example.com/app"]
    assert f"record of {image_id} is damaged" in cli.err
    cli("image", "rm", image_id[:19])
    assert cli("image", "list") and cli.err == ""


def test_image_show(cli: Cli, filled: Callable[[], list[str]]) -> None:
    record = json.loads(cli("image", "show", "example.com/app:1"))
    assert record["manifest"]["app"]["exec"] == ["/bin/true"] and record["name"] == "example.com/app"
    cli("image", "show", "example.com/none", code=125)
    assert "nothing in the store answers to it" in cli.err


def test_image_verify(cli: Cli, filled: Callable[[], list[str]]) -> None:
    assert [line.split()[1:] for line in cli("image", "verify", "--all").splitlines()] == [["ok"]] * 3
    record = json.loads(cli("image", "show", "example.com/app"))
    (cli.root / "layers" / record["id"] / "rootfs" / "etc" / "hello").write_text("howdy")
    lines = cli("image", "verify", "--all", code=125).splitlines()
    assert sorted(line.split(" ", 1)[1] == "ok" for line in lines) == [False, True, True]
    assert cli("image", "verify", "example.com/tool").endswith(" ok\n")
    cli("image", "verify", "example.com/app", "example.com/tool", code=125)
    assert "/etc/hello: content changed" in cli.out
    cli("image", "verify", code=2)
    cli("image", "verify", "--all", "example.com/app", code=2)


def test_image_rm(cli: Cli, filled: Callable[[], list[str]]) -> None:
    assert len(cli("image", "rm", "example.com/app", "example.com/none", "example.org/free", code=125).split()) == 2
    assert "example.com/none" in cli.err
    assert filled() == ["example.com/tool"]
    cli("image", "rm", "example.com/tool")
    assert filled() == []
    for kind in ("layers", "blobs/sha256", "images", "refs", "imports", "tmp"):
        assert os.listdir(cli.root / kind) == []
