"""Hooks of config.json where a create goes wrong (runtime-spec runtime.md, "Lifecycle")."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from bundles import Runtime


@pytest.fixture
def oci(tmp_path: Path, probe: Path) -> Runtime:
    return Runtime(tmp_path, probe)


@pytest.mark.parametrize("kind", ["prestart", "createRuntime", "createContainer", "program", "mount"])
def test_poststop_hooks_follow_a_create_whose_hooks_have_run(oci: Runtime, kind: str, tmp_path: Path) -> None:
    """runtime.md, "Lifecycle", steps 3 to 5, 12 and 13; where the environment could not be made there is nothing to continue."""
    scripts = [f'read -r s; echo "$s" > {tmp_path}/told', "exit 1", f"echo last >> {tmp_path}/order"]
    hook = [{"path": "/bin/busybox", "args": ["busybox", "sh", "-c", script]} for script in scripts]
    oci.config["hooks"] = {"poststop": hook}
    oci.command("/bin/none" if kind == "program" else "/bin/true")
    if kind == "mount":
        oci.config["mounts"].append({"destination": "/x", "type": "none", "source": "/none", "options": ["bind"]})
    elif kind != "program":
        oci.config["hooks"][kind] = [{"path": "/bin/busybox", "args": ["busybox", "sh", "-c", "exit 3"]}]
    oci.write()
    done = oci("create", "one", code=1)
    assert ("exit status was 3" in done.stderr) == (kind not in ("program", "mount")) and not oci.leftovers()
    if kind == "mount":
        assert not (tmp_path / "told").exists()
        return
    told = json.loads((tmp_path / "told").read_text())
    assert (told["id"], told["status"], told["pid"]) == ("one", "stopped", 0)
    assert "warning" in done.stderr and (tmp_path / "order").read_text() == "last\n", "one that fails is no obstacle"
    assert not [top for top, _, _ in os.walk("/sys/fs/cgroup") if top.endswith("/one")]
