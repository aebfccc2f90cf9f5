"""The launcher's reader of a process (native/oci_json.c, native/oci_exec_json.c) against the one of Python.

It may leave anything to Python, but what it takes it has to understand as Python does.
"""

from __future__ import annotations

import json
import random
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pyrun.errors import ConfigError
from pyrun.oci import spec
from pyrun.plan import caps, rlimits

TOP = Path(__file__).resolve().parents[2]
SETS = ("bounding", "effective", "permitted", "inheritable", "ambient")
GOOD: dict[str, Any] = {
    "args": ["sh", "-c", 'a "b" \\ \t/\n', ""],
    "capabilities": {"bounding": ["CAP_KILL", "CAP_NONE", "CAP_BPF"], "ambient": [], "permitted": None, "effective": ["CAP_CHOWN"]},
    "consoleSize": {"height": 3, "width": 65535},
    "cwd": "/a/b",
    "env": ["A=b", "EMPTY=", "TWO=a=b"],
    "noNewPrivileges": True,
    "oomScoreAdj": -1000,
    "rlimits": [{"type": "RLIMIT_CORE", "soft": 0, "hard": 2**64 - 1}, {"hard": 20, "soft": 10, "type": "RLIMIT_NOFILE"}],
    "terminal": True,
    "user": {"uid": 0, "gid": 2147483647, "umask": 18, "additionalGids": [1, 2, 3]},
    "apparmorProfile": "",
    "selinuxLabel": None,
}


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reader") / "reader"
    sources = [TOP / "tests/support/read_process.c", TOP / "native/oci_json.c", TOP / "native/oci_exec_json.c"]
    flags = ["-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", f"-I{TOP / 'native'}"]
    subprocess.run(["gcc", *flags, "-o", path, *sources], check=True, timeout=120)
    return path


def by_c(reader: Path, texts: list[bytes]) -> list[Any]:
    """What each text is to the launcher, None for what it leaves to Python."""
    data = b"".join(len(text).to_bytes(4, "little") + text for text in texts)
    done = subprocess.run([reader], input=data, stdout=subprocess.PIPE, check=True, timeout=120)
    return [json.loads(line) for line in done.stdout.decode().splitlines()]


def mask(names: list[str]) -> int:
    return sum({1 << caps.NAMES.index(name) for name in names if name in caps.NAMES})


def by_python(text: bytes) -> Any:
    """The same of Python's reader; ConfigError."""
    found = spec.load_process(text)
    user, sets, size = found.get("user", {"uid": 0, "gid": 0}), found.get("capabilities", {}), found.get("consoleSize", {})
    return {
        "args": found["args"],
        "env": found.get("env", []),
        "cwd": found["cwd"],
        "ids": [user["uid"], user["gid"], user.get("umask", 2**32 - 1), *user.get("additionalGids", [])],
        "sets": [mask(sets.get(name, [])) for name in SETS],
        "limits": [
            [rlimits.NAMES.index(one["type"].removeprefix("RLIMIT_").lower()), one["soft"], one["hard"]] for one in found.get("rlimits", [])
        ],
        "flags": [int(found.get("noNewPrivileges", False)), int(found.get("terminal", False))],
        "size": [size.get("height", 0), size.get("width", 0)],
    }


def test_what_is_good_is_understood(reader: Path) -> None:
    texts = [
        json.dumps(GOOD),
        json.dumps(GOOD, indent="\t"),
        '{"cwd":"/","args":["x"]}',
        '\n{ "cwd" :"/", "args": [ "\\u20ac\\u00e4" ] }\r\n',
    ]
    texts += [json.dumps({**GOOD, "user": {"uid": 1, "gid": 2}, "args": ["x"] * 5000, "rlimits": [], "env": None})]
    encoded = [text.encode() for text in texts]
    assert by_c(reader, encoded) == [by_python(text) for text in encoded]


