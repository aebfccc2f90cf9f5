"""The verbs on stored images from end to end: history, tag, rm, gc, du, export, render, extract, and the filters of list."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import archives
import mkoci
import pytest
from mkaci import Image

from pyrun.cli.main import main
from pyrun.images import trust

pytestmark = pytest.mark.needs_root

UNSIGNED = "--insecure-options=image"


class Cli:
    """The command line on a store of its own with three images; `err` is that of the last call."""

    def __init__(self, folder: Path, capture: pytest.CaptureFixture[str]) -> None:
        self.root, self.folder, self.capture = folder / "root", folder, capture
        self.err = ""
        base = Image("example.com/base", ["/bin/sh"], version="1.0")
        base.add("/etc/hello", b"hello")
        base.add("/bin/su", b"su", mode=0o4755, uid=3, gid=5)
        app = Image("example.com/app", ["/bin/app", "-v"], version="2.0", app={"user": "7", "group": "8"})
        app.manifest["dependencies"] = [{"imageName": "example.com/base"}]
        app.add("/etc/app", b"app")
        self.base, self.app = base.write(folder / "base.aci"), app.write(folder / "app.aci")
        self.layout = mkoci.Layout(folder / "shop")
        below = mkoci.layer(archives.file(b"etc/a", b"a"), archives.file(b"etc/b", b"b"))
        above = mkoci.layer(archives.file(b"etc/.wh.a", b""), archives.file(b"etc/c", b"\x1b[31m"))
        steps = [{"created": "2024-01-02T03:04:05Z", "created_by": "ADD \x1b[2J"}, {"created_by": "ENV A=1", "empty_layer": True}]
        self.layout.image(below, above, ref="1", history=[*steps, {"created_by": "RUN rm", "comment": "top"}])
        self("fetch", "-q", UNSIGNED, self.base, self.app, f"oci:{self.layout.path}")

    def __call__(self, *arguments: str | Path, code: int = 0) -> str:
        self.capture.readouterr()
        result = main(["--root", str(self.root), *map(str, arguments)])
        out, self.err = self.capture.readouterr()
        assert result == code, (out, self.err)
        assert "\x1b" not in out + self.err and "Traceback" not in self.err
        return out

    def json(self, *arguments: str | Path, code: int = 0) -> Any:
        return json.loads(self(*arguments, "--format", "json", code=code))

    def names(self, *arguments: str) -> list[str]:
        return self("image", "list", "--no-legend", "--columns", "name", *arguments).split()


@pytest.fixture
def cli(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(tmp_path, capsys)


def test_list_columns_filters_and_order(cli: Cli) -> None:
    assert cli.names() == ["shop", "example.com/app", "example.com/base"]
    assert cli.names("--reverse") == ["example.com/base", "example.com/app", "shop"]
    assert cli.names("--sort", "name") == ["example.com/app", "example.com/base", "shop"]
    assert cli.names("--filter", "kind=oci") == ["shop"]
    assert cli.names("--filter", "name=example.com/*", "--filter", "label=version=2.0") == ["example.com/app"]
    assert cli.names("--filter", "version=1") == ["shop"]
    assert cli.names("--filter", "signed=yes") == cli.names("--filter", "used=yes") == cli.names("--filter", "older-than=1h") == []
    cli("image", "tag", "shop", "web:blue")
    assert cli.names("--filter", "name=web*") == ["web"]
    assert cli("image", "list", "-q", "--filter", "name=web:blue") == cli.json("image", "list")[0]["id"] + "\n"
    assert [fact["tags"] for fact in cli.json("image", "list")] == [["web:blue"], [], []]
    row = cli("image", "list", "--no-legend", "--columns", "name,version,kind,layers,tags,labels,digest").splitlines()[1].split()
    assert row[:6] == ["web", "blue", "oci", "2", "web:blue", "arch=amd64,os=linux,version=1"]
    for words in (["--columns", "nme"], ["--filter", "colour=red"], ["--filter", "signed=maybe"], ["--filter", "older-than=x"]):
        cli("image", "list", *words, code=2)
        assert "hint:" in cli.err


def test_every_name_that_a_registry_gave(cli: Cli) -> None:
    """Of two names of one image the store's record has one: the other is listed, looked at and forgotten all the same."""
    image = cli.json("image", "show", "shop")["id"]
    for name in ("shop:1", "localhost:5000/team/shop:2", "example.com/team/shop:latest", f"example.com/shop@{image.replace('-', ':')}"):
        (cli.root / "imports" / f"pulled+{trust.quote(name)}").write_text(f"{image} {image}")
    (cli.root / "imports" / "pulled+%zz").write_text("damaged")
    other = "localhost:5000/team/shop:2"
    rows = cli("image", "list", "--no-legend", "--columns", "name,version", "--filter", "kind=oci").splitlines()
    assert [row.split() for row in rows] == [["shop", "1"], ["example.com/team/shop", "latest"], ["localhost:5000/team/shop", "2"]]
    assert len(cli("image", "list", "-q").split()) == 3
    assert cli.json("image", "list")[0]["names"] == cli.json("image", "show", other)["names"]
    assert other in cli("image", "show", "--format", "text", other) and cli("image", "verify", other) == f"{image[:19]} ok\n"
    assert cli("image", "extract", other, "-", "--path", "/etc/b") == "b"
    assert cli("image", "rm", other) == f"untagged {other}\n"
    assert "nothing in the store" in (cli("image", "rm", other, code=125) or cli.err)
    assert cli.names("--filter", "kind=oci") == ["shop", "example.com/team/shop"]


