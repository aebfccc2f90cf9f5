"""JSON that two readers could take differently is refused, quickly and in one line."""

from __future__ import annotations

import time

import pytest

from pyrun.errors import ManifestError
from pyrun.images import strictjson

GOOD = {
    "object": (b'{"a": 1, "b": [true, null, -2.5e3, "x"]}', {"a": 1, "b": [True, None, -2500.0, "x"]}),
    "scalar": (b' "x" ', "x"),
    "pair": (rb'"\ud83d\ude00"', "\U0001f600"),
    "escaped-backslash": (rb'"\\ud800"', r"\ud800"),
    "depth-64": (b"[" * 64 + b"]" * 64, None),
    "quotes": (rb'{"a\"}],{": "[[[[,,,,"}', {'a"}],{': "[[[[,,,,"}),
    "nul-escape": (rb'"\u0000"', "\0"),
}

BAD = {
    "C05-duplicate": (b'{"a": 1, "a": 2}', "occurs twice"),
    "C05-duplicate-nested": (b'{"x": [{"a": 1, "b": 0, "a": 1}]}', "occurs twice"),
    "C05-duplicate-by-escape": (rb'{"a": 1, "\u0061": 2}', "occurs twice"),
    "C05-case-twin": (b'{"name": 1, "Name": 2}', "in different case"),
    "C05-case-twin-kelvin": (b'{"k": 1, "\xe2\x84\xaa": 2}', "in different case"),
    "C05-nan": (b"[NaN]", "NaN"),
    "C05-infinity": (b"[-Infinity]", "Infinity"),
    "C05-overflow": (b"[1e999]", "out of range"),
    "C05-bom": (b'\xef\xbb\xbf{"a": 1}', "byte order mark"),
    "C05-utf16": ('{"a": 1}'.encode("utf-16"), "byte order mark"),
    "C05-utf16-no-bom": ('{"a": 1}'.encode("utf-16-le"), ""),
    "C05-latin1": (b'"\xe9"', "not UTF-8"),
    "C05-surrogate-bytes": (b'"\xed\xa0\x80"', "not UTF-8"),
    "C05-lone-high": (rb'{"a": "\ud800"}', "surrogate"),
    "C05-lone-low": (rb'["\udc00x"]', "surrogate"),
    "C05-surrogate-key": (rb'{"\ud800": 1}', "surrogate"),
    "C05-trailing": (b'{"a": 1} x', "extra data"),
    "C05-two-documents": (b"{}{}", "extra data"),
    "C05-comment": (b'{"a": 1} // x', "extra data"),
    "C05-trailing-comma": (b"[1,]", "line 1"),
    "C05-single-quotes": (b"{'a': 1}", "line 1"),
    "C05-raw-newline": (b'"a\nb"', "control character"),
    "empty": (b"", "line 1"),
    "unterminated": (b'{"a": "x', "line 1"),
    "closing-first": (b"]" * 1000, "line 1"),
    "digits": (b"[" + b"9" * 5000 + b"]", "too many digits"),
    "C06-depth-65": (b"[" * 65 + b"]" * 65, "nested deeper"),
    "C06-depth-50000": (b'{"a":' * 50_000, "nested deeper"),
    "C06-nodes": (b"[" + b"0," * 100_000 + b"0]", "more than 100000 values"),
    "C06-empty-objects": (b"[" + b"{}," * 60_000 + b"{}]", "more than 100000 values"),
    "C06-size": (b'"' + b"x" * (4 << 20) + b'"', "more than 4194304"),
    "C06-quadratic-quotes": (b'"' + b'\\"' * 2_000_000, "line 1"),
    "C06-quadratic-backslash": (b'"' + b"\\" * 4_000_001, ""),
}


@pytest.mark.parametrize(("data", "value"), GOOD.values(), ids=GOOD)
def test_sec_35_accepts(data: bytes, value: object) -> None:
    parsed = strictjson.loads(data, what="test")
    assert value is None or parsed == value


@pytest.mark.parametrize(("data", "reason"), BAD.values(), ids=BAD)
def test_sec_35_refuses(data: bytes, reason: str) -> None:
    started = time.process_time()
    with pytest.raises(ManifestError) as caught:
        strictjson.loads(data, what="test")
    assert time.process_time() - started < 1
    assert str(caught.value).startswith("read test: ")
    assert reason.lower() in str(caught.value).lower()
    assert str(caught.value).isprintable()
    assert caught.value.hint


def test_free_keys_may_differ_in_case_only() -> None:
    assert strictjson.loads(b'{"a": 1, "A": 2}', what="test", case_twins="allow") == {"a": 1, "A": 2}


def test_sec_35_a_hundred_more_that_are_ambiguous_or_deep() -> None:
    """Every place where a member can occur twice, spelled in every way, and every depth and digit beyond the bounds."""
    twice = ['"a"', r'"\u0061"', r'"\u0041"', '"A"']
    inside = ["%s", "[%s]", '{"x":%s}', '{"x":[0,%s]}', "[[[%s]]]", '{"":{"":%s}}']
    documents = [shape % f"{{{one}:1,{other}:2}}" for shape in inside for one in twice for other in twice]
    documents += ["[" * depth + "]" * depth for depth in range(65, 75)] + ["9" * digits for digits in range(5000, 5010)]
    documents += [f"[1e{power}]" for power in (309, 400, 5000)]
    assert len(documents) >= 100
    for document in documents:
        started = time.process_time()
        with pytest.raises(ManifestError) as caught:
            strictjson.loads(document.encode(), what="document")
        assert caught.value.hint and time.process_time() - started < 1
