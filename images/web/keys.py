"""Keys that a name's server offers for its images (discovery.md, ``ac-discovery-pubkeys``), or that lie at a URL.

A server only offers them.  Whoever can write its pages can offer any, so nothing here trusts one: that takes a person
who has compared its fingerprint, see `pyrun trust`.
"""

from __future__ import annotations

from typing import Any

from pyrun.errors import TrustError
from pyrun.images.registry.transport import Url
from pyrun.images.trust import armour, pem
from pyrun.images.trust.keyfiles import HOW_TO_EXPORT, MAX_KEY, dearmour
from pyrun.images.web.ask import Web, address, place, walk
from pyrun.images.web.meta import key_urls
from pyrun.images.web.names import AppName, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ["Offer", "discover", "download"]

_MAX_URLS = 8


class Offer:
    """One public key as it was offered at `url` for the images `name` ("" where nobody said so).

    Of OpenPGP, or in PEM form where the user named the URL.
    """

    __slots__ = ("data", "name", "url")

    def __init__(self, data: bytes, url: str, name: str) -> None:
        self.data = data
        self.url = url
        self.name = name


def discover(prefix: str, *, http: Collection[str] = (), **more: Any) -> list[Offer]:
    """The keys that discovery finds for the images of a name; UsageError, ImageError or TrustError when there are none."""
    app = AppName(parse(prefix).name, {})
    spoken = [word or app.host for word in http]
    urls, web = walk(app, key_urls, "ac-discovery-pubkeys for it", http=spoken, **more)
    with web:
        return [offer for url in list(dict.fromkeys(urls))[:_MAX_URLS] for offer in _keys(web, url, prefix)]


def download(url: str, *, http: Collection[str] = (), **more: Any) -> list[Offer]:
    """The keys at a URL; ImageError when it cannot be had, TrustError when there are none in what comes."""
    home = Url(url, "address of the key")
    with Web(home, str(home), http=[word or place(home) for word in http], **more) as web:
        return _keys(web, url, "")


def _keys(web: Web, text: str, name: str) -> list[Offer]:
    url = address(text, web.http, "address of the key")
    shipped = web.at(url).document(text, MAX_KEY).data
    if pem.is_pem(shipped) and not name:
        return [Offer(shipped, str(url), "")]
    data = dearmour(shipped, str(url))
    try:
        return [Offer(key, str(url), name) for key in armour.public_keys(data)]
    except armour.ArmourError as error:
        raise TrustError("read key", str(url), f"not a public key: {error}", hint=HOW_TO_EXPORT) from None
