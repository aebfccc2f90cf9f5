"""Names out of images, made safe to show; imports nothing."""

from __future__ import annotations


def printable(name: bytes | str, limit: int = 160) -> str:
    """`name` as one printable line of at most `limit` characters.

    Archive names and JSON strings may hold terminal escapes, newlines, bidirectional overrides and bytes
    that are not UTF-8; all of these come out as backslash escapes, so that an error message cannot lie.
    """
    text = name.decode("utf-8", "backslashreplace") if isinstance(name, bytes) else name
    if not text.isprintable():
        text = "".join(c if c.isprintable() else _escaped(ord(c)) for c in text)
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def _escaped(code: int) -> str:
    # Not the codec unicode_escape: its module could not be loaded any more where an archive is unpacked.
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
