"""What a start may import: an allow-list instead of a stopwatch, so that it never flickers.

A module that is missing here costs every start its import; take it in only with a measurement.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from bundles import Runtime
from harness import Pyrun

# Python's own: C modules, and what `os` is made of.
PYTHON = set(
    """
    __future__ _collections_abc _json _sha256 _stat _struct binascii errno fcntl genericpath os posixpath
    resource stat struct
    """.split()
)
PYRUN = set(
    """
    pyrun pyrun.errors pyrun.host
    pyrun.native pyrun.native.users
    pyrun.images pyrun.images.fastjson pyrun.images.locks pyrun.images.passwd pyrun.images.printable
    pyrun.images.resolve pyrun.images.rootfs pyrun.images.store pyrun.images.trust
    pyrun.plan pyrun.plan.caps pyrun.plan.config pyrun.plan.mounts pyrun.plan.ops pyrun.plan.planner pyrun.plan.rlimits
    pyrun.plan.seccomp
    pyrun.engine pyrun.engine.cgroup pyrun.engine.installed pyrun.engine.launch
    pyrun.pod pyrun.pod.cache pyrun.pod.config pyrun.pod.create pyrun.pod.options pyrun.pod.recipe pyrun.pod.state
    pyrun.pod.volumes
    pyrun.cli pyrun.cli.bundle pyrun.cli.explain pyrun.cli.main pyrun.cli.options pyrun.cli.parse pyrun.cli.run
    pyrun.cli.table
    pyrun.cli.verbs_appc pyrun.cli.verbs_images pyrun.cli.verbs_limits pyrun.cli.verbs_network pyrun.cli.verbs_pods pyrun.cli.verbs_trust
    pyrun.cli.specs
    """.split()
)

# As the launcher starts it (native/launcher.c), with a list of the imports on standard error.
BOOT = "import sys; sys.path.insert(0, sys.argv.pop(1)); from pyrun.cli.main import entry; entry()"
FLAGS = ["-I", "-S", "-E", "-X", "utf8", "-X", "importtime"]


def imports(code: str, *arguments: str, env: dict[str, str] | None = None) -> set[str]:
    done = subprocess.run([sys.executable, *FLAGS, "-c", code, *arguments], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip() for line in lines[1:]}


@pytest.mark.parametrize(
    "command",
    [
        ["run", "IMAGE", "--exec", "/probe", "--", "exit", "0"],
        ["run", "example.com/probe", "--exec", "/probe", "--", "exit", "0"],
        ["run", "-v", "/usr:/usr:ro", "-e", "A=B", "--user", "app", "--readonly-rootfs", "IMAGE", "--exec", "/probe", "--", "exit", "0"],
    ],
    ids=["file", "name", "flags"],
)
def test_a_start_imports_only_what_it_must(shared: Pyrun, probe_image: Path, command: list[str]) -> None:
    arguments = [str(probe_image) if word == "IMAGE" else word for word in command]
    shared(*arguments, code=0)  # the image is stored and the filter compiled from here on
    shared("run", "--umask", "027", *arguments[1:], code=0)  # has to be decided too: the bundle is there from here on
    found = imports(BOOT, sysconfig.get_path("platlib"), *arguments, env=shared.environment())
    assert found - imports("pass") - PYTHON - PYRUN == set()
    assert {"pyrun.cli.run", "pyrun.native"} <= found, "the list is of the right thing"


ENTER = set("pyrun.cli.enter pyrun.plan.entering pyrun.pod.enter pyrun.pod.live pyrun.pod.names pyrun.native._native _cffi_backend".split())


def test_entering_imports_only_what_it_must(shared: Pyrun, probe_image: Path) -> None:
    """Where the launcher cannot do it alone."""
    shared("run", "--detach", "--pod-name", "imports", probe_image, "--exec", "/probe", "--", "sleep", "0", code=0)
    found = imports(BOOT, sysconfig.get_path("platlib"), "exec", "imports", "/probe", "exit", "0", env=shared.environment())
    shared("rm", "--force", "imports", code=0)
    assert found - imports("pass") - PYTHON - PYRUN - ENTER == set()
    assert "pyrun.pod.enter" in found and "pyrun.pod.recipe" not in found


OCI = set(
    """
    pyrun pyrun.errors pyrun.host pyrun.native pyrun.native.users
    pyrun.images pyrun.images.fastjson
    pyrun.plan pyrun.plan.caps pyrun.plan.mounts pyrun.plan.ops pyrun.plan.rlimits
    pyrun.oci pyrun.oci.agree pyrun.oci.arguments pyrun.oci.cgroups pyrun.oci.create pyrun.oci.devices pyrun.oci.known pyrun.oci.launch
    pyrun.oci.main pyrun.oci.mounts pyrun.oci.planner pyrun.oci.process pyrun.oci.rules pyrun.oci.rules_linux
    pyrun.oci.rules_process pyrun.oci.rules_resources pyrun.oci.spec pyrun.oci.start pyrun.oci.state
    pyrun.oci.streams pyrun.plan.sysctl
    pyrun.cli pyrun.cli.bundle pyrun.cli.oci
    _socket select time
    """.split()
)


def test_containers_of_other_engines_import_only_what_they_must(tmp_path: Path, probe: Path) -> None:
    """create; state, start, kill and delete do without Python."""
    oci = Runtime(tmp_path, probe)
    oci.config["process"]["env"].append("HOME=/")
    oci.command("/bin/true")
    oci("create", "before")  # the modules' bundle is there from here on
    oci("delete", "before")
    boot = BOOT.replace("pyrun.cli.main", "pyrun.cli.oci")
    words = ["--root", str(oci.root), "create", "--bundle", str(oci.bundle), "one"]
    with (tmp_path / "error").open("w+") as error:  # not a pipe, which the container would hold open
        command = [sys.executable, *FLAGS, "-c", boot, sysconfig.get_path("platlib"), *words]
        assert subprocess.run(command, stdin=subprocess.DEVNULL, stdout=error, stderr=error, timeout=60).returncode == 0
        error.seek(0)
        lines = [line for line in error.read().splitlines() if line.startswith("import time:")]
    oci("delete", "one")
    found = {line.rpartition("|")[2].strip() for line in lines[1:]}
    assert found - imports("pass") - PYTHON - OCI == set()
    assert "pyrun.oci.create" in found
