"""Images signed by other people's tools, verified and run; and ours, verified by them: gpg, skopeo, podman, Debian's registry."""

from __future__ import annotations

import base64
import json
import secrets
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from attaching import sha256
from harness import COMMAND, Pyrun, Signer
from registries import ImageParts, Reply, Request, Scripted
from signers import Stage, fingerprint
from signing import dsse, message, statement
from world import GREETING, worlds

ALLOW = "--insecure-options=image"


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, new_signer: Callable[[str], Signer]) -> Iterator[Stage]:
    with worlds(tmp_path_factory.mktemp("trust")) as world:
        yield Stage(world, world.registries["none"], new_signer("a <a@example.com>"), new_signer("b <b@example.com>"))


@pytest.fixture
def ours(pyrun: Pyrun, stage: Stage) -> Callable[..., str]:
    """Runs pyrun where it knows the stage: what it said on standard error, and printed."""

    def run(*words: str | Path, code: int = 0, root: Path | None = None) -> str:
        more = ("--root", root) if root else ()
        result = pyrun(*more, *words, env=stage.environment, code=code)
        assert "Traceback" not in result.err
        return result.err + result.out

    return run


def test_signed_by_skopeo(ours: Callable[..., str], pyrun: Pyrun, stage: Stage) -> None:
    name = stage.copy("team/skopeo:1", by=stage.a)
    refused = ours("fetch", name, code=125)
    assert "no key is trusted for images of" in refused and f"pyrun trust --prefix {stage.place}/team/skopeo KEYFILE" in refused
    ours("trust", "--yes", "--prefix", f"{stage.place}/team", stage.b.public)
    assert "which is not trusted" in ours("fetch", name, code=125)
    assert not list((pyrun.root / "blobs" / "sha256").iterdir())
    ours("trust", "--yes", "--prefix", f"{stage.place}/team", stage.a.public)
    for _ in range(3):  # the third time by the launcher alone
        assert ours("run", name).endswith(f"{GREETING}\n")
    by = fingerprint(stage.a)
    assert by[-16:] in ours("image", "list") and by in ours("image", "show", f"{stage.place}/team/skopeo")
    assert " ok" in ours("image", "verify", "--all")
    assert ours("run", f"{stage.place}/team/skopeo@{stage.digest}").endswith(f"{GREETING}\n")
    # the key is withdrawn
    ours("trust", "--remove", by)
    assert "no longer trusted" in ours("run", f"{stage.place}/team/skopeo", code=125)
    assert "which is not trusted" in ours("run", name, code=125)
    assert "signature:" in ours("image", "verify", "--all", code=125)
    ours("trust", "--yes", "--prefix", f"{stage.place}/team", stage.a.public)
    assert ours("run", name).endswith(f"{GREETING}\n")


def test_a_signature_is_for_one_name(ours: Callable[..., str], stage: Stage) -> None:
    stage.copy("team/one:1", by=stage.a)
    ours("trust", "--yes", "--prefix", stage.place, stage.a.public)
    for other in ("team/one:2", "team/two:1"):
        name = stage.copy(other)
        folder = stage.signatures(other.partition(":")[0])
        if not folder.exists():
            shutil.copytree(stage.signatures("team/one"), folder)
        assert "it was signed as" in ours("fetch", name, code=125)
    # the same bytes are in the store by now, trusted under their own name only
    ours("fetch", f"docker://{stage.place}/team/one:1")
    assert "it was signed as" in ours("run", f"docker://{stage.place}/team/one:2", code=125)


@pytest.fixture
def short() -> Iterator[Path]:
    """podman takes no long paths, and makes names of images of them, which may not have any underscore."""
    folder = Path(f"/tmp/pt-{secrets.token_hex(4)}")
    folder.mkdir(mode=0o700)
    yield folder
    shutil.rmtree(folder)


