"""Exported images in the hands of others: skopeo, umoci and podman read them, and see the tree that an app of ours sees."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import Pyrun
from mkaci import Image

LONG = "long/" + "/".join(["d" * 60] * 4)


def call(*words: object) -> str:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def dress(made: Image) -> None:
    made.add("/etc/plain", b"plain", uid=70000, gid=3_000_000)
    made.add("/bin/su", b"su", mode=0o4755)
    made.add("/bin/ping", b"ping", mtime=2**33 + 1)
    made.symlink("/bin/link", "su")
    made.symlink("/" + LONG + "/link", "x" * 120)
    made.add("/" + LONG + "/file", b"far")
    made.add("/data/one", b"linked")
    made.add("/data/two", b"", type=b"1", linkname="rootfs/data/one")
    made.add("/data/fifo", b"", type=b"6")
    made.add("/data/null", b"", type=b"3", devmajor=1, devminor=3, mode=0o666)
    made.add("/data/sticky", b"", type=b"5", mode=0o1777)


@pytest.fixture(scope="module")
def rich(shared: Pyrun, image: Callable[..., Path]) -> str:
    """An image with a dependency and a pathWhitelist, so that it has three layers, and one of everything in it."""
    shared("fetch", image("example.com/rich-base", edit=dress), code=0)
    everything = ["/etc/plain", "/bin", "/bin/su", "/bin/ping", "/bin/link", "/data", "/data/one", "/data/two", "/data/fifo", "/data/null"]

    def top(made: Image) -> None:
        made.manifest["dependencies"] = [{"imageName": "example.com/rich-base"}]
        made.manifest["pathWhitelist"] = [
            *everything,
            f"/{LONG}/file",
            f"/{LONG}/link",
            "/data/sticky",
            "/probe",
            "/etc/passwd",
            "/etc/group",
        ]
        made.manifest["annotations"] = [{"name": "created", "value": "2024-01-02T03:04:05Z"}]
        made.manifest["app"].update(
            user="app",
            group="app",
            workingDirectory="/data",
            environment=[{"name": "A", "value": "b=c"}],
            ports=[{"name": "web", "protocol": "tcp", "port": 80}],
            mountPoints=[{"name": "work", "path": "/work"}],
        )

    shared("fetch", image("example.com/rich", edit=top, version="1.0"), code=0)
    return "example.com/rich"


def seen(root: Path) -> dict[str, tuple[Any, ...]]:
    found = {}
    for path in sorted(root.rglob("*")):
        info = path.lstat()
        kind = stat.S_IFMT(info.st_mode)
        content = os.readlink(path) if kind == stat.S_IFLNK else path.read_bytes() if kind == stat.S_IFREG else b""
        links = info.st_nlink if kind == stat.S_IFREG else 0
        xattrs = {name: os.getxattr(path, name) for name in os.listxattr(path, follow_symlinks=False)} if kind == stat.S_IFREG else {}
        found[str(path.relative_to(root))] = (info.st_mode, info.st_uid, info.st_gid, info.st_rdev, links, content, xattrs, info.st_mtime)
    return found


def test_what_umoci_unpacks_is_what_we_render(shared: Pyrun, rich: str, tmp_path: Path) -> None:
    shared("image", "render", rich, tmp_path / "ours", code=0)
    digest = shared("image", "export", rich, "--oci", tmp_path / "layout", code=0).out.strip()
    call("umoci", "unpack", "--image", f"{tmp_path}/layout:1.0", tmp_path / "bundle")
    ours, theirs = seen(tmp_path / "ours"), seen(tmp_path / "bundle" / "rootfs")
    assert ours == theirs
    assert ours["data/one"][4] == 2 and ours["bin/ping"][7] == 2**33 + 1 and "tmp" not in ours
    again = shared("image", "export", rich, "--oci", tmp_path / "again", code=0).out.strip()
    assert again == digest, "the same image gives the same bytes"


def test_skopeo_and_podman_take_it(shared: Pyrun, rich: str, tmp_path: Path) -> None:
    archive = tmp_path / "rich.tar"
    digest = shared("image", "export", rich, "--oci", archive, code=0).out.strip()
    facts = json.loads(call("skopeo", "inspect", "--config", f"oci-archive:{archive}"))
    assert facts["config"]["User"] == "1000:1000" and facts["config"]["WorkingDir"] == "/data" and facts["config"]["Env"] == ["A=b=c"]
    assert facts["config"]["Entrypoint"] == ["/probe", "report"] and facts["created"] == "2024-01-02T03:04:05Z"
    assert facts["config"]["ExposedPorts"] == {"80/tcp": {}} and facts["config"]["Volumes"] == {"/work": {}}
    assert len(facts["rootfs"]["diff_ids"]) == 3
    call("skopeo", "copy", f"oci-archive:{archive}", f"dir:{tmp_path}/copied")
    assert call("skopeo", "manifest-digest", tmp_path / "copied" / "manifest.json").strip() == digest
    with tempfile.TemporaryDirectory(prefix="pr-", dir="/tmp") as run:  # podman takes no long path
        storage = ["--root", tmp_path / "storage", "--runroot", run, "--storage-driver", "vfs"]
        name = call("podman", *storage, "load", "-q", "-i", archive).strip().removeprefix("Loaded image: ")
        call("podman", *storage, "save", "-q", "--format", "oci-archive", "-o", tmp_path / "saved.tar", name)
    shared("fetch", "-q", "--insecure-options=image", f"oci-archive:{tmp_path}/saved.tar", code=0)


def test_the_export_of_an_export_runs(shared: Pyrun, rich: str, tmp_path: Path) -> None:
    shared("image", "export", rich, "--oci", tmp_path / "layout", code=0)
    layout = f"oci:{tmp_path}/layout"
    done = shared("run", "--quiet", "--insecure-options=image", layout, "--exec", "/probe", "--", "exit", "3")
    assert done.code == 3, repr(done)
    image_id = shared("fetch", "-q", "--insecure-options=image", layout, code=0).out.strip()
    shared("image", "export", image_id, "--oci", tmp_path / "twice", code=0)
    for path in (tmp_path / "layout" / "blobs" / "sha256").iterdir():
        assert (tmp_path / "twice" / "blobs" / "sha256" / path.name).read_bytes() == path.read_bytes()


def test_a_tag_runs(pyrun: Pyrun, image: Callable[..., Path]) -> None:
    for code in "34":
        pyrun("fetch", image(f"example.com/exits-{code}", ["/probe", "exit", code]), code=0)
    pyrun("image", "tag", "example.com/exits-3", "exits:new", code=0)
    for _ in range(3):  # from the second time on the launcher knows it
        pyrun("run", "exits:new", code=3)
    pyrun("image", "tag", "example.com/exits-4", "exits:new", code=0)
    pyrun("run", "exits:new", code=4)
    pyrun("image", "rm", "exits:new", code=0)
    assert "nothing in the store answers to it" in pyrun("run", "exits:new", code=125).err
    pyrun("run", "example.com/exits-4", code=4)
