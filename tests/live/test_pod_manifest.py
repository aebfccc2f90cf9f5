"""`--pod-manifest`: pods described by a manifest of the App Container specification (POD-01..17)."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import Pyrun
from waiting import wait_until

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


def test_pod_02_06_07_08_it_runs_what_it_lists(shared: Pyrun, manifest: Manifest, tmp_path: Path) -> None:
    """Volumes by name, one of an app's own, a read-only root, another app in place of the image's; options of the pod still count.

    Of an image that occurs twice each app has its own files.
    """
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
    second = f"{wait}; [ -e /twin ] || echo apart; stat -c %a:%u:%g /b; cat /own/file; touch /y 2>/dev/null || echo ro"
    second += "; echo $X $AC_APP_NAME; hostname"
    path = manifest(edit, a="touch /twin; echo >/data/x; exit 0", b=second)
    done = shared("run", "--hostname", "web-1", "--pod-manifest", path, code=0)
    assert done.out.splitlines() == ["apart", "750:3:4", "host", "ro", "1 b", "web-1"]
    assert shared("run", "--pod-manifest", manifest(one="echo alone; exit 4"), code=4).out == "alone\n"


def test_the_only_app_needs_no_name(shared: Pyrun, manifest: Manifest) -> None:
    """Of one app it is clear which is meant, whoever described the pod; and a unit says what it runs."""
    path = manifest(only="echo here; sleep 1000")
    uuid = shared("run", "--detach", "--pod-manifest", path, code=0).out.strip()
    try:
        wait_until(lambda: shared("logs", uuid, code=0).out == "here\n")
        assert shared("exec", uuid, "/bin/echo", "x", code=0).out == "x\n"
        unit = shared("generate", "systemd", "--unit", "made", uuid, code=0).out
        assert "Description=pod.json (pyrun)" in unit and f"--pod-manifest {path}" in unit
    finally:
        shared("rm", "--force", uuid, code=0)
    path.write_text("{")
    assert shared("run", "--pod-manifest", path, code=125).err.endswith(f"from: {path}\n")


MEMORY = {"name": "resource/memory", "value": {"limit": "64M"}}
NETWORK = {"name": "resource/network-bandwidth", "value": {"default": True, "limit": "1M"}}


ABSENT = object()


def put(*place: str | int, value: Any) -> Callable[[dict[str, Any]], None]:
    def edit(found: dict[str, Any]) -> None:
        at: Any = found
        for step in place[:-1]:
            at = at[step]
        if value is ABSENT:
            del at[place[-1]]
        else:
            at[place[-1]] = value

    return edit


def volume(**members: Any) -> Callable[[dict[str, Any]], None]:
    """One that the first app mounts."""

    def edit(found: dict[str, Any]) -> None:
        found["volumes"] = [{"name": "x", "kind": "empty", **members}]
        found["apps"][0]["mounts"] = [{"volume": "x", "path": "/x"}]

    return edit


def another_id(found: dict[str, Any]) -> None:
    found["apps"][0]["image"]["id"] = found["apps"][0]["image"]["id"][:-3] + "000"


def two_of_a_name(found: dict[str, Any]) -> None:
    volume()(found)
    found["volumes"] *= 2


@pytest.mark.parametrize(
    ("rule", "edit", "error"),
    [
        ("POD-01 kind", put("acKind", value="ImageManifest"), 'acKind: "ImageManifest" where PodManifest is required'),
        ("POD-01 version", put("acVersion", value="9.0.0"), "acVersion: "),
        ("POD-01 no version", put("acVersion", value=ABSENT), "acVersion: "),
        ("POD-01 no app", put("apps", value=[]), "apps: is empty"),
        ("POD-01 no apps", put("apps", value=ABSENT), "apps: "),
        ("POD-02 name", put("apps", 0, "name", value="A/.."), "apps[0].name: "),
        ("POD-02 twice", put("apps", 1, "name", value="a"), "apps[1].name: a second app named"),
        ("POD-03 no id", put("apps", 0, "image", value={"name": "example.com/busybox"}), "apps[0].image.id: missing"),
        ("POD-03 part of an id", put("apps", 0, "image", "id", value="sha512-abc"), "apps[0].image.id: "),
        ("POD-03 another id", another_id, "not in the store"),
        ("POD-03 name", put("apps", 0, "image", "name", value="example.com/other"), "it is example.com/busybox, not example.com/other"),
        ("POD-03 label", put("apps", 0, "image", "labels", value=[{"name": "version", "value": "9"}]), "its label version is not 9: 1.0"),
        ("POD-07", put("apps", 0, "mounts", value=[{"volume": "x", "path": "/x"}]), "apps[0].mounts[0].volume: no volume is named"),
        ("POD-07 no path", put("apps", 0, "mounts", value=[{"volume": "x"}]), "apps[0].mounts[0].path: "),
        ("POD-09", volume(name="A.b"), "volumes[0].name: "),
        ("POD-09 twice", two_of_a_name, "volumes[1].name: "),
        ("unused", put("volumes", value=[{"name": "x", "kind": "empty"}]), "use volume x: no app mounts it"),
        ("POD-10 number", volume(mode=755), "volumes[0].mode: "),
        ("POD-10 letters", volume(mode="rwx"), "volumes[0].mode: "),
        ("POD-10 uid", volume(uid=-1), "volumes[0].uid: "),
        ("POD-10 kind", volume(kind="block"), "volumes[0].kind: "),
        ("POD-10 source", volume(source="/etc"), "volumes[0].source: has no meaning"),
        ("ACE-30 no source", volume(kind="host"), "volumes[0].source: "),
        ("ACE-30 relative", volume(kind="host", source="etc"), "volumes[0].source: "),
        ("ACE-30 mode", volume(kind="host", source="/etc", mode="0755"), "volumes[0].mode: "),
        ("ACE-30 gid", volume(kind="host", source="/etc", gid=0), "volumes[0].gid: "),
        ("POD-11 twice", put("apps", 0, "annotations", value=[{"name": "a", "value": "1"}] * 2), "apps[0].annotations[1].name: "),
        ("POD-11 name", put("apps", 0, "annotations", value=[{"name": "A b", "value": "1"}]), "apps[0].annotations[0].name: "),
        ("isolator of an app", put("isolators", value=[NETWORK]), "isolators[0]: "),
        ("limit of the pod", put("isolators", value=[MEMORY]), "limit the pod memory: the controller cannot be enabled"),
        ("limit of an app", put("apps", 0, "app", "isolators", value=[MEMORY]), "limit the pod memory: the controller cannot be enabled"),
        ("POD-12", put("ports", value=[{"name": "www", "hostPort": 80}]), "use port www: no app has one of that name"),
    ],
)
def test_what_it_cannot_do_is_refused_by_name(
    shared: Pyrun, manifest: Manifest, rule: str, edit: Callable[[dict[str, Any]], None], error: str
) -> None:
    refused = shared("run", "--pod-manifest", manifest(edit, a="true", b="true"))
    assert refused.code == 125 and error in refused.err and "hint: " in refused.err and "Traceback" not in refused.err, repr(refused)
    nothing_left(shared)


def nothing_left(shared: Pyrun) -> None:
    assert [name for name in ("preparing", "prepared", "running") if os.listdir(shared.root / "pods" / name)] == []


def test_words_beside_it_and_files_that_are_none(shared: Pyrun, manifest: Manifest) -> None:
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
    nothing_left(shared)


def test_pod_05_the_app_of_the_manifest_is_the_whole_app(shared: Pyrun, manifest: Manifest, image: Callable[..., Path]) -> None:
    """Nothing of the image's own is left: no variables, no isolators, no handlers."""
    own = {
        "environment": [{"name": "OF_THE_IMAGE", "value": "1"}],
        "isolators": [{"name": "os/linux/capabilities-retain-set", "value": {"set": ["CAP_KILL"]}}],
        "eventHandlers": [{"name": "pre-start", "exec": ["/bin/false"]}],
    }
    shared("fetch", image("example.com/own-app", app=own, edit=lambda made: made.busybox()), code=0)
    (found,) = [one for one in json.loads(shared("image", "list", "--format", "json", code=0).out) if one["name"] == "example.com/own-app"]
    path = manifest(put("apps", 0, "image", value={"id": found["id"]}), a="echo ${OF_THE_IMAGE-none}; grep CapBnd /proc/self/status")
    said = shared("run", "--pod-manifest", path, code=0).out.split()
    assert said[0] == "none" and said[2] != f"{1 << 5:016x}", "CAP_KILL alone"


