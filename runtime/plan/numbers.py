"""Numbers that somebody wrote."""

from __future__ import annotations

__all__ = ["whole"]


def whole(text: str, most: int) -> int:
    """Return the number that `text` is in decimal digits, -1 for anything else and for one above `most`.

    int() also takes blanks, underscores and other scripts' digits, and has an error of its own for thousands of them.
    """
    if not text.isascii() or not text.isdigit() or len(text.lstrip("0")) > len(str(most)):
        return -1
    number = int(text.lstrip("0") or "0")
    return number if number <= most else -1
