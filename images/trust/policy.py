"""When a cryptographically sound signature still does not count; pure."""

from __future__ import annotations

import time

from pyrun.images.trust.keyfiles import HOW_TO_SIGN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrun.images.trust.gpg import Report

_CLOCK_SKEW = 600  # seconds that a signer's clock may be ahead of ours
_STRONG_DIGESTS = frozenset((8, 9, 10, 11, 12, 14))  # SHA-2 and SHA-3, RFC 9580 section 9.5
_DETACHED_BINARY = "00"  # 01, "text", ignores line endings: bytes could change and the signature still be good


def complaint(report: Report) -> tuple[str, str]:
    """Reason and hint for a signature that is not good in itself; two empty strings for one that is."""
    by = report.fingerprint or report.keyid
    again = "ask for a new signature, or sign the file yourself: gpg --armor --detach-sign IMAGE"
    if report.kind == "bad":
        return (
            f"not what key {by} signed: the file was changed, or the signature is another file's",
            "get the image and its signature again",
        )
    if report.kind == "unknown-key":
        return f"made by key {by}, which is not trusted", "if you trust its owner: pyrun trust --prefix NAME KEYFILE"
    if report.kind == "weak":
        return f"key {by} signed with a digest that can be forged (SHA-1 or older)", f"{again}, with --digest-algo SHA512"
    if report.kind == "expired":
        return f"the signature by key {by} has expired", again
    if report.kind == "key-expired":
        return f"key {by} has expired", "if its owner extended it, trust the new copy of the key: pyrun trust --prefix NAME KEYFILE"
    if report.kind == "key-revoked":
        return f"key {by} has been revoked by its owner", f"{again}, with another key, and stop trusting it: pyrun trust rm {by}"
    if report.kind != "good" or not report.fingerprint:
        return f"gpgv cannot check the signature by key {by or 'of no known id'}", again
    if report.digest not in _STRONG_DIGESTS:
        return f"key {by} signed with a digest that can be forged (number {report.digest})", f"{again}, with --digest-algo SHA512"
    if report.sigclass != _DETACHED_BINARY:
        return (
            f"the signature by key {by} is not one over exact bytes (class {report.sigclass})",
            f"sign it without --textmode; {HOW_TO_SIGN}",
        )
    if report.created > time.time() + _CLOCK_SKEW:
        return f"the signature by key {by} was made in the future", "check this host's clock"
    return "", ""
