"""What is printed cannot drive a terminal, and tables line up."""

from __future__ import annotations

import io
import json
import sys

import pytest

from pyrun.cli import output

HOSTILE = "".join(
    map(chr, [*range(32), *range(127, 160), 0x061C, 0x200E, 0x200F, 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A), 0xFEFF])
)


def test_nothing_obeyable_is_left() -> None:
    for character in HOSTILE:
        escaped = output.escape(f"a{character}b")
        assert escaped.isascii()
        assert escaped.isprintable()
        assert escaped.startswith("a\\")


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("plain text", "plain text"),
        ("naïve 日本 ü", "naïve 日本 ü"),
        ("a\nb\tc\r", "a\\nb\\tc\\r"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("\u202eevil", "\\u202eevil"),
        (b"caf\xc3\xa9 \xff", "café \\xff"),
        ("\udcff", "\\xff"),
        ("\ud800", "\\ud800"),
        ("\U000e0041", "\\U000e0041"),
        (12, "12"),
    ],
)
def test_escape(text: object, escaped: str) -> None:
    assert output.escape(text) == escaped


def test_table(capsys: pytest.CaptureFixture[str]) -> None:
    output.table(["id", "name", "size"], [["1", "日本", "9"], ["22", "e\u0301a\x1b", ""]])
    assert capsys.readouterr().out == "ID  NAME    SIZE\n1   日本    9\n22  e\u0301a\\x1b\n"


def test_table_without_rows_or_legend(capsys: pytest.CaptureFixture[str]) -> None:
    output.table(["id", "name"], [])
    output.table(["id", "name"], [["a", "b"]], legend=False)
    assert capsys.readouterr().out == "ID  NAME\na  b\n"


def test_json_is_plain_and_whole(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"name": HOSTILE + "é\udcff", "list": []}
    output.emit_json(value)
    text = capsys.readouterr().out
    assert json.loads(text) == value
    assert all(" " <= character <= "~" or character == "\n" for character in text)


def test_closed_streams_are_tolerated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    output.say("nobody hears")
    output.say("nobody hears", error=True)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert output.colour("x", "31", Terminal()) == "\033[31mx\033[0m"
    assert output.colour("x", "31", io.StringIO()) == "x"
    assert output.colour("x", "31", None) == "x"
    monkeypatch.setenv("TERM", "dumb")
    assert output.colour("x", "31", Terminal()) == "x"
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    assert output.colour("x", "31", Terminal()) == "x"


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (10 << 10, "10 KiB"),
        ((1 << 20) - 1, "1.0 MiB"),
        (23 << 20, "23 MiB"),
        (5 << 50, "5120 TiB"),
    ],
)
def test_size(count: int, text: str) -> None:
    assert output.size(count) == text


@pytest.mark.parametrize(("seconds", "text"), [(-3, "0s"), (59, "59s"), (60, "1m"), (7300, "2h"), (400000, "4d")])
def test_age(seconds: float, text: str) -> None:
    assert output.age(seconds) == text
