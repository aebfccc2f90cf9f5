"""The mount option idmap= as podman(1) and crun(1) describe it."""

from __future__ import annotations

import pytest

from pyrun.errors import ConfigError
from pyrun.oci.idmaps import option_maps

CONTAINER = ("0 100000 1000\n1000 201000 10\n", "0 300000 65536\n")


@pytest.mark.parametrize(
    ("text", "uids", "gids"),
    [
        ("uids=0-1-2;gids=3-4-5", "0 1 2\n", "3 4 5\n"),
        ("gids=3-4-5;uids=0-1-2", "0 1 2\n", "3 4 5\n"),
        ("uids=0-1-2#10-11-12;gids=@0-0-65536", "0 1 2\n10 11 12\n", "0 300000 65536\n"),
        ("uids=@7-1002-3#@0-999-1;gids=0-0-1#@5-6-1", "7 201002 3\n0 100999 1\n", "0 0 1\n5 300006 1\n"),
    ],
)
def test_ranges(text: str, uids: str, gids: str) -> None:
    assert option_maps(text, CONTAINER, "here") == (uids, gids)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("uids=0-1-2", "uids and gids"),
        ("uids=0-1-2;gids=0-1-2;uids=0-1-2", "uids and gids"),
        ("uids=0-1-2;gids=0-1-2;x=1", "uids and gids"),
        ("uids=0-1;gids=0-1-2", "not of the form"),
        ("uids=0-1-0;gids=0-1-2", "not of the form"),
        ("uids=;gids=0-1-2", "not of the form"),
        ("uids=0--1-2;gids=0-1-2", "not of the form"),
        ("uids=0-1-4294967296;gids=0-1-2", "not of the form"),
        ("uids=@0-999-2;gids=0-1-2", "not within one range"),
        ("uids=@0-1010-1;gids=0-1-2", "not within one range"),
    ],
)
def test_what_is_malformed(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        option_maps(text, CONTAINER, "here")
    assert caught.value.origin == "here"


def test_without_a_user_namespace_nothing_is_relative_to_it() -> None:
    with pytest.raises(ConfigError, match="not within one range"):
        option_maps("uids=@0-0-1;gids=@0-0-1", ("", ""), "here")
