"""What verbs print: escaped text, tables, JSON.

Anything that comes from an image, a key or a file name may hold terminal control sequences, so all
text goes through `escape` (`table` and `say` do it themselves) or `emit_json`.
"""

from __future__ import annotations

import sys

from pyrun.cli.parse import getenv
from pyrun.errors import PyrunError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import TextIO

    from pyrun.cli.parse import Args

OWN = frozenset(("attach", "enter", "exec", "run", "run-prepared"))  # verbs whose output is the app's, unless it is in the background


def escape(text: object) -> str:
    """`text` on one line with nothing in it that a terminal would obey.

    Controls (C0, DEL, C1), bidirectional and zero-width formatting, line separators, unassigned code
    points and undecodable bytes become ``\\x1b`` and ``\\u202e``; letters of every script stay.
    `bytes` are taken as UTF-8.
    """
    string = text.decode("utf-8", "surrogateescape") if isinstance(text, bytes) else str(text)
    if string.isprintable():
        return string
    return "".join(c if c.isprintable() else _escaped(ord(c)) for c in string)


def _escaped(code: int) -> str:
    if 0xDC80 <= code <= 0xDCFF:  # a byte that was not UTF-8 (PEP 383)
        code -= 0xDC00
    if code < 0x100:
        return {9: "\\t", 10: "\\n", 13: "\\r"}.get(code) or f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def has_lines(args: Args | None) -> bool:
    """Whether standard error gets lines of JSON: of a verb whose output is the app's own, with --format json."""
    said = {} if args is None else args.__dict__
    return said.get("verb") in OWN and said.get("format") == "json" and not said.get("detach")


def say_line(value: dict[str, object]) -> None:
    """Write an object as one line of JSON to standard error; who has closed that wants to hear nothing."""
    import json

    try:
        if sys.stderr is not None:
            sys.stderr.write(json.dumps(value).replace("\x7f", "\\u007f") + "\n")
            sys.stderr.flush()
    except (OSError, ValueError):
        pass


def say(text: object = "", *, error: bool = False) -> None:
    """Prints one escaped line on standard output, or with `error` on standard error; a closed stream is ignored."""
    emit(escape(text) + "\n", error=error)


def emit(text: str, *, error: bool = False) -> None:
    """Writes text as it is: for what pyrun itself composed of escaped parts."""
    stream = sys.stderr if error else sys.stdout
    if stream is None:  # the caller's shell closed it (>&-)
        return
    try:
        stream.write(text)
    except BrokenPipeError:
        raise
    except OSError as problem:
        raise unwritable(problem) from problem


def unwritable(error: OSError) -> PyrunError:
    """The error for a standard output that takes no more, as on a full disk."""
    return PyrunError("write", "standard output", errno=error.errno or 0, hint="free some space where it goes")


def emit_json(value: object) -> None:
    """Prints a value as indented JSON, ASCII only, so that nothing in it reaches the terminal raw."""
    import json

    # DEL is the one control that JSON lets through; outside strings it cannot occur.
    emit(json.dumps(value, indent=2, ensure_ascii=True).replace("\x7f", "\\u007f") + "\n")


def table(headers: Sequence[str], rows: Iterable[Sequence[object]], *, legend: bool = True) -> None:
    """Prints columns two blanks apart under UPPER CASE headers; never cut, since scripts read it too."""
    columns = [[str(cell) for cell in column] for column in zip(*rows, strict=True)] or [[] for _ in headers]
    form = []
    for number, header in enumerate(headers):
        text = "".join(columns[number])
        plain = text.isascii() and text.isprintable()
        cells = columns[number] if plain else [escape(cell) for cell in columns[number]]
        cells = [header.upper(), *cells] if legend else cells
        if plain:
            form.append(f"%-{max(map(len, cells), default=0)}s")
        else:
            widths = [_width(cell) for cell in cells]
            cells = [cell + " " * (max(widths) - width) for cell, width in zip(cells, widths, strict=True)]
            form.append("%s")
        columns[number] = cells
    line = "  ".join([*form[:-1], "%s"])
    emit("".join([(line % cells).rstrip() + "\n" for cells in zip(*columns, strict=True)]))


def _width(text: str) -> int:
    """Columns that `text` takes on a terminal (UAX 11; combining marks take none)."""
    if text.isascii():
        return len(text)
    import unicodedata

    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(unicodedata.combining(c) != 0 for c in text)


def colour(text: str, code: str, stream: TextIO | None) -> str:
    """`text` in an SGR colour where `stream` is a terminal that wants it (NO_COLOR, TERM=dumb)."""
    if getenv("NO_COLOR") or getenv("TERM") in ("", "dumb"):
        return text
    try:
        if stream is None or not stream.isatty():
            return text
    except ValueError:  # closed
        return text
    return f"\033[{code}m{text}\033[0m"


def size(count: int) -> str:
    """Bytes for people: 512 B, 1.5 KiB, 23 MiB."""
    if count < 1024:
        return f"{count} B"
    value, units = count / 1024, ["KiB", "MiB", "GiB", "TiB"]
    while value >= 1023.5 and len(units) > 1:
        value /= 1024
        del units[0]
    return f"{value:.1f} {units[0]}" if value < 9.95 else f"{value:.0f} {units[0]}"


def age(seconds: float) -> str:
    """A span of time for people: 5s, 3m, 2h, 4d."""
    whole = max(0, int(seconds))
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if whole >= length:
            return f"{whole // length}{unit}"
    return f"{whole}s"
