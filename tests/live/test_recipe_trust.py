"""A recipe holds only as long as an unsigned image is accepted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import archives
import mkoci
import pytest
from harness import Pyrun

from pyrun.images import trust

RUN = ("--exec", "/probe", "--", "exit", "7")


@pytest.fixture
def accepted(pyrun: Pyrun, tmp_path: Path, probe: Path) -> mkoci.Layout:
    """An image with the probe; from the directory above it unsigned images are accepted."""
    layout = mkoci.Layout(tmp_path / "place/layout")
    layout.entries.append(layout.image(mkoci.layer(archives.file(b"probe", probe.read_bytes(), mode=0o755)), ref="v1"))
    layout.index()
    pyrun("trust", "--yes", "--unsigned", str(tmp_path / "place"), code=0)
    return layout


@pytest.fixture
def scope(pyrun: Pyrun, accepted: mkoci.Layout) -> Callable[[str], None]:
    """Puts a key for that image alone in place, as `pyrun trust` does; an empty text masks one."""
    narrower = Path(trust.scope_dir(f"{pyrun.root}/trust", str(accepted.path)))

    def put(text: str) -> None:
        narrower.mkdir(exist_ok=True)
        new = pyrun.root / "new-key"
        new.write_text(text)
        new.rename(narrower / ("A" * 40))

    return put


@pytest.mark.parametrize("before", ["nothing", "mask"])
def test_a_narrower_key_takes_the_mark_back(pyrun: Pyrun, accepted: mkoci.Layout, scope: Callable[[str], None], before: str) -> None:
    if before == "mask":
        scope("")
    for _ in range(3):
        pyrun("run", f"oci:{accepted.path}:v1", *RUN, code=7)
    scope("a key")
    refused = pyrun("run", f"oci:{accepted.path}:v1", *RUN, code=125)
    assert "sign" in refused.err
