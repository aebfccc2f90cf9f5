"""How much of a large test is run: `make stress` sets TEST_SCALE, which multiplies counts; tests that use it are marked `stress`."""

from __future__ import annotations

import os

SCALE = max(1, int(os.environ.get("TEST_SCALE", "1")))


def scaled(count: int) -> int:
    """`count` in CI, a multiple of it in `make stress`."""
    return count * SCALE
