"""What `pyrun run` turns into when an operation of its plan failed: reads the plan again and says what it was."""

from __future__ import annotations

import os

from pyrun.engine.explain import failure
from pyrun.plan import ops

SLOT_PLAN = 3


def main(argv: list[str]) -> int:
    """Render the failure `[debug, operation, errno, detail]` of the plan on descriptor 3; returns the exit code."""
    from pyrun.cli.main import render

    block = os.pread(SLOT_PLAN, os.fstat(SLOT_PLAN).st_size, 0)
    debug, index, error, detail = argv
    return render(failure(ops.notes(block), int(index), int(error), int(detail)), bool(debug))
