"""Trusted keys: reading, adding, removing, and the verdict on a signature.

The verdict is the full fingerprint of a primary key that made a good signature, and the scope in which
that key is trusted for the image's name.  The name stands inside the archive, which must not be parsed
before its signature is known to be good; hence two steps, `signers` (any scope) and then `judge`.
"""

from __future__ import annotations

import contextlib
import os

from pyrun.errors import SignatureError, TrustError
from pyrun.images import trust
from pyrun.images.locks import make_room, private_dirs
from pyrun.images.staging import Staging, fsync_dir, write_file
from pyrun.images.trust import armour, gpg, keyfiles, openpgp, pem
from pyrun.images.trust.gpg import KeyInfo
from pyrun.images.trust.openpgp import PublicKey

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["KeyInfo", "Keyring", "PublicKey", "TrustedKey", "Verdict"]


class TrustedKey:
    """One key file: `prefix` is its scope ("" for all images), `origin` "local" or "system"; a masked one counts for nothing.

    Its `kind` is openpgp, pem, or unsigned: no key at all, but the place from where unsigned images are accepted.
    """

    __slots__ = ("fingerprint", "masked", "origin", "path", "prefix")

    def __init__(self, fingerprint: str, prefix: str, origin: str, path: str, masked: bool) -> None:
        self.fingerprint = fingerprint
        self.prefix = prefix
        self.origin = origin
        self.path = path
        self.masked = masked

    @property
    def kind(self) -> str:
        if self.fingerprint == trust.UNSIGNED:
            return "unsigned"
        return "pem" if self.fingerprint.startswith("sha256-") else "openpgp"


class Verdict:
    """Which trusted key signed, and the scope that makes it count."""

    __slots__ = ("fingerprint", "prefix")

    def __init__(self, fingerprint: str, prefix: str) -> None:
        self.fingerprint = fingerprint
        self.prefix = prefix