def test_pod_04_what_is_missing_is_made_and_told(shared: Pyrun, manifest: Manifest, image: Callable[..., Path]) -> None:
    """Every app has its image's id, and every mount point a volume: in the manifest that the metadata service gives as well."""
    points = [{"name": "data", "path": "/data"}]
    shared("fetch", image("example.com/points-of-pod", app={"mountPoints": points}, edit=lambda made: made.busybox()), code=0)
    listed = json.loads(shared("image", "list", "--format", "json", code=0).out)
    (found,) = [one["id"] for one in listed if one["name"] == "example.com/points-of-pod"]

    def edit(made: dict[str, Any]) -> None:
        made["apps"][0]["image"] = {"id": found}
        made["apps"][0]["app"]["mountPoints"] = points

    script = "stat -c %a:%u:%g /data; wget -qO- $AC_METADATA_URL/acMetadata/v1/pod/manifest"
    done = shared("run", "--mds", "--pod-manifest", manifest(edit, a=script), code=0)
    rights, _, text = done.out.partition("\n")
    pod = json.loads(text)
    assert rights == "755:0:0" and pod["apps"][0]["image"]["id"] == found
    (mount,), (empty,) = pod["apps"][0]["mounts"], pod["volumes"]
    assert (mount["path"], mount["volume"], empty["kind"]) == ("/data", empty["name"], "empty")
    assert "no volume for mount point data on /data" in done.err


