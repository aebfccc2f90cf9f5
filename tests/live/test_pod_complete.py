"""A pod of two apps from a pod manifest, with all that the App Container specification gives it; and its smaller parts (POD-10..18)."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import Pyrun

V1 = "$AC_METADATA_URL/acMetadata/v1"
PERCENT = "'s/+/%2B/g;s,/,%2F,g;s/=/%3D/g'"


@pytest.fixture
def image_id(shared: Pyrun, busybox: Path) -> str:
    shared("fetch", busybox, code=0)
    (found,) = [one["id"] for one in json.loads(shared("image", "list", "--format", "json", code=0).out) if "busybox" in one["name"]]
    return str(found)


@pytest.fixture
def manifest(tmp_path: Path, image_id: str) -> Callable[..., Path]:
    """Writes a pod manifest: apps by name, each a script and further members of its app; `more` are those of the pod."""

    def make(apps: dict[str, dict[str, Any]], **more: Any) -> Path:
        listed = []
        for name, parts in apps.items():
            outer: dict[str, Any] = {key: parts.pop(key) for key in ("mounts", "annotations", "readOnlyRootFS") if key in parts}
            app = {"exec": ["/bin/sh", "-c", parts.pop("script")], "user": "0", "group": "0", **parts}
            listed.append({"name": name, "image": {"id": image_id}, "app": app, **outer})
        path = tmp_path / "pod.json"
        path.write_text(json.dumps({"acVersion": "0.8.11", "acKind": "PodManifest", "apps": listed, **more}))
        return path

    return make


def test_ace_47_done_when(shared: Pyrun, manifest: Callable[..., Path], tmp_path: Path) -> None:
    """Two apps share a volume and the network, read their metadata and configuration, sign and verify, and stop in order.

    They find each other within a second of their start (ACE-47).
    """
    out = tmp_path / "out"
    out.mkdir(mode=0o777)
    shared("config", "set", "shop", "greeting=hello", code=0)
    log = "echo $AC_APP_NAME {} >>/out/log"
    web = (
        "until [ -s /data/signed ]; do sleep 0.01; done; read uuid sig </data/signed; "
        f'wget -qO /dev/null --post-data "content=deal&uuid=$uuid&signature=$sig" {V1}/pod/hmac/verify'
        " && echo verified >>/out/log; "
        f"wget -qO- {V1}/apps/cache/annotations >>/out/annotations; cat /run/config/shop/greeting >>/out/log; echo >>/out/log; "
        "until nc 127.0.0.1 7000 </dev/null >>/out/log; do sleep 0.01; done; "
        "trap 'echo web ends >>/out/log; exit 0' TERM; echo >/out/web.up; while :; do sleep 0.05; done"
    )
    cache = (
        f"uuid=$(wget -qO- {V1}/pod/uuid); sig=$(wget -qO- --post-data content=deal {V1}/pod/hmac/sign | sed {PERCENT}); "
        "echo $uuid $sig >/data/new; mv /data/new /data/signed; echo from cache | nc -l -p 7000 127.0.0.1 >/dev/null; "
        "trap 'sleep 0.3; echo cache ends >>/out/log; exit 0' TERM; echo >/out/cache.up; while :; do sleep 0.05; done"
    )
    mounts = [{"volume": "data", "path": "/data"}, {"volume": "out", "path": "/out"}]
    handlers = [
        {"name": "pre-start", "exec": ["/bin/sh", "-c", log.format("pre-start")]},
        {"name": "post-stop", "exec": ["/bin/sh", "-c", log.format("post-stop")]},
    ]
    path = manifest(
        {
            "web": {"script": web, "mounts": mounts, "eventHandlers": handlers},
            "cache": {"script": cache, "mounts": mounts, "annotations": [{"name": "role", "value": "cache"}]},
        },
        volumes=[{"name": "data", "kind": "empty", "mode": "0777"}, {"name": "out", "kind": "host", "source": str(out)}],
        annotations=[{"name": "a.io/team", "value": "shop"}],
    )
    uuid = shared("run", "-d", "--mds", "--config", "shop", "--pod-manifest", path, code=0).out.strip()
    deadline = time.monotonic() + 60
    while not all((out / f"{name}.up").exists() for name in ("web", "cache")):
        text = (out / "log").read_text() if (out / "log").exists() else ""
        assert time.monotonic() < deadline, text + shared("logs", "--app", "web", uuid).out
        time.sleep(0.05)
    assert (out / "log").read_text().splitlines() == ["web pre-start", "verified", "hello", "from cache"]
    assert json.loads((out / "annotations").read_text()) == [{"name": "role", "value": "cache"}]
    shared("stop", uuid, code=0)
    rest = (out / "log").read_text().splitlines()[4:]
    assert sorted(rest) == ["cache ends", "web ends", "web post-stop"] and rest.index("web ends") < rest.index("web post-stop")
    shared("rm", uuid, code=0)


def test_pod_11_16_17_18_what_the_service_says_is_what_was_asked(shared: Pyrun, manifest: Callable[..., Path]) -> None:
    """User annotations and labels, the pod's annotations and unknown isolators come back and change nothing (POD-16, POD-17)."""
    described = {
        "annotations": [{"name": "a.io/b", "value": "1"}],
        "userAnnotations": {"any key": "any value"},
        "userLabels": {"tier": "front"},
        "isolators": [{"name": "example.com/unknown", "value": {"x": 1}}],
    }
    script = f"wget -qO- {V1}/pod/manifest; echo; wget -qO- {V1}/pod/annotations"
    app = {"script": script, "userLabels": {"k": "v"}, "readOnlyRootFS": True, "annotations": [{"name": "c/d", "value": "2"}]}
    found = shared("run", "--mds", "--pod-manifest", manifest({"a": app}, **described), code=0)
    said, annotations = found.out.splitlines()
    pod = json.loads(said)
    assert {name: pod[name] for name in described} == described and json.loads(annotations) == described["annotations"]
    (one,) = pod["apps"]
    assert one["app"]["userLabels"] == {"k": "v"} and one["readOnlyRootFS"] and one["annotations"] == [{"name": "c/d", "value": "2"}]
    assert "isolator example.com/unknown of the pod is unknown and has no effect" in found.err


