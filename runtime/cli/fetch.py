"""`pyrun fetch`: verify images, in files, on web servers or in registries, and put them into the store."""

from __future__ import annotations

from pyrun.cli.output import say
from pyrun.cli.run import plain_http, progress_of
from pyrun.errors import PyrunError, UsageError
from pyrun.images import resolve
from pyrun.images.store import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyrun.cli.parse import Args
    from pyrun.images.store import Image

__all__ = ["run"]


def run(args: Args) -> int:
    """Imports every file, prints the full id of each, and goes on after a failure; the exit code is that of the first one."""
    if args.signature is not None and len(args.files) > 1:
        raise UsageError("fetch", args.files[1], "one signature cannot be that of several files", hint="fetch the files one by one")
    store = Store(args.root)
    if "" in plain_http(args) and len({_server(path) for path in args.files} - {""}) > 1:
        hint = "name the one that speaks it: --insecure-options=http:HOST[:PORT]"
        raise UsageError("option --insecure-options", "http", "several registries or servers are named", hint=hint)
    code = 0
    for path in args.files:
        try:
            image = _fetch(args, store, path)
        except PyrunError as error:
            if len(args.files) == 1:
                raise
            from pyrun.cli.main import render

            code = code or error.exit_code
            render(error, args.debug)
            continue
        if not args.quiet:
            _tell(store, path, image, args.policy or "")
        say(image.id)
    return code


def _fetch(args: Args, store: Store, text: str) -> Image:
    """The image that one argument means, fetched as --pull-policy says."""
    unsigned, trust = "image" in args.insecure_options, args.policy or ""
    more: dict[str, Any] = {"http": plain_http(args), "progress": progress_of(args), "no_cache": args.no_cache}
    reference = resolve.parse(text)
    if args.pull_policy == "update" and reference.kind != "name":
        return resolve.fetch(store, reference, signature=args.signature, unsigned=unsigned, trust_policy=trust, **more)
    return resolve.find(store, text, signature=args.signature, unsigned=unsigned, policy=args.pull_policy, trust_policy=trust, **more)


def _server(text: str) -> str:
    """The server that a reference names; "" for a file."""
    reference = resolve.parse(text)
    if reference.kind == "registry":
        from pyrun.images.registry.reference import parse

        return parse(text).registry
    if reference.kind == "url":
        return text.partition("://")[2].partition("/")[0].lower()
    from pyrun.images.web.names import is_discoverable

    return text.partition("/")[0] if reference.kind == "name" and is_discoverable(text) else ""


def _tell(store: Store, path: str, image: Image, policy: str) -> None:
    """What somebody should know who is going to run the image."""
    try:
        store.require_trusted(image, policy=policy)
    except PyrunError:
        say(f"pyrun: note: {path} has no trusted signature; it will not run without --insecure-options=image", error=True)
    if image.origin is not None and image.origin.get("named") == "no":
        say(f"pyrun: note: the name {image.name} stays with the image that has it; this one is {image.id[:19]}", error=True)