def test_show_as_text(cli: Cli) -> None:
    assert "as         0\n" in cli("image", "show", "--format", "text", "shop")
    text = cli("image", "show", "--format", "text", "example.com/app")
    assert "runs       /bin/app -v\n" in text and "as         7:8\n" in text and "signed by  nobody\n" in text


def test_history(cli: Cli) -> None:
    steps = cli.json("image", "history", "shop")
    assert [step["created_by"] for step in steps] == ["RUN rm", "ENV A=1", "ADD \x1b[2J"]
    layers = cli.json("image", "show", "shop")["layers"]
    assert [step["layer"] for step in steps] == [layers[0], "", layers[1]]
    assert (steps[0]["size"], steps[2]["size"], steps[0]["comment"]) == (5, 2, "top")
    assert "ADD \\x1b[2J" in cli("image", "history", "shop")
    steps = cli.json("image", "history", "example.com/app")
    assert [(step["created_by"], step["comment"]) for step in steps] == [
        ("example.com/app:2.0", ""),
        ("example.com/base:1.0", "dependency"),
    ]


def test_verify_as_json(cli: Cli) -> None:
    found = cli.json("image", "verify", "--all")
    assert [one["ok"] for one in found["images"]] == [True] * 3 and found["store"] == []
    (cli.root / "imports" / "strange").write_text("x")
    assert "its image is not in the store" in cli.json("image", "verify", "--all", code=125)["store"][0]


def test_tag_and_rm(cli: Cli) -> None:
    image_id = cli("image", "tag", "example.com/app", "prod").strip()
    assert cli("image", "tag", "shop", "prod") and f"prod meant {image_id[:19]} before" in cli.err
    assert cli.json("image", "tag", "shop", "prod")["before"] == cli.json("image", "show", "prod")["id"]
    assert cli("image", "rm", "prod") == "untagged prod\n"
    assert len(cli.names()) == 3, "the image stays"
    cli("image", "rm", "prod", code=125)
    cli("image", "tag", "shop", "example.com/app", code=125)
    cli("image", "tag", "shop", "SHOP", code=2)
    cli("image", "rm", "example.com/base", code=125)
    assert "depends on it" in cli.err
    removed = cli.json("image", "rm", "example.com/app", "example.com/base")
    assert [one["id"] for one in removed] == [image_id, removed[1]["id"]] and removed[1]["freed"] > 0


def test_gc(cli: Cli) -> None:
    assert cli("image", "gc") == ""
    cli("image", "tag", "shop", "web")
    os.unlink(cli.root / "images" / cli.json("image", "show", "shop")["id"])
    planned = cli.json("image", "gc", "--dry-run")
    assert planned["dryRun"] and len(planned["layers"]) == 2 and len(planned["blobs"]) == 4 and planned["bytes"] > 0
    done = cli.json("image", "prune")
    assert {**done, "dryRun": True} == planned
    assert cli.json("image", "gc")["bytes"] == 0 and not os.listdir(cli.root / "tags")
    assert cli.names() == ["example.com/app", "example.com/base"]


