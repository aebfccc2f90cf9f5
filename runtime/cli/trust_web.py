"""`pyrun trust` of keys that lie on servers: each is shown, and confirmed, like one in a file."""

from __future__ import annotations

from pyrun.cli.output import say
from pyrun.cli.run import plain_http
from pyrun.cli.trust import add
from pyrun.errors import TrustError
from pyrun.images.staging import Staging, write_file
from pyrun.images.trust.keyfiles import check_prefix
from pyrun.images.web import keys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrun.cli.parse import Args
    from pyrun.images.trust.keyring import Keyring

__all__ = ["add_discovered", "add_url"]


def add_discovered(args: Args, keyring: Keyring) -> int:
    """Offers the keys that discovery finds for --prefix; ends with 0 when at least one is trusted now."""
    prefix = check_prefix(args.prefix)
    _add_all(args, keyring, keys.discover(prefix, http=plain_http(args)))
    return 0


def add_url(args: Args, keyring: Keyring, url: str) -> None:
    """Offers the keys at a URL."""
    _add_all(args, keyring, keys.download(url, http=plain_http(args)))


def _add_all(args: Args, keyring: Keyring, offers: list[keys.Offer]) -> None:
    """Offers one key after the other; one that is no good or not wanted is passed over.  The last one's error where none is left."""
    failure: TrustError | None = None
    added, path = 0, ""
    for offer in offers:
        source = offer.url + (f", which {offer.name.partition('/')[0]} names" if offer.name else "")
        try:
            with Staging(keyring.root, "key") as staging:
                path = f"{staging.path}/key"
                write_file(path, offer.data)
                add(keyring, path, args.prefix, args.yes, shown=source)
            added += 1
        except TrustError as error:
            if error.subject == path:
                error.subject = source
            error.origin = source if error.origin == path else error.origin
            if failure is not None:
                say(f"pyrun: note: {failure}", error=True)
            failure = error
    if failure is not None and not added:
        raise failure
    if failure is not None:
        say(f"pyrun: note: {failure}", error=True)
