"""The same verdict as skopeo's, policy by policy and image by image (SEC-39).

Debian's skopeo has sigstore taken out ("Debian-local change"), so that these are policies of simple signing.
"""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import Signer
from registries import ImageParts
from scale import scaled
from signers import Stage
from world import worlds

from pyrun.errors import SignatureError, TrustError
from pyrun.images import layered, resolve
from pyrun.images.registry.pull import pull
from pyrun.images.store import Store
from pyrun.images.trust.gate import Gate

ACCEPT, REJECT = [{"type": "insecureAcceptAnything"}], [{"type": "reject"}]


class Bed:
    """Images by reference, and policies by what they say."""

    def __init__(self, stage: Stage, folder: Path) -> None:
        self.stage, self.folder = stage, folder
        self.images = self._images()
        self.policies = self._policies()

    def _images(self) -> list[str]:
        stage, place = self.stage, self.stage.place
        found = [stage.copy("v/none:1"), stage.copy("v/a:1", by=stage.a), stage.copy("v/b:1", by=stage.b)]
        found.append(stage.copy("v/other:1", "--sign-identity", f"{place}/v/signed:1", by=stage.a))
        stage.copy("v/both:1", by=stage.a)
        found.append(stage.copy("v/both:1", by=stage.b))
        found.append(stage.copy("v/a:2"))  # whose manifest is signed, but as v/a:1
        found.append(f"docker://{place}/v/a@{stage.digest}")
        found.append(f"docker://{place}/v/both@{stage.digest}")
        archive = self.folder / "archive.tar"
        stage.skopeo("--insecure-policy", "copy", "--quiet", f"oci:{stage.world.layout}:1", f"docker-archive:{archive}:{place}/v/signed:1")
        return [*found, f"oci:{stage.world.layout}:1", f"docker-archive:{archive}"]

    def _policies(self) -> list[Any]:
        stage, place = self.stage, self.stage.place
        a = {"type": "signedBy", "keyType": "GPGKeys", "keyPath": str(stage.a.public)}
        b = {**a, "keyPath": str(stage.b.public)}
        both = {"type": "signedBy", "keyType": "GPGKeys"}
        data = base64.b64encode(subprocess.run(["cat", stage.a.public, stage.b.public], capture_output=True).stdout).decode()

        def match(rule: str, **more: str) -> list[dict[str, Any]]:
            return [{**a, "signedIdentity": {"type": rule, **more}}]

        def docker(**scopes: Any) -> dict[str, Any]:
            return {"default": REJECT, "transports": {"docker": scopes}}

        rules: list[Any] = [
            ACCEPT,
            REJECT,
            [a],
            [b],
            [a, b],
            [a, *ACCEPT],
            [a, *REJECT],
            [{**both, "keyPaths": [str(stage.a.public), str(stage.b.public)]}],
            [{**both, "keyData": data}],
            match("matchExact"),
            match("matchRepoDigestOrExact"),
            match("matchRepository"),
            match("exactReference", dockerReference=f"{place}/v/signed:1"),
            match("exactRepository", dockerRepository=f"{place}/v/signed"),
            match("remapIdentity", prefix=f"{place}/v/other", signedPrefix=f"{place}/v/signed"),
        ]
        return [
            *({"default": rule} for rule in rules),
            docker(**{f"{place}/v/a": ACCEPT, f"{place}/v/a:1": REJECT}),
            docker(**{f"{place}/v": [a], f"{place}/v/b": [b], f"{place}/v/none": ACCEPT}),
            docker(**{place: ACCEPT}),
            docker(**{"*.0.0.1": ACCEPT, f"{place}/v/both": REJECT}),
            docker(**{"": [a]}),
            {"default": ACCEPT, "transports": {"oci": {str(stage.world.layout.parent): REJECT}, "docker-archive": {"": REJECT}}},
            {"default": REJECT, "transports": {"oci": {str(stage.world.layout): ACCEPT}, "docker-archive": {"": ACCEPT}}},
            {"default": ACCEPT, "comment": "not known"},
            {"default": [{"type": "sigstoreSigned", "keyPath": str(stage.cosign.public)}]},
        ]

    def pairs(self) -> list[tuple[int, str]]:
        """All of them, in an order in which any number of the first ones are a fair choice."""
        all_of_them = [(number, image) for number in range(len(self.policies)) for image in self.images]
        return sorted(all_of_them, key=lambda pair: (all_of_them.index(pair) * 7919) % len(all_of_them))


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory, new_signer: Callable[[str], Signer]) -> Iterator[Bed]:
    with worlds(tmp_path_factory.mktemp("verdicts")) as world:
        parts = ImageParts({"hello": b"world"})  # small, since each policy is asked about it
        world.parts, world.layout = parts, parts.write_layout(world.folder / "small", "1")
        stage = Stage(world, world.registries["none"], new_signer("a <a@example.com>"), new_signer("b <b@example.com>"))
        yield Bed(stage, tmp_path_factory.mktemp("bed"))


def theirs(bed: Bed, policy: Path, image: str, target: Path) -> bool:
    done = bed.stage.skopeo("--policy", policy, "copy", "--quiet", image, f"dir:{target}", ok=False)
    words = ("rejected", "policy", "sigstore disabled")
    assert done.returncode == 0 or any(word in done.stderr for word in words), done.stderr
    return done.returncode == 0


def ours(bed: Bed, policy: Path, image: str, store: Store) -> bool:
    try:
        gate = Gate(store, policy=str(policy))
        if image.startswith("docker://"):
            pull(store, image, gate, environ={}, certs_dirs=bed.stage.world.authority.certs_dirs(bed.stage.place))
        else:
            layered.import_layered(store, resolve.parse(image), gate)
    except (SignatureError, TrustError):
        return False
    return True


@pytest.mark.stress
def test_sec_39_verdicts_are_skopeos(bed: Bed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(bed.stage.home))  # where registries.d is
    pairs = bed.pairs()
    chosen = pairs[: scaled(100)]
    store = Store(str(tmp_path / "root"))
    accepted, different = 0, []
    for number, (index, image) in enumerate(chosen):
        policy = tmp_path / f"policy-{index}.json"
        policy.write_text(json.dumps(bed.policies[index]))
        verdicts = theirs(bed, policy, image, tmp_path / f"copy-{number}"), ours(bed, policy, image, store)
        accepted += verdicts[0]
        if verdicts[0] is not verdicts[1]:
            different.append((bed.policies[index], image, verdicts))
    assert not different, json.dumps(different, indent=1, default=str)
    assert len(chosen) // 5 < accepted < len(chosen) * 4 // 5  # neither side says the same to all