def test_pod_12_14_15_ports_are_reached_through_the_host(shared: Pyrun, manifest: Callable[..., Path]) -> None:
    """hostPort of a port by name, and podPort, which needs no port of an app; names are unique in a pod (POD-15)."""
    serve = (
        "for p in 8080 8081; do (echo port $p | nc -l -p $p >/dev/null) & done; "
        "until [ $(cat /proc/net/tcp /proc/net/tcp6 | grep -c ':1F9[01] .* 0A ') = 2 ]; do sleep 0.01; done; echo ready; wait"
    )
    port = {"name": "www", "protocol": "tcp", "port": 8080}
    ports = [
        {"name": "www", "hostPort": 18080, "hostIP": "127.0.0.1"},
        {"name": "own", "hostPort": 18081, "hostIP": "127.0.0.1", "podPort": {"name": "own", "protocol": "tcp", "port": 8081}},
    ]
    with shared.start("run", "--pod-manifest", manifest({"a": {"script": serve, "ports": [port]}}, ports=ports)) as pod:
        try:
            assert pod.stdout is not None and pod.stderr is not None
            assert pod.stdout.readline() == "ready\n", pod.stderr.read()
            for number in (8080, 8081):
                asked = subprocess.run(
                    ["busybox", "nc", "127.0.0.1", str(number + 10000)], stdin=subprocess.DEVNULL, capture_output=True, timeout=60
                )
                assert asked.stdout == f"port {number}\n".encode()
            assert pod.wait(timeout=60) == 0
        finally:
            pod.kill()
    twice = manifest({"a": {"script": "true", "ports": [port]}, "b": {"script": "true", "ports": [port]}})
    assert shared("run", "--pod-manifest", twice, code=125).err.startswith("pyrun: use port www: a and b have one of that name")


@pytest.mark.parametrize(
    ("more", "error"),
    [
        pytest.param({"ports": [{"name": "x"}]}, "ports[0].hostPort", id="POD-12"),
        pytest.param({"ports": [{"name": "x", "hostPort": 0}]}, "ports[0].hostPort", id="POD-12-range"),
        pytest.param({"ports": [{"name": "x", "hostPort": 1, "hostIP": "300.1.1.1"}]}, "ports[0].hostIP", id="POD-13"),
        pytest.param({"ports": [{"name": "x", "hostPort": 1, "hostIP": "::1"}]}, "ports[0].hostIP", id="POD-13-v6"),
        pytest.param(
            {"ports": [{"name": "x", "hostPort": 1, "podPort": {"name": "x", "port": 1}}]}, "ports[0].podPort.protocol", id="POD-14"
        ),
        pytest.param({"isolators": [{"name": "os/linux/no-new-privileges", "value": True}]}, "isolators[0].name", id="ACE-85"),
        pytest.param({"isolators": [{"name": "os/linux/unheard-of", "value": True}]}, "isolators[0]", id="POD-17"),
        pytest.param({"userLabels": {"a": 1}}, "userLabels.a", id="POD-16"),
    ],
)
def test_what_is_refused(shared: Pyrun, manifest: Callable[..., Path], more: dict[str, Any], error: str) -> None:
    refused = shared("run", "--pod-manifest", manifest({"a": {"script": "true"}}, **more), code=125)
    assert error in refused.err and "\nhint: " in refused.err and "Traceback" not in refused.err


