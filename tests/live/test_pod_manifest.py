"""`--pod-manifest`: pods described by a manifest of the App Container specification (POD-01..17)."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import Pyrun

Manifest = Callable[..., Path]


@pytest.fixture
def image_id(shared: Pyrun, busybox: Path) -> str:
    shared("fetch", busybox, code=0)
    (found,) = [one["id"] for one in json.loads(shared("image", "list", "--format", "json", code=0).out) if "busybox" in one["name"]]
    return str(found)


@pytest.fixture
def manifest(tmp_path: Path, image_id: str) -> Manifest:
    """Writes a pod manifest with one app for each script; `edit` may change it before."""

    def make(edit: Callable[[dict[str, Any]], object] | None = None, **scripts: str) -> Path:
        apps = [
            {
                "name": name,
                "image": {"id": image_id, "name": "example.com/busybox"},
                "app": {"exec": ["/bin/sh", "-c", script], "user": "0", "group": "0"},
            }
            for name, script in scripts.items()
        ]
        found: dict[str, Any] = {"acVersion": "0.8.11", "acKind": "PodManifest", "apps": apps}
        if edit:
            edit(found)
        path = tmp_path / "pod.json"
        path.write_text(json.dumps(found))
        return path

    return make


def test_it_runs_what_it_lists(shared: Pyrun, manifest: Manifest, tmp_path: Path) -> None:
    """Volumes by name, one of an app's own, a read-only root, another app in place of the image's; options of the pod still count."""
    (tmp_path / "host").mkdir()
    (tmp_path / "host" / "file").write_text("host\n")

    def edit(found: dict[str, Any]) -> None:
        found["volumes"] = [{"name": "data", "kind": "empty", "mode": "0750", "uid": 3, "gid": 4}]
        own = {"name": "data", "kind": "host", "source": str(tmp_path / "host"), "readOnly": True}
        found["apps"][0]["mounts"] = [{"volume": "data", "path": "/data"}]
        found["apps"][1]["mounts"] = [{"volume": "data", "path": "/b"}, {"volume": "data", "path": "/own", "appVolume": own}]
        found["apps"][1]["readOnlyRootFS"] = True
        found["apps"][1]["app"]["environment"] = [{"name": "X", "value": "1"}]

    wait = "until [ -e /b/x ]; do sleep 0.01; done"
    second = f"{wait}; stat -c %a:%u:%g /b; cat /own/file; touch /y 2>/dev/null || echo ro; echo $X $AC_APP_NAME; hostname"
    path = manifest(edit, a="echo >/data/x; exit 0", b=second)
    done = shared("run", "--hostname", "web-1", "--pod-manifest", path, code=0)
    assert done.out.splitlines() == ["750:3:4", "host", "ro", "1 b", "web-1"]
    assert shared("run", "--pod-manifest", manifest(one="echo alone; exit 4"), code=4).out == "alone\n"


MEMORY = {"name": "resource/memory", "value": {"limit": "64M"}}
NETWORK = {"name": "resource/network-bandwidth", "value": {"default": True, "limit": "1M"}}


def test_what_it_cannot_do_is_refused_by_name(shared: Pyrun, manifest: Manifest, image_id: str) -> None:
    def put(*place: str | int, value: Any) -> Callable[[dict[str, Any]], None]:
        def edit(found: dict[str, Any]) -> None:
            at: Any = found
            for step in place[:-1]:
                at = at[step]
            at[place[-1]] = value

        return edit

    cases = [
        (put("acKind", value="ImageManifest"), 'acKind: "ImageManifest" where PodManifest is required'),
        (put("acVersion", value="9.0.0"), "acVersion: "),
        (put("apps", value=[]), "apps: is empty"),
        (put("apps", 0, "name", value="A/.."), "apps[0].name: "),
        (put("apps", 1, "name", value="a"), "apps[1].name: a second app named"),
        (put("apps", 0, "image", value={"name": "example.com/busybox"}), "apps[0].image.id: missing"),
        (put("apps", 0, "image", "id", value="sha512-abc"), "apps[0].image.id: "),
        (put("apps", 0, "image", "id", value=image_id[:-3] + "000"), "not in the store"),
        (put("apps", 0, "image", "name", value="example.com/other"), "it is example.com/busybox, not example.com/other"),
        (put("apps", 0, "image", "labels", value=[{"name": "version", "value": "9"}]), "its label version is not 9: 1.0"),
        (put("apps", 0, "mounts", value=[{"volume": "x", "path": "/x"}]), "apps[0].mounts[0].volume: no volume is named"),
        (put("volumes", value=[{"name": "x", "kind": "empty"}]), "use volume x: no app mounts it"),
        (put("volumes", value=[{"name": "x", "kind": "empty", "mode": 755}]), "volumes[0].mode: "),
        (put("volumes", value=[{"name": "x", "kind": "empty", "source": "/etc"}]), "volumes[0].source: has no meaning"),
        (put("isolators", value=[NETWORK]), "isolators[0]: "),
        (put("isolators", value=[MEMORY]), "limit the pod memory: the controller cannot be enabled"),
        (put("apps", 0, "app", "isolators", value=[MEMORY]), "limit the pod memory: the controller cannot be enabled"),
        (put("ports", value=[{"name": "www", "hostPort": 80}]), "use port www: no app has one of that name"),
    ]
    for edit, error in cases:
        refused = shared("run", "--pod-manifest", manifest(edit, a="true", b="true"))
        assert refused.code == 125 and error in refused.err and "hint: " in refused.err and "Traceback" not in refused.err, (
            error,
            repr(refused),
        )
    good = manifest(a="true")
    for words, error in (
        (("--user", "1"), "option --user: belongs to an app"),
        (("--volume", "x,kind=empty"), "option --volume: belongs to an app"),
        (("example.com/busybox",), "option --pod-manifest: takes no image beside it"),
        (("--", "x"), "option --pod-manifest: takes no arguments"),
    ):
        assert shared("run", "--pod-manifest", good, *words, code=2).err.startswith(f"pyrun: {error}")
    for data in ("", "{", "[]", '{"acKind": 1}', "\0"):
        good.write_text(data)
        assert "hint: " in shared("run", "--pod-manifest", good, code=125).err
    assert "no such file" in shared("prepare", "--pod-manifest", good.with_name("x"), code=2).err
    assert [name for name in ("preparing", "prepared", "running") if os.listdir(shared.root / "pods" / name)] == []
