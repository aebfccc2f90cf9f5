"""Help texts and the errors for unknown names; argparse built from the option table lays them out.  Cold."""

from __future__ import annotations

import argparse
import difflib
import re
import textwrap

from pyrun.cli import manual
from pyrun.cli.options import COMMON, GLOBAL, VERBS
from pyrun.cli.output import emit
from pyrun.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from pyrun.cli.options import Option
    from pyrun.cli.parse import Args


def run(args: Args) -> int:
    """`pyrun help [VERB]`."""
    show_help(" ".join(args.topics))
    return 0


def visible() -> list[str]:
    """The verbs that help, completion and the manual speak of."""
    return [verb for verb in VERBS if not verb.startswith("__")]


def is_group(word: str) -> bool:
    """Whether `word` is the first half of verbs of two words, as `image` is, and no verb itself, as `trust` is."""
    return word not in VERBS and any(verb.startswith(word + " ") for verb in visible())


def show_help(topic: str, *, to_stderr: bool = False) -> None:
    """Prints the help of a verb, a group of verbs, or of pyrun itself (""); UsageError for anything else."""
    if topic in visible():
        text = parser(topic).format_help()
    elif topic == "" or is_group(topic):
        text = overview(topic)
    else:
        raise unknown_verb(*topic.partition(" ")[::2])
    emit(text, error=to_stderr)


def overview(group: str = "") -> str:
    """The help of pyrun itself, or of a group such as `image`."""
    verbs = [verb for verb in visible() if not group or verb.startswith(group + " ")]
    width = max(len(verb) for verb in verbs) + 4
    about = manual.ABOUT.get(group, (sentence(manual.SUMMARY),))
    usage = f"pyrun {group} VERB ..." if group else "pyrun [OPTIONS] VERB ..."
    lines = [f"usage: {usage}", "", *[line for text in about for line in textwrap.wrap(text, _width())], "", "Verbs:"]
    lines += [f"  {verb:{width}}{VERBS[verb][4]}" for verb in verbs]
    if not group:
        lines += ["", *_format_section("Options", GLOBAL), "", *_examples(""), "", *_exit_codes("run")]
    else:
        lines += ["", *_format_section("Options", COMMON)]
    prefix = f"{group} " if group else ""
    lines += ["", f"`pyrun {prefix}VERB --help` shows the options of a verb."]
    return "\n".join(lines) + "\n"


def _format_section(title: str, options: tuple[Option, ...]) -> list[str]:
    bare = argparse.ArgumentParser("pyrun", add_help=False, usage=argparse.SUPPRESS, formatter_class=_Formatter)
    _add(bare.add_argument_group(title), options)
    return bare.format_help().strip("\n").split("\n")


def parser(verb: str) -> argparse.ArgumentParser:
    """An argparse parser of one verb, from the same table as the hot one: for help, and to test the hot one against."""
    positional, options = VERBS[verb][1:3]
    epilog = [*_below(verb), *_examples(verb), *([""] if verb in manual.EXAMPLES else []), *_exit_codes(verb)]
    result = argparse.ArgumentParser(
        prog=f"pyrun {verb}",
        usage=f"pyrun {verb} [OPTIONS] {usage_words(positional)}".rstrip(),
        description="\n\n".join(manual.ABOUT.get(verb, (sentence(VERBS[verb][4]),))),
        epilog="\n".join(epilog),
        formatter_class=_Formatter,
        add_help=False,
        allow_abbrev=False,
    )
    sections: dict[str, list[Option]] = {}
    for option in (*options, *COMMON):
        sections.setdefault(section(option), []).append(option)
    for title, rows in sections.items():
        _add(result.add_argument_group(title), rows)
    for name in positional.removesuffix(" --").removesuffix(" +").split():
        optional = name[0] == "["
        nargs = ("*" if optional else "+") if name.endswith("...") else "?" if optional else None
        result.add_argument(name.strip("[].").lower(), nargs=nargs, help=argparse.SUPPRESS)
    return result


def _add(group: argparse._ArgumentGroup, options: Iterable[Option]) -> None:
    for names, metavar, kind, choices, _, about in options:
        spelled = names.split()
        # Short names first, as manuals have them; the official long name is the destination.
        ordered = sorted(spelled, key=lambda name: name.startswith("--"))
        text = with_choices(about, kind, choices).replace("%", "%%")
        if kind == "flag":
            group.add_argument(*ordered, dest=dest(names), action="store_true", help=text)
        else:
            action = "append" if kind in ("list", "paths", "env", "volume", "mount", "csv", "ints", "insecure") else "store"
            group.add_argument(*ordered, dest=dest(names), action=action, metavar=metavar, help=text)


