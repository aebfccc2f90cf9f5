"""Numbers that somebody wrote."""

from __future__ import annotations

from pyrun.errors import UsageError

__all__ = ["duration", "whole"]

_UNITS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def whole(text: str, most: int) -> int:
    """Return the number that `text` is in decimal digits, -1 for anything else and for one above `most`.

    int() also takes blanks, underscores and other scripts' digits, and has an error of its own for thousands of them.
    """
    if not text.isascii() or not text.isdigit() or len(text.lstrip("0")) > len(str(most)):
        return -1
    number = int(text.lstrip("0") or "0")
    return number if number <= most else -1


def duration(text: str, what: str) -> float:
    """Return the seconds in a text such as 90, 500ms, 1.5s, 1h30m or 2d; UsageError naming `what` for anything else.

    A last number without a unit is seconds.
    """
    total, rest = 0.0, text if text[-1:].isalpha() else text + "s"
    while rest:
        digits = rest[: len(rest) - len(rest.lstrip("0123456789."))]
        unit = rest[len(digits) :][: 2 if rest[len(digits) :].startswith("ms") else 1]
        if not digits.strip(".") or digits.count(".") > 1 or len(digits) > 10 or unit not in _UNITS:
            raise UsageError(what, "", f"'{text}' is not a duration", hint="write seconds, or numbers with ms, s, m, h or d, as in 1h30m")
        total += float(digits) * _UNITS[unit]
        rest = rest[len(digits) + len(unit) :]
    return int(total) // 1000 if total % 1000 == 0 else total / 1000
