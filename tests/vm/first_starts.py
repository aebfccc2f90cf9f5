"""What the host does once for all machines: a pod and a container, so that the bundles of both programs are there (pyrun.cli.bundle)."""

from __future__ import annotations

import _json
import struct
from pathlib import Path

from bundles import Runtime
from harness import TOP, Pyrun


def bundles() -> list[str]:
    return sorted(path.name.partition(".")[0] for path in TOP.glob(".venv/lib/python3*/site-packages/pyrun/__pycache__/*.bundle"))


def test_first_starts(shared: Pyrun, tmp_path: Path, probe: Path) -> None:
    shared.report()  # imports the image, so that the next is one of many
    shared.probe("exit", "0", code=0)
    oci = Runtime(tmp_path, probe)
    oci.command("/bin/true")
    oci("create", "one")
    oci("delete", "--force", "one")
    assert bundles() == ["oci", "run"]
    own = [Path(module.__file__ or "") for module in (struct, _json)]  # those of Python's modules that are in a bundle, or found by it
    (TOP / "build/python").write_text("".join(f"{path.stat().st_mtime} {path.stat().st_size} {path}\n" for path in own))
