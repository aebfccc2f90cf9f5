"""The C scanner by itself agrees with package json."""

from __future__ import annotations

import json
import math

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
