"""Help texts from the table of options.  Cold."""

from __future__ import annotations

from pyrun.oci.arguments import general, program, verbs

__all__ = ["usage"]


def usage(verb: str) -> str:
    """Return the help of the whole command, or of one verb."""
    if verb not in verbs:
        head = _head("", "for callers of crun and runc - Open Container Initiative runtime", "COMMAND [ARG...]")
        lines = [*head, "Commands:"]
        lines += [f"  {name:<12}{text}" for name, (_, _, _, _, text) in verbs.items()]
        return "\n".join([*lines, "", "Options:", *_options(general), ""])
    options, _, _, words, text = verbs[verb]
    return "\n".join([*_head(" " + verb, text, words), *(["Options:", *_options(options), ""] if options else [])])


def _head(verb: str, text: str, words: str) -> list[str]:
    """As the peers' help begins, which scripts take a runtime's name from: runc's with it, crun's with how it is used."""
    name = program()
    return ["NAME:", f"   {name}{verb} - {text}", "", f"Usage: {name} [OPTION...]{verb} {words}".rstrip(), ""]


def _options(words: str) -> list[str]:
    lines = []
    for word in words.split():
        names, equals, kind = word.partition("=")
        lines.append("  " + names.replace(",", ", ") + (" VALUE" if equals else "") + (" (may be repeated)" if kind else ""))
    return lines
