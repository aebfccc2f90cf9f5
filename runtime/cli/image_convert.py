"""`pyrun image convert`: an image in one format as a file of another."""

from __future__ import annotations

import os

from pyrun.cli.image_build import refuse_for_aci, signing, tell_signature
from pyrun.cli.output import say
from pyrun.errors import ImageError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrun.cli.parse import Args
    from pyrun.images.store import Image, Store

__all__ = ["run"]


def _stored(args: Args) -> tuple[Store, Image | None]:
    """The image of the store that is named; None for a file, an address, or a name that may be found elsewhere."""
    from pyrun.errors import NotFoundError
    from pyrun.images import resolve
    from pyrun.images.pulled import find_id
    from pyrun.images.store import Store

    store = Store(args.root)
    if resolve.parse(args.source).kind != "name":
        return store, None
    try:
        return store, store.load(find_id(store, args.source))
    except NotFoundError:
        if not os.path.lexists(args.source) and resolve.elsewhere(args.source) is None:
            raise
        return store, None


def run(args: Args) -> int:
    """Writes the file, and prints what the image is called by its new format."""
    from pyrun.images import exchange, resolve
    from pyrun.images.staging import Staging
    from pyrun.images.store import Store

    if not args.output:
        raise UsageError("image convert", args.source, "needs to know where to", hint="add --output FILE")
    kind = args.image_format if "image_format" in args.given else "aci" if args.output.endswith(".aci") else "oci"
    if kind == "docker" and not args.output.endswith(".tar"):
        raise UsageError("option --output", args.output, "a Docker archive is one file", hint=f"call it {args.output}.tar")
    if kind == "aci":
        refuse_for_aci(args)
    elif kind == "docker" and (args.sign_by or args.key or args.identity):
        hint = "make an OCI layout, or sign the image where it is stored: pyrun image sign"
        raise UsageError("image convert", args.source, "a Docker archive has no place for a signature", hint=hint)
    with Staging(args.root, "convert") as staging:
        store, image = _stored(args)
        if image is None:
            store = Store(f"{staging.path}/store")
            store.ensure()
            image = resolve.find(store, args.source, signature=None, unsigned=True, policy="new", beside=Store(args.root))
        lost = exchange.losses(image, kind)
        if lost and not args.drop:
            hint = "give that up: --drop"
            raise ImageError(
                f"convert to {kind.upper() if kind != 'docker' else 'Docker'}", image.name, f"it would lose {', '.join(lost)}", hint=hint
            )
        lost += exchange.renewed(store, image, kind)
        if kind == "aci":
            more = {"compression": args.compression, "overwrite": args.overwrite, "sign_by": args.sign_by or ""}
            made = exchange.to_aci(store, image, args.root, staging.path, args.output, name=args.name or "", **more)
        elif kind == "oci":
            made = exchange.to_oci(store, image, args.output, overwrite=args.overwrite, signed=signing(args, image))
        else:
            made = exchange.to_docker(store, image, staging.path, args.output, name=args.name or "", overwrite=args.overwrite)
    for words in lost if not args.quiet else ():
        say(f"pyrun: note: lost: {words}", error=True)
    say(made)
    if kind == "aci":
        tell_signature(args)
    return 0
