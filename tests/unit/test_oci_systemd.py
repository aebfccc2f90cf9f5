"""Which service manager is asked for a container's scope, by a busctl that writes down how it was called."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pyrun.oci import systemd


@pytest.mark.parametrize("user", [False, True])
def test_the_session_s_bus_is_not_the_user_s_systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user: bool) -> None:
    """A session may have a bus of its own, as dbus-run-session(1) makes it; no systemd listens there."""
    busctl, said = tmp_path / "busctl", tmp_path / "said"
    busctl.write_text(f'#!/bin/sh\necho "$1 $DBUS_SESSION_BUS_ADDRESS $XDG_RUNTIME_DIR" > {said}\n')
    busctl.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", "unix:path=/of/the/session")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    systemd.adjust("some.scope", "/sys/fs/cgroup/some.scope/container", [("pids.max", "20")], user=user)
    wanted = f"--user unix:path={tmp_path}/bus" if user else "--system unix:path=/of/the/session"
    assert said.read_text().split() == [*wanted.split(), str(tmp_path)]
