"""What the documents say about options, files and decisions exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pyrun.cli.options import COMMON, GLOBAL, VERBS
from pyrun.oci.arguments import general, verbs

TOP = Path(__file__).resolve().parents[2]
PAGES = [
    TOP / "README.md",
    TOP / "CHANGELOG.md",
    TOP / "CONTRIBUTING.md",
    *sorted((TOP / "docs").glob("*.md")),
    *sorted((TOP / "docs" / "sources").glob("*.md")),
]
DESIGN = sorted((TOP / "docs" / "design").glob("*.md"))
CLIENTS = {"--rm", "--runtime", "--runc-binary"}  # of podman, docker and ctr
OTHERS = {
    "--no-install-recommends",
    "--now",
    "--strict",
    "--armor",
    "--detach-sign",
    "--scope",
}  # of apt-get, systemctl, mypy, gpg and systemd-run


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_exist(page: Path) -> None:
    known = {name for _, _, options, *_ in VERBS.values() for option in (*options, *COMMON, *GLOBAL) for name in option[0].split()}
    if page.name == "oci-runtime.md":
        known = {name for words in (general, *(row[0] for row in verbs.values())) for name in re.findall(r"--[a-z-]+", words)} | CLIENTS
    found = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", page.read_text()))
    assert found - known - OTHERS == set()


@pytest.mark.parametrize("page", [*PAGES, *DESIGN], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target


@pytest.mark.parametrize("page", DESIGN, ids=lambda page: page.name)
def test_the_architecture_knows_every_decision(page: Path) -> None:
    assert f"(design/{page.name})" in (TOP / "docs" / "architecture.md").read_text()


@pytest.mark.parametrize("page", [*PAGES, *DESIGN], ids=lambda page: page.name)
def test_files_that_are_named_exist(page: Path) -> None:
    for name in re.findall(r"`((?:runtime|images|native|tests|tools|docs|examples)/[\w./-]+\.\w+)`", page.read_text()):
        assert (TOP / name).exists(), name
