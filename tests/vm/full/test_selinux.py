"""SELinux, which this machine was booted with: contexts of apps, containers and mounts, and what the policy forbids them (ACE-71).

The policy is a small one of its own, tests/support/selinux.py: what a container may reach is what is labelled for it.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import selinux
from bundles import Runtime
from harness import Pyrun

BOX, FAR, UNKNOWN = "system_u:system_r:box_t:s0:c1,c2", "system_u:system_r:lone_t:s0", "system_u:system_r:none_such_t:s0"
FILES, OTHERS = "system_u:object_r:box_file_t:s0:c1,c2", "system_u:object_r:box_file_t:s0:c1,c3"
LOOK = "cat /proc/self/attr/current; echo; cat /etc/secret 2>/dev/null || echo closed"
OPEN, CLOSED = f"{BOX}\0\nsecret\n", f"{BOX}\0\nclosed\n"
NO_SUCH = "the policy that is loaded knows no such context"

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="session")
def confined(shared: Pyrun, image: Callable[..., Path]) -> str:
    """The id of an image that looks at itself, with a context by its isolator."""
    value = {"user": "system_u", "role": "system_r", "type": "box_t", "level": "s0:c1,c2"}
    handlers = [{"name": "pre-start", "exec": ["/bin/cat", "/proc/self/attr/current"]}]

    def edit(made: Any) -> None:
        made.busybox()
        isolators = [{"name": "os/linux/selinux-context", "value": value}]
        made.manifest["app"].update(exec=["/bin/sh", "-c", LOOK], isolators=isolators, eventHandlers=handlers)

    return shared("fetch", image("example.com/contexts", edit=edit), code=0).out.strip()


@pytest.fixture(scope="session", autouse=True)
def policy(tmp_path_factory: pytest.TempPathFactory, shared: Pyrun, confined: str) -> Iterator[None]:
    """Loaded, after a look at the kernel without one, and enforced.  It stays: the kernel gives none back, and shows it in every mount."""
    refused = shared("run", confined, code=125)
    assert refused.err.startswith("pyrun: apply isolator os/linux/selinux-context: no policy of SELinux is loaded\nhint: "), refused
    selinux.load(tmp_path_factory.mktemp("policy"))
    selinux.enforce(True)
    yield
    selinux.enforce(False)


@pytest.fixture(autouse=True)
def streams_that_a_container_may_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """execve(2) closes those that the policy forbids: files on the disk are the host's, on a tmpfs they are not."""
    monkeypatch.setattr(tempfile, "tempdir", "/run")


@pytest.fixture
def oci(tmp_path: Path, probe: Path) -> Runtime:
    """Containers with a root that is labelled for them, and a file of the host's in it."""
    made = Runtime(tmp_path, probe)
    (made.bundle / "rootfs/etc/secret").write_text("secret\n")
    selinux.label(made.bundle / "rootfs", FILES)
    selinux.label(made.bundle / "rootfs/etc/secret", "system_u:object_r:host_t:s0")
    made.config["process"]["selinuxLabel"] = BOX
    made.config["linux"]["mountLabel"] = FILES
    return made


@pytest.mark.parametrize("locked", [True, False])
def test_a_container_has_its_context_and_is_held_by_it(oci: Runtime, locked: bool) -> None:
    oci.config["process"]["noNewPrivileges"] = locked
    assert oci.shell(LOOK) == CLOSED
    selinux.enforce(False)
    try:
        assert oci.shell(LOOK) == OPEN, "the policy it was that kept it from the file"
    finally:
        selinux.enforce(True)
    selinux.label(oci.bundle / "rootfs/etc/secret", OTHERS)
    assert oci.shell(LOOK) == CLOSED, "a file of another container's, by its categories"
    selinux.label(oci.bundle / "rootfs/etc/secret", FILES)
    assert oci.shell(LOOK) == OPEN


def test_whoever_enters_has_it_too(oci: Runtime) -> None:
    oci.start_sleeping()
    assert oci("exec", "one", "/bin/sh", "-c", LOOK).stdout == CLOSED
    other = f"{BOX},c7"
    assert oci("exec", "--process-label", other, "one", "/bin/cat", "/proc/self/attr/current").stdout == f"{other}\0"
    refused = oci("exec", "--process-label", UNKNOWN, "one", "/bin/true", code=None)
    assert refused.returncode and f"use SELinux context {UNKNOWN}: {NO_SUCH}" in refused.stderr
    oci("delete", "--force", "one")