def test_what_runs_can_be_run_again_by_its_manifest(pyrun: Pyrun, busybox: Path, tmp_path: Path) -> None:
    """What cat-manifest prints is a manifest that --pod-manifest takes: the mounts that every pod has are not in it."""
    (tmp_path / "host").mkdir()
    (tmp_path / "host" / "file").write_text("host\n")
    look = "id -u; id -G; stat -c %a:%u /data; cat /h/file; echo $X $AC_APP_NAME; pwd; touch /h/x 2>/dev/null || echo h-ro"
    look += "; touch /x 2>/dev/null || echo root-ro; df -h /dev/shm | tail -n 1 | tr -s ' ' | cut -d ' ' -f 6"
    app = ("--exec", "/bin/sh", "--user", "7", "-e", "X=1", "--working-dir", "/data", "--readonly-rootfs", "--mount", "volume=h,target=/h")
    volumes = ("--volume", "data,kind=empty,mode=0750,uid=7", "--volume", f"h,kind=host,source={tmp_path}/host,readOnly=true")
    mount = ("--mount", "volume=data,target=/data")
    one = (busybox, "--name", "one", *app, *mount, "--", "-c", f"echo >/data/ready; {look}; sleep 0.2")
    two = (
        busybox,
        "--name",
        "two",
        "--exec",
        "/bin/sh",
        *mount,
        "--",
        "-c",
        "for i in $(seq 200); do [ -e /data/ready ] && exit 0; sleep 0.05; done; exit 1",
    )
    for words in (one, (*one, "---", *two)):
        first = pyrun("prepare", *volumes, *words, code=0).out.strip()
        manifest = tmp_path / "again.json"
        manifest.write_text(pyrun("cat-manifest", first, code=0).out)
        assert '"/dev/shm"' not in manifest.read_text()
        second = pyrun("prepare", "--pod-manifest", manifest, code=0).out.strip()
        assert pyrun("cat-manifest", second, code=0).out == manifest.read_text()
        outs = [pyrun("run-prepared", uuid, code=0).out for uuid in (first, second)]
        assert outs[0] == outs[1] and outs[0].splitlines()[2:] == ["750:7", "host", "1 one", "/data", "h-ro", "root-ro", "/dev/shm"]
