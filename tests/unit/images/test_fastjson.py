"""The C scanner by itself agrees with package json."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyrun.images import fastjson

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(values)
def test_round_trip(value: object) -> None:
    text = fastjson.dumps(value)
    assert text.isascii() and "\n" not in text
    assert fastjson.loads(text) == json.loads(text) == value
    assert fastjson.loads(f" \n{text}\t".encode()) == value


@given(values)
def test_without_the_accelerator(value: object) -> None:
    assert fastjson._slow_dumps(value) == fastjson.dumps(value)
    assert fastjson._slow_scan(fastjson.dumps(value), 0)[0] == value
    assert fastjson._slow_quote("\x1b") == fastjson.quote("\x1b")


@pytest.mark.parametrize(
    "text",
    ["", " ", "{", "[1,]", "{'a':1}", "1 2", "nul", "NaN", "Infinity", "-Infinity", '"\n"', "[" * 200_000, b"\xff", b"\xef\xbb\xbf1"],
)
def test_refused(text: str | bytes) -> None:
    with pytest.raises(ValueError):
        fastjson.loads(text)


@pytest.mark.parametrize("value", [math.nan, math.inf, {1, 2}, b"x", object()])
def test_not_json(value: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        fastjson.dumps(value)


def test_refused_where_package_json_is_not_loaded() -> None:
    """As in every command: the C scanner would raise that package's error, and finds none."""
    texts = [b"{", b'{"a"', b'"', b'{"a":', b"{]", b"[1", b'{"a":1,}', b'"\\x"']
    script = f"""
import sys, pyrun.images.fastjson as fastjson
for text in {texts}:
    sys.modules.pop("json.decoder", None), sys.modules.pop("json", None)
    try: fastjson.loads(text)
    except ValueError: continue
    sys.exit(repr(text))
"""
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stderr == ""
