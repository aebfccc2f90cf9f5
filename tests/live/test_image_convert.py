"""`pyrun image convert` between App Container Images, OCI layouts and Docker archives: lossless, or it says what is lost."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness import Pyrun


def convert(pyrun: Pyrun, source: str | Path, target: Path, *more: str, code: int = 0) -> Any:
    return pyrun("image", "convert", source, "-o", target, *more, code=code)


def runs(pyrun: Pyrun, reference: str | Path) -> str:
    return pyrun("run", "--insecure-options=image", reference, code=0).out


def test_there_and_back(shared: Pyrun, image: Callable[..., Path], tmp_path: Path) -> None:
    """ACI to OCI and Docker and back: the same manifest and the same files; and the same bytes where the format stays."""

    def edit(made: Any) -> None:
        made.busybox()
        made.manifest["app"].update(exec=["/bin/sh", "-c", "echo $A; stat -c %a /bin/busybox"], environment=[{"name": "A", "value": "1"}])

    path = image(edit=edit)
    assert "note: " not in convert(shared, path, tmp_path / "same.aci").err
    assert (tmp_path / "same.aci").read_bytes() == path.read_bytes()
    told = "pyrun: note: lost: the image id, and signatures of it: an App Container Image that is made of this again has another\n"
    assert convert(shared, path, tmp_path / "layout").err == told
    assert convert(shared, f"oci:{tmp_path}/layout", tmp_path / "layout.tar").err == ""
    assert convert(shared, tmp_path / "layout.tar", tmp_path / "docker.tar", "--image-format", "docker").err == ""
    for reference in (f"oci:{tmp_path}/layout", f"oci-archive:{tmp_path}/layout.tar", f"docker-archive:{tmp_path}/docker.tar"):
        assert runs(shared, reference) == "1\n755\n"
        back = tmp_path / "back.aci"
        done = convert(shared, reference, back, "--overwrite")
        made = done.out.strip()
        lost = ["the digest of the image, and signatures of it", "its layers, which become one tree"]
        assert done.err.splitlines() == [f"pyrun: note: lost: {words}" for words in lost]
        assert runs(shared, back) == "1\n755\n"
        shown = json.loads(shared("image", "show", made, code=0).out)["manifest"]
        shared("fetch", "--insecure-options=image", path, code=0)
        first = json.loads(shared("image", "show", shared("fetch", "--insecure-options=image", path, code=0).out.strip(), code=0).out)
        convert(shared, first["id"], tmp_path / "stored.aci", "--overwrite")
        assert (tmp_path / "stored.aci").read_bytes() == path.read_bytes(), "a stored image by its name, and nothing is fetched"
        assert shown == first["manifest"] or {**shown, "dependencies": [], "pathWhitelist": []} == first["manifest"]
    refused = convert(shared, "none-of-that-name", tmp_path / "none.aci", code=125).err
    assert "nothing in the store answers to it" in refused and "/tmp/convert-" not in refused
    seen = subprocess.run(["skopeo", "inspect", "--config", f"docker-archive:{tmp_path}/docker.tar"], check=True, capture_output=True)
    inside = subprocess.run(["skopeo", "inspect", "--config", f"oci:{tmp_path}/layout"], check=True, capture_output=True)
    assert json.loads(seen.stdout)["config"] == json.loads(inside.stdout)["config"]


def test_what_oci_cannot_say(shared: Pyrun, image: Callable[..., Path], tmp_path: Path) -> None:
    def edit(made: Any) -> None:
        made.manifest["app"].update(
            isolators=[{"name": "os/linux/oom-score-adj", "value": 1}], eventHandlers=[{"name": "pre-start", "exec": ["/x"]}]
        )

    path = image(edit=edit)
    refused = convert(shared, path, tmp_path / "layout", code=125)
    assert "it would lose isolators, event handlers\nhint: give that up: --drop" in refused.err
    assert not (tmp_path / "layout").exists()
    dropped = convert(shared, path, tmp_path / "layout", "--drop")
    assert "note: lost: isolators" in dropped.err
    back = convert(shared, f"oci:{tmp_path}/layout", tmp_path / "back.aci").out.strip()
    shared("fetch", "--insecure-options=image", tmp_path / "back.aci", code=0)
    assert json.loads(shared("image", "show", back, code=0).out)["manifest"]["app"]["isolators"], "the label has kept them"


def test_what_an_aci_cannot_say(shared: Pyrun, tmp_path: Path) -> None:
    """An image that was never one: Entrypoint and Cmd become one, its health check is lost."""
    root = tmp_path / "root"
    (root / "bin").mkdir(parents=True)
    (root / "bin" / "busybox").write_bytes(Path("/bin/busybox").read_bytes())
    (root / "bin" / "busybox").chmod(0o755)
    build = ("--name", "example.com/x", "--exec", "/bin/busybox", "--image-format", "oci", "--user", "0")
    shared("image", "build", root, "-o", tmp_path / "layout", *build, "--", "echo", "hello", code=0)
    edit = {"Entrypoint": ["/bin/busybox"], "Cmd": ["echo", "hello"], "Healthcheck": {"Test": ["CMD", "/x"]}, "Labels": None}
    rewrite(tmp_path / "layout", edit)
    refused = convert(shared, f"oci:{tmp_path}/layout", tmp_path / "x.aci", code=125)
    assert "it would lose config.Healthcheck, which arguments replace the image's own" in refused.err
    convert(shared, f"oci:{tmp_path}/layout", tmp_path / "x.aci", "--drop", "--name", "example.com/x")
    assert runs(shared, tmp_path / "x.aci") == "hello\n"
    rewrite(tmp_path / "layout", edit, annotations={"a.io/b": "1"})
    for words in (("x.aci", "--drop", "--name", "example.com/x", "--overwrite"), ("docker.tar", "--image-format", "docker")):
        done = convert(shared, f"oci:{tmp_path}/layout", tmp_path / words[0], *words[1:])
        assert "pyrun: note: lost: annotations of the manifest\n" in done.err
    assert convert(shared, f"oci:{tmp_path}/layout", tmp_path / "layout.tar").err == ""


def test_a_way_back_says_that_an_image_stands_alone_now(shared: Pyrun, image: Callable[..., Path], busybox: Path, tmp_path: Path) -> None:
    shared("fetch", busybox, code=0)

    def edit(made: Any) -> None:
        made.manifest["dependencies"] = [{"imageName": "example.com/busybox"}]
        made.manifest["pathWhitelist"] = ["/bin/busybox", "/probe"]

    path = image("example.com/slim", edit=edit)
    convert(shared, path, tmp_path / "layout")
    shared("fetch", path, code=0)
    shared("image", "export", "example.com/slim", "--oci", tmp_path / "exported", code=0)
    assert json.loads((tmp_path / "exported/index.json").read_text()) == json.loads((tmp_path / "layout/index.json").read_text())
    told = convert(shared, f"oci:{tmp_path}/layout", tmp_path / "back.aci").err
    assert "lost: dependencies: the tree has all files\n" in told and "lost: pathWhitelist: the tree has all files\n" in told


def rewrite(layout: Path, edit: dict[str, Any], **members: Any) -> None:
    """Another configuration in the only image of a layout, and further members of its manifest."""
    import hashlib

    def blob(digest: str) -> Path:
        return layout / "blobs" / digest.replace(":", "/")

    def put(value: Any) -> tuple[str, int]:
        data = json.dumps(value).encode()
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        blob(digest).write_bytes(data)
        return digest, len(data)

    index = json.loads((layout / "index.json").read_text())
    manifest = json.loads(blob(index["manifests"][0]["digest"]).read_text())
    config = json.loads(blob(manifest["config"]["digest"]).read_text())
    config["config"] = {name: value for name, value in {**config["config"], **edit}.items() if value is not None}
    manifest["config"]["digest"], manifest["config"]["size"] = put(config)
    manifest.update(members)
    index["manifests"][0]["digest"], index["manifests"][0]["size"] = put(manifest)
    (layout / "index.json").write_text(json.dumps(index))