class Keyring:
    """The keys below ``<root>/trust`` and the vendor's below `system`."""

    __slots__ = ("root", "system")

    def __init__(self, root: str, system: str = "") -> None:
        self.root = os.path.abspath(root)
        self.system = system or trust.SYSTEM_DIR

    def inspect(self, keyfile: str) -> PublicKey:
        """The one public key in a file; TrustError when it holds a secret key, several keys, none, or one that is no good."""
        return self._inspect(keyfiles.read_key(keyfile), keyfile)

    def add(self, keyfile: str, prefix: str | None, *, expect: str = "") -> Sequence[PublicKey]:
        """Trusts the key in a file for image names below `prefix`, None for all images; TrustError as `inspect`.

        With `expect`, only if the file still holds the key of that fingerprint, which somebody has looked at before.
        """
        data = keyfiles.read_key(keyfile)
        info = self._inspect(data, keyfile)
        if expect and info.fingerprint != expect:
            raise TrustError("trust key", keyfile, f"it now holds another key, {info.fingerprint}", hint="look at it again")
        directory = trust.scope_dir(f"{self.root}/trust", keyfiles.check_prefix(prefix))
        try:
            self._install(directory, info.fingerprint, data)
        except OSError as error:
            raise TrustError("store key", directory, errno=error.errno or 0, hint=make_room(error)) from None
        return [info]

    def list(self) -> Sequence[TrustedKey]:
        """Every key file, local ones first; those that are masked too.  TrustError when a tree cannot be read."""
        local = self._scan(f"{self.root}/trust", "local")
        known = {(key.prefix, key.fingerprint) for key in local}
        vendor = self._scan(self.system, "system")
        for key in vendor:
            key.masked = key.masked or (key.prefix, key.fingerprint) in known
        return [*local, *vendor]

    def describe(self, key: TrustedKey) -> PublicKey:
        """What a trusted key file holds; TrustError when it holds no key of its name."""
        return self._describe(key.path, key.fingerprint)

    def _describe(self, path: str, fingerprint: str) -> PublicKey:
        data = keyfiles.read_key(path, owned=True)
        found: Sequence[PublicKey] = [pem.load(data, path)] if pem.is_pem(data) else gpg.show_keys(self.root, data, path)
        for info in found:
            if info.fingerprint == fingerprint:
                return info
        raise TrustError("use key", path, "it holds no key of that fingerprint", hint="remove the file, then trust the key again")

    def remove(self, fingerprint: str, prefix: str | None = None) -> Sequence[TrustedKey]:
        """Stops trusting a key in one scope ("" for that of all images) or, with None, in every one; the entries that went.

        `fingerprint` may be its last 16 digits or more.  A vendor's key is masked by an empty file, since its tree is not ours.
        """
        wanted = fingerprint if fingerprint == trust.UNSIGNED else keyfiles.normal_fingerprint(fingerprint)
        active = [key for key in self._active() if prefix in (None, key.prefix)]
        found = [key for key in active if key.fingerprint == wanted or key.fingerprint.upper().endswith(wanted)]
        if not found:
            scope = f" for {prefix}" if prefix else ""
            raise TrustError("remove key", fingerprint, f"not trusted{scope}", hint=keyfiles.SEE_KEYS)
        if len({key.fingerprint for key in found}) > 1:
            raise TrustError("remove key", fingerprint, "means several keys", hint=f"give all of it; {keyfiles.SEE_KEYS}")
        for key in found:
            self._withdraw(key)
        return found

    def verify(self, image_name: str, signature: str | bytes, data_fd: int) -> Verdict:
        """The verdict on an armoured detached signature, given as text or path, of the image in a file.

        SignatureError unless a key that is trusted for `image_name` made it.
        """
        return self.judge(self.signers(signature, data_fd, image_name), image_name)

    def signers(self, signature: str | bytes, data_fd: int, what: str) -> Sequence[str]:
        """Fingerprints of the trusted keys, of any scope, that made a good signature over the file behind `data_fd`.

        Never empty: SignatureError says why no signature counts.  `what` names the signed file in errors.
        """
        return self.checker().signers(keyfiles.read_signature(signature, what), data_fd, what)

    def checker(self) -> openpgp.Checker:
        """What checks OpenPGP signatures with all keys that are trusted for anything."""
        paths = {key.fingerprint: key.path for key in self._active() if key.kind == "openpgp"}
        blocks = [keyfiles.dearmour(keyfiles.read_key(path, owned=True), path) for path in sorted(paths.values())]

        def describe(fingerprint: str) -> PublicKey | None:
            return self._describe(paths[fingerprint], fingerprint) if fingerprint in paths else None

        return openpgp.Checker(self.root, b"".join(blocks), describe)

    def pem_keys(self) -> Sequence[pem.PemKey]:
        """The keys in PEM form that are trusted for anything; TrustError for damaged ones."""
        paths = {key.fingerprint: key.path for key in self._active() if key.kind == "pem"}
        found = [pem.load(keyfiles.read_key(path, owned=True), path) for path in paths.values()]
        return [key for key in found if key.fingerprint in paths and not key.weakness()]

    def accept_unsigned(self, origin: str) -> None:
        """Accepts images of an origin without a signature: names in registries, or files below an absolute path; TrustError."""
        directory = trust.scope_dir(f"{self.root}/trust", keyfiles.check_origin(origin))
        try:
            self._install(directory, trust.UNSIGNED, b"images from here need no signature\n")
        except OSError as error:
            raise TrustError("accept", origin, errno=error.errno or 0, hint=make_room(error)) from None

    def judge(self, fingerprints: Sequence[str], image_name: str) -> Verdict:
        """The first of these keys that is trusted for a name; SignatureError says for what names they are trusted instead."""
        for prefix in trust.scopes_of(image_name):
            for fingerprint in fingerprints:
                if trust.find_key(self.root, prefix, fingerprint, self.system) is not None:
                    return Verdict(fingerprint, prefix)
        others = sorted({key.prefix for key in self._active() if key.fingerprint in fingerprints})
        shown = ", ".join(others) or "no image at all"
        raise SignatureError(
            "verify signature of",
            image_name,
            f"signed by key {fingerprints[0]}, which is trusted for {shown} only",
            hint=f"if that key may sign this image too: pyrun trust --prefix {image_name} KEYFILE",
        )

    def _inspect(self, data: bytes, what: str) -> PublicKey:
        if pem.is_pem(data):
            key = pem.load(data, what)
            if key.weakness():
                raise TrustError("trust key", key.fingerprint, f"it is {key.weakness()}", hint="ask its owner for another one", origin=what)
            return key
        if armour.is_armoured(data):
            data = keyfiles.dearmour(data, what)
        keys = gpg.show_keys(self.root, data, what)
        if any(info.secret for info in keys):
            raise TrustError("read key", what, "it holds a secret key", hint=f"of its public half only: {keyfiles.HOW_TO_EXPORT}")
        if len(keys) > 1:
            names = ", ".join(info.fingerprint for info in keys[:4])
            raise TrustError(
                "read key", what, f"it holds {len(keys)} keys ({names})", hint=f"each into a file of its own: {keyfiles.HOW_TO_EXPORT}"
            )
        weakness = keys[0].weakness()
        if weakness:
            raise TrustError("trust key", keys[0].fingerprint, f"it is {weakness}", hint="ask its owner for a current one", origin=what)
        if not keyfiles.is_fingerprint(keys[0].fingerprint):
            raise TrustError("read key", what, "older than version 4 of OpenPGP keys", hint="ask its owner for a current one")
        return keys[0]

    def _install(self, directory: str, name: str, data: bytes) -> None:
        private_dirs(directory)
        with Staging(self.root, "key") as staging:
            write_file(f"{staging.path}/key", data, 0o644)
            os.rename(f"{staging.path}/key", f"{directory}/{name}")
            fsync_dir(directory)

    def _withdraw(self, key: TrustedKey) -> None:
        directory = trust.scope_dir(f"{self.root}/trust", key.prefix)
        try:
            if key.origin == "system" or os.path.exists(f"{trust.scope_dir(self.system, key.prefix)}/{key.fingerprint}"):
                self._install(directory, key.fingerprint, b"")
            else:
                os.unlink(key.path)
                fsync_dir(directory)
                with contextlib.suppress(OSError):  # other keys share the scope
                    os.rmdir(directory)
        except OSError as error:
            raise TrustError("remove key", key.path, errno=error.errno or 0, hint=make_room(error)) from None

    def _active(self) -> Sequence[TrustedKey]:
        return [key for key in self.list() if not key.masked]

    def _scan(self, base: str, origin: str) -> Sequence[TrustedKey]:
        found: list[TrustedKey] = []
        for prefix, directory in [("", f"{base}/root.d"), *_prefixes(f"{base}/prefix.d")]:
            for name in _listdir(directory):
                if not keyfiles.is_entry(name):
                    continue  # fail closed: what is not named by its fingerprint is not trusted
                path = f"{directory}/{name}"
                try:
                    info = os.stat(path, follow_symlinks=False)
                except FileNotFoundError:
                    continue  # removed meanwhile
                trust.check_owner(path, info)
                found.append(TrustedKey(name, prefix, origin, path, not info.st_size))
        return found


def _prefixes(directory: str) -> Sequence[tuple[str, str]]:
    found = []
    for name in _listdir(directory):
        try:
            found.append((trust.unquote(name), f"{directory}/{name}"))
        except ValueError:
            continue
    return found


def _listdir(directory: str) -> Sequence[str]:
    try:
        return sorted(os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise TrustError("read keys", directory, errno=error.errno or 0, hint=make_room(error)) from None
