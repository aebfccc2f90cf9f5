"""``python -m pyrun``: the same as the `pyrun` command."""

from __future__ import annotations

from pyrun.cli.main import entry

entry()