def test_gc_of_unused_images(cli: Cli) -> None:
    pod = cli.root / "pods" / "running" / "5e4e7d5e-8a3f-4e63-9a8e-000000000000"
    pod.parents[1].mkdir(0o700)
    pod.mkdir(parents=True)
    (pod / "pod").write_text(json.dumps({"image": cli.json("image", "show", "example.com/app")["id"]}))
    cli("image", "gc", "--older-than", "1h", code=2)
    assert cli.json("image", "gc", "--all", "--older-than", "1h")["images"] == []
    assert cli.names("--filter", "used=yes") == ["example.com/app"]
    assert cli("image", "gc", "--all", "--dry-run").startswith("would remove image sha256-")
    text = cli("image", "gc", "--all").splitlines()
    assert [line.split()[1] for line in text] == ["image", "layer", "layer", "blob", "blob", "blob", "blob", "2", text[-1].split()[1]]
    assert cli.names() == ["example.com/app", "example.com/base"], "what a pod uses stays, and what that depends on"
    (pod / "pod").unlink()
    pod.rmdir()
    assert len(cli.json("image", "gc", "--all")["images"]) == 2
    left = [path for path in cli.root.rglob("*") if path.is_file() and path.parts[len(cli.root.parts)] not in ("locks", "cache")]
    assert left == []


def test_gc_spares_what_a_pod_may_use(cli: Cli) -> None:
    image_id = cli.json("image", "show", "shop")["id"]
    pod = cli.root / "pods" / "running" / "uuid"
    pod.parents[1].mkdir(0o700)
    pod.mkdir(parents=True)
    (pod / "pod").write_text(json.dumps({"image": image_id}))
    os.unlink(cli.root / "images" / image_id)
    assert cli.json("image", "gc")["layers"] == []
    assert len(os.listdir(cli.root / "layers")) == 4
    (pod / "pod").write_text("damaged")
    assert len(cli.json("image", "gc")["spared"]) == 2
    (pod / "pod").unlink()
    assert len(cli.json("image", "gc")["layers"]) == 2


def test_du(cli: Cli) -> None:
    before = cli.json("image", "du")
    by_name = {one["name"]: one for one in before["images"]}
    assert by_name["shop"]["shared"] == 0 < by_name["shop"]["unique"]
    assert by_name["example.com/app"]["shared"] == by_name["example.com/base"]["shared"] == len(b"hello" + b"su")
    assert before["total"] == sum(one["total"] for one in before["images"]) - 7 and before["unused"] == 0
    head, *rows = cli("image", "du").splitlines()
    assert head.split() == ["ID", "NAME", "VERSION", "TOTAL", "SHARED", "UNIQUE"] and rows[-1].endswith(" in 3 images")
    freed = cli.json("image", "rm", "shop")[0]["freed"]
    assert freed == by_name["shop"]["unique"] == before["total"] - cli.json("image", "du")["total"]


def test_aci_21_export_is_the_file_that_came(cli: Cli) -> None:
    # ACI-21
    out = cli.folder / "out.aci"
    image_id = cli("image", "export", "example.com/app", out).strip()
    assert out.read_bytes() == cli.app.read_bytes() and cli.json("image", "show", "example.com/app")["id"] == image_id
    cli("image", "export", "example.com/app", out, code=125)
    assert "file exists" in cli.err and "--overwrite" in cli.err
    cli("image", "export", "--overwrite", "example.com/base", out)
    assert out.read_bytes() == cli.base.read_bytes()
    cli("image", "export", "shop", cli.folder / "no.aci", code=2)
    cli("image", "export", "shop", code=2)
    cli("image", "export", "example.com/app", "/", code=125)
    cli("image", "export", "example.com/app", cli.folder / "none" / "x", code=125)
    record = cli.json("image", "show", "example.com/app")
    blob = cli.root / "blobs" / record["blob"].replace("-", "/")
    blob.write_bytes(blob.read_bytes()[:-1] + b"x")
    cli("image", "export", "example.com/app", cli.folder / "bad.aci", code=125)
    assert "another digest" in cli.err
    assert [path.name for path in cli.folder.iterdir() if "bad" in path.name or "pyrun" in path.name] == []