def test_im_25_ace_50_status_lists_what_became_of_isolators(shared: Pyrun, image: Callable[..., Path]) -> None:
    """IM-25.  Enforced, changed by a flag, ignored; and a privilege that an image would give up stays (ACE-58)."""
    isolators = [
        {"name": "os/linux/oom-score-adj", "value": 100},
        {"name": "os/linux/capabilities-retain-set", "value": {"set": ["CAP_CHOWN"]}},
        {"name": "os/linux/no-new-privileges", "value": False},
        {"name": "example.com/foo", "value": 1},
    ]

    def edit(made: Any) -> None:
        made.busybox()
        made.manifest["app"].update(exec=["/bin/sleep", "100"], isolators=isolators)

    started = shared("run", "-d", "--caps-retain", "CAP_KILL", image(edit=edit), code=0)
    uuid = started.out.strip()
    found = json.loads(shared("status", "--format", "json", uuid, code=0).out)["isolators"]
    assert found["enforced"] == ["os/linux/oom-score-adj"] and found["ignored"] == ["example.com/foo"]
    assert [one["name"] for one in found["changed"]] == ["os/linux/capabilities-retain-set", "os/linux/no-new-privileges"]
    assert found["changed"][0]["by"] == "--caps-retain"
    assert "isolator example.com/foo is unknown and has no effect" in started.err
    shared("rm", "--force", uuid, code=0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param("os/linux/selinux-context", {"user": "u", "role": "r", "type": "t", "level": "s0"}, id="ACE-72"),
        pytest.param("os/linux/unheard-of", 1, id="ACE-50"),
    ],
)
def test_what_cannot_be_enforced_is_an_error(shared: Pyrun, image: Callable[..., Path], name: str, value: object) -> None:
    def edit(made: Any) -> None:
        made.manifest["app"]["isolators"] = [{"name": name, "value": value}]

    refused = shared("run", image(edit=edit), code=125)
    assert refused.err.startswith(f"pyrun: apply isolator {name}: ") and "from: app.isolators" in refused.err


def test_ace_73_a_profile_that_cannot_be_had_is_an_error(shared: Pyrun, image: Callable[..., Path]) -> None:
    """Whether this kernel has AppArmor or not; where it has, tests/vm/guest/test_labels.py looks from inside."""

    def edit(made: Any) -> None:
        made.manifest["app"]["isolators"] = [{"name": "os/linux/apparmor-profile", "value": {"profile": "none-such"}}]

    here = Path("/sys/module/apparmor/parameters/enabled")
    on = here.exists() and here.read_text() == "Y\n"
    refused = shared("run", image(edit=edit), code=125)
    of_isolator = "apply isolator os/linux/apparmor-profile: this kernel has no AppArmor, or it is off"
    unknown = "use AppArmor profile none-such: no such profile is loaded"
    assert refused.err.startswith(f"pyrun: {unknown if on else of_isolator}\nhint: ")
    refused = shared("run", "--security-opt", "apparmor=none-such", image(), code=125)
    assert refused.err.startswith("pyrun: use AppArmor") and "none-such" in refused.err and "\nfrom: --security-opt" in refused.err
    for word in ("apparmor", "label=", "seccomp=x.json", "no-new-privileges"):
        refused = shared("run", "--security-opt", word, image(), code=2)
        assert refused.err.startswith(f"pyrun: option --security-opt {word}: not known\nhint: write apparmor=PROFILE or label=")


def test_ace_58_a_demanded_no_new_privileges_is_not_given_up(shared: Pyrun, image: Callable[..., Path]) -> None:
    def edit(made: Any) -> None:
        made.busybox()
        made.manifest["app"].update(
            exec=["/bin/grep", "NoNewPrivs", "/proc/self/status"], isolators=[{"name": "os/linux/no-new-privileges", "value": True}]
        )

    assert shared("run", "--insecure-options", "new-privs", image(edit=edit), code=0).out == "NoNewPrivs:\t1\n"
