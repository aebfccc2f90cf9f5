"""Event handlers together with the metadata service, a terminal, and entering: each works beside the others (ACE-40)."""

from __future__ import annotations

import os
import pty
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import COMMAND, Pyrun

ASK = "echo $AC_APP_NAME $(wget -qO- $AC_METADATA_URL/acMetadata/v1/pod/uuid | wc -c)"


@pytest.fixture
def handled(image: Callable[..., Path]) -> Callable[[str, str], Path]:
    """An image whose handlers run a script, and its app another."""

    def make(script: str, main: str) -> Path:
        def edit(made: Any) -> None:
            made.busybox()
            handlers = [{"name": name, "exec": ["/bin/sh", "-c", script]} for name in ("pre-start", "post-stop")]
            made.manifest["app"].update(exec=["/bin/sh", "-c", main], eventHandlers=handlers)

        return image(edit=edit)

    return make


@pytest.mark.parametrize("flags", [(), ("--net", "host"), ("--upper", "tmpfs"), ("--user", "7")], ids=str)
def test_ace_40_the_service_answers_in_all_three_phases(shared: Pyrun, handled: Callable[[str, str], Path], flags: tuple[str, ...]) -> None:
    assert shared("run", "--mds", "--name", "web", *flags, handled(ASK, ASK), code=0).out == "web 36\n" * 3


def test_files_of_pre_start_are_there_with_changes_in_memory(shared: Pyrun, handled: Callable[[str, str], Path]) -> None:
    """Upper layer in memory, /dev/shm and /tmp: one mount namespace for all three."""
    script = "cat /x /dev/shm/x 2>/dev/null; echo 1 >>/x; echo 2 >>/dev/shm/x"
    assert shared("run", "--upper", "tmpfs", handled(script, script), code=0).out == "1\n2\n1\n1\n2\n2\n"


def test_a_terminal_is_the_app_s_alone(shared: Pyrun, handled: Callable[[str, str], Path]) -> None:
    script = "tty >/dev/null 2>&1 && echo terminal; [ -t 0 ] && echo in; echo handler"
    path = handled(script, "[ -t 0 ] && [ -t 1 ] && echo app")
    master, slave = pty.openpty()
    done = subprocess.run(
        [COMMAND, "run", "-it", path], stdin=slave, stdout=slave, stderr=subprocess.PIPE, env=shared.environment(), timeout=60
    )
    os.close(slave)
    text = os.read(master, 4096).decode().split()
    os.close(master)
    assert done.returncode == 0, done.stderr
    assert text == ["handler", "app", "handler"]


def test_entering_knows_the_app_s_program_and_not_the_handlers(shared: Pyrun, handled: Callable[[str, str], Path]) -> None:
    """By the launcher's short way, and by Python's."""
    uuid = shared("run", "-d", "--user", "7", handled("true", "sleep 100"), code=0).out.strip()
    for flags in ((), ("-e", "B=1")):
        assert shared("exec", *flags, uuid, "sh", "-c", "id -u; echo $AC_APP_NAME", code=0).out == "7\ntest\n"
    manifest = shared("cat-manifest", uuid, code=0).out
    assert '"sleep 100"' in manifest
    shared("rm", "--force", uuid, code=0)
