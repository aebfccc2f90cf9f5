"""Device rules become a program that says what the rules say, for every device and access."""

from __future__ import annotations

import itertools
import random
from struct import iter_unpack
from typing import Any

import pytest

from pyrun.errors import ConfigError
from pyrun.plan.devices_bpf import OCI_DEFAULT, POD_DEFAULT, device_program, rules_of_oci, rules_of_text, text_of

BITS = {"m": 1, "r": 2, "w": 4}
Rule = tuple[str, int, int, str, bool]


def says(program: bytes, kind: str, major: int, minor: int, access: str) -> bool:
    """A machine for the few instructions that there are; without a program all is allowed."""
    if not program:
        return True
    context = {0: sum(BITS[letter] for letter in access) << 16 | {"b": 1, "c": 2}[kind], 4: major, 8: minor}
    code = list(iter_unpack("=BBhI", program))
    registers = [0] * 11
    at = 0
    while True:
        operation, both, jump, value = code[at]
        to, source = both & 15, both >> 4
        at += 1
        if operation == 0x61:
            registers[to] = context[jump]
        elif operation in (0xB4, 0xBC):
            registers[to] = value if operation == 0xB4 else registers[source]
        elif operation == 0x74:
            registers[to] >>= value
        elif operation == 0x54:
            registers[to] &= value
        elif operation in (0x56, 0x16):
            at += jump if (registers[to] == value) == (operation == 0x16) else 0
        else:
            assert operation == 0x95
            return bool(registers[0])


def ought(rules: list[Rule], kind: str, major: int, minor: int, access: str) -> bool:
    """Each access by the last rule that names it."""
    for letter in access:
        last = False
        for of, first, second, names, allow in rules:
            if of in ("a", kind) and first in (-1, major) and second in (-1, minor) and letter in names:
                last = allow
        if not last:
            return False
    return True


ACCESSES = ["".join(letters) for size in (1, 2, 3) for letters in itertools.combinations("rwm", size)]


@pytest.mark.parametrize("seed", range(20))
def test_the_program_does_what_the_rules_say(seed: int) -> None:
    dice = random.Random(seed)
    for _ in range(30):
        rules = [
            (dice.choice("abc"), dice.choice((-1, 1, 2)), dice.choice((-1, 0, 3)), dice.choice(ACCESSES), dice.random() < 0.6)
            for _ in range(dice.randrange(9))
        ]
        program = device_program(rules)
        for kind, major, minor, access in itertools.product("bc", (1, 2, 7), (0, 3, 9), ACCESSES):
            assert says(program, kind, major, minor, access) == ought(rules, kind, major, minor, access), (
                rules,
                kind,
                major,
                minor,
                access,
            )


def test_a_pods_own() -> None:
    program = device_program([*POD_DEFAULT, ("c", 10, 229, "rm", True)])
    open_ = [(major, minor) for major in range(512) for minor in (*range(12), 229) if says(program, "c", major, minor, "r")]
    assert sorted(set(open_) - {(136, minor) for minor in (*range(12), 229)}) == [
        (1, 3),
        (1, 5),
        (1, 7),
        (1, 8),
        (1, 9),
        (5, 0),
        (5, 2),
        (10, 229),
    ]
    assert not says(program, "c", 10, 229, "w") and not says(program, "b", 1, 3, "r") and not says(program, "c", 5, 2, "m")
    assert not any(says(program, "b", major, minor, "r") for major in range(512) for minor in range(4))


def test_oci() -> None:
    deny: dict[str, Any] = {"allow": False, "access": "rwm"}
    assert device_program(rules_of_oci([deny, {"allow": True, "access": "rwm"}])) == b"", "all is allowed: no program"
    program = device_program(
        rules_of_oci(
            [
                deny,
                {"allow": True, "type": "c", "major": 10, "minor": None, "access": "rw"},
                {"allow": False, "type": "c", "major": 1, "minor": 3},
            ]
        )
    )
    assert says(program, "c", 10, 4, "rw") and not says(program, "b", 10, 4, "rw")
    assert says(program, "c", 1, 3, "rwm"), "the defaults whatever the rules say"
    assert says(program, "b", 8, 0, "m") and not says(program, "b", 8, 0, "r"), "any node may be made"
    nothing: list[Any] = []
    for absent in (None, nothing):
        assert rules_of_oci(absent) == list(OCI_DEFAULT) and not says(device_program(rules_of_oci(absent)), "c", 10, 4, "r")


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        ("x", "allow"),
        ({"type": "c"}, "allow"),
        ({"allow": 1}, "allow"),
        ({"allow": True, "type": "p"}, "type"),
        ({"allow": True, "major": "8"}, "major"),
        ({"allow": True, "minor": -2}, "minor"),
        ({"allow": True, "minor": 1 << 32}, "minor"),
        ({"allow": True, "access": "rx"}, "access"),
        ({"allow": True, "access": 7}, "access"),
    ],
)
def test_malformed_rules_are_refused(rule: Any, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        rules_of_oci([{"allow": False}, rule])
    assert reason in str(caught.value) and caught.value.origin == "linux.resources.devices[1]"
    with pytest.raises(ConfigError):
        rules_of_oci({"allow": True})


def test_too_many() -> None:
    assert len(device_program([("c", major, 0, "r", True) for major in range(500)])) <= 4096 * 8
    with pytest.raises(ConfigError, match="too many"):
        device_program([("c", major, 0, "r", True) for major in range(1000)])


def test_text() -> None:
    rules = [*OCI_DEFAULT, ("a", -1, -1, "rwm", False), ("b", 8, -1, "w", True)]
    assert rules_of_text(text_of(rules)) == rules and text_of(rules).endswith("!a *:* rwm, b 8:* w") and rules_of_text("") == []
    for text in ("c 1:3", "x 1:3 r", "c 1 r", "c -2:3 r", "c 1:3 q"):
        with pytest.raises(ValueError):
            rules_of_text(text)