def test_signed_by_podman(ours: Callable[..., str], stage: Stage, tmp_path: Path, short: Path) -> None:
    storage = ["--root", str(short / "storage"), "--runroot", str(short / "run"), "--storage-driver", "vfs"]
    env = {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "HOME": str(stage.home), "GNUPGHOME": str(stage.a.home), **stage.world.environment()}

    def podman(*words: str | Path) -> None:
        done = subprocess.run(["podman", *storage, *words], env=env, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr

    policy = tmp_path / "policy.json"
    policy.write_text(json.dumps({"default": [{"type": "insecureAcceptAnything"}]}))
    shutil.copytree(stage.world.layout, short / "layout")
    podman("pull", "--quiet", "--signature-policy", policy, f"oci:{short}/layout:1")
    listed = subprocess.run(["podman", *storage, "images", "--quiet"], env=env, capture_output=True, text=True).stdout.split()
    target = f"{stage.place}/team/podman:1"
    podman("push", "--quiet", "--signature-policy", policy, "--sign-by", fingerprint(stage.a), listed[0], f"docker://{target}")
    ours("trust", "--yes", "--prefix", f"{stage.place}/team/podman", stage.a.public)
    assert ours("run", f"docker://{target}").endswith(f"{GREETING}\n")


def test_lookaside_of_a_web_server(ours: Callable[..., str], stage: Stage) -> None:
    name = stage.copy("team/web:1", by=stage.a)

    def answer(request: Request) -> Reply:
        path = stage.lookaside / request.path.removeprefix("/sigs/")
        return Reply(path.read_bytes()) if path.is_file() else Reply(b"", 404)

    ours("trust", "--yes", "--prefix", f"{stage.place}/team/web", stage.a.public)
    with Scripted(stage.world.authority.issue("web"), answer) as server:
        try:
            stage.configure(server.url("/sigs"))
            assert ours("run", name).endswith(f"{GREETING}\n")
        finally:
            stage.configure(f"file://{stage.lookaside}")
    digest = stage.digest.replace(":", "=")
    assert [request.path for request in server.seen][:2] == [f"/sigs/team/web@{digest}/signature-{number}" for number in (1, 2)]
    assert not any(request.authorization for request in server.seen)


def test_cosign_and_bundles(ours: Callable[..., str], stage: Stage) -> None:
    ours("trust", "--yes", "--prefix", f"{stage.place}/cosign", stage.cosign.public)
    tagged, bundled, over, keyless = (stage.copy(f"cosign/{name}:1") for name in ("tag", "bundle", "message", "keyless"))
    manifest = stage.world.parts.manifest
    assert "no signature that could be checked" in ours("fetch", tagged, code=125)
    stage.repository("cosign/tag").cosign(stage.digest, (stage.other, f"{stage.place}/cosign/tag"))
    assert "made by a key that is not trusted" in ours("fetch", tagged, code=125)
    stage.repository("cosign/tag").cosign(
        stage.digest, (stage.other, f"{stage.place}/cosign/tag"), (stage.cosign, f"{stage.place}/cosign/tag")
    )
    assert ours("run", tagged).endswith(f"{GREETING}\n")
    assert stage.cosign.fingerprint in ours("image", "show", f"{stage.place}/cosign/tag")
    stage.repository("cosign/bundle").refer(stage.digest, dsse(stage.other, b"{}"), dsse(stage.cosign, statement(stage.digest)))
    stage.repository("cosign/message").refer(stage.digest, message(stage.cosign, manifest))
    for name in (bundled, over):
        assert ours("run", name).endswith(f"{GREETING}\n")
    note = {"dev.sigstore.cosign/certificate": "-----BEGIN CERTIFICATE-----"}
    stage.repository("cosign/keyless").cosign(stage.digest, (stage.cosign, f"{stage.place}/cosign/keyless"), **note)
    assert "signed keyless" in ours("fetch", keyless, code=125)
    ours("trust", "--remove", stage.cosign.fingerprint)
    assert "no longer trusted" in ours("run", f"{stage.place}/cosign/tag", code=125)


def test_sec_44_what_hangs_on_another_image_vouches_for_nothing(ours: Callable[..., str], stage: Stage) -> None:
    """Signatures of one image, filed under the digest of another; referrers that name another subject."""
    ours("trust", "--yes", "--prefix", f"{stage.place}/poison", stage.cosign.public)
    name = stage.copy("poison/app:1")
    other = f"sha256:{sha256(b'another image')}"
    repository = stage.repository("poison/app")
    repository.cosign(other, (stage.cosign, f"{stage.place}/poison/app"), subject=stage.digest)
    assert "for another image" in ours("fetch", name, code=125)
    repository.refer(stage.digest, dsse(stage.cosign, statement(stage.digest)), subject=other)
    assert "for another image" in ours("fetch", name, code=125)  # a good bundle, but of an artifact that belongs elsewhere
    repository.refer(stage.digest, dsse(stage.cosign, statement(other)))
    assert "another image" in ours("fetch", name, code=125)
    repository.refer(stage.digest, dsse(stage.cosign, statement(stage.digest)))
    ours("fetch", name)


def test_sec_44_archives_take_no_name_that_is_taken(ours: Callable[..., str], pyrun: Pyrun, stage: Stage, tmp_path: Path) -> None:
    name = stage.copy("team/named:1", by=stage.a)
    ours("trust", "--yes", "--prefix", f"{stage.place}/team/named", stage.a.public)
    first = ours("fetch", "--quiet", name).strip()
    archive = tmp_path / "evil.tar"
    parts = ImageParts({"bin/busybox": Path("/bin/busybox").read_bytes()}, ["/bin/busybox", "echo", "evil"])
    layout = parts.write_layout(tmp_path / "l", "1")
    stage.skopeo("--insecure-policy", "copy", "--quiet", f"oci:{layout}:1", f"docker-archive:{archive}:{stage.place}/team/named:1")
    said = ours("fetch", ALLOW, f"docker-archive:{archive}")
    assert "the name" in said and "stays with the image that has it" in said
    assert ours("run", f"{stage.place}/team/named:1").endswith(f"{GREETING}\n")
    assert ours("run", name).endswith(f"{GREETING}\n")
    assert ours("run", ALLOW, f"docker-archive:{archive}").endswith("evil\n")
    assert json.loads(pyrun("image", "list", "--format", "json", code=0).out)[0]["id"] != first
    # nor does one that was there first stand for the registry's
    other = tmp_path / "other"
    ours("trust", "--yes", "--prefix", f"{stage.place}/team/named", stage.a.public, root=other)
    ours("trust", "--yes", "--unsigned", str(tmp_path), root=other)
    ours("fetch", f"docker-archive:{archive}", root=other)
    assert ours("run", f"{stage.place}/team/named:1", root=other).endswith("evil\n")
    assert ours("run", name, root=other).endswith(f"{GREETING}\n")


def test_one_origin_is_accepted_unsigned(ours: Callable[..., str], stage: Stage, image: Callable[..., Path], tmp_path: Path) -> None:
    here, there = stage.copy("plain/app:1"), stage.copy("plainer/app:1")
    assert "there is no terminal" in ours("trust", "--unsigned", f"{stage.place}/plain", code=125)
    ours("trust", "--yes", "--unsigned", f"{stage.place}/plain")
    for _ in range(3):
        assert ours("run", here).endswith(f"{GREETING}\n")
    assert f"{stage.place}/plainer/app" in ours("run", there, code=125)
    assert "images need no signature" in ours("trust", "--list")
    assert {"unsigned", "openpgp"} == {one["kind"] for one in json.loads(ours("trust", "--list", "--format", "json"))}
    ours("trust", "--remove", "unsigned", "--prefix", f"{stage.place}/plain")
    assert "pyrun trust --unsigned" in ours("run", here, code=125)
    # files
    aci = tmp_path / "app.aci"
    shutil.copy(image(signed=False, command=["/probe", "exit", "0"]), aci)
    layout = tmp_path / "layout"
    shutil.copytree(stage.world.layout, layout)
    assert f"pyrun trust --unsigned {layout}" in ours("run", f"oci:{layout}", code=125)
    assert f"pyrun trust --unsigned {aci}" in ours("run", aci, code=125)
    ours("trust", "--yes", "--unsigned", str(tmp_path))
    for name in (f"oci:{layout}", str(layout), "layout"):
        assert ours("run", name).endswith(f"{GREETING}\n")
    assert ours("run", aci) == ours("run", aci) == ""
    ours("trust", "--remove", "unsigned")
    for name in (f"oci:{layout}", str(layout), "layout", str(aci)):
        assert "hint:" in ours("run", name, code=125)


def test_sec_42_what_was_given_up_once_is_not_given_up_again(ours: Callable[..., str], stage: Stage) -> None:
    name = stage.copy("once/app:1")
    ours("fetch", ALLOW, name)
    ours("run", ALLOW, name)
    for again in (name, f"{stage.place}/once/app", f"{stage.place}/once/app@{stage.digest}"):
        assert ALLOW in ours("run", again, code=125)
    assert "-" in ours("image", "list")


def test_local_layouts_with_a_signature(ours: Callable[..., str], stage: Stage, tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.json"
    manifest.write_bytes(stage.world.parts.manifest)
    signature = tmp_path / "app.sig"
    stage.skopeo("standalone-sign", manifest, "example.org/team/local:7", fingerprint(stage.a), "--output", signature)
    layout, archive = tmp_path / "layout", tmp_path / "archive.tar"
    shutil.copytree(stage.world.layout, layout)
    stage.skopeo("--insecure-policy", "copy", "--quiet", "--preserve-digests", f"oci:{layout}:1", f"oci-archive:{archive}:1")
    assert "which is not trusted" in ours("run", f"oci:{layout}", "--signature", signature, code=125)
    ours("trust", "--yes", "--prefix", "example.org/other", stage.a.public)
    assert "which is trusted for" in ours("run", f"oci:{layout}", "--signature", signature, code=125)
    ours("trust", "--yes", "--prefix", "example.org/team", stage.a.public)
    assert "no signature that could be checked" in ours("run", f"oci:{layout}", code=125)
    assert ours("run", f"oci:{layout}", "--signature", signature).endswith(f"{GREETING}\n")
    assert ours("run", "example.org/team/local:7").endswith(f"{GREETING}\n")  # the name that was signed
    assert ours("run", archive, "--signature", signature, root=tmp_path / "none", code=125)
    assert ours("run", f"oci-archive:{archive}", "--signature", signature).endswith(f"{GREETING}\n")
    fresh = tmp_path / "fresh"
    ours("trust", "--yes", "--prefix", "example.org/team", stage.a.public, root=fresh)
    shutil.copy(signature, layout / "signature-1")
    assert ours("run", f"oci:{layout}", root=fresh).endswith(f"{GREETING}\n")
    wrong = tmp_path / "wrong.sig"
    data = bytearray(signature.read_bytes())
    data[len(data) // 2] ^= 1
    wrong.write_bytes(data)
    assert "pyrun:" in ours("run", f"oci:{layout}", "--signature", wrong, ALLOW, code=125)


def test_our_signatures_satisfy_others(ours: Callable[..., str], stage: Stage, tmp_path: Path) -> None:
    name = stage.copy("ours/app:1")
    ours("fetch", ALLOW, name)
    short, by = f"{stage.place}/ours/app", fingerprint(stage.a)
    made = tmp_path / "made"
    assert "is needed" in ours("image", "sign", short, "--output", made, code=2)
    stage.environment["GNUPGHOME"] = str(stage.a.home)
    try:
        ours("image", "sign", short, "--sign-by", by, "--output", made)
    finally:
        del stage.environment["GNUPGHOME"]
    manifest = tmp_path / "manifest.json"
    manifest.write_bytes(stage.world.parts.manifest)
    stage.skopeo("standalone-verify", manifest, f"{short}:1", by, made)
    # where its lookaside is, skopeo's policy and ours take it
    policy = tmp_path / "policy.json"
    key = [{"type": "signedBy", "keyType": "GPGKeys", "keyPath": str(stage.a.public)}]
    policy.write_text(json.dumps({"default": [{"type": "reject"}], "transports": {"docker": {stage.place: key}}}))
    folder = stage.signatures("ours/app")
    refused = stage.skopeo("--policy", policy, "copy", "--quiet", name, f"dir:{tmp_path}/d1", ok=False)
    assert refused.returncode and "signature was required" in refused.stderr
    folder.mkdir(parents=True)
    shutil.copy(made, folder / "signature-1")
    stage.skopeo("--policy", policy, "copy", "--quiet", name, f"dir:{tmp_path}/d2")
    assert ours("run", "--policy", policy, name).endswith(f"{GREETING}\n")


def test_our_cosign_signatures(ours: Callable[..., str], stage: Stage, tmp_path: Path) -> None:
    name = stage.copy("ours/cosigned:1")
    ours("fetch", ALLOW, name)
    made = tmp_path / "made"
    said = ours("image", "sign", f"{stage.place}/ours/cosigned", "--key", stage.cosign.plain, "--output", made)
    tag = f"{stage.digest.replace(':', '-')}.sig"
    assert f"skopeo copy oci:{made}:{tag} docker://{stage.place}/ours/cosigned:{tag}" in said
    stage.skopeo("--insecure-policy", "copy", "--quiet", f"oci:{made}:{tag}", f"docker://{stage.place}/ours/cosigned:{tag}")
    ours("trust", "--yes", "--prefix", f"{stage.place}/ours", stage.cosign.public)
    assert ours("run", name).endswith(f"{GREETING}\n")
    # openssl knows nothing of us
    document = json.loads(stage.repository("ours/cosigned").read(tag))
    layer = document["layers"][0]
    (tmp_path / "sig").write_bytes(base64.b64decode(layer["annotations"]["dev.cosignproject.cosign/signature"]))
    payload = made / "blobs" / "sha256" / layer["digest"][7:]
    check = ["openssl", "dgst", "-sha256", "-verify", stage.cosign.public, "-signature", tmp_path / "sig", payload]
    subprocess.run(check, check=True, capture_output=True)


def test_policy_of_the_store(ours: Callable[..., str], pyrun: Pyrun, stage: Stage, tmp_path: Path) -> None:
    signed, plain = stage.copy("policed/app:1", by=stage.a), stage.copy("policed/plain:1")
    key = tmp_path / "key.asc"
    shutil.copy(stage.a.public, key)
    rules = {"type": "signedBy", "keyType": "GPGKeys", "keyPath": str(key)}
    policy = tmp_path / "policy.json"
    policy.write_text(json.dumps({"default": [{"type": "reject"}], "transports": {"docker": {f"{stage.place}/policed": [rules]}}}))
    said = ours("trust", "--yes", "--policy", policy)
    assert f"docker:{stage.place}/policed  signed (OpenPGP) by {key}" in said and "everything else  rejected" in said
    policy.unlink()  # it was copied
    for _ in range(3):
        assert ours("run", signed).endswith(f"{GREETING}\n")
    assert "no signature that could be checked" in ours("run", plain, code=125)
    assert "rejects it" in ours("run", f"oci:{stage.world.layout}", code=125)
    assert "decides" in ours("trust", "--list")
    shutil.copy(stage.b.public, key)  # another key takes its place
    assert "which is not trusted" in ours("run", signed, code=125)
    assert "which is not trusted" in ours("run", f"{stage.place}/policed/app", code=125)
    shutil.copy(stage.a.public, key)
    assert ours("run", signed).endswith(f"{GREETING}\n")
    ours("trust", "--remove", "policy")
    assert "no longer trusted" in ours("run", f"{stage.place}/policed/app", code=125)
    assert ours("run", pyrun.probe_image, "--exec", "/probe", "--", "exit", "0") == ""  # of ACIs the keys decide, then as before


def test_the_systems_policy_opens_nothing_by_itself(ours: Callable[..., str], stage: Stage, tmp_path: Path) -> None:
    name = stage.copy("system/app:1")
    policy = tmp_path / "policy.json"
    policy.write_text(json.dumps({"default": [{"type": "insecureAcceptAnything"}]}))  # what Debian ships
    (stage.home / ".config" / "containers" / "policy.json").write_bytes(policy.read_bytes())
    assert "no key is trusted" in ours("run", name, code=125)
    assert ours("run", "--policy", policy, name).endswith(f"{GREETING}\n")
    assert "hint:" in ours("run", name, code=125)  # for that one command


def test_sec_43_verification_needs_no_network(pyrun: Pyrun, stage: Stage, tmp_path: Path) -> None:
    manifest, signature, trace = tmp_path / "manifest.json", tmp_path / "app.sig", tmp_path / "trace"
    manifest.write_bytes(stage.world.parts.manifest)
    stage.skopeo("standalone-sign", manifest, "example.org/quiet:1", fingerprint(stage.a), "--output", signature)
    pyrun("trust", "--yes", "--prefix", "example.org", stage.a.public, code=0)
    pyrun("trust", "--yes", "--prefix", "example.org", stage.cosign.public, code=0)
    words = ["--root", pyrun.root, "fetch", f"oci:{stage.world.layout}", "--signature", signature]
    command = ["unshare", "--net", "strace", "-f", "-qq", "-e", "trace=socket,connect", "-o", trace, COMMAND, *words]
    done = subprocess.run(command, env=pyrun.environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "AF_INET" not in trace.read_text()
    verified = subprocess.run(
        ["unshare", "--net", COMMAND, "--root", pyrun.root, "image", "verify", "--all"], capture_output=True, text=True
    )
    assert verified.returncode == 0 and " ok" in verified.stdout


def test_one_image_under_two_names(ours: Callable[..., str], stage: Stage) -> None:
    """Each name is judged by its own signature, also offline, also by the launcher alone; one says nothing of the other."""
    one, two = stage.copy("first/app:1", by=stage.a), stage.copy("second/app:1", by=stage.b)
    for folder, signer in (("first", stage.a), ("second", stage.b)):
        ours("trust", "--yes", "--prefix", f"{stage.place}/{folder}", signer.public)
    for name in (one, two):
        for _ in range(3):
            assert ours("run", name).endswith(f"{GREETING}\n")
    assert ours("run", two.removeprefix("docker://")).endswith(f"{GREETING}\n")
    assert " ok" in ours("image", "verify", "--all")
    for policy in ("never", "new"):
        ours("trust", "rm", fingerprint(stage.b))
        ours("run", "--pull-policy", policy, two, code=125)
        ours("run", two, code=125)
        assert ours("run", one).endswith(f"{GREETING}\n")
        ours("trust", "--yes", "--prefix", f"{stage.place}/second", stage.b.public)
        assert ours("run", "--pull-policy=never", two).endswith(f"{GREETING}\n")
    ours("trust", "rm", fingerprint(stage.a))
    assert ours("run", "--pull-policy=never", two).endswith(f"{GREETING}\n")
    ours("run", one, code=125)


def test_a_policy_decides_for_each_name(ours: Callable[..., str], stage: Stage, tmp_path: Path) -> None:
    one, two = stage.copy("open/app:1"), stage.copy("closed/app:1")
    accept, reject = [{"type": "insecureAcceptAnything"}], [{"type": "reject"}]
    policy = tmp_path / "policy.json"

    def adopt(scopes: dict[str, object]) -> None:
        policy.write_text(json.dumps({"default": reject, "transports": {"docker": {f"{stage.place}/{k}": v for k, v in scopes.items()}}}))
        ours("trust", "--yes", "--policy", policy)

    adopt({"open": accept, "closed": accept})
    for name in (one, two, one, two):
        assert ours("run", name).endswith(f"{GREETING}\n")
    adopt({"open": accept})
    assert ours("run", one).endswith(f"{GREETING}\n")
    assert "rejects it" in ours("run", two, code=125)
    assert "rejects it" in ours("fetch", two, code=125)
    adopt({"closed": accept})
    assert ours("run", two).endswith(f"{GREETING}\n")
    assert "rejects it" in ours("run", one, code=125)
