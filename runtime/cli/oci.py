"""The entry of `pyrun-oci`: runs the command, and leaves its modules as one file for the next start (pyrun.cli.bundle)."""

from __future__ import annotations

import posix
import sys

from pyrun.oci.main import main

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

_BUNDLE = "oci"  # as in native/launcher.c


def entry() -> NoReturn:
    """Run the command line of this process and exit with its code."""
    code = main(sys.argv[1:])
    if code == 0 and "create" in sys.argv:
        _bundle()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        posix._exit(code)


def _bundle() -> None:
    import pyrun

    if pyrun.__spec__.loader is None:  # it comes from there
        return
    import os

    from pyrun.cli import bundle

    if not os.path.exists(bundle.path(os.path.dirname(pyrun.__file__ or ""), _BUNDLE)):
        from pyrun.cli.bundling import save

        save(_BUNDLE)
