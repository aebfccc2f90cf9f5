"""Which of some OpenPGP keys signed something: gpgv's report on each signature, judged by one set of rules.

The rules are those of `policy`; a key counts for what it is today (revoked, expired, too weak), not for what it was
when it signed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from pyrun.errors import SignatureError
from pyrun.images.trust import gpg, keyfiles, message
from pyrun.images.trust.armour import ArmourError
from pyrun.images.trust.policy import complaint

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Checker", "PublicKey", "of_keys"]


class PublicKey(Protocol):
    """What a person wants to know of a key, whichever kind it is."""

    user_ids: list[str]
    secret: bool

    @property
    def fingerprint(self) -> str: ...

    @property
    def algorithm(self) -> str: ...

    @property
    def created(self) -> int: ...

    @property
    def expires(self) -> int: ...

    def weakness(self, fingerprint: str = "") -> str: ...


class Checker:
    """Checks signatures with the keys in `keyring`, unarmoured; `describe` tells of a fingerprint what key it is, or None."""

    __slots__ = ("_describe", "_keyring", "_root")

    def __init__(self, root: str, keyring: bytes, describe: Callable[[str], PublicKey | None]) -> None:
        self._root = root
        self._keyring = keyring
        self._describe = describe

    def signers(self, packets: bytes, data_fd: int, what: str) -> Sequence[str]:
        """Fingerprints of the keys that made a good signature over the file behind `data_fd`, one at least; SignatureError else."""
        good: list[str] = []
        problems: list[SignatureError] = []
        for report in gpg.check(self._root, self._keyring, packets, data_fd):
            problem = self._problem(report, what)
            if problem is None:
                good.append(report.fingerprint)
            elif report.kind == "bad":
                raise problem  # one that contradicts the data spoils the file, whatever stands beside it
            else:
                problems.append(problem)
        if good:
            return list(dict.fromkeys(good))
        raise problems[0] if problems else SignatureError("verify signature of", what, "gpgv found no signature", hint=keyfiles.HOW_TO_SIGN)

    def opened(self, signed: bytes, what: str) -> tuple[str, bytes]:
        """The fingerprint of the key that made a signed message, and what it signed; SignatureError when none of these did."""
        try:
            data, packet = message.take_apart(signed)
        except ArmourError as error:
            hint = "get the signature again; skopeo and podman write signed messages"
            raise SignatureError("read signature of", what, f"not a signed message of OpenPGP: {error}", hint=hint) from None
        fd = os.memfd_create("signed", os.MFD_CLOEXEC)
        try:
            os.write(fd, data)
            return self.signers(packet, fd, what)[0], data
        finally:
            os.close(fd)

    def _problem(self, report: gpg.Report, what: str) -> SignatureError | None:
        """Why a signature does not count; None when it does."""
        text, hint = complaint(report)
        key = None if text else self._describe(report.fingerprint)
        if not text and key is None:
            text = f"made by key {report.fingerprint}, which is not trusted"
            hint = "if you trust its owner: pyrun trust --prefix NAME KEYFILE"
        if key is not None:
            weakness = key.weakness(report.signer)
            if not weakness:
                return None
            text, hint = f"its key {report.fingerprint} is {weakness}", "ask for a signature by a current key"
        return SignatureError("verify signature of", what, text, hint=hint)


def of_keys(root: str, files: Sequence[bytes], what: str) -> Checker:
    """A checker with the keys of some key files, each of which may hold several; TrustError for a file without one."""
    infos: dict[str, PublicKey] = {}
    blocks = b""
    for data in files:
        for info in gpg.show_keys(root, data, what):
            infos[info.fingerprint] = info
        blocks += keyfiles.dearmour(data, what)
    return Checker(root, blocks, infos.get)
