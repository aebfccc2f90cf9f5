"""The library of a user who is not root: a process that has become `nobody` starts pods in user namespaces."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyrun as library
from pyrun.errors import ConfigError, NotFoundError

NOBODY = 65534


def test_a_pod_of_nobodys(as_nobody: Callable[[Callable[[str], object]], object]) -> None:
    """Root inside, nobody outside; all namespaces, the filter, no network but lo; nothing of it stays."""

    def work(root: str) -> object:
        script = "id -u; cat /proc/self/uid_map; grep -E 'Seccomp:|NoNewPrivs' /proc/self/status; ls /sys/class/net; "
        script += "touch /new /tmp/x && echo wrote; touch /usr/x || echo kept"
        done = library.run(None, ["sh", "-c", script], rootfs="host", root=root, capture_output=True)
        before = [os.readlink(f"/proc/self/ns/{name}") for name in ("user", "net", "mnt", "pid", "ipc", "uts")]
        app = library.start(None, ["sleep", "1000"], rootfs="host", root=root)
        with app:
            app.wait_running()
            status = Path(f"/proc/{app.pid}/status").read_text()
            code = app.exec(["sh", "-c", "exit 6"]).wait()
        timed = library.run(None, ["sleep", "100"], rootfs="host", root=root, timeout=0.2)
        library.settle(root=root)
        left = [name for phase in ("preparing", "running", "garbage") for name in os.listdir(f"{root}/pods/{phase}")]
        return [(done.stdout or b"").decode(), (done.stderr or b"").decode(), status, code, timed.reason, left, before]

    seen: Any = as_nobody(work)
    out, err, status, code, reason, left, _ = seen
    words = out.split()
    assert words[:4] == ["0", "0", str(NOBODY), "1"], (out, err)
    assert "NoNewPrivs: 1 Seccomp: 2 lo".split() == words[4:9] and words[-2:] == ["wrote", "kept"], (out, err)
    uids = next(line.split()[1:] for line in status.splitlines() if line.startswith("Uid:"))
    assert set(uids) == {str(NOBODY)} and code == 6 and reason == "timeout" and left == []


def test_a_directory_and_what_is_refused(as_nobody: Callable[[Callable[[str], object]], object], tmp_path: Path, probe: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "probe").write_bytes(probe.read_bytes())
    (tree / "probe").chmod(0o755)

    def work(root: str) -> object:
        codes = [
            library.run(None, ["/probe", "exit", "7"], rootfs=str(tree), root=root, upper=upper).returncode for upper in ("disk", "tmpfs")
        ]
        refused = []
        for wrong in ({"user": "7"}, {"memory": "64Mi"}, {"net": "mine"}, {"supplementary_gids": [5]}):
            try:
                library.run(None, ["/probe"], rootfs=str(tree), root=root, **wrong)  # type: ignore[arg-type]
            except ConfigError as error:
                refused.append(f"{error} | {error.hint}")
        try:
            library.run("example.com/x", root=root)
        except NotFoundError as error:
            refused.append(str(error))
        library.settle(root=root)
        return [codes, refused]

    seen: Any = as_nobody(work)
    codes, refused = seen
    assert codes == [7, 7]
    assert (
        len(refused) == 5
        and "one user inside" in refused[0]
        and "Delegate=yes" in refused[1]
        and "interfaces and rules are the host" in refused[2]
        and "example.com/x" in refused[4]
    )
