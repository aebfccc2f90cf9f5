"""Which image of an index is taken, by platform, and what runs on no processor or system like this one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import archives
import mkoci
import pytest
from mkoci import Layout, layer

from pyrun.errors import ManifestError
from pyrun.images import resolve
from pyrun.images.platform import amd64_level
from pyrun.images.store import Image, Store

pytestmark = pytest.mark.needs_root  # layers keep the owners that the archive says

Load = Callable[[], Image]


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "app")


@pytest.fixture
def load(store: Store, layout: Layout) -> Load:
    return lambda: resolve.find(store, f"oci:{layout.path}", unsigned=True)


def amd64(architecture: str = "amd64", variant: str = "") -> dict[str, Any]:
    return {"platform": {"os": "linux", "architecture": architecture, **({"variant": variant} if variant else {})}}


def test_platform_choice(load: Load, layout: Layout) -> None:
    entries = [
        layout.image(layer(archives.file(name.encode())), ref="", descriptor=amd64(name), architecture=name)
        for name in ("s390x", "amd64", "arm64")
    ]
    attestation = layout.image(layer(archives.file(b"att")), ref="", descriptor={"platform": {"os": "unknown", "architecture": "unknown"}})
    nested = layout.nested(*entries, attestation)
    layout.index({"schemaVersion": 2, "manifests": [layout.nested(nested, annotations={mkoci.REF: "v1"})]})
    image = load()
    assert (image.id[7:], image.labels["version"]) == (entries[1]["digest"][7:], "v1")
    layout.index({"schemaVersion": 2, "manifests": [entries[0], entries[2]]})
    with pytest.raises(ManifestError, match="holds nothing for linux/amd64") as caught:
        load()
    assert "linux/arm64, linux/s390x" in caught.value.hint


def test_variants_that_may_not_run(load: Load, layout: Layout) -> None:
    layout.image(descriptor=amd64(variant="v9"), variant="v9")
    with pytest.raises(ManifestError, match="holds nothing for"):
        load()


def test_features_that_are_not_known(load: Load, layout: Layout) -> None:
    """image-index.md, "os.features": mandatory ones, so an image that asks for one is not chosen, nor taken where it is alone."""
    asking = {"platform": {"os": "linux", "architecture": "amd64", "os.features": ["teleport"]}}
    first = layout.image(layer(archives.file(b"f")), descriptor=asking)
    second = layout.image(layer(archives.file(b"g")), descriptor=amd64())
    assert load().id[7:] == second["digest"][7:]
    layout.index({"schemaVersion": 2, "manifests": [first]})
    with pytest.raises(ManifestError, match="holds nothing for") as caught:
        load()
    assert "linux/amd64+teleport" in caught.value.hint
    layout.entries.clear()
    layout.image(**{"os.features": ["teleport"]})
    with pytest.raises(ManifestError, match="it needs the OS feature teleport"):
        load()
    layout.entries.clear()
    layout.image(variant="v9")
    with pytest.raises(ManifestError, match="it needs a processor of linux/amd64/v9"):
        load()
    layout.entries.clear()
    layout.image(**{"os.features": "teleport"})
    with pytest.raises(ManifestError, match=r"os\.features.* must be a list of strings"):
        load()


def test_the_best_variant_and_of_equals_the_first(load: Load, layout: Layout) -> None:
    level = amd64_level(next(set(line.split()) for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")))
    variants = ["", "v1", *(f"v{number}" for number in range(2, 10))]
    made = {
        variant: layout.image(layer(archives.file(b"f", variant.encode())), descriptor=amd64(variant=variant), variant=variant)
        for variant in variants
    }
    again = layout.image(layer(archives.file(b"again")), descriptor=amd64())
    assert load().id[7:] == made[f"v{level}" if level > 1 else ""]["digest"][7:]
    layout.index({"schemaVersion": 2, "manifests": [made["v9"], again, made[""]]})
    assert load().id[7:] == again["digest"][7:]


def test_foreign_without_platform_is_refused_by_run(load: Load, layout: Layout) -> None:
    layout.image(architecture="arm64")
    assert load().labels["arch"] == "aarch64"
