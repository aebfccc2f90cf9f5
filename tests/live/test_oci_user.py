"""`pyrun-oci` of a user: without root, and as root of a user namespace, which is how podman starts it then."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bundles import OCI, make_root

USER = 1000
SCRIPT = "id -u; echo gone > /dev/null; test -c /dev/null && echo device; touch /x && echo written; tr -s ' ' < /proc/self/uid_map"


@pytest.fixture
def bundle(probe: Path) -> Iterator[Path]:
    """A bundle of the user's, where he can get at it."""
    folder = Path(tempfile.mkdtemp(prefix="pyrun-oci-"))
    folder.chmod(0o755)
    make_root(folder / "rootfs", probe)
    for path in (folder, *folder.rglob("*")):
        os.chown(path, USER, USER, follow_symlinks=False)
    yield folder
    shutil.rmtree(folder)


def as_user(*words: str | Path, **more: Any) -> subprocess.CompletedProcess[str]:
    command = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", *map(str, words)]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, **more)


def write(bundle: Path, change: dict[str, Any] | None = None) -> None:
    as_user(OCI, "spec", "--rootless", "--bundle", bundle, check=True)
    config = json.loads((bundle / "config.json").read_text())
    config["process"].update(terminal=False, args=["/bin/sh", "-c", SCRIPT])
    config["root"]["readonly"] = False
    config["linux"].update(change or {})
    (bundle / "config.json").write_text(json.dumps(config))


def test_a_user_starts_a_container(bundle: Path) -> None:
    write(bundle)
    done = as_user(OCI, "--root", bundle / "state", "run", "--bundle", bundle, "one")
    assert done.stdout == f"0\ndevice\nwritten\n 0 {USER} 1\n", done.stderr
    assert list((bundle / "state").iterdir()) == []
    config = json.loads((bundle / "config.json").read_text())
    config["process"]["args"] = ["/bin/sleep", "1000"]
    (bundle / "config.json").write_text(json.dumps(config))
    with tempfile.TemporaryFile() as out:  # not a pipe, which the container would hold open
        words = [OCI, "--root", bundle / "state", "run", "--detach", "--bundle", bundle, "two"]
        command = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", *map(str, words)]
        assert subprocess.run(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, timeout=30).returncode == 0
    assert as_user(OCI, "--root", bundle / "state", "exec", "two", "id", "-u").stdout == "0\n"
    assert as_user(OCI, "--root", bundle / "state", "delete", "--force", "two").returncode == 0


def test_a_user_gets_a_user_namespace(bundle: Path) -> None:
    """Without one he may make no other: crun gives it, and says so."""
    write(bundle, {"namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc")], "uidMappings": None, "gidMappings": None})
    config = json.loads((bundle / "config.json").read_text())
    del config["hostname"]
    (bundle / "config.json").write_text(json.dumps(config))
    done = as_user(OCI, "--root", bundle / "state", "run", "--bundle", bundle, "one")
    assert done.stdout == f"0\ndevice\nwritten\n 0 {USER} 1\n", done.stderr
    assert "warning: linux.namespaces: " in done.stderr


def test_root_of_a_user_namespace_starts_one(bundle: Path) -> None:
    kinds = [{"type": kind} for kind in ("pid", "ipc", "uts", "mount", "cgroup", "network")]
    rules = {"devices": [{"allow": False, "access": "rwm"}]}
    write(bundle, {"namespaces": kinds, "uidMappings": [], "gidMappings": [], "resources": rules})
    done = as_user("unshare", "--user", "--map-root-user", OCI, "--root", bundle / "state", "run", "--bundle", bundle, "one")
    assert done.stdout == f"0\ndevice\nwritten\n 0 {USER} 1\n", done.stderr


def test_root_of_a_user_namespace_keeps_containers_where_the_user_may(bundle: Path) -> None:
    """As podman without root does it: nobody names the root, uid 0 is the user, and /run is not his."""
    kinds = [{"type": kind} for kind in ("pid", "ipc", "uts", "mount", "cgroup", "network")]
    write(bundle, {"namespaces": kinds, "uidMappings": [], "gidMappings": []})
    config = json.loads((bundle / "config.json").read_text())
    config["process"]["args"] = ["/bin/sleep", "1000"]
    (bundle / "config.json").write_text(json.dumps(config))
    runtime = bundle / "run"
    runtime.mkdir()
    os.chown(runtime, USER, USER)
    env = {**os.environ, "XDG_RUNTIME_DIR": str(runtime)}
    # one namespace for all, as podman keeps one; the last word is what the launcher answers without Python elsewhere
    script = '"$0" create --bundle "$1" one >/dev/null && "$0" start one && "$0" state one && "$0" delete --force one && ls "$2"'
    with tempfile.TemporaryFile("w+") as out:  # not a pipe, which the container would hold open
        inner = ["unshare", "--user", "--map-root-user", "sh", "-c", script, OCI, bundle, runtime / "pyrun-oci"]
        command = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", *map(str, inner)]
        code = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, timeout=60, env=env).returncode
        out.seek(0)
        said = out.read()
    assert code == 0 and json.loads(said)["status"] == "running", said
    assert list((runtime / "pyrun-oci").iterdir()) == []


def test_ids_of_others_are_refused(bundle: Path) -> None:
    write(bundle, {"uidMappings": [{"containerID": 0, "hostID": 0, "size": 1}]})
    done = as_user(OCI, "--root", bundle / "state", "create", "--bundle", bundle, "one")
    assert done.returncode == 1 and "linux.uidMappings" in done.stderr and "his own id only" in done.stderr
    write_limit = {"resources": {"memory": {"limit": 64 << 20}}}
    (bundle / "config.json").unlink()
    write(bundle, write_limit)
    done = as_user(OCI, "--root", bundle / "state", "create", "--bundle", bundle, "one")
    assert done.returncode == 1 and "cgroup" in done.stderr, "a limit that cannot hold"
