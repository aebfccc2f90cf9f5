"""Help texts from the table of options.  Cold."""

from __future__ import annotations

from pyrun.oci.arguments import general, verbs

__all__ = ["usage"]


def usage(verb: str) -> str:
    """Return the help of the whole command, or of one verb."""
    if verb not in verbs:
        lines = ["usage: pyrun-oci [OPTION...] COMMAND [OPTION...] [ARG...]", "", "Commands:"]
        lines += [f"  {name:<12}{text}" for name, (_, _, _, _, text) in verbs.items()]
        return "\n".join([*lines, "", "Options:", *_options(general), ""])
    options, _, _, words, text = verbs[verb]
    lines = [f"usage: pyrun-oci {verb} [OPTION...] {words}".rstrip(), "", text[0].upper() + text[1:] + "."]
    return "\n".join([*lines, *(["", "Options:", *_options(options)] if options else []), ""])


def _options(words: str) -> list[str]:
    lines = []
    for word in words.split():
        names, equals, kind = word.partition("=")
        lines.append("  " + names.replace(",", ", ") + (" VALUE" if equals else "") + (" (may be repeated)" if kind else ""))
    return lines
