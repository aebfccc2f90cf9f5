"""Python and the launcher take the same from what a CNI plug-in answers, and the launcher takes nothing that Python would not."""

from __future__ import annotations

import json
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pyrun.errors import PyrunError
from pyrun.net import cni

TOP = Path(__file__).resolve().parents[2]
LINK = "-nostdlib -static-pie -Wl,-e,_start -Wl,--gc-sections".split()


@pytest.fixture(scope="module")
def witness(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("results") / "results"
    flags = (TOP / "native/compile_flags.txt").read_text().split()
    sources = [str(TOP / name) for name in ("tests/results.c", "native/net_result.c", "native/net_address.c", "native/start.c")]
    command = ["gcc", *flags, "-fcf-protection=none", f"-I{TOP}/native", *LINK, "-o", str(path), *sources]
    subprocess.run(command, check=True, timeout=60)
    return path


def native(witness: Path, data: bytes) -> tuple[list[str], list[str], str] | None:
    """Addresses, default routes and MAC; None where that is for Python."""
    done = subprocess.run([witness], input=data, capture_output=True, timeout=60)
    assert done.returncode in (0, 1)
    if done.returncode:
        return None
    defaults, mac, rest = done.stdout.split(b"\n", 2)
    addresses = []
    while line := (parts := rest.split(b"\n", 1))[0]:
        addresses.append(line.decode())
        rest = parts[1]
    rest = parts[1]
    raw = b"".join(socket.inet_pton(10 if ":" in one else 2, one.partition("/")[0]) for one in addresses)
    kinds = [any(":" not in one for one in addresses), any(":" in one for one in addresses), bool(addresses)]
    assert rest == b"".join(b"1" if kind else b"0" for kind in kinds) + raw
    return addresses, json.loads(f"[{defaults.decode()}]"), mac.decode()


def by_python(data: bytes) -> tuple[list[str], list[str], str] | None:
    try:
        cni.failed("net", "kind", 0, data, b"")
        made: dict[str, Any] = {"network": "net", "result": json.loads(data)}
        cni.take(made)
    except (PyrunError, ValueError):
        return None
    return made["addresses"], made["defaults"], made["mac"]


PLAIN = "10.1.2.3/24 fd00::1/64 ::/0 1::/128 1:2:3:4:5:6:7:8/1 1:2:3:4:5:6:7::/9 FD00::aB/64 255.255.255.255/32 0.0.0.0/0".split()
WRONG = """
    1.2.3/4 1.2.3.4 01.2.3.4/5 1.2.3.256/5 1.2.3.4/33 1.2.3.4/+1 1.2.3.4/05 ::1::/1 :1/1 1:/1 :::/1 ::ffff:1.2.3.4/128 fd00::1/129
    12345::/1 1:2:3:4:5:6:7:8::/1 1:2:3:4:5:6:7:8:9/1 / x \u00e9
    """.split()
ADDRESS = st.one_of(
    st.sampled_from(PLAIN), st.sampled_from([*WRONG, "1.2.3.4/5\n", "1.2.3.4/ 5", ""]), st.text("0123456789abcdef:./", max_size=24)
)
ODD = st.one_of(st.none(), st.booleans(), st.integers(-9, 9), st.floats(allow_nan=False), st.text(max_size=3), st.just({}), st.just([]))
MAC = st.one_of(st.sampled_from(["02:00:00:00:00:01", "AB:cd", ""]), ODD)


def record(**members: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries({}, optional={**members, "more": ODD})


IP = record(address=st.one_of(ADDRESS, ODD), version=ODD)
ROUTE = record(dst=st.one_of(st.sampled_from(["0.0.0.0/0", "::/0", "10.0.0.0/8"]), ODD))
INTERFACE = record(mac=MAC, sandbox=st.one_of(st.sampled_from(["/proc/1/ns/net", ""]), ODD), name=ODD)
OLD = st.one_of(record(ip=st.one_of(ADDRESS, ODD)), ODD)
RESULT = record(
    cniVersion=ODD,
    ips=st.one_of(st.lists(IP, max_size=3), ODD),
    routes=st.one_of(st.lists(ROUTE, max_size=3), ODD),
    interfaces=st.one_of(st.lists(INTERFACE, max_size=3), ODD),
    ip4=OLD,
    ip6=OLD,
)


def test_what_is_plain_is_taken(witness: Path) -> None:
    plain = {
        "cniVersion": "1.0.0",
        "interfaces": [{"mac": "02:00:00:00:00:01"}, {"name": "eth0", "mac": "02:00:00:00:00:02", "sandbox": "/proc/1/ns/net"}],
        "ips": [{"interface": 1, "address": "10.1.2.3/24", "gateway": "10.1.2.1"}, {"address": "fd00::3/64"}],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "10.0.0.0/8", "gw": "10.1.2.9"}, {"dst": "::/0"}],
        "dns": {"nameservers": ["9.9.9.9"], "more": {"\u2028": [1.5e-3, -0.0, None, True]}},
    }  # fmt: skip
    for text in (json.dumps(plain), json.dumps(plain, indent=2)):
        found = native(witness, text.encode())
        assert found == by_python(text.encode()) == (["10.1.2.3/24", "fd00::3/64"], ["0.0.0.0/0", "::/0"], "02:00:00:00:00:02")


@given(RESULT)
@example({"ip6": {"ip": ""}})
def test_both_take_the_same(witness: Path, result: object) -> None:
    data = json.dumps(result).encode()
    found = native(witness, data)
    assert found is None or found == by_python(data)


@given(st.binary(max_size=6), st.integers(0, 400), st.integers(0, 8))
@example(b'"', 1, 0)
@example(b"\0", 400, 0)
def test_what_is_no_json_is_not_taken(witness: Path, piece: bytes, at: int, gone: int) -> None:
    """Anything put anywhere in a document: what the launcher takes goes into the pod's record as it stands, which Python has to read."""
    more = ['a\\"\u00e9', 1.5e9, -2, None, True, {}]
    text = json.dumps({"ips": [{"address": "10.1.2.3/24", "more": more}], "routes": [{"dst": "::/0"}]}).encode()
    data = text[:at] + piece + text[at + gone :]
    found = native(witness, data)
    assert found is None or found == by_python(data)


def test_what_is_deep_or_long_is_not_taken(witness: Path) -> None:
    deep = [b'{"a":' + b"[" * 60000, b'{"a":' + b'{"a":' * 9999, b"[" * 33 + b"]" * 33]
    for data in [*deep, b'{"a":1' + b"0" * 99 + b"}", b'{"a":"' + b"\\" * 60001]:
        assert native(witness, data) is None
    assert native(witness, b'{"a":' + b"[" * 31 + b"]" * 31 + b"}") == ([], [], "")
