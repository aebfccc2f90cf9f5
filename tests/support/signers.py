"""A registry with signed images, and the people who signed them with skopeo; for the live tests of trust.

stage.copy("team/app:1", by=stage.a)       pushed and signed with OpenPGP, the signature in stage.lookaside
stage.repository("team/app")               to attach what cosign makes
stage.environment                          in which pyrun knows the authority and where signatures lie
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from attaching import Repository
from harness import Signer
from registries import digest_of
from signing import CosignKey, skopeo
from world import Registry, World


class Stage:
    """One registry without a login."""

    def __init__(self, world: World, registry: Registry, a: Signer, b: Signer) -> None:
        self.world, self.registry, self.a, self.b = world, registry, a, b
        self.place = registry.place
        self.home = world.folder / "home"
        self.lookaside = world.folder / "signatures"
        self.registries_d = self.home / ".config" / "containers" / "registries.d"
        self.registries_d.mkdir(parents=True)
        self.configure(f"file://{self.lookaside}")
        self.cosign, self.other = CosignKey(world.folder, "cosign"), CosignKey(world.folder, "other")
        self.digest = digest_of(world.parts.manifest)
        self.environment = {**world.environment(), "HOME": str(self.home)}

    def configure(self, lookaside: str) -> None:
        """Says where signatures lie."""
        lines = ("docker:", f"  {self.place}:", f"    lookaside: {lookaside}", "    use-sigstore-attachments: true")
        (self.registries_d / "tests.yaml").write_text("\n".join(lines) + "\n")

    def skopeo(self, *arguments: str | Path, by: Signer | None = None, ok: bool = True) -> subprocess.CompletedProcess[str]:
        done = skopeo("--registries.d", self.registries_d, *arguments, gpg=(by or self.a).home, env=self.world.environment())
        assert not ok or done.returncode == 0, done.stderr
        return done

    def copy(self, name: str, *flags: str, by: Signer | None = None) -> str:
        """Pushes the image, signed if somebody is named; its reference."""
        sign = ["--sign-by", fingerprint(by)] if by else []
        target = f"docker://{self.place}/{name}"
        self.skopeo(
            "--insecure-policy", "copy", "--quiet", "--preserve-digests", *sign, *flags, f"oci:{self.world.layout}:1", target, by=by
        )
        return target

    def signatures(self, repository: str) -> Path:
        """Where the lookaside storage has those of the image in a repository."""
        return self.lookaside / f"{repository}@{self.digest.replace(':', '=')}"

    def repository(self, name: str) -> Repository:
        return Repository(self.place, name, self.world.authority.certificate)


def fingerprint(signer: Signer) -> str:
    """The key's, as gpg says it."""
    command = ["gpg", "--homedir", signer.home, "--with-colons", "--list-keys"]
    listing = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return next(line.split(":")[9] for line in listing.splitlines() if line.startswith("fpr:"))
