"""Words as unit files write them: systemd.syntax(7) on quoting, systemd.service(5) on command lines.

join    words -> one line for ExecStart=, in which systemd expands nothing
split   one line as a person writes it -> words
"""

from __future__ import annotations

__all__ = ["join", "quote", "split"]

_ESCAPES = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\\": "\\", '"': '"', "'": "'", "s": " "}
_WRITTEN = {char: "\\" + letter for letter, char in _ESCAPES.items() if letter not in "s'"}
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:=,@+%$")


def quote(word: str) -> str:
    """One word of ExecStart=, whatever is in it: ``%`` and ``$`` are doubled, the rest is quoted where it must be."""
    text = "".join(_WRITTEN.get(char) or (f"\\x{ord(char):02x}" if ord(char) < 32 or ord(char) == 127 else char) for char in word)
    text = text.replace("%", "%%").replace("$", "$$")
    return text if text and _PLAIN.issuperset(word) else f'"{text}"'


def join(words: list[str]) -> str:
    """A command line; the first word must be an absolute path, which is for the caller to see to."""
    return " ".join(map(quote, words))


def split(text: str) -> list[str]:
    """Words separated by blanks; quotes of either kind keep blanks, backslashes are C's.  ValueError says what is wrong."""
    words: list[str] = []
    word: str | None = None
    closing = ""
    place = 0
    while place < len(text):
        char = text[place]
        place += 1
        if char == "\\":
            char, place = _unescape(text, place)
            word = (word or "") + char
        elif closing:
            if char == closing:
                closing = ""
            else:
                word = (word or "") + char
        elif char in "\"'":
            closing, word = char, word or ""
        elif char in " \t":
            if word is not None:
                words.append(word)
            word = None
        else:
            word = (word or "") + char
    if closing:
        raise ValueError(f"a {closing} is not closed")
    return words if word is None else [*words, word]


def _unescape(text: str, place: int) -> tuple[str, int]:
    """The character that is written behind a backslash at `place`, and the place after it."""
    letter = text[place : place + 1]
    if letter in _ESCAPES and letter:
        return _ESCAPES[letter], place + 1
    width = {"x": 2, "u": 4, "U": 8}.get(letter, 0)
    digits = text[place + 1 : place + 1 + width]
    if width and len(digits) == width and not digits.strip("0123456789abcdefABCDEF") and 0 < int(digits, 16) < 0x110000:
        return chr(int(digits, 16)), place + 1 + width
    raise ValueError(f"\\{letter} means nothing" if letter else "it ends with a backslash")
