"""Functions that are called in a process of somebody else, who is not root, with a state directory of their own."""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Callable
from pathlib import Path

import pyrun

NOBODY = 65534
Calls = Callable[[Callable[[str], object]], object]


def prepare(folder: Path) -> str:
    """A state directory that is nobody's; everything is imported while its files can be read."""
    home = folder / "home"
    home.mkdir()
    os.chown(home, NOBODY, NOBODY)
    for parent in folder.parents[:3]:
        parent.chmod(parent.stat().st_mode | 0o011)
    folder.chmod(0o755)
    own = str(folder / "roots")
    pyrun.run(None, ["true"], rootfs="host", root=own)
    with pyrun.start(None, ["sleep", "1000"], rootfs="host", root=own) as app:
        app.exec(["true"]).wait()
    pyrun.settle(root=own)
    return str(home / "state")


def call(what: Callable[[str], object], state: str, cgroup: Path | None = None) -> object:
    """What `what(state)` returns, by JSON, in a forked process of user nobody, in its own `cgroup` if there is one."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if cgroup:
                (cgroup / "cgroup.procs").write_text("0")
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            said = json.dumps(what(state))
        except BaseException:
            said = json.dumps({"failed": traceback.format_exc()})
        with open(write, "w") as file:
            file.write(said)
        os._exit(0)
    os.close(write)
    with open(read) as file:
        found = json.load(file)
    os.waitpid(child, 0)
    assert not isinstance(found, dict), found["failed"]
    return found