class _Formatter(argparse.HelpFormatter):
    """Keeps paragraphs and examples apart, and names an option's value once: `-e, --set-env, --env NAME=VALUE`."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=_width())

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        parts = []
        for paragraph in text.split("\n"):
            if paragraph.startswith(" ") or not paragraph:
                parts.append(paragraph)
            else:
                parts += textwrap.wrap(paragraph, width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)
        return "\n".join(parts)

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(text, width, break_on_hyphens=False)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        text = ", ".join(action.option_strings)
        return f"{text} {action.metavar}" if action.metavar else text


def _below(verb: str) -> list[str]:
    """The verbs of two words of which `verb` is the first."""
    found = [other for other in visible() if other.startswith(verb + " ")]
    return ["See also:", *(f"  pyrun {other:14}{VERBS[other][4]}" for other in found), ""] if found else []


def _examples(verb: str) -> list[str]:
    examples = manual.EXAMPLES.get(verb, ())
    lines = []
    for command, what in examples:
        lines += [f"  # {what}", f"  {command}"]
    return ["Examples:", *lines] if lines else []


def _exit_codes(verb: str) -> list[str]:
    return ["Exit codes:", *(f"  {code:7}{what}" for code, what in exit_codes(verb))]


def exit_codes(verb: str) -> tuple[tuple[str, str], ...]:
    """The exit codes of a verb with what each means."""
    return tuple(sorted(manual.EXIT_CODES + manual.MORE_EXIT_CODES.get(verb, ()), key=lambda one: one[0].zfill(3)))


def _width() -> int:
    import shutil

    return min(shutil.get_terminal_size().columns, 120) - 2


def usage_words(positional: str) -> str:
    """The positional words as help shows them."""
    if positional.endswith(" +"):
        return positional[:-2] + " [COMMAND [ARGUMENT]...]"
    return positional[:-3] + " [OPTIONS] [-- ARGUMENT... [---]]" if positional.endswith(" --") else positional


def section(option: Option) -> str:
    """The heading an option stands under."""
    return option[4].removeprefix("app ")


def with_choices(about: str, kind: str, choices: str) -> str:
    """An option's sentence, with the words that its value may be unless it names them all itself."""
    if not choices or kind not in ("str", "insecure"):
        return about
    words = choices.split()
    if all(word in re.findall(r"[\w-]+", about.lower()) for word in words):
        return about
    return f"{about}; {'one' if kind == 'str' else 'any'} of {', '.join(words)}"


def dest(names: str) -> str:
    """The attribute of `Args` for an option's names."""
    return names.partition(" ")[0][2:].replace("-", "_")


def sentence(summary: str) -> str:
    """A summary of the table as a sentence."""
    return (summary if summary.startswith("pyrun") else summary[:1].upper() + summary[1:]) + "."


def unknown_verb(word: str, action: str) -> UsageError:
    """The error for a word that is no verb, with the nearest ones as hint."""
    if is_group(word):
        names = [verb.partition(" ")[2] for verb in visible() if verb.startswith(word + " ")]
        known = f"{', '.join(names[:-1])} or {names[-1]}"
        if not action or action.startswith("-"):
            return UsageError(word, "", f"needs to know what to do: {known}", hint=f"`pyrun {word} --help` explains them")
        near = _nearest(action, names)
        hint = f"did you mean `pyrun {word} {near}`?" if near else f"`pyrun {word} --help` explains them"
        return UsageError(word, "", f"'{action}' is not {known}", hint=hint)
    owners = [verb for verb in visible() if verb.partition(" ")[2] == word]
    near = owners[0] if owners else _nearest(word, [*visible(), *{verb.partition(" ")[0] for verb in visible()}])
    hint = f"did you mean `pyrun {near}`?" if near else "`pyrun --help` lists the verbs"
    return UsageError(f"unknown verb '{word}'", hint=hint)


def unknown_option(verb: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for an option that the verb does not have; the hint names the nearest, or the verb that has it."""
    names = [each for each in known if each.startswith("--")]
    near = _nearest(name, names) if name.startswith("--") else ""
    if name.startswith("-") and not name.startswith("--") and "-" + name in names:
        near = "-" + name
    owners = [other for other in visible() if any(name in option[0].split() for option in VERBS[other][2])]
    if near:
        hint = f"did you mean {near}?"
    elif owners and not verb:
        hint = f"{name} belongs to a verb: write it after it, as in `pyrun {owners[0]} {name}`"
    elif name == "--format" and verb in ("attach", "enter", "exec"):
        hint = "what it prints is the app's own: leave --format out"
    elif owners:
        hint = f"{name} is an option of `pyrun {owners[0]}`"
    else:
        hint = f"`pyrun {verb} --help` lists the options" if verb else "`pyrun --help` lists the options"
    where = f" of `pyrun {verb}`" if verb else ""
    return UsageError(f"unknown option {name}{where}", hint=hint)


def _nearest(word: str, names: Iterable[str]) -> str:
    bare = {name.lstrip("-"): name for name in names}  # the dashes would make all options look alike
    return next((bare[match] for match in difflib.get_close_matches(word.lstrip("-"), bare, 1, 0.65)), "")
