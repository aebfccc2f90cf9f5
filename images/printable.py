"""Names out of images, made safe to show; imports nothing."""

from __future__ import annotations


def printable(name: bytes | str, limit: int = 160) -> str:
    """`name` as one printable line of at most `limit` characters.

    Archive names and JSON strings may hold terminal escapes, newlines, bidirectional overrides and bytes
    that are not UTF-8; all of these come out as backslash escapes, so that an error message cannot lie.
    """
    text = name.decode("utf-8", "backslashreplace") if isinstance(name, bytes) else name
    if not text.isprintable():
        text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
