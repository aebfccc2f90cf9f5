"""Annotations org.systemd.property.NAME: the text form of GVariant, to what busctl(1) takes."""

from __future__ import annotations

import pytest

from pyrun.oci.variants import Malformed, property_of


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("CPUWeight", "uint64 100", ["CPUWeight", "t", "100"]),
        ("CPUWeight", "@t 100", ["CPUWeight", "t", "100"]),
        ("Nice", " -5 ", ["Nice", "i", "-5"]),
        ("Delegated", "true", ["Delegated", "b", "true"]),
        ("Description", r"'it\'s \n \\'", ["Description", "s", "it's \n \\"]),
        ("Description", "\"a 'b'\"", ["Description", "s", "a 'b'"]),
        ("After", "['a', \"b\"]", ["After", "as", "2", "a", "b"]),
        ("After", "@as []", ["After", "as", "0"]),
        ("AllowedCPUs", "[byte 3, byte 1]", ["AllowedCPUs", "ay", "2", "3", "1"]),
        ("AllowedCPUs", "@ay [3, 1]", ["AllowedCPUs", "ay", "2", "3", "1"]),
        ("DeviceAllow", "[('/dev/null', 'rw'), ('/dev/zero', 'r')]", ["DeviceAllow", "a(ss)", "2", "/dev/null", "rw", "/dev/zero", "r"]),
        ("IOReadBandwidthMax", "[('/dev/vda', uint64 5)]", ["IOReadBandwidthMax", "a(st)", "1", "/dev/vda", "5"]),
        ("Some", "1.5", ["Some", "d", "1.5"]),
        ("TimeoutStopSec", "uint64 3", ["TimeoutStopUSec", "t", "3000000"]),
        ("TimeoutStopSec", "0.5", ["TimeoutStopUSec", "t", "500000"]),
        ("TimeoutStopUSec", "uint64 3", ["TimeoutStopUSec", "t", "3"]),
    ],
)
def test_values(name: str, text: str, found: list[str]) -> None:
    assert property_of(name, text) == found


NAMES = ["", "ab", "A-b", "A b", "Slice", "PIDs", "Delegate", "\u00c4rger"]
SECONDS = ["-1", "'5'", "true", "uint64 99999999999999999"]
TEXTS = ["", " ", "maybe", "'open", '"', "'a' 'b'", "1 2", "byte 256", "byte -1", "uint16 65536", "9" * 5000, "2147483648", "--1"]
TEXTS += ["[", "[1", "[1,", "[1 2]", "['a', 1]", "[]", "(1", "(1,", "@s 5", "@as 'x'", "uint32 'x'", "int32 1.5", "1e9", "1.2.3"]
TEXTS += ["\u0663", "@", "{", "@" * 5000, "[" * 5000, "(" * 5000, "byte " * 5000]


@pytest.mark.parametrize(
    ("name", "text"),
    [*((name, "true") for name in NAMES), *(("TimeoutStopSec", text) for text in SECONDS), *(("Name", text) for text in TEXTS)],
)
def test_what_is_malformed(name: str, text: str) -> None:
    with pytest.raises(Malformed):
        property_of(name, text)
