"""Contexts of SELinux in plans of containers: what of a mount has linux.mountLabel, and when a context is refused."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from pyrun.errors import ConfigError
from pyrun.oci import process
from pyrun.oci.mounts import Mounter
from pyrun.plan import ops
from pyrun.pod import labels

LABEL, CONTEXT = 256, "system_u:object_r:box_file_t:s0:c1,c2"


@pytest.mark.parametrize(
    ("kind", "options", "last", "rooted"),
    [
        ("tmpfs", ["size=1k"], f"context={CONTEXT}", False),
        ("devpts", [], f"context={CONTEXT}", False),
        ("overlay", ["lowerdir=/a:/b"], f"context={CONTEXT}", False),
        ("tmpfs", ["context=its:own:one:s0"], "context=its:own:one:s0", False),
        ("mqueue", ["ro"], CONTEXT, True),
        ("proc", [], "", False),
        ("sysfs", [], "", False),
        ("cgroup2", [], "", False),
    ],
)
def test_what_of_a_mount_has_it(kind: str, options: list[str], last: str, rooted: bool) -> None:
    mounter = Mounter("/bundle", {"mount": "", "cgroup": ""}, ("", ""), group="", user=False)
    mounter.label = CONTEXT
    target = "/proc" if kind == "proc" else "/here"
    (one,) = mounter.mount({"type": kind, "source": kind, "destination": target, "options": options}, "mounts[0]")
    words, how = one[3], one[5]
    assert isinstance(words, list) and isinstance(how, int)
    assert (words[5:] or [""])[-1] == last and bool(how & LABEL) is rooted
    assert sum("context=" in word for word in words) <= 1


def test_a_kernel_without_a_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labels.os.path, "exists", lambda path: path == "/sys/fs/selinux/enforce")
    for now, reason in ((b"kernel\0", "no policy of SELinux is loaded"), (b"system_u:system_r:init_t:s0\0", "")):
        monkeypatch.setattr(labels, "read_small", lambda path, now=now: now)
        assert labels.module_off("label") == reason


def test_a_context_that_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(answer: int) -> None:
        def refuse(*words: Any, **more: Any) -> Any:
            raise OSError(answer, "")

        monkeypatch.setattr("builtins.open", refuse)

    monkeypatch.setattr(labels, "module_off", lambda word: "")
    ask(errno.EINVAL)
    with pytest.raises(ConfigError, match="use SELinux context a:b:c:d: the policy that is loaded knows no such context"):
        process.selinux("a:b:c:d", "linux.mountLabel")
    ask(errno.EACCES)
    process.selinux("a:b:c:d", "linux.mountLabel")


def test_keys_have_it_too() -> None:
    (one,) = process.label_files({"selinuxLabel": "a:b:c:d"})
    assert (one[0], one[2], one[3], one[4]) == (ops.LABEL, 0, "keycreate", "a:b:c:d")
    (one,) = process.label_files({"apparmorProfile": "mine"})
    assert (one[0], one[2], one[3]) == (ops.LABEL, 0, 0) and process.label_files({}) == []
