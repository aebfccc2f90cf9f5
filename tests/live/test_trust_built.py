"""OCI images that are signed while they are built or converted: pyrun, skopeo with its policy, and openssl verify them."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import Pyrun, Signer
from signers import Stage, fingerprint
from world import GREETING, worlds

WHAT = ("--name", "example.org/built", "--label", "version=1.0", "--exec", "/bin/busybox", "--", "echo", GREETING)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, new_signer: Callable[[str], Signer]) -> Iterator[Stage]:
    with worlds(tmp_path_factory.mktemp("built")) as world:
        yield Stage(world, world.registries["none"], new_signer("a <a@example.com>"), new_signer("b <b@example.com>"))


@pytest.fixture
def ours(pyrun: Pyrun, stage: Stage) -> Callable[..., str]:
    """Runs pyrun where it knows the stage: what it said on standard error, and printed."""

    def run(*words: str | Path, code: int = 0, root: Path | None = None) -> str:
        result = pyrun(*(("--root", root) if root else ()), *words, env=stage.environment, code=code)
        return result.err + result.out

    return run


@pytest.fixture
def made(ours: Callable[..., str], stage: Stage, tmp_path: Path) -> Iterator[Path]:
    """A folder with images of one tree, signed in each way; the caller's gpg is that of key a until the test ends."""
    root = tmp_path / "root"
    (root / "bin").mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin" / "busybox")
    by, name = fingerprint(stage.a), f"{stage.place}/built/app:1"
    stage.environment["GNUPGHOME"] = str(stage.a.home)
    ours("image", "build", root, "--image-format", "oci", "-o", tmp_path / "simple", "--sign-by", by, *WHAT)
    ours("image", "build", root, "--image-format", "oci", "-o", tmp_path / "simple.tar", "--sign-by", by, "--identity", name, *WHAT)
    ours(
        "image", "build", root, "--image-format", "oci", "-o", tmp_path / "cosigned", "--key", stage.cosign.plain, "--identity", name, *WHAT
    )
    ours("image", "build", root, "-o", tmp_path / "plain.aci", *WHAT)
    ours("image", "convert", tmp_path / "plain.aci", "-o", tmp_path / "converted", "--sign-by", by)
    yield tmp_path
    del stage.environment["GNUPGHOME"]


def manifest_of(layout: Path) -> str:
    """The digest of the image, which its index lists first."""
    digest: str = json.loads((layout / "index.json").read_text())["manifests"][0]["digest"]
    return digest


def test_pyrun_finds_them_in_the_layout(ours: Callable[..., str], stage: Stage, made: Path) -> None:
    for image, trusted, prefix in (
        (f"oci:{made}/simple", stage.a.public, "example.org/built"),
        (f"oci:{made}/converted", stage.a.public, "example.org/built"),
        (f"oci-archive:{made}/simple.tar", stage.a.public, f"{stage.place}/built"),
        (f"oci:{made}/cosigned", stage.cosign.public, f"{stage.place}/built"),
    ):
        store = made / f"store-{len(list(made.iterdir()))}"
        assert "is not trusted" in ours("run", image, root=store, code=125)
        ours("trust", "--yes", "--prefix", prefix, trusted, root=store)
        assert ours("run", image, root=store).endswith(f"{GREETING}\n")


def test_others_verify_them(stage: Stage, made: Path) -> None:
    digest = manifest_of(made / "simple")
    (made / "manifest.json").write_bytes((made / "simple/blobs/sha256" / digest[7:]).read_bytes())
    stage.skopeo(
        "standalone-verify", made / "manifest.json", "example.org/built:1.0", fingerprint(stage.a), made / "simple" / "signature-1"
    )
    # at a registry, with the signature where its lookaside is
    name, folder = f"docker://{stage.place}/built/app:1", stage.lookaside / f"built/app@{digest.replace(':', '=')}"
    stage.skopeo("--insecure-policy", "copy", "--quiet", "--preserve-digests", f"oci:{made}/cosigned:1.0", name)
    rule = [{"type": "signedBy", "keyType": "GPGKeys", "keyPath": str(stage.a.public)}]
    policy = made / "policy.json"
    policy.write_text(json.dumps({"default": [{"type": "reject"}], "transports": {"docker": {stage.place: rule}}}))
    assert stage.skopeo("--policy", policy, "copy", "--quiet", name, f"dir:{made}/d", ok=False).returncode
    folder.mkdir(parents=True)
    subprocess.run(["tar", "-xf", made / "simple.tar", "-C", folder, "signature-1"], check=True)
    stage.skopeo("--policy", policy, "copy", "--quiet", name, f"dir:{made}/d")


def test_openssl_verifies_what_cosign_would(stage: Stage, made: Path) -> None:
    tag = f"{manifest_of(made / 'cosigned').replace(':', '-')}.sig"
    stage.skopeo("--insecure-policy", "copy", "--quiet", f"oci:{made}/cosigned:{tag}", f"docker://{stage.place}/built/app:{tag}")
    layer = json.loads(stage.repository("built/app").read(tag))["layers"][0]
    (made / "sig").write_bytes(base64.b64decode(layer["annotations"]["dev.cosignproject.cosign/signature"]))
    payload = made / "cosigned" / "blobs" / "sha256" / layer["digest"][7:]
    check = ["openssl", "dgst", "-sha256", "-verify", stage.cosign.public, "-signature", made / "sig", payload]
    subprocess.run(check, check=True, capture_output=True)


def test_app_container_images_and_what_is_refused(ours: Callable[..., str], stage: Stage, made: Path) -> None:
    by, convert = fingerprint(stage.a), ("image", "convert", made / "plain.aci", "-o")
    ours("image", "convert", f"oci:{made}/converted", "-o", made / "again.aci", "--sign-by", by)
    assert (made / "again.aci.asc").exists()
    build, oci = ("image", "build", made / "root", "-o", made / "x"), ("--image-format", "oci")
    for wrong in (("--key", stage.cosign.plain), ("--identity", "example.org/x:1")):
        assert "is for OCI images" in ours("image", "build", made / "root", "-o", made / "x.aci", *wrong, *WHAT, code=2)
        assert "is for OCI images" in ours(*convert, made / "x.aci", *wrong, code=2)
    assert f"sign {made}/x.aci: " in ours(*convert, made / "x.aci", "--sign-by", "0" * 40, code=125)
    assert "no place for a signature" in ours(*convert, made / "x.tar", "--image-format", "docker", "--sign-by", by, code=2)
    assert "nothing is signed" in ours(*build, *oci, "--identity", "example.org/x:1", *WHAT, code=2)
    assert "sign example.org/built:1.0: " in ours(*build, *oci, "--sign-by", "0" * 40, *WHAT, code=125)
    assert "is no name with a tag" in ours(*build, *oci, "--sign-by", by, "--identity", "example.org/x", *WHAT, code=2)
    assert not [path for path in made.iterdir() if path.name.startswith("x")]
