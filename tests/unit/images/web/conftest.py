"""A web server that is every host of these tests, and a store that trusts the test key for example.com."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from registries import Authority, Scripted
from sites import HOSTS, Bench, Site, certificate

from pyrun.images.store import Store
from pyrun.images.trust import Keyring


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = Authority(tmp_path_factory.mktemp("ca"))
    certificate(made)
    made.certs_dirs(*(f"{name}:{port}" for name in (*HOSTS, "127.0.0.1") for port in (443, 8443)))
    return made


@pytest.fixture
def site(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    made = Site()
    with Scripted((authority.folder / "site.crt", authority.folder / "site.key"), made.answer) as server:
        made.lead_here(monkeypatch, server)
        yield made


@pytest.fixture
def bench(store: Store, trusted: Keyring, authority: Authority, tmp_path: Path) -> Bench:
    return Bench(store, trusted, authority, tmp_path)