def test_export_of_an_oci_image_changes_nothing(cli: Cli) -> None:
    digest = cli("image", "export", "shop", "--oci", cli.folder / "again").strip()
    blobs = cli.folder / "again" / "blobs" / "sha256"
    for path in blobs.iterdir():
        assert path.read_bytes() == (cli.layout.path / "blobs" / "sha256" / path.name).read_bytes()
    assert len(list(blobs.iterdir())) == 4 and digest == cli.layout.entries[0]["digest"]
    index = json.loads((cli.folder / "again" / "index.json").read_text())
    assert index["manifests"] == [cli.layout.entries[0]], "name included"
    cli("image", "export", "shop", "--oci", cli.folder / "again.tar")
    cli("image", "rm", "shop")
    assert cli("fetch", "-q", UNSIGNED, f"oci-archive:{cli.folder / 'again.tar'}").strip() == digest.replace(":", "-")


def seen(root: Path) -> dict[str, tuple[Any, ...]]:
    """Everything that a tree says of its files, but for times."""
    found = {}
    for path in [root, *sorted(root.rglob("*"))]:
        info = path.lstat()
        content = os.readlink(path) if path.is_symlink() else path.read_bytes() if stat.S_ISREG(info.st_mode) else ""
        found[str(path.relative_to(root))] = (info.st_mode, info.st_uid, info.st_gid, info.st_rdev, content)
    return found


def test_render_and_extract(cli: Cli) -> None:
    cli("image", "render", "example.com/app", cli.folder / "all")
    merged = seen(cli.folder / "all")
    assert merged["bin/su"][:3] == (stat.S_IFREG | 0o4755, 3, 5) and {"etc/hello", "etc/app"} <= merged.keys()
    cli("image", "render", "shop", cli.folder / "shop.d")
    assert sorted(os.listdir(cli.folder / "shop.d" / "etc")) == ["b", "c"], "the whiteout did its work"
    cli("image", "render", "shop", cli.folder / "shop.d", code=125)
    cli("image", "render", "--overwrite", "example.com/base", cli.folder / "shop.d")
    assert sorted(os.listdir(cli.folder / "shop.d" / "etc")) == ["hello"]
    cli("image", "extract", "example.com/app", cli.folder / "own")
    assert sorted(os.listdir(cli.folder / "own")) == ["manifest", "rootfs"] and os.listdir(cli.folder / "own" / "rootfs") == ["etc"]
    assert json.loads((cli.folder / "own" / "manifest").read_text())["dependencies"] == [{"imageName": "example.com/base"}]
    cli("image", "extract", "--rootfs-only", "example.com/app", cli.folder / "bare")
    assert seen(cli.folder / "bare") == seen(cli.folder / "own" / "rootfs")
    cli("image", "extract", "shop", cli.folder / "no", code=2)
    assert [path.name for path in cli.folder.iterdir() if "pyrun" in path.name or path.name == "no"] == []


def test_extract_one_path(cli: Cli) -> None:
    assert cli("image", "extract", "example.com/app", "-", "--path", "/etc/hello") == "hello"
    cli("image", "extract", "example.com/app", cli.folder / "su", "--path", "bin/su")
    assert stat.S_IMODE((cli.folder / "su").stat().st_mode) == 0o4755
    cli("image", "extract", "example.com/app", cli.folder / "etc", "--path", "/etc")
    assert sorted(os.listdir(cli.folder / "etc")) == ["app", "hello"]
    for words, reason in ((["x", "--path", "/none"], "not there"), (["-", "--path", "/etc"], "not a regular file")):
        cli("image", "extract", "example.com/app", *words, code=125)
        assert reason in cli.err


def test_a_full_disk_elsewhere(cli: Cli) -> None:
    (cli.folder / "small").mkdir()
    code = """
import os, subprocess, sys
from pyrun.cli.main import main
from pyrun.images import trust
root, small = sys.argv[1:]
subprocess.run(["mount", "-t", "tmpfs", "-o", "nr_inodes=4,size=64k", "none", small], check=True)
for words in (["render", "example.com/app", small + "/all"], ["export", "example.com/app", "--oci", small + "/oci"],
              ["extract", "example.com/app", small + "/own"]):
    assert main(["--root", root, "image", *words]) == 125, words
    assert os.listdir(small) == [], words
subprocess.run(["mount", "-o", "remount,nr_inodes=0,size=1m", small], check=True)
assert main(["--root", root, "image", "render", "example.com/app", small + "/all"]) == 0, "from one file system to another"
assert open(small + "/all/etc/hello").read() == "hello"
"""
    command = ["unshare", "--mount", "--propagation", "private", sys.executable, "-c", code, str(cli.root), str(cli.folder / "small")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stderr.count("no space left on device") == 3, done.stderr
