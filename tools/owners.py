"""Writes native/owners.h: which verb has an option that `run-prepared` has not, for the launcher to say.  A test sees if it is old."""

from __future__ import annotations

from pathlib import Path

from pyrun.cli.help import visible
from pyrun.cli.options import COMMON, VERBS

TARGET = Path(__file__).resolve().parent.parent / "native" / "owners.h"
VERB = "run-prepared"
HEAD = """/* Written by tools/owners.py: the verb of each option that `run-prepared` does not have, before its options and colons. */
static const char owners[] =
"""


def owners() -> dict[str, list[str]]:
    """Return the options of each verb for which it is the first one, as pyrun.cli.help has it."""
    taken = {name for option in (*COMMON, *VERBS[VERB][2]) for name in option[0].split()}
    found: dict[str, list[str]] = {}
    for verb in visible():
        for name in [name for option in VERBS[verb][2] for name in option[0].split()]:
            if name not in taken:
                taken.add(name)
                found.setdefault(verb, []).append(name)
    return found


def text() -> str:
    """Return what stands in the file."""
    lines = []
    for verb, names in owners().items():
        line = f"{verb}:"
        for name in names:
            if len(line) > 120:
                lines.append(line)
                line = ""
            line += name + ":"
        lines.append(line + "\\n")
    return HEAD + "\n".join(f'    "{line}"' for line in lines) + ";\n"


if __name__ == "__main__":
    TARGET.write_text(text(), encoding="ascii")
