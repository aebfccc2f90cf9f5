"""What `pyrun run` turns into when an operation of its plan failed: reads the plan again and says what it was."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrun.cli.parse import Args

__all__ = ["explainer", "main"]

SLOT_PLAN = 3


def explainer(args: Args) -> list[str]:
    """The command that the supervisor becomes when the plan fails; it adds the operation, the errno and a detail."""
    import pyrun

    package = os.path.dirname(os.path.dirname(pyrun.__file__ or ""))
    code = f"import sys; sys.path.insert(0, {package!r}); from pyrun.cli.explain import main; sys.exit(main(sys.argv[1:]))"
    return [sys.executable, "-I", "-S", "-E", "-X", "utf8", "-c", code, "debug" if args.debug else ""]


def main(argv: list[str]) -> int:
    """Render the failure `[debug, operation, errno, detail]` of the plan on descriptor 3; returns the exit code.

    Of an app of several its name stands behind `debug`.
    """
    from pyrun.cli.main import render
    from pyrun.engine.explain import failure
    from pyrun.plan import ops

    block = os.pread(SLOT_PLAN, os.fstat(SLOT_PLAN).st_size, 0)
    debug, *app, index, error, detail = argv
    failed = failure(ops.notes(block), int(index), int(error), int(detail))
    return render(failed.of_app(app[0]) if app else failed, bool(debug), lines=ops.has_flag(block, ops.TELL_END))
