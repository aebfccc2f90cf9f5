"""`pyrun image export`, `render` and `extract`: stored images, and files of theirs, outside of the store."""

from __future__ import annotations

from pyrun.cli.output import say
from pyrun.errors import UsageError
from pyrun.images.pulled import find_id
from pyrun.images.store import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyrun.cli.parse import Args

__all__ = ["run"]


def run(args: Args) -> int:
    """Does what the second word of the verb says."""
    _ACTIONS[args.verb](args)
    return 0


def _export(args: Args) -> None:
    from pyrun.images.export import export_aci, export_oci

    if not args.file and args.oci is None:
        hint = "write pyrun image export REF FILE, or REF --oci PATH, or both"
        raise UsageError("image export", "", "needs to know where to", hint=hint)
    store = Store(args.root)
    image = store.load(find_id(store, args.ref))
    if args.file:
        written = export_aci(store, image, args.file, overwrite=args.overwrite)
        if not args.quiet and len(written) > 1:
            say(f"pyrun: note: its signature is in {written[1]}", error=True)
        say(image.id)
    if args.oci is not None:
        say(export_oci(store, image, args.oci, overwrite=args.overwrite))


def _render(args: Args) -> None:
    from pyrun.images.render import render

    store = Store(args.root)
    render(store, store.load(find_id(store, args.ref)), args.dir, overwrite=args.overwrite)


def _extract(args: Args) -> None:
    from pyrun.images import render

    store = Store(args.root)
    image = store.load(find_id(store, args.ref))
    if args.path is None:
        render.extract(store, image, args.dir, rootfs_only=args.rootfs_only, overwrite=args.overwrite)
    elif args.dir == "-":
        import sys

        sys.stdout.flush()
        render.print_file(store, image, args.path, sys.stdout.buffer.write)
        sys.stdout.buffer.flush()
    else:
        render.extract_path(store, image, args.path, args.dir, overwrite=args.overwrite)


_ACTIONS: dict[str, Callable[[Args], None]] = {"image export": _export, "image render": _render, "image extract": _extract}
