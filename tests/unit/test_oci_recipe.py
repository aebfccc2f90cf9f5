"""Which decisions about OCI containers may be used again (pyrun.oci.recipe)."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from pyrun.oci import planner, recipe
from pyrun.oci.recipe import Key
from pyrun.plan import caps

SPEC: dict[str, Any] = {
    "ociVersion": "1.0.2",
    "process": {"args": ["/bin/true"], "cwd": "/", "env": ["PATH=/bin", "HOME=/"], "user": {"uid": 0, "gid": 0}},
    "root": {"path": "/srv"},
    "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup"},
    ],
    "linux": {
        "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount", "cgroup")],
        "resources": {"devices": [{"allow": False, "access": "rwm"}], "pids": {"limit": 5}},
        "seccomp": {"defaultAction": "SCMP_ACT_ALLOW"},
    },
}
BIND = {"destination": "/proc", "type": "bind", "source": "/proc", "options": ["rbind"]}


def spec(**members: Any) -> dict[str, Any]:
    """SPEC with some members of it, of linux (linux_...) or of process (process_...) replaced."""
    made = copy.deepcopy(SPEC)
    for name, value in members.items():
        place, _, rest = name.partition("_")
        if rest:
            made[place][rest] = value
        else:
            made[name] = value
    return made


def test_a_plain_container_is_decided_once() -> None:
    assert recipe._decides_alone(SPEC)
    assert recipe._decides_alone(spec(hooks={"prestart": []}, annotations={"a": "b"}, linux_resources={"blockIO": {}}))
    assert recipe._decides_alone(
        spec(linux_namespaces=[{"type": "network", "path": "/proc/1/ns/net"}, {"type": "mount"}, {"type": "cgroup"}])
    )
    assert recipe._decides_alone(spec(process_capabilities={"permitted": ["CAP_CHOWN"], "ambient": ["CAP_CHOWN"]})), "crun spec says so"


@pytest.mark.parametrize(
    "members",
    [
        {"hooks": {"poststop": [{"path": "/bin/true"}]}},
        {"hooks": {"createContainer": [{"path": "/bin/true"}]}},
        {"process_terminal": True},
        {"process_apparmorProfile": "unconfined"},
        {"process_selinuxLabel": "x"},
        {"process_capabilities": {"bounding": ["CAP_NEVER_HEARD_OF"]}},
        {"process_env": ["PATH=/bin", "PATH=/sbin"]},
        {"linux_mountLabel": "x"},
        {"annotations": {"run.oci.keep_original_groups": "0"}},
        {"linux_netDevices": {"eth0": {}}},
        {"linux_namespaces": [{"type": "mount"}, {"type": "cgroup"}, {"type": "user"}]},
        {"linux_namespaces": [{"type": "mount", "path": "/proc/1/ns/mnt"}, {"type": "cgroup"}]},
        {"linux_namespaces": [{"type": "mount"}]},
        {"linux_seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/x"}},
        {"linux_resources": {"blockIO": {"weight": 100}}},
        {"linux_resources": {"hugepageLimits": [{"pageSize": "2MB", "limit": 1}]}},
        {"mounts": [BIND]},
        {"mounts": [{**BIND, "destination": "/x", "options": ["bind", "copy-symlink"]}]},
        {"mounts": [{**BIND, "destination": "/dev"}, {**BIND, "destination": "//dev/."}]},
    ],
    ids=str,
)
def test_what_something_else_decides_is_decided_anew(members: dict[str, Any]) -> None:
    assert not recipe._decides_alone(spec(**members))


def plan(given: dict[str, Any]) -> Any:
    return planner.oci_plan(given, "/bundle", bounding=caps.ALL)


def test_each_mount_is_one_operation() -> None:
    first = recipe._first_mount(SPEC, plan(SPEC))
    assert first > 0 and recipe._first_mount(spec(mounts=[]), plan(spec(mounts=[]))) == 0
    mapped = {"destination": "/mnt", "type": "bind", "source": "/srv", "options": ["bind", "idmap"]}
    ids = [{"containerID": 0, "hostID": 1, "size": 1}]
    early = spec(mounts=[*SPEC["mounts"], {**mapped, "uidMappings": ids, "gidMappings": ids}])
    assert recipe._first_mount(early, plan(early)) == -1, "made before the clone"


def test_home_is_that_of_the_accounts_in_the_key() -> None:
    def key(passwd: bytes | None) -> Key:
        head = recipe._KEY.pack(recipe._MAGIC, 0, 0, 0, recipe._NONE if passwd is None else len(passwd), 0)
        return Key(head + (passwd or b""))

    made = plan(SPEC)
    assert recipe._is_home(key(None), SPEC, made)
    without = spec(process_env=["PATH=/bin"])
    made = plan(without)  # there is no /srv/etc/passwd
    assert recipe._is_home(key(b""), without, made)
    assert not recipe._is_home(key(b"root:x:0:0::/root:/bin/sh\n"), without, made)
    assert not recipe._is_home(key(None), without, made)
