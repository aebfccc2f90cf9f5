"""A store that trusts some keys, and images to be judged there, without any registry: what hangs on them is made up."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from signing import COSIGN, CosignKey, payload

from pyrun.errors import SignatureError
from pyrun.images.store import Store
from pyrun.images.trust import Keyring
from pyrun.images.trust.evidence import Attached, Collection
from pyrun.images.trust.gate import Gate, Verdict
from pyrun.images.trust.identity import parse
from pyrun.images.trust.policyfile import Subject

MANIFEST = b'{"schemaVersion": 2, "a": "manifest"}'
INDEX = b'{"schemaVersion": 2, "an": "index"}'
OTHER = b'{"schemaVersion": 2, "another": "manifest"}'
NAME = "reg.example.com/team/app"


def digest(data: bytes, algorithm: str = "sha256") -> str:
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


class Bench:
    """A store in which gpg's `good` and some keys of cosign's kind are trusted for reg.example.com/team."""

    def __init__(self, store: Store, gpg: Any, keys: dict[str, CosignKey], folder: Path) -> None:
        self.store, self.gpg, self.keys, self.folder = store, gpg, keys, folder
        self.keyring = Keyring(store.root, str(folder / "vendor"))

    def trust_all(self) -> None:
        for user in ("good", "expired", "revoked", "weak"):
            self.by_hand(user)
        for kind in ("p256", "p384", "p521", "rsa", "ed25519"):
            self.keyring.add(str(self.keys[kind].public), "reg.example.com/team")

    def by_hand(self, user: str, prefix: str = "reg.example.com/team") -> None:
        """As if the key had been good when it was trusted."""
        scope = Path(self.store.root, "trust", "prefix.d", prefix.replace("/", "%2F"))
        scope.mkdir(parents=True, exist_ok=True)
        (scope / self.gpg.fingerprint(user)).write_bytes(self.gpg.public(user))

    def judge(self, *found: Attached, asked: str = f"{NAME}:1", documents: tuple[bytes, ...] = (MANIFEST, INDEX)) -> Verdict:
        name = parse(asked)
        assert name is not None
        subject = Subject("docker", name.name, name, asked)
        subject.documents = list(documents)

        def gather(into: Collection) -> None:
            for one in found:
                into.add(one)

        gate = Gate(self.store, system=self.keyring.system)
        gate.begin(subject)
        return gate.judge(subject, gather)

    def refused(self, one: Attached, *words: str, **more: Any) -> None:
        before = sorted(os.walk(self.store.root))
        with pytest.raises(SignatureError) as caught:
            self.judge(one, **more)
        assert caught.value.exit_code == 125 and caught.value.hint and "\n" not in str(caught.value)
        assert all(word in str(caught.value) for word in words), str(caught.value)
        assert sorted(os.walk(self.store.root)) == before

    def signed(self, document: Any = None, user: str = "good", *options: str, raw: bytes | None = None, armour: bool = False) -> Attached:
        """A signed message of OpenPGP."""
        data = raw if raw is not None else json.dumps(document or payload(digest(MANIFEST), f"{NAME}:1")).encode()
        return Attached("openpgp", self.gpg(*options, "--local-user", f"={user}", *(["--armor"] if armour else []), "--sign", data=data))

    def cosigned(self, kind: str = "p256", document: Any = None, hash_: Any = None) -> Attached:
        data = json.dumps(document or payload(digest(MANIFEST), NAME, COSIGN)).encode()
        return Attached("cosign", data, self.keys[kind].sign(data, hash_))

    def bundled(self, document: dict[str, Any]) -> Attached:
        return Attached("bundle", json.dumps(document).encode())
