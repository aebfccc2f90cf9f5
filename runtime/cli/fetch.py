"""`pyrun fetch`: verify images, in files or registries, and put them into the store."""

from __future__ import annotations

from pyrun.cli.output import say
from pyrun.cli.progress import shown
from pyrun.errors import PyrunError, UsageError
from pyrun.images import resolve
from pyrun.images.store import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrun.cli.parse import Args

__all__ = ["run"]


def run(args: Args) -> int:
    """Imports every file, prints the full id of each, and goes on after a failure; the exit code is that of the first one."""
    if args.signature is not None and len(args.files) > 1:
        raise UsageError("fetch", args.files[1], "one signature cannot be that of several files", hint="fetch the files one by one")
    store = Store(args.root)
    unsigned = "image" in args.insecure_options
    code = 0
    for path in args.files:
        try:
            with shown(args.quiet) as progress:
                image = resolve.fetch(
                    store,
                    resolve.parse(path),
                    signature=args.signature,
                    unsigned=unsigned,
                    http="http" in args.insecure_options,
                    progress=progress,
                )
        except PyrunError as error:
            if len(args.files) == 1:
                raise
            from pyrun.cli.main import render

            code = code or error.exit_code
            render(error, args.debug)
            continue
        if image.signature is None and not args.quiet:
            say(f"pyrun: note: {path} has no trusted signature; it will not run without --insecure-options=image", error=True)
        say(image.id)
    return code
