"""Hooks of config.json where a create goes wrong (runtime-spec runtime.md, "Lifecycle")."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

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
    assert ("hook failed with exit code 3" in done.stderr) == (kind not in ("program", "mount")) and not oci.leftovers()
    if kind == "mount":
        assert not (tmp_path / "told").exists()
        return
    told = json.loads((tmp_path / "told").read_text())
    assert (told["id"], told["status"], told["pid"]) == ("one", "stopped", 0)
    assert "warning" in done.stderr and "hooks.poststop[1]" in done.stderr and (tmp_path / "order").read_text() == "last\n", (
        "one that fails is no obstacle"
    )
    assert not [top for top, _, _ in os.walk("/sys/fs/cgroup") if top.endswith("/one")]


def through_life(oci: Runtime, kind: str, script: str, **more: Any) -> None:
    """A container with one such hook, from elsewhere and with a variable."""
    oci.config["hooks"] = {kind: [{"path": "/bin/busybox", "args": ["busybox", "sh", "-c", script], **more}]}
    oci.command("/bin/true")
    elsewhere = oci.folder / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    world: dict[str, Any] = {"cwd": elsewhere, "env": {**os.environ, "OURS": "the caller's"}}
    oci("create", "--bundle", "../bundle", "--pid-file", "pid", "one", **world)
    assert (elsewhere / "pid").exists(), "relative paths are the caller's"
    oci("start", "one", **world)
    oci("delete", "--force", "one", **world)


@pytest.mark.parametrize("kind", ["prestart", "createRuntime", "createContainer", "poststart", "poststop"])
def test_a_hook_runs_in_the_bundle(oci: Runtime, kind: str) -> None:
    """With the runtime's environment, unless it has one of its own; so it is with crun and runc, and the specification is silent."""
    through_life(oci, kind, 'echo "$PWD $OURS" > written')
    assert (oci.bundle / "written").read_text() == f"{oci.bundle} the caller's\n"
    through_life(oci, kind, 'echo "$A$OURS" > written', env=["A=its own"])
    assert (oci.bundle / "written").read_text() == "its own\n"


@pytest.mark.parametrize("kind", ["createRuntime", "poststart", "poststop"])
def test_what_a_hook_writes_goes_to_files(oci: Runtime, kind: str, tmp_path: Path) -> None:
    for name in ("stdout", "stderr"):
        oci.config.setdefault("annotations", {})[f"run.oci.hooks.{name}"] = str(tmp_path / name)
        (tmp_path / name).write_text("before\n")
    through_life(oci, kind, "echo to out; echo to err >&2")
    assert (tmp_path / "stdout").read_text() == "before\nto out\n"
    assert (tmp_path / "stderr").read_text() == "before\nto err\n"


def test_no_annotation_makes_a_file_or_writes_to_what_is_none(oci: Runtime, tmp_path: Path) -> None:
    (tmp_path / "real").touch()
    (tmp_path / "link").symlink_to("real")
    os.mkfifo(tmp_path / "fifo")
    for name in ("none", "link", "fifo", "."):
        oci.config["annotations"] = {"run.oci.hooks.stderr": str(tmp_path / name)}
        oci.config["hooks"] = {"createRuntime": [{"path": "/bin/true"}]}
        oci.command("/bin/true")
        done = oci("create", "one", code=1)
        assert "annotations.run.oci.hooks.stderr" in done.stderr and not oci.leftovers()
    assert not (tmp_path / "none").exists()


def test_a_poststart_hook_that_fails_destroys_the_container(oci: Runtime, tmp_path: Path) -> None:
    """runtime.md, "Lifecycle", step 9: an error, then step 12, and 13."""
    sh = {"path": "/bin/busybox", "args": ["busybox", "sh", "-c"]}
    oci.config["hooks"] = {
        kind: [{**sh, "args": [*sh["args"], script]}] for kind, script in (("poststart", "exit 3"), ("poststop", f"cat > {tmp_path}/told"))
    }
    oci.command("/bin/sleep", "1000")
    oci("create", "one")
    group = Path("/sys/fs/cgroup/one")
    assert group.exists()
    assert "hooks.poststart[0]" in oci("start", "one", code=1).stderr
    assert "does not exist" in oci("state", "one", code=1).stderr and not oci.leftovers() and not group.exists()
    assert json.loads((tmp_path / "told").read_text())["status"] == "stopped"