def test_mounts_have_the_other_context(oci: Runtime) -> None:
    own = "system_u:object_r:box_file_t:s0:c1"
    oci.config["mounts"] += [
        {"destination": "/own", "type": "tmpfs", "source": "tmpfs", "options": [f"context={own}"]},
        {
            "destination": "/ours",
            "type": "overlay",
            "source": "overlay",
            "options": [f"lowerdir={oci.bundle}/rootfs/bin:{oci.bundle}/rootfs/etc"],
        },
    ]
    next(one for one in oci.config["mounts"] if one["destination"] == "/dev/mqueue")["options"].append("ro")
    pid = oci.start_sleeping()
    seen = {path: selinux.context(f"/proc/{pid}/root{path}") for path in ("/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/ours", "/own")}
    assert seen == {**dict.fromkeys(seen, FILES), "/own": own}
    kernels = {selinux.context(f"/proc/{pid}/root{path}") for path in ("/proc/sys", "/sys")}
    assert FILES not in kernels, "they have what the policy gives them"
    made = oci("exec", "one", "/bin/sh", "-c", "touch /dev/shm/file && echo made; touch /dev/mqueue/file || echo read-only").stdout
    assert made == "made\nread-only\n" and selinux.context(f"/proc/{pid}/root/dev/shm/file") == FILES
    oci("delete", "--force", "one")


def test_the_session_keyring_is_the_containers(oci: Runtime) -> None:
    oci.command("/probe", "try", "nr", "250", "11", "-3", "0", "0")  # keyctl(2): KEYCTL_READ of KEY_SPEC_SESSION_KEYRING
    assert json.loads(oci("run", "one").stdout)["result"] == 0


@pytest.mark.parametrize(
    ("member", "name", "text"),
    [
        ("process", "selinuxLabel", f"use SELinux context {UNKNOWN}: {NO_SUCH} (from process.selinuxLabel)\n"),
        ("linux", "mountLabel", f"use SELinux context {UNKNOWN}: {NO_SUCH} (from linux.mountLabel)\n"),
    ],
)
def test_a_context_that_the_policy_does_not_have(oci: Runtime, member: str, name: str, text: str) -> None:
    oci.config[member][name] = UNKNOWN
    oci.command("/bin/true")
    refused = oci("run", "one", code=None)
    assert refused.returncode and refused.stderr.startswith(f"pyrun-oci: {text}hint: ") and refused.stderr.count("\n") == 2
    assert not oci.leftovers()


def test_a_context_that_may_not_be_changed_to(oci: Runtime) -> None:
    oci.config["process"]["selinuxLabel"] = FAR
    oci.command("/bin/true")
    refused = oci("run", "one", code=None)
    assert refused.returncode and "exec /bin/true: permission denied" in refused.stderr
    assert f"the policy does not let it run as {FAR}" in refused.stderr and not oci.leftovers()


def test_ace_71_apps_have_contexts(shared: Pyrun, confined: str, tmp_path: Path) -> None:
    """With a store that is labelled for them; without, the policy keeps them from their own program."""
    secret = tmp_path / "secret"
    secret.write_text("secret\n")
    words = ("--volume", f"secret,kind=host,source={secret}", "--mount", "volume=secret,target=/etc/secret")
    refused = shared("run", "--no-handlers", *words, confined, code=126)
    assert f"the policy does not let it run as {BOX}" in refused.err
    selinux.label(shared.root, FILES)
    for more in ((), ("--insecure-options=new-privs",)):
        assert shared("run", *more, *words, confined, code=0).out == f"{BOX}\0{CLOSED}"
    selinux.label(secret, FILES)
    uuid = shared("run", "-d", "--no-handlers", *words, confined, "--exec", "/bin/sleep", "--", "1000", code=0).out.strip()
    try:
        for verb in (("exec", uuid), ("exec", "-u", "0", uuid)):  # the launcher's way, and Python's
            assert shared(*verb, "/bin/sh", "-c", LOOK, code=0).out == OPEN
        assert json.loads(shared("status", "--format", "json", uuid, code=0).out)["isolators"]["enforced"] == ["os/linux/selinux-context"]
    finally:
        shared("rm", "--force", uuid, code=0)


def test_ace_71_a_context_that_the_policy_does_not_have(shared: Pyrun, confined: str) -> None:
    before = sorted(shared.root.glob("pods/*/*"))
    refused = shared("run", "--security-opt", f"label={UNKNOWN}", confined, code=125)
    assert f"pyrun: use SELinux {UNKNOWN}: {NO_SUCH}\nhint: " in refused.err
    assert sorted(shared.root.glob("pods/*/*")) == before
