"""`pyrun image list`, `show`, `verify` and `rm`: the stored images."""

from __future__ import annotations

import contextlib
import time

from pyrun.cli.output import age, emit_json, say, size, table
from pyrun.errors import EXIT_FAILED, NotFoundError, PyrunError, UsageError
from pyrun.images.store import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyrun.cli.parse import Args
    from pyrun.images.store import Image

__all__ = ["run"]

_SHORT_ID = 19  # "sha512-" and twelve digits, as rkt showed them
_SHORT_KEY = 16


def run(args: Args) -> int:
    """Does what the second word of the verb says."""
    return _ACTIONS[args.verb](args)


def _list(args: Args) -> int:
    broken: list[str] = []
    images = Store(args.root).images(broken)
    if args.format == "json":
        emit_json([_facts(image) for image in images])
    else:
        headers = ("id", "name", "version", "size", "imported", "signed by")
        table(headers, [_row(image, args.full) for image in images], legend=not args.no_legend)
    for image_id in broken:
        say(f"pyrun: note: the record of {image_id} is damaged; remove it with `pyrun image rm {image_id[:_SHORT_ID]}`", error=True)
    return 0


def _facts(image: Image) -> dict[str, object]:
    facts = image.record()
    del facts["manifest"]
    return facts


def _row(image: Image, full: bool) -> tuple[str, ...]:
    key = image.signature["fingerprint"] if image.signature else "-"
    return (
        image.id if full else image.id[:_SHORT_ID],
        image.name,
        image.labels.get("version", "-"),
        size(image.size),
        time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(image.imported / 1e9))
        if full
        else f"{age(time.time() - image.imported / 1e9)} ago",
        key if full else key[-_SHORT_KEY:],
    )


def _show(args: Args) -> int:
    from pyrun.images.web.notes import sources

    store = Store(args.root)
    image = store.find(args.ref)
    emit_json(image.record() | {"sources": [note.facts() for note in sources(store, image.id)]})
    return 0


def _verify(args: Args) -> int:
    from pyrun.images.trust.keyring import Keyring
    from pyrun.images.verify import verify_image

    if bool(args.refs) == args.all:
        reason = "no image given" if not args.refs else "--all and images exclude each other"
        raise UsageError("image verify", "", reason, hint="pyrun image verify REF..., or pyrun image verify --all")
    store = Store(args.root)
    keyring = Keyring(args.root)
    bad = False
    with store.lock(exclusive=False):
        for ref in store.ids() if args.all else args.refs:
            image_id = store.find_id(ref)
            problems = verify_image(store, image_id, keyring)
            bad = bad or bool(problems)
            for problem in problems or ["ok"]:
                say(f"{image_id[:_SHORT_ID]} {problem}")
    return EXIT_FAILED if bad else 0


def _rm(args: Args) -> int:
    from pyrun.images.prune import remove_image

    store = Store(args.root)
    code = 0
    for ref in args.refs:
        try:
            image_id = store.find_id(ref)
            with contextlib.suppress(NotFoundError):  # somebody else removed it meanwhile
                remove_image(store, image_id)
            say(image_id)
        except PyrunError as error:
            from pyrun.cli.main import render

            code = code or error.exit_code
            render(error, args.debug)
    return code


_ACTIONS: dict[str, Callable[[Args], int]] = {"image list": _list, "image show": _show, "image verify": _verify, "image rm": _rm}
