"""The option table is well formed, and agrees with `Args` and with the modules that it names."""

from __future__ import annotations

import pytest

from pyrun.cli import manual
from pyrun.cli.help import dest, visible
from pyrun.cli.options import COMMON, GLOBAL, INSECURE, KINDS, VERBS
from pyrun.cli.parse import Args, parse
from pyrun.cli.verbs_appc import AppcArgs
from pyrun.cli.verbs_images import ImageArgs
from pyrun.cli.verbs_limits import LimitArgs
from pyrun.cli.verbs_network import NetworkArgs
from pyrun.cli.verbs_pods import PodArgs
from pyrun.cli.verbs_trust import TrustArgs
from pyrun.errors import UsageError
from pyrun.plan.numbers import duration

ROWS = [(verb, option) for verb in VERBS for option in VERBS[verb][2]] + [("", option) for option in GLOBAL]

ANNOTATIONS = {
    **PodArgs.__annotations__,
    **LimitArgs.__annotations__,
    **NetworkArgs.__annotations__,
    **TrustArgs.__annotations__,
    **AppcArgs.__annotations__,
    **ImageArgs.__annotations__,
    **Args.__annotations__,
}

TYPES = {
    "flag": "bool",
    "path": "Text",
    "int": "Number",
    "octal": "Number",
    "seconds": "Seconds",
    "csv": "Words | None",
    "list": "Words",
    "paths": "Words",
    "ints": "Numbers",
    "insecure": "Words",
    "env": "dict[str, str]",
    "volume": "Volumes",
    "mount": "Mounts",
}


@pytest.mark.parametrize(("verb", "option"), ROWS, ids=lambda value: value if isinstance(value, str) else value[0])
def test_row(verb: str, option: tuple[str, ...]) -> None:
    names, metavar, kind, choices, section, text = option
    spelled = names.split()
    assert spelled[0].startswith("--")
    assert all(name.startswith("--") or len(name) == 2 for name in spelled)
    assert kind in KINDS
    assert (metavar == "") == (kind == "flag")
    assert text
    assert text[-1] not in ".\n"
    assert text[0].islower() or text.split()[0].isupper()
    assert section.removeprefix("app ")[0].isupper()
    if kind == "int":
        low, _, high = choices.partition("..")
        assert int(low) < int(high)
    if names.startswith("--root"):
        return  # settled to a path whatever was given
    annotation = TYPES.get(kind) or ("str" if choices else "Text")
    assert ANNOTATIONS[dest(names)] == annotation


@pytest.mark.parametrize("verb", VERBS)
def test_names_are_unique(verb: str) -> None:
    names = [name for option in (*VERBS[verb][2], *COMMON) for name in option[0].split()]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("verb", VERBS)
def test_verb(verb: str) -> None:
    module, positional, options, pairs, summary = VERBS[verb]
    assert module.isidentifier()
    attributes = {dest(option[0]) for option in options}
    assert all(name in attributes for pair in pairs for name in pair)
    assert summary[-1:] != "."
    word = positional.partition(" ")[0]
    if word:
        attribute = word.strip("[].").lower() + ("s" if word.endswith("...") else "")
        assert attribute in ANNOTATIONS
        assert attribute not in attributes


def test_every_attribute_comes_from_the_table() -> None:
    known = {dest(option[0]) for _, option in ROWS} | {"verb", "given", "argv", "apps", "more"}
    for _, positional, *_ in VERBS.values():
        words = positional.removesuffix(" --").removesuffix(" +").split()
        known |= {word.strip("[].").lower() + ("s" if word.endswith("...") else "") for word in words}
    assert set(ANNOTATIONS) == known


def test_insecure_groups() -> None:
    single = {name for name, members in INSECURE.items() if members == (name,)}
    assert set(INSECURE["all"]) == single
    assert set(INSECURE["all-fetch"]) | set(INSECURE["all-run"]) == single
    row = next(option for option in VERBS["run"][2] if option[0] == "--insecure-options")
    assert row[3].split() == list(INSECURE)


def test_prose_speaks_of_real_verbs() -> None:
    groups = {verb.split()[0] for verb in visible()}
    assert set(manual.ABOUT) <= {*visible(), *groups}
    assert set(manual.EXAMPLES) <= {"", *visible()}


TIMES = [(verb, option[0].split()[0]) for verb, row in VERBS.items() for option in row[2] if option[1] == "DURATION"]


@pytest.mark.parametrize(("verb", "option"), TIMES, ids=" ".join)
def test_every_duration_takes_the_same_units(verb: str, option: str) -> None:
    values = [*verb.split(), *[word.strip("[].") for word in VERBS[verb][1].split()[:1]], option]
    dest = option[2:].replace("-", "_")
    for text, seconds in (("500ms", 0.5), ("1.5s", 1.5), ("1m30s", 90), ("2h", 7200), ("1d", 86400), ("3", 3)):
        value = getattr(parse([*values, text]), dest)
        assert (duration(value, option) if isinstance(value, str) else value) == seconds
    for wrong in ("5x", "ms", "1..5s", "-1s", "1s "):
        with pytest.raises(UsageError, match="not a duration"):
            duration(wrong, option)
