"""The meta tags by which a page says where images and keys are (appc spec, discovery.md, "Discovery Templates").

    <meta name="ac-discovery"         content="PREFIX TEMPLATE">
    <meta name="ac-discovery-pubkeys" content="PREFIX URL">

html.parser of Python 3.11 takes 15 seconds for 32 KiB of ``<a `` (CVE-2025-6069 and its kin), and anybody may
write such a page.  The reader here looks at each character a bounded number of times.  Whatever is wrong with
the HTML, it takes what is a meta tag to a browser; in comments, scripts, styles and titles nothing is one.
"""

from __future__ import annotations

import html
from string import ascii_lowercase, ascii_uppercase
from urllib.parse import quote

from pyrun.images.web.names import AppName

__all__ = ["Endpoint", "endpoints", "key_urls", "meta_tags"]

MAX_PAGE = 256 << 10  # bytes of a page that are looked at
_MAX_TAGS = 64  # with names that mean something here
_MAX_CONTENT = 4096  # also less than the digits of a number that Python converts
_BLANK = " \t\n\f\r"
_LOWER = str.maketrans(ascii_uppercase, ascii_lowercase)  # unlike str.lower it moves nothing
_RAW = frozenset(("script", "style", "title", "textarea", "xmp", "iframe", "noembed", "noframes", "noscript", "plaintext"))
_ENDS_NAME = frozenset(_BLANK + "/>")
_ENDS_ATTRIBUTE = frozenset(_BLANK + "/>=")
_IMAGE, _KEYS = "ac-discovery", "ac-discovery-pubkeys"


class Endpoint:
    """Where an image and its signature may be."""

    __slots__ = ("image", "signature")

    def __init__(self, image: str, signature: str) -> None:
        self.image = image
        self.signature = signature


def endpoints(tags: list[tuple[str, str]], app: AppName) -> list[Endpoint]:
    """The places that the tags of a page name for an image, in their order; templates that leave something open are passed over."""
    found = []
    for template in _matching(tags, _IMAGE, app.name):
        image, signature = (_render(template, {**app.variables(), "ext": ext}) for ext in ("aci", "aci.asc"))
        if image and signature and image != signature:
            found.append(Endpoint(image, signature))
    return found


def key_urls(tags: list[tuple[str, str]], app: AppName) -> list[str]:
    """Where the tags of a page say that keys for an image are; these are no templates."""
    return list(_matching(tags, _KEYS, app.name))


def _matching(tags: list[tuple[str, str]], kind: str, name: str) -> list[str]:
    """Second words of the tags of one kind whose prefix is the name, or ends where a part of the name ends (DISC-03)."""
    found = []
    for tag, content in tags:
        words = content.split()
        if tag == kind and len(words) == 2:
            prefix = words[0].rstrip("/")
            if name == prefix or (prefix and name.startswith(f"{prefix}/")):
                found.append(words[1])
    return found


def _render(template: str, variables: dict[str, str]) -> str:
    """A template with its variables filled in, all in one pass; "" where one is unknown, or could choose another server.

    Slashes stay as they are, for names have them; anything else that means something in a URL is encoded.
    """
    pieces = template.split("{")
    out = pieces[0]
    for piece in pieces[1:]:
        word, brace, rest = piece.partition("}")
        if not brace or word not in variables:
            return ""
        if word != "name" and out.count("/") < 3:  # still in https://HOST
            return ""
        value = variables[word]
        if word != "name" and any(part in (".", "..") for part in value.split("/")):
            return ""
        out += quote(value, safe="/+~") + rest
    return "" if "}" in out else out


def meta_tags(page: bytes) -> list[tuple[str, str]]:
    """Name and content of the meta tags of discovery in a page, of which the first `MAX_PAGE` bytes count."""
    text = page[:MAX_PAGE].decode("utf-8", "replace")
    lower = text.translate(_LOWER)
    found: list[tuple[str, str]] = []
    at = 0
    while len(found) < _MAX_TAGS and (at := text.find("<", at)) >= 0:
        start = text[at + 1 : at + 2]
        if text.startswith("<!--", at):
            at = _after_comment(text, at)
        elif start in ("!", "?", "/"):
            at = _after(text, ">", at)
        elif start.isascii() and start.isalpha():
            name, attributes, at = _tag(text, lower, at + 1)
            if name in _RAW and at >= 0:
                at = lower.find(f"</{name}", at)
            elif name == "meta" and attributes.get("name", "") in (_IMAGE, _KEYS) and attributes.get("content"):
                found.append((attributes["name"], attributes["content"]))
        else:
            at += 1
        if at < 0:
            break
    return found


def _after(text: str, mark: str, at: int) -> int:
    """The place behind the next `mark`; -1 where there is none, and then the rest of the page is nothing."""
    end = text.find(mark, at)
    return end + len(mark) if end >= 0 else -1


def _after_comment(text: str, at: int) -> int:
    for short in ("<!-->", "<!--->"):
        if text.startswith(short, at):
            return at + len(short)
    return _after(text, "-->", at + 4)


def _run(text: str, at: int, ends: frozenset[str]) -> int:
    """The place of the first character of `ends`, or the end of the text."""
    while at < len(text) and text[at] not in ends:
        at += 1
    return at


def _tag(text: str, lower: str, at: int) -> tuple[str, dict[str, str], int]:
    """A tag's name, its attributes, and the place behind it; -1 when the page ends within."""
    end = _run(text, at, _ENDS_NAME)
    name = lower[at:end]
    attributes: dict[str, str] = {}
    at = end
    while at < len(text):
        if text[at] == ">":
            return name, attributes, at + 1
        if text[at] in _ENDS_NAME:
            at += 1
            continue
        end = _run(text, at + 1, _ENDS_ATTRIBUTE)  # a = in the first place belongs to the name
        key = lower[at:end]
        at = _skip_blank(text, end)
        value = ""
        if text[at : at + 1] == "=":
            value, at = _value(text, _skip_blank(text, at + 1))
            if at < 0:
                break
        if name == "meta" and key in ("name", "content") and len(value) <= _MAX_CONTENT:
            attributes.setdefault(key, html.unescape(value))
    return name, {}, -1


def _value(text: str, at: int) -> tuple[str, int]:
    quoting = text[at : at + 1]
    if quoting in ('"', "'"):
        end = text.find(quoting, at + 1)
        return (text[at + 1 : end], end + 1) if end >= 0 else ("", -1)
    end = _run(text, at, frozenset(_BLANK + ">"))
    return text[at:end], end


def _skip_blank(text: str, at: int) -> int:
    while at < len(text) and text[at] in _BLANK:
        at += 1
    return at
