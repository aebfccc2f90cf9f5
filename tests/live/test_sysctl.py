"""Kernel parameters of a pod, read from inside; the host's stay as they are (ACE-84)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import Pyrun
from networld import World

VALUES = {
    "net.core.somaxconn": "333",
    "net/ipv4/ip_unprivileged_port_start": "77",
    "kernel.shmmni": "99",
    "kernel.msgmax": "4096",
    "kernel.sem": "250 32000 32 120",
    "fs.mqueue.msg_max": "11",
}
FILES = [Path("/proc/sys") / name.replace(".", "/") for name in VALUES]
LOOK = "cat " + " ".join(map(str, FILES))
SHOWS = [value.split() for value in VALUES.values()]
FLAGS = [word for name, value in VALUES.items() for word in ("--sysctl", f"{name}={value}")]


def lines(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


@pytest.fixture(autouse=True)
def host_stays() -> Any:
    before = [path.read_text() for path in FILES]
    yield
    assert [path.read_text() for path in FILES] == before


@pytest.mark.parametrize("more", [[], ["--detach"]], ids=["foreground", "detached"])
def test_options(shared: Pyrun, busybox: Path, shell: Callable[..., str], more: list[str]) -> None:
    if not more:
        assert lines(shell(LOOK, *FLAGS)) == SHOWS
        return
    uuid = shared("run", *more, *FLAGS, busybox, "--exec", "/bin/sleep", "--", "1000", code=0).out.strip()
    try:
        assert lines(shared("exec", uuid, "/bin/sh", "-c", LOOK, code=0).out) == SHOWS
    finally:
        shared("rm", "--force", uuid, code=0)


def test_a_network_of_its_own_with_an_interface(world: World, busybox: Path) -> None:
    """What is the interface's is there before the app starts."""
    words = ["run", "--net", "default", "--sysctl", "net.ipv4.conf.eth0.rp_filter=2", busybox, "--exec", "/bin/cat"]
    assert world.pyrun(*words, "--", "/proc/sys/net/ipv4/conf/eth0/rp_filter", code=0).out == "2\n"


def test_ace_84_of_a_pod_manifest(shared: Pyrun, busybox: Path, tmp_path: Path) -> None:
    """Both apps have them from their start; an option beats the isolator, one by one."""
    id = shared("fetch", busybox, code=0).out.strip()
    app = {"exec": ["/bin/sh", "-c", f"{LOOK} >/out/$AC_APP_NAME"], "user": "0", "group": "0"}
    apps = [{"name": name, "image": {"id": id}, "app": app, "mounts": [{"volume": "out", "path": "/out"}]} for name in ("one", "two")]
    pod = {"acKind": "PodManifest", "acVersion": "0.8.11", "apps": apps, "isolators": [{"name": "os/unix/sysctl", "value": VALUES}]}
    pod["volumes"] = [{"name": "out", "kind": "host", "source": str(tmp_path)}]
    (tmp_path / "pod.json").write_text(json.dumps(pod))
    shared("run", "--exit-policy", "last-exit", "--pod-manifest", tmp_path / "pod.json", code=0)
    assert [lines((tmp_path / name).read_text()) for name in ("one", "two")] == [SHOWS, SHOWS]
    told = shared("run", "--exit-policy", "last-exit", "--sysctl", "kernel.shmmni=98", "--pod-manifest", tmp_path / "pod.json", code=0)
    assert "isolator os/unix/sysctl does not count: --sysctl does" in told.err
    assert lines((tmp_path / "one").read_text()) == [*SHOWS[:2], ["98"], *SHOWS[3:]]
    pod["isolators"] = [{"name": "os/unix/sysctl", "value": {"kernel.core_pattern": "|/x"}}]
    (tmp_path / "pod.json").write_text(json.dumps(pod))
    refused = shared("run", "--pod-manifest", tmp_path / "pod.json", code=125)
    assert refused.err.startswith("pyrun: set kernel parameter kernel.core_pattern: it is not a pod's own, it would change the host\n")


REFUSED = [
    ("kernel.core_pattern=|/x", "it is not a pod's own, it would change the host"),
    ("kernel/core_pattern=|/x", "it is not a pod's own, it would change the host"),
    ("vm.overcommit_memory=1", "it is not a pod's own, it would change the host"),
    ("kernel.shm_next=1", "it is not a pod's own, it would change the host"),
    ("user.max_user_namespaces=1", "it is not a pod's own, it would change the host"),
    ("kernel.hostname=x", "it has an option"),
    ("net.core.somaxconn", "it needs a value on one line"),
    ("net.core.somaxconn=1\n2", "it needs a value on one line"),
    ("net..core=1", "'net..core' is not the name of a kernel parameter"),
    ("net.core.a+b=1", "'net.core.a+b' is not the name of a kernel parameter"),
    ("net/../kernel/core_pattern=1", "'net/../kernel/core_pattern' is not the name of a kernel parameter"),
]


@pytest.mark.parametrize(("word", "reason"), REFUSED)
def test_ace_84_what_is_refused(shared: Pyrun, word: str, reason: str) -> None:
    refused = shared("run", "--sysctl", word, shared.probe_image, code=2)
    assert refused.err.startswith(f"pyrun: set kernel parameter {word.partition('=')[0]}: {reason}\nhint: ")


@pytest.mark.parametrize("net", ["host", "ns:/proc/self/ns/net"])
def test_a_network_that_is_not_the_pods(shared: Pyrun, net: str) -> None:
    refused = shared("run", "--net", net, "--sysctl", "net.core.somaxconn=5", shared.probe_image, code=2)
    assert refused.err.startswith("pyrun: set kernel parameter net.core.somaxconn: the pod has no network of its own\n")


@pytest.mark.parametrize(
    ("word", "reason"), [("net.ipv4.no_such=1", "no such file or directory"), ("net.ipv4.ip_forward=maybe", "invalid argument")]
)
def test_what_the_kernel_refuses(shared: Pyrun, word: str, reason: str) -> None:
    refused = shared("run", "--sysctl", word, shared.probe_image, code=125)
    assert refused.err.startswith(f"pyrun: set kernel parameter {word}: {reason}\nhint: ") and "from: --sysctl" in refused.err
