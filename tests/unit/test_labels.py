"""Labels of security modules: whose counts, what is written where, and when (ACE-71, ACE-73)."""

from __future__ import annotations

from typing import Any

import pytest

from pyrun.errors import ConfigError
from pyrun.plan import ops
from pyrun.plan.config import Config
from pyrun.plan.entering import Request, entering
from pyrun.plan.planner import run_plan
from pyrun.pod import labels
from pyrun.pod.options import Options

CONTEXT = {"user": "system_u", "role": "system_r", "type": "app_t", "level": "s0:c1,c2"}
SELINUX = {"name": "os/linux/selinux-context", "value": CONTEXT}
APPARMOR = {"name": "os/linux/apparmor-profile", "value": {"profile": "of-image"}}
FILTER = b"\x06\0\0\0\0\0\xff\x7f"


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel with both, which has files of their own for them."""
    monkeypatch.setattr(labels, "module_off", lambda word: "")
    monkeypatch.setattr(labels, "profile_file", lambda: "apparmor/exec")


@pytest.mark.usefixtures("modules")
def test_what_is_written() -> None:
    options = Options("/")
    assert labels.labels_of(options, [SELINUX]) == [("exec", "system_u:system_r:app_t:s0:c1,c2", SELINUX["name"])]
    assert labels.labels_of(options, [APPARMOR]) == [("apparmor/exec", "exec of-image", APPARMOR["name"])]
    options.security_opt = ["apparmor=mine", "label=a:b:c:d"]
    assert labels.labels_of(options, [SELINUX, APPARMOR]) == [
        ("exec", "a:b:c:d", "--security-opt"),
        ("apparmor/exec", "exec mine", "--security-opt"),
    ]


def test_a_module_that_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labels, "module_off", lambda word: "off")
    with pytest.raises(ConfigError, match="apply isolator os/linux/selinux-context: off"):
        labels.labels_of(Options("/"), [SELINUX])


def test_an_app_has_its_pods_unless_it_has_its_own() -> None:
    own: list[dict[str, Any]] = [{**SELINUX, "value": {**CONTEXT, "type": "own_t"}}]
    notes: list[str] = []
    found = labels.inherited(own, [SELINUX, APPARMOR, {"name": "resource/memory", "value": {}}], notes)
    assert found == [*own, APPARMOR]
    assert notes == ["isolator os/linux/selinux-context of the pod does not count: the app has its own"]
    assert labels.inherited([SELINUX], [SELINUX], notes) == [SELINUX] and len(notes) == 1


@pytest.mark.parametrize("locked", [True, False])
@pytest.mark.parametrize("program", [FILTER, b""], ids=["filter", "no filter"])
def test_it_is_set_by_the_visible_process_before_the_filter(locked: bool, program: bytes) -> None:
    """Of the app, of its event handlers and of whoever enters: a session that nobody can break into comes first."""
    config = Config("0" * 36, ["/app"], ["/lower"], stage="/stage", pod_dir="/pod")
    config.no_new_privs, config.seccomp = locked, program
    config.labels = [("exec", "a:b:c:d", "")]
    config.handlers = [("pre-start", ["/x"], ["/x"], 60)]
    plan = run_plan(config)
    request = Request()
    request.argv = request.paths = ["/bin/sh"]
    codes = [one[0] for one in plan.ops]
    handler = codes.index(ops.HANDLER)
    for some in (codes[:handler], codes[handler:], [one[0] for one in entering(plan, request).ops]):
        assert some.count(ops.LABEL) == 1 and some.index(ops.SESSION) < some.index(ops.LABEL) < some.index(ops.EXEC)
        assert ops.SECCOMP not in some or some.index(ops.LABEL) < some.index(ops.SECCOMP)
    assert next(one for one in plan.ops if one[0] == ops.LABEL)[3] == "self/attr/exec"
