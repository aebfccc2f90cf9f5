"""The shared types of the App Container specification (types.md), as predicates and parsers.

Regular expressions of the prose decide where the reference tools are laxer.  They are written out as loops
over characters, since names and quantities are also read by `run`, which does not import `re`.
"""

from __future__ import annotations

SUPPORTED = (0, 8, 11)

LOWER = frozenset("abcdefghijklmnopqrstuvwxyz0123456789")
_DIGITS = frozenset("0123456789")
_SEMVER = frozenset("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-")
_ENV_FIRST = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_")
_ENV = _ENV_FIRST | _DIGITS | frozenset(".-")
_HEX = frozenset("0123456789abcdef")

# os label -> arch labels (spec/aci.md "labels"; the reference's table)
PLATFORMS = {
    "linux": ("amd64", "i386", "aarch64", "aarch64_be", "armv6l", "armv7l", "armv7b", "ppc64", "ppc64le", "s390x"),
    "freebsd": ("amd64", "i386", "arm"),
    "darwin": ("x86_64", "i386"),
}

# machine of uname(2) -> arch labels that it can run
MACHINES = {
    "x86_64": ("amd64", "i386"),
    "i386": ("i386",),
    "i686": ("i386",),
    "aarch64": ("aarch64",),
    "aarch64_be": ("aarch64_be",),
    "armv6l": ("armv6l",),
    "armv7l": ("armv7l", "armv6l"),
    "armv7b": ("armv7b",),
    "ppc64": ("ppc64",),
    "ppc64le": ("ppc64le",),
    "s390x": ("s390x",),
}

# Suffix -> (numerator, denominator).  The prose writes K, the reference wants k; both mean 1000.
_SUFFIXES = {
    "": (1, 1),
    "m": (1, 1000),
    "k": (1000, 1),
    "K": (1000, 1),
    "M": (1000**2, 1),
    "G": (1000**3, 1),
    "T": (1000**4, 1),
    "P": (1000**5, 1),
    "E": (1000**6, 1),
    "Ki": (1 << 10, 1),
    "Mi": (1 << 20, 1),
    "Gi": (1 << 30, 1),
    "Ti": (1 << 40, 1),
    "Pi": (1 << 50, 1),
    "Ei": (1 << 60, 1),
}
_MAX_QUANTITY_DIGITS = 30


def _words(text: str, separators: str) -> bool:
    """Non-empty runs of lower-case letters and digits, joined by exactly one separator each."""
    at_word = False
    for char in text:
        if char in LOWER:
            at_word = True
        elif at_word and char in separators:
            at_word = False
        else:
            return False
    return at_word


def is_identifier(text: str) -> bool:
    """AC Identifier: ``^[a-z0-9]+([-._~/][a-z0-9]+)*$`` (TYP-01)."""
    return _words(text, "-._~/")


def is_name(text: str) -> bool:
    """AC Name: ``^[a-z0-9]+([-][a-z0-9]+)*$`` (TYP-02)."""
    return _words(text, "-")


def is_env_name(text: str) -> bool:
    """Environment variable: ``^[A-Za-z_][A-Za-z_0-9.-]*$`` (IM-23, IM-24)."""
    return text[:1] in _ENV_FIRST and bool(text) and _ENV.issuperset(text)


def is_image_id(text: str) -> bool:
    """Image ID in full: ``sha512-`` and 128 lower-case hexadecimal digits (TYP-06)."""
    return len(text) == 135 and text.startswith("sha512-") and _HEX.issuperset(text[7:])


def parse_version(text: str) -> tuple[int, int, int] | None:
    """The three numbers of a SemVer 2.0.0 version, or None when `text` is not one (TYP-04)."""
    core, plus, build = text.partition("+")
    core, dash, prerelease = core.partition("-")
    if plus and not all(_SEMVER.issuperset(part) and part for part in build.split(".")):
        return None
    if dash and not all(_SEMVER.issuperset(part) and part and not _padded(part) for part in prerelease.split(".")):
        return None
    numbers = core.split(".")
    if len(numbers) != 3 or len(core) > 64 or not all(n and _DIGITS.issuperset(n) and not _padded(n) for n in numbers):
        return None
    return int(numbers[0]), int(numbers[1]), int(numbers[2])


def _padded(number: str) -> bool:
    return len(number) > 1 and number[0] == "0" and _DIGITS.issuperset(number)


def is_timestamp(text: str) -> bool:
    """RFC 3339 date and time with ``T`` between them and an offset or ``Z`` (TYP-08)."""
    date, clock = text[:10], text[11:]
    if len(text) < 20 or text[10] not in "Tt" or date[4] != "-" or date[7] != "-":
        return False
    offset_at = max(clock.rfind("+"), clock.rfind("-"))
    if clock[-1] in "Zz":
        time, offset = clock[:-1], "00:00"
    elif offset_at >= 0:
        time, offset = clock[:offset_at], clock[offset_at + 1 :]
    else:
        return False
    time, point, fraction = time.partition(".")
    if point and not (fraction and _DIGITS.issuperset(fraction)):
        return False
    return _is_date(date) and _in_range(time.split(":"), (23, 59, 60)) and _in_range(offset.split(":"), (23, 59))


def _is_date(date: str) -> bool:
    parts = date.split("-")
    if [len(p) for p in parts] != [4, 2, 2] or not all(_DIGITS.issuperset(p) for p in parts):
        return False
    year, month, day = (int(p) for p in parts)
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    return 1 <= month <= 12 and 1 <= day <= (31, 29 if leap else 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)[month - 1]


def _in_range(parts: list[str], limits: tuple[int, ...]) -> bool:
    return len(parts) == len(limits) and all(
        len(p) == 2 and _DIGITS.issuperset(p) and int(p) <= top for p, top in zip(parts, limits, strict=True)
    )


def parse_quantity(value: object, scale: int = 1) -> int | None:
    """A resource quantity in units of ``1 / scale``, rounded up; None when `value` is not one (ACE-74..76).

    ``parse_quantity("64Mi")`` is bytes, ``parse_quantity("250m", 1000)`` thousandths of a core.  Integer
    arithmetic throughout.  Signs, exponents and empty strings are not quantities.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value * scale if value >= 0 else None
    if not isinstance(value, str) or len(value) > _MAX_QUANTITY_DIGITS:
        return None
    number = value.rstrip("EPTGMKkim")
    factor = _SUFFIXES.get(value[len(number) :])
    whole, point, fraction = number.partition(".")
    if factor is None or not whole or not _DIGITS.issuperset(whole) or (point and not fraction) or not _DIGITS.issuperset(fraction):
        return None
    numerator: int = int(whole + fraction) * factor[0] * scale
    denominator: int = 10 ** len(fraction) * factor[1]
    return -(-numerator // denominator)


def is_errno_name(text: str) -> bool:
    """Name of an error for a seccomp isolator: ``E[A-Z0-9]*`` (ACE-65)."""
    return text.startswith("E") and frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789").issuperset(text)