@pytest.mark.parametrize(
    "text",
    [
        '{"cwd":"/","args":["x"]} x',
        '{"cwd":"/","args":["x"]}\0',
        '{"cwd":"/","args":["x"]}\0 x',
        '{"cwd":"/","args":["x"],}',
        '{"cwd":"/","args":["x",]}',
        '{"cwd":"/","args":["x"],"args":["y"]}',
        '{"cwd":"/","args":["x"],"unheard":1}',
        '{"cwd":"/","args":["x"],"apparmorProfile":"p"}',
        '{"cwd":"/","args":["x\\u0000"]}',
        '{"cwd":"/","args":["\\ud83d\\ude00"]}',
        '{"cwd":"/","args":["\xe4"]}',
        '{"cwd":"/","args":[1]}',
        '{"cwd":"/","args":[null]}',
        '{"cwd":"","args":["x"]}',
        '{"cwd":"a","args":["x"]}',
        '{"cwd":"/","args":[""]}',
        '{"cwd":"/","args":["x"],"env":["=a"]}',
        '{"cwd":"/","args":["x"],"user":{"uid":1}}',
        '{"cwd":"/","args":["x"],"user":{"uid":1.0,"gid":1}}',
        '{"cwd":"/","args":["x"],"user":{"uid":1e3,"gid":1}}',
        '{"cwd":"/","args":["x"],"user":{"uid":01,"gid":1}}',
        '{"cwd":"/","args":["x"],"user":{"uid":-1,"gid":1}}',
        '{"cwd":"/","args":["x"],"user":{"uid":2147483648,"gid":1}}',
        '{"cwd":"/","args":["x"],"user":{"uid":99999999999999999999999,"gid":1}}',
        '{"cwd":"/","args":["x"],"rlimits":[{"type":"RLIMIT_CORE","soft":2,"hard":1}]}',
        '{"cwd":"/","args":["x"],"rlimits":[{"type":"RLIMIT_CORE","soft":2,"hard":18446744073709551616}]}',
        '{"cwd":"/","args":["x"],"terminal":truex}',
        '{"cwd":"/","args":["x"]',
        "[]",
        "",
        '{"cwd":"/","args":["x',
        '{"cwd":"/","args":["x\\',
        '{"cwd',
    ],
)
def test_what_is_not_plain_is_left_to_python(reader: Path, text: str) -> None:
    assert by_c(reader, [text.encode("latin-1")]) == [None]


def changed(rng: random.Random, text: bytes) -> bytes:
    """The text with a piece of it gone, doubled, or replaced by what JSON is made of."""
    start = rng.randrange(len(text))
    end = min(len(text), start + rng.choice((1, 1, 2, 5, 20)))
    pieces = [
        b"",
        text[start:end] * 2,
        b'"',
        b"\\",
        b",",
        b"]",
        b"}",
        b"{",
        b"[",
        b"null",
        b"0",
        b"-1",
        b"1e9",
        b"\\u0041",
        b"\0",
        b"\xff",
        b" ",
    ]
    return text[:start] + rng.choice(pieces) + text[end:]


def test_nothing_is_understood_otherwise(reader: Path) -> None:
    rng = random.Random(8)
    base = [json.dumps(GOOD).encode(), json.dumps(GOOD, indent=1).encode()]
    texts = []
    for _ in range(20000):
        text = rng.choice(base)
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            text = changed(rng, text)
        texts.append(text)
    taken = 0
    for text, seen in zip(texts, by_c(reader, texts), strict=True):
        if seen is not None:
            try:
                assert seen == by_python(text), text
            except ConfigError as error:
                raise AssertionError(f"{text!r} is refused by Python: {error}") from None
            taken += 1
    assert taken > 1000


def test_names_are_those_that_python_knows() -> None:
    text = (TOP / "native" / "oci_exec_json.c").read_text()

    def words(name: str) -> list[str]:
        found = re.search(rf"char {name}\[\] =(.*?);", text, re.S)
        assert found is not None
        return "".join(re.findall(r'"(.*?)"', found[1])).removesuffix("\\0").split("\\0")

    assert ["CAP_" + name for name in words("capabilities")] == list(caps.NAMES)
    assert [name.lower() for name in words("limits")] == list(rlimits.NAMES)
    assert f"(1ULL << {len(caps.NAMES)}) - 1" in (TOP / "native" / "oci_exec_plan.c").read_text()
