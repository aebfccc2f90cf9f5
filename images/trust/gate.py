"""Who vouches for an OCI or Docker image: the one place where that is decided.

    a policy (--policy, or <root>/trust/policy.json)?   it alone decides, as skopeo and podman would
    else the trust store:   a signature by a key that is trusted for the name     -> signed
                            or the origin is accepted unsigned (pyrun trust --unsigned)
                            or this once (--insecure-options=image)

A signature counts when its key is trusted, it is about this very manifest (or the index that led to it), and it was
made for the name that was asked for.  An image out of a file has no such name: there the signed name is the image's,
and the key must be trusted for that.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import NoReturn

from pyrun.errors import SignatureError, TrustError
from pyrun.images import trust
from pyrun.images.registry.reference import RegistryReference
from pyrun.images.store import Image, Store, file_key
from pyrun.images.trust import claims, evidence, identity, openpgp, pem, policyfile
from pyrun.images.trust.bundle import Bundle
from pyrun.images.trust.evidence import BUNDLE, COSIGN, OPENPGP, Attached, Collection
from pyrun.images.trust.identity import Identity
from pyrun.images.trust.keyfiles import read_bounded
from pyrun.images.trust.keyring import Keyring
from pyrun.images.trust.policyfile import Requirement, Subject

__all__ = ["Gate", "Verdict", "rejudge", "seen_as"]

INDEX = "index"  # kind of what is kept beside the signatures: the index that led to the image
Gather = Callable[[Collection], None]


class Verdict:
    """Who signed (`signature`, as the record has it; None for nobody), under which name, on what files it rests, by what it was found."""

    __slots__ = ("evidence", "files", "identity", "signature")

    def __init__(self) -> None:
        self.signature: dict[str, str] | None = None
        self.identity: Identity | None = None
        self.files: dict[str, str] = {}
        self.evidence: list[Attached] = []


class Gate:
    """Judges images of one command; `unsigned` accepts what nobody vouches for, `policy` is a file to use in place of the store's own.

    `signature` is a file that somebody named, which must then be good.
    """

    __slots__ = ("_keyring", "_policy", "_unsigned", "signature", "store")

    def __init__(self, store: Store, *, unsigned: bool = False, policy: str = "", signature: str | None = None, system: str = "") -> None:
        """Raises TrustError for a policy, SignatureError for a signature that cannot be read."""
        self.store = store
        self.signature = _named_file(signature) if signature is not None else None
        self._keyring = Keyring(store.root, system)
        self._unsigned = unsigned and signature is None
        path = policy or (trust.policy_path(store.root) if trust.has_policy(store.root) else "")
        self._policy = policyfile.read(os.path.abspath(path)) if path and not self._unsigned else None

    @property
    def strict(self) -> bool:
        """Whether what passes was vouched for."""
        return not self._unsigned

    def lets(self, image: Image, reference: RegistryReference | None = None) -> bool:
        """Whether a stored image may be used as it is, for a `reference` to it if there is one, so that nothing has to be looked at."""
        if self._unsigned:
            return True
        if self.signature is not None or (reference is not None and not reference.meant_by(image.origin)):
            return False
        try:
            self.store.require_trusted(image, self._keyring.system, self._policy.path if self._policy else "")
        except (SignatureError, TrustError):
            return False
        return True

    def begin(self, subject: Subject) -> None:
        """Refuses at once what no signature could save; SignatureError."""
        if self._unsigned or self.signature is not None:
            return
        if self._policy is not None:
            for requirement in self._policy.requirements(subject):
                self._impossible(requirement, subject)
        elif subject.asked is not None and subject.transport == "docker" and not self._accepted(subject) and not self._has_keys(subject):
            _refuse(subject, f"no key is trusted for images of {subject.asked.name}", _trust(subject))

    def wants(self, subject: Subject) -> frozenset[str]:
        """The kinds of signatures that could help, of which `gather` has to bring what there is."""
        if self._unsigned:
            return frozenset()
        if self._policy is not None:
            kinds = {policyfile.SIGNED_BY: OPENPGP, policyfile.SIGSTORE: COSIGN}
            return frozenset(kinds[one.type] for one in self._policy.requirements(subject) if one.type in kinds)
        if subject.asked is None or subject.transport != "docker":
            return frozenset((OPENPGP, COSIGN, BUNDLE))
        found = set()
        for key in self._keyring.list():
            if not key.masked and key.prefix in trust.scopes_of(subject.asked.name):
                found |= {"openpgp": {OPENPGP}, "pem": {COSIGN, BUNDLE}}.get(key.kind, set())
        return frozenset(found)

    def judge(self, subject: Subject, gather: Gather) -> Verdict:
        """The verdict on an image whose manifests are `subject.documents`; SignatureError where it is not accepted."""
        verdict = Verdict()
        if self._unsigned:
            return verdict
        if self._policy is not None:
            del subject.documents[1:]  # as skopeo and podman: what was signed is the manifest, not the index
        collection = Collection()
        if self.signature is not None:
            collection.add(self.signature)
        elif self.wants(subject):
            gather(collection)
        verdict.evidence = [*collection.found, *(Attached(INDEX, one) for one in subject.documents[1:])] if collection.found else []
        if self._policy is not None:
            self._by_policy(subject, collection, verdict)
            return verdict
        try:
            self._by_store(subject, collection, verdict)
        except SignatureError:
            if self.signature is not None or not self._accepted(subject):
                raise
        return verdict

    def _by_policy(self, subject: Subject, collection: Collection, verdict: Verdict) -> None:
        """All requirements have to be fulfilled, each by one signature."""
        assert self._policy is not None
        verdict.files[self._policy.path] = stamp(self._policy.path)
        for requirement in self._policy.requirements(subject):
            self._impossible(requirement, subject)
            if requirement.type == policyfile.ACCEPT:
                continue
            for path in requirement.paths:
                verdict.files[os.path.abspath(path)] = stamp(path)
            self._fulfil(requirement, subject, collection, verdict)

    def _impossible(self, requirement: Requirement, subject: Subject) -> None:
        assert self._policy is not None
        if requirement.type == policyfile.REJECT or requirement.unsupported:
            reason = f"the policy {self._policy.path} rejects it"
            if requirement.unsupported:
                reason = f"the policy {self._policy.path} asks for what cannot be checked: {requirement.unsupported}"
            raise SignatureError(
                "use image", subject.title, reason, hint="change the policy, or accept it this once: --insecure-options=image"
            )

    def _fulfil(self, requirement: Requirement, subject: Subject, collection: Collection, verdict: Verdict) -> None:
        def accepts(reference: str) -> bool:
            return requirement.accepts(subject.asked, reference)

        files = requirement.keys()
        where = ", ".join(requirement.paths) or "keyData"
        if requirement.type == policyfile.SIGNED_BY:
            checker = openpgp.of_keys(self.store.root, files, where)

            def check(one: Attached) -> dict[str, str]:
                fingerprint, payload = checker.opened(one.data, subject.title)
                return _claimed(claims.parse(payload, claims.ATOMIC), subject, fingerprint, OPENPGP, accepts)

            wanted = OPENPGP
        else:
            keys = [pem.load(data, where) for data in files]

            def check(one: Attached) -> dict[str, str]:
                for key in keys:
                    if key.verifies(one.signature, one.data):
                        return _claimed(claims.parse(one.data, claims.COSIGN), subject, key.fingerprint, COSIGN, accepts)
                _bad(subject, "made by none of the keys that the policy names")

            wanted = COSIGN
        verdict.signature = _first(subject, [one for one in collection.found if one.kind == wanted], check, collection)
        verdict.identity = identity.parse(verdict.signature["identity"])

    def _by_store(self, subject: Subject, collection: Collection, verdict: Verdict) -> None:
        checks = {OPENPGP: self._openpgp, COSIGN: self._cosign, BUNDLE: self._bundle}

        def check(one: Attached) -> dict[str, str]:
            return checks[one.kind](one, subject)

        verdict.signature = _first(subject, [one for one in collection.found if one.kind in checks], check, collection)
        verdict.identity = identity.parse(verdict.signature["identity"])

    def _openpgp(self, one: Attached, subject: Subject) -> dict[str, str]:
        fingerprint, payload = self._keyring.checker().opened(one.data, subject.title)
        claim = claims.parse(payload, claims.ATOMIC)
        found = _claimed(claim, subject, fingerprint, OPENPGP, lambda reference: _named(subject, reference, bare=False))
        found["prefix"] = self._keyring.judge([fingerprint], _name(subject, claim.reference)).prefix
        return found

    def _cosign(self, one: Attached, subject: Subject) -> dict[str, str]:
        for key in self._keyring.pem_keys():
            if key.verifies(one.signature, one.data):
                claim = claims.parse(one.data, claims.COSIGN)
                found = _claimed(claim, subject, key.fingerprint, COSIGN, lambda reference: _named(subject, reference, bare=True))
                found["prefix"] = self._keyring.judge([key.fingerprint], _name(subject, claim.reference)).prefix
                return found
        _bad(subject, "made by a key that is not trusted")

    def _bundle(self, one: Attached, subject: Subject) -> dict[str, str]:
        bundle = Bundle(one.data)
        if subject.asked is None or subject.transport != "docker":
            _bad(subject, "a sigstore bundle says nothing of names, so it vouches for images in registries only")
        for key in self._keyring.pem_keys():
            if bundle.signed_by(key, subject.documents):
                prefix = self._keyring.judge([key.fingerprint], subject.asked.name).prefix
                return {"fingerprint": key.fingerprint, "prefix": prefix, "kind": BUNDLE, "identity": subject.asked.name}
        _bad(subject, "made by a key that is not trusted, or over another image")

    def _accepted(self, subject: Subject) -> bool:
        origin = subject.asked.name if subject.transport == "docker" and subject.asked else subject.place
        return trust.accepts_unsigned(self.store.root, origin, self._keyring.system) is not None

    def _has_keys(self, subject: Subject) -> bool:
        return bool(self.wants(subject))


def seen_as(store: Store, image: Image, reference: RegistryReference, policy: str = "") -> Image:
    """A stored image as another name of it is judged today: its origin and what vouches for it are those of that name.

    SignatureError where it is not accepted under that name, whatever holds for the one in its record, which stays.
    """
    subject = registry_subject(reference)
    verdict = rejudge(store, image, policy, subject=subject)
    seen = Image(image.record())
    seen.origin, seen.signature, seen.judged = origin_of(subject), verdict.signature, verdict.files or None
    return seen


def rejudge(store: Store, image: Image, policy: str = "", system: str = "", subject: Subject | None = None) -> Verdict:
    """The verdict on a stored image by what was found when it was fetched; SignatureError when it is not accepted today."""
    if image.origin is None:
        raise SignatureError("use image", image.name, "it was stored without its origin", hint="fetch it again")
    gate = Gate(store, policy=policy, system=system)
    subject = subject or subject_of(image.origin)
    gate.begin(subject)
    try:
        with open(f"{store.blob_path(image.blob)}.asc", "rb") as file:
            kept = evidence.decode(file.read(2 * evidence.MAX_BYTES))
    except FileNotFoundError:
        kept = []
    except (OSError, ValueError):
        raise SignatureError("use image", image.name, "its stored signatures are damaged", hint="fetch it again") from None
    try:
        with open(store.blob_path(image.blob), "rb") as file:
            subject.documents = [file.read(), *(one.data for one in kept if one.kind == INDEX)]
    except OSError as error:
        raise SignatureError("use image", image.name, "its manifest is missing", errno=error.errno or 0, hint="fetch it again") from None

    def gather(collection: Collection) -> None:
        for one in kept:
            if one.kind != INDEX:
                collection.add(one)

    return gate.judge(subject, gather)


def registry_subject(reference: RegistryReference) -> Subject:
    """What is judged when somebody asks a registry; who names a tag and a digest, asks for that tag."""
    asked = Identity(reference.name, reference.tag, "" if reference.tag else reference.digest)
    return Subject("docker", reference.name, asked, str(reference))


def subject_of(origin: dict[str, str]) -> Subject:
    """What was judged when an image with this origin was fetched."""
    asked = identity.parse(origin["name"]) if origin["name"] else None
    title = origin["name"] if origin["transport"] == "docker" else f"{origin['transport']}:{origin['place']}"
    return Subject(origin["transport"], origin["place"], asked, title)


def origin_of(subject: Subject) -> dict[str, str]:
    """The reverse, as a record has it."""
    return {"transport": subject.transport, "place": subject.place, "name": str(subject.asked) if subject.asked else ""}


def _named_file(path: str) -> Attached:
    try:
        return evidence.of_file(read_bounded(path, evidence.MAX_BYTES, "signature"), path)
    except TrustError as error:
        raise SignatureError(error.step, error.subject, error.reason, errno=error.errno, hint=error.hint) from None


def stamp(path: str) -> str:
    """What a file that decided is known by: any change of its content changes this; TrustError when it cannot be looked at."""
    try:
        return file_key(os.stat(path))
    except OSError as error:
        raise TrustError("read", path, errno=error.errno or 0, hint="check the path") from None


def _first(
    subject: Subject, found: Sequence[Attached], check: Callable[[Attached], dict[str, str]], collection: Collection
) -> dict[str, str]:
    """What the first signature that counts says; SignatureError with the reason of the first one else."""
    problem: SignatureError | None = None
    for one in found:
        try:
            return check(one)
        except SignatureError as error:
            problem = problem or error
    if problem is None:
        _refuse(subject, collection.notes[0] if collection.notes else "it has no signature that could be checked", "have it signed")
    more = f" ({len(found)} signatures, none counts)" if len(found) > 1 else ""
    raise SignatureError("verify signature of", subject.title, (problem.reason or str(problem)) + more, hint=problem.hint)


def _claimed(claim: claims.Claim, subject: Subject, fingerprint: str, kind: str, accepts: Callable[[str], bool]) -> dict[str, str]:
    """The signature as a record has it; SignatureError unless it is about this image and a name that is right."""
    if not any(claims.matches(claim.digest, one) for one in subject.documents):
        _bad(subject, f"it is for another image, {claim.digest[:19]}", "get the signature of this image")
    if not accepts(claim.reference):
        from pyrun.images.printable import printable

        wanted = f"not {subject.asked}" if subject.asked else "which is not the name of an image and version"
        _bad(
            subject, f"it was signed as {printable(claim.reference, 120)}, {wanted}", "ask for the image by the name that it was signed as"
        )
    return {"fingerprint": fingerprint, "prefix": "", "kind": kind, "identity": claim.reference}


def _named(subject: Subject, reference: str, *, bare: bool) -> bool:
    """Whether a signed name is the one that was asked for; cosign never signs a tag, so with `bare` none is needed."""
    signed = identity.parse(reference)
    if signed is None or (signed.is_bare and not bare):
        return False
    if subject.transport != "docker":
        return True  # the key has to be trusted for that name
    if signed.is_bare:
        return identity.same_repository(subject.asked, signed)
    return identity.repo_digest_or_exact(subject.asked, signed)


def _name(subject: Subject, reference: str) -> str:
    """The name for which a key has to be trusted."""
    if subject.transport == "docker" and subject.asked is not None:
        return subject.asked.name
    signed = identity.parse(reference)
    return signed.name if signed else ""


def _bad(subject: Subject, reason: str, hint: str = "") -> NoReturn:
    raise SignatureError("verify signature of", subject.title, reason, hint=hint or f"if you trust its owner: {_trust(subject)}")


def _refuse(subject: Subject, reason: str, first: str) -> NoReturn:
    origin = subject.asked.name if subject.transport == "docker" and subject.asked else subject.place
    hint = f"{first}, or accept unsigned images from there: pyrun trust --unsigned {origin}, or this one: --insecure-options=image"
    raise SignatureError("use image", subject.title, reason, hint=hint)


def _trust(subject: Subject) -> str:
    return f"pyrun trust --prefix {subject.asked.name if subject.asked else 'NAME'} KEYFILE"
