"""The messages by which a prepared pod asks systemd for a scope, held against those of systemd's own busctl(1)."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from buses import Bus, job

from pyrun.plan.dbus import transient_unit

PROPERTIES = [
    ("Description", "s", "pyrun pod x"),
    ("Delegate", "b", "true"),
    ("Slice", "s", "machine.slice"),
    ("CollectMode", "s", "inactive-or-failed"),
    ("MemoryMax", "t", str((1 << 64) - 1)),
    ("AllowedCPUs", "ay", "2", "7", "2"),
    ("TasksMax", "t", "46"),
]
MANAGER = ("org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager")


@pytest.mark.needs_root
@pytest.mark.parametrize("count", range(len(PROPERTIES) + 1))
@pytest.mark.parametrize("name", ["pyrun-3f0e.scope", "pyrun-x.scope"])
def test_it_is_what_busctl_sends(tmp_path: Path, name: str, count: int) -> None:
    assert shutil.which("busctl"), "the package systemd is missing"
    words = [word for one in (*PROPERTIES[:count], ("PIDs", "au", "1", "4711")) for word in one]
    arguments = ["ssa(sv)a(sa(sv))", name, "fail", str(count + 1), *words, "0"]
    with Bus(tmp_path / "bus", lambda bus, _: bus.send(job(bus.serial))) as bus:
        command = ["busctl", f"--address=unix:path={tmp_path}/bus", "call", *MANAGER, "StartTransientUnit", *arguments]
        subprocess.run(command, capture_output=True, timeout=30)
        place, calls = transient_unit(name, PROPERTIES[:count])
        assert calls[place : place + 4] == bytes(4)
        ours = calls[:place] + (4711).to_bytes(4, "little") + calls[place + 4 :]
        body = next(body for member, signature, body in bus.calls if (member, signature) == ("StartTransientUnit", "ssa(sv)a(sa(sv))"))
    assert ours.endswith(body) and calls.count(b"StartTransientUnit") == 1
