"""Hooks of config.json where a create goes wrong (runtime-spec runtime.md, "Lifecycle")."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bundles import OCI, Runtime


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
@pytest.mark.parametrize("name", ["pyrun-oci", "runc", "crun"])
def test_a_hook_runs_in_the_bundle_or_the_root_of_its_namespace(oci: Runtime, kind: str, name: str) -> None:
    """With the runtime's environment, unless it has one of its own; so it is with runc, and the specification is silent."""
    oci.program = oci.folder / name
    oci.program.symlink_to(OCI)
    place = oci.bundle / "rootfs" if kind == "createContainer" and name != "crun" else oci.bundle
    through_life(oci, kind, 'echo "$PWD $OURS" > written')
    assert (place / "written").read_text() == f"{place} the caller's\n"
    through_life(oci, kind, 'echo "$A$OURS" > written', env=["A=its own"])
    assert (place / "written").read_text() == "its own\n"


def test_a_createContainer_hook_mounts_into_the_root(oci: Runtime) -> None:
    (oci.bundle / "from").write_text("the host's\n")
    script = f"test -e proc/self && touch lib/it && mount --bind {oci.bundle}/from lib/it"
    oci.config["hooks"] = {"createContainer": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]}
    (oci.bundle / "rootfs/lib").mkdir(exist_ok=True)
    assert oci.shell("cat /lib/it") == "the host's\n"
    assert (oci.bundle / "rootfs/lib/it").read_text() == "", "the mount is the container's alone"


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


def is_gone(pid: int) -> bool:
    """Nobody but the first process reaps it, so it may be dead for a while."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] == b"Z"
    except FileNotFoundError:
        return True


def wait_for(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("verb", ["create", "start", "run", "run --detach", "delete"])
def test_a_signal_ends_a_hook_that_hangs(oci: Runtime, tmp_path: Path, verb: str) -> None:
    """And with it what waits for the hook; of the container nothing is left."""
    kind = {"create": "createRuntime", "delete": "poststop"}.get(verb, "poststart")
    hook = {
        "path": "/bin/busybox",
        "args": ["busybox", "sh", "-c", f"echo $$ > {tmp_path}/new; mv {tmp_path}/new {tmp_path}/pid; exec sleep 1000"],
    }
    oci.config["hooks"] = {kind: [hook]}
    oci.command("/bin/sh", "-c", "trap 'exit 9' TERM; while :; do sleep 0.05; done")
    if verb in ("start", "delete"):
        oci("create", "one")
    words = [OCI, "--root", oci.root, *verb.split(), *(["--force"] if verb == "delete" else []), "one"]
    with subprocess.Popen(words, cwd=oci.bundle, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as running:
        wait_for((tmp_path / "pid").exists)
        running.send_signal(signal.SIGTERM)
        assert running.wait(timeout=60) == (0 if verb == "delete" else 128 + signal.SIGTERM)
        assert running.stderr is not None
        assert ("asked to end" in running.stderr.read()) == (verb == "delete")
    pid = int((tmp_path / "pid").read_text())
    wait_for(lambda: is_gone(pid))
    assert not oci.leftovers() and not Path("/sys/fs/cgroup/one").exists()


def test_a_hook_may_outlast_a_program_that_was_told_to_end(oci: Runtime, tmp_path: Path) -> None:
    """The signal went to the program: what the hook behind it does, it may finish."""
    script = f"sleep 1; echo done > {tmp_path}/hook"
    oci.config["hooks"] = {"poststop": [{"path": "/bin/busybox", "args": ["busybox", "sh", "-c", script]}]}
    ready = oci.bundle / "rootfs" / "ready"
    oci.command("/bin/sh", "-c", "trap 'exit 9' TERM; touch /ready; while :; do sleep 0.05; done")
    with subprocess.Popen([OCI, "--root", oci.root, "run", "one"], cwd=oci.bundle, stdin=subprocess.DEVNULL) as running:
        wait_for(ready.exists)
        running.send_signal(signal.SIGTERM)
        assert running.wait(timeout=60) == 9
    assert (tmp_path / "hook").read_text() == "done\n" and not oci.leftovers()
