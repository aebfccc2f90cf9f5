"""The manual pages in man(7), written from the option table: ``python -m pyrun.cli.man DIRECTORY``.

mandoc -T lint has nothing to say about them (tests/unit/test_man.py).
"""

from __future__ import annotations

import os
import sys

from pyrun import __version__
from pyrun.cli import manual
from pyrun.cli.help import exit_codes, section, sentence, visible, with_choices
from pyrun.cli.options import COMMON, GLOBAL, VERBS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from pyrun.cli.options import Option

# Changes with the text, not with the day of the build, so that the same source makes the same bytes.
DATE = "2026-11-22"


def pages() -> dict[str, str]:
    """File name -> text: pyrun.1, and one page for each verb (one for all that begin with `image`)."""
    found = {"pyrun.1": _main_page()}
    for name in dict.fromkeys(verb.split()[0] for verb in visible() if verb not in ("help", "version")):
        found[f"pyrun-{name}.1"] = _verb_page(name)
    return found


def write(directory: str) -> list[str]:
    """Writes every page into `directory` (made if missing) and returns the paths."""
    os.makedirs(directory, exist_ok=True)
    paths = []
    for name, text in pages().items():
        paths.append(os.path.join(directory, name))
        with open(paths[-1], "w", encoding="ascii") as file:
            file.write(text)
    return paths


def _main_page() -> str:
    lines = [*_head("pyrun", manual.SUMMARY), ".SH SYNOPSIS", ".B pyrun", *_text("[OPTIONS] VERB ...")]
    lines += [".SH DESCRIPTION", *_paragraphs(manual.DESCRIPTION), ".SH VERBS"]
    for verb in visible():
        lines += [".TP", f".B {_plain(verb)}", *_text(sentence(VERBS[verb][4]))]
    lines += [".SH OPTIONS", *_options(GLOBAL), *_examples("")]
    lines += [".SH ENVIRONMENT"]
    for name, what in manual.ENVIRONMENT:
        lines += [".TP", f".B {name}", *_text(sentence(what))]
    lines += [".SH FILES", ".TP", ".I /var/lib/pyrun", *_text("Images, pods and trusted keys, readable by root only.")]
    return _end(lines, "run", [f"pyrun-{name}" for name in _others("")])


def _verb_page(name: str) -> str:
    verbs = [verb for verb in visible() if verb.split()[0] == name]
    group = verbs[0] != name
    summary = "look at, check, name, export and remove stored images" if group else VERBS[name][4]
    lines = [*_head(f"pyrun-{name}", summary), ".SH SYNOPSIS"]
    for verb in verbs:
        if verb != verbs[0]:
            lines.append(".br")
        lines += [f".B pyrun {_plain(verb)}", *_text(" ".join(["[OPTIONS]", *_synopsis(VERBS[verb][1])]))]
    lines += [".SH DESCRIPTION", *_paragraphs(manual.ABOUT.get(name, (sentence(summary),)))]
    for verb in verbs if group else verbs[1:]:
        lines += [f".SS {_plain(verb)}", *_paragraphs(manual.ABOUT.get(verb, (sentence(VERBS[verb][4]),))), *_options(VERBS[verb][2])]
    lines.append(".SH OPTIONS")
    sections: dict[str, list[Option]] = {}
    for option in (*(() if group else VERBS[name][2]), *COMMON):
        sections.setdefault(section(option), []).append(option)
    for title, options in sections.items():
        lines += [f".SS {_plain(title)}", *_options(options)]
    lines += _examples(*verbs)
    return _end(lines, name, ["pyrun", *(f"pyrun-{other}" for other in _others(name))])


def _synopsis(positional: str) -> list[str]:
    if positional.endswith(" +"):
        return [positional[:-2], "[COMMAND [ARGUMENT]...]"]
    return [positional[:-3], "[OPTIONS]", "[-- ARGUMENT... [---]]"] if positional.endswith(" --") else [positional] if positional else []


def _others(name: str) -> list[str]:
    return [other for other in dict.fromkeys(verb.split()[0] for verb in visible()) if other not in (name, "help", "version")]


def _head(name: str, summary: str) -> list[str]:
    title = name.upper().replace("-", "\\-")
    return [
        '.\\" Generated from the option table by pyrun.cli.man; change that instead.',
        f'.TH {title} 1 {DATE} "pyrun {__version__}" "User Commands"',
        ".SH NAME",
        f"{_plain(name)} \\- {_plain(summary)}",
    ]


def _end(lines: list[str], verb: str, others: list[str]) -> str:
    lines.append(".SH EXIT STATUS")
    for code, what in exit_codes(verb):
        lines += [".TP", f".B {_plain(code)}", *_text(sentence(what))]
    lines.append(".SH SEE ALSO")
    names = sorted(others)
    lines += [f".BR {_plain(name)} (1){',' if name != names[-1] else ''}" for name in names]
    return "\n".join(lines) + "\n"


def _options(options: Iterable[Option]) -> list[str]:
    lines = []
    for names, metavar, kind, choices, _, about in options:
        spelled = sorted(names.split(), key=lambda name: name.startswith("--"))
        value = f" \\fI{_plain(metavar)}\\fR" if metavar else ""
        lines += [
            ".TP",
            ", ".join(f"\\fB{_plain(name)}\\fR" for name in spelled) + value,
            *_text(sentence(with_choices(about, kind, choices))),
        ]
    return lines


def _examples(*verbs: str) -> list[str]:
    lines: list[str] = []
    for verb in verbs:
        for command, what in manual.EXAMPLES.get(verb, ()):
            lines += [".TP", *_text(sentence(what)), ".nf", f".B {_plain(command)}", ".fi"]
    return [".SH EXAMPLES", *lines] if lines else []


def _paragraphs(texts: tuple[str, ...]) -> list[str]:
    lines: list[str] = []
    for text in texts:
        lines += [*([".PP"] if lines else []), *_text(text)]
    return lines


def _text(text: str) -> list[str]:
    """Running text, each sentence on lines of its own as roff wants it, none over 80 bytes even when escaped."""
    import textwrap

    return [
        _plain(line)
        for sentence in text.replace(". ", ".\n").split("\n")
        for line in textwrap.wrap(sentence, 64, break_long_words=False, break_on_hyphens=False)
    ]


def _plain(text: str) -> str:
    """`text` with nothing left that roff would obey."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("`", "\\(ga").replace("~", "\\(ti").replace("^", "\\(ha")
    return "\\&" + text if text[:1] in (".", "'") else text


if __name__ == "__main__":
    for path in write(*sys.argv[1:]):
        print(path)
