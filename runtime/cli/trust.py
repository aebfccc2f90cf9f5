"""`pyrun trust`: show a public key and trust it, list the trusted ones, stop trusting one.

trust [--prefix NAME] KEYFILE|URL...     keys in files, or at https URLs
trust --prefix NAME                      the keys that the server of NAME offers (App Container discovery)
trust list, trust rm FINGERPRINT         also --list and --remove; a file of that name is ./list
"""

from __future__ import annotations

import sys
import time

from pyrun.cli.output import emit, emit_json, escape, say, table
from pyrun.errors import TrustError, UsageError
from pyrun.images.trust import UNSIGNED, has_policy, policy_path
from pyrun.images.trust.keyfiles import check_origin, check_prefix
from pyrun.images.trust.keyring import Keyring

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrun.cli.parse import Args
    from pyrun.images.trust.openpgp import PublicKey

__all__ = ["add", "run"]


def run(args: Args) -> int:
    """Adds the keys in files or on servers after a look at them, or lists or removes keys."""
    keyring = Keyring(args.root)
    if args.verb == "trust list":
        return _list(keyring, args.format)
    if args.verb == "trust rm":
        return _drop_policy(args.root) if args.fingerprint == "policy" else _remove(keyring, args.fingerprint, args.prefix)
    if args.list or args.remove or args.unsigned or args.policy:
        if args.keyfiles:
            option = "--list" if args.list else "--remove" if args.remove else "--unsigned" if args.unsigned else "--policy"
            raise UsageError("trust", args.keyfiles[0], f"a key file makes no sense with {option}", hint=f"leave out either it or {option}")
        if args.unsigned:
            return _accept(keyring, args.unsigned, args.yes)
        if args.policy:
            return _adopt(args.root, args.policy, args.yes)
        if args.remove == "policy":
            return _drop_policy(args.root)
        return _list(keyring, args.format) if args.list else _remove(keyring, args.remove or "", args.prefix)
    if not args.keyfiles:
        if not args.prefix:
            hint = "pyrun trust [--prefix NAME] KEYFILE, or pyrun trust list; with --prefix alone its server is asked for keys"
            raise UsageError("trust", "", "no key file", hint=hint)
        from pyrun.cli.trust_web import add_discovered

        return add_discovered(args, keyring)
    for keyfile in args.keyfiles:
        if keyfile.startswith(("https://", "http://")):
            from pyrun.cli.trust_web import add_url

            add_url(args, keyring, keyfile)
        else:
            add(keyring, keyfile, args.prefix, args.yes)
    return 0


def add(keyring: Keyring, keyfile: str, prefix: str | None, sure: bool, shown: str = "") -> None:
    """Shows the key in a file, `shown` in its place, and trusts it once it is confirmed; TrustError else."""
    scope = _scope(check_prefix(prefix))
    info = keyring.inspect(keyfile)
    _show(info, shown or keyfile, scope)
    if not sure:
        _confirm(
            shown or keyfile, "trust key", f"Trust this key for {scope}?", "compare the fingerprint with one from its owner, then add --yes"
        )
    keyring.add(keyfile, prefix, expect=info.fingerprint)
    say(info.fingerprint)


def _accept(keyring: Keyring, text: str, sure: bool) -> int:
    origin = check_origin(text)
    where = f"the file {origin}, or files below it" if origin.startswith("/") else f"{origin} and {origin}/..."
    say(f"unsigned images of {where} will be accepted, whoever made them", error=True)
    if not sure:
        _confirm(origin, "accept", f"Accept unsigned images of {where}?", "be sure who can write there, then add --yes")
    keyring.accept_unsigned(text)
    say(origin)
    return 0


def _adopt(root: str, path: str, sure: bool) -> int:
    from pyrun.images.trust.adopted import adopt, summary

    data, lines = summary(path)
    say(f"the policy in {path} will decide about all OCI and Docker images, in place of the trusted keys:", error=True)
    for line in lines:
        say(f"  {line}", error=True)
    if not sure:
        _confirm(path, "adopt policy", "Let this policy decide?", "read the policy, then add --yes")
    say(adopt(root, data))
    return 0


def _drop_policy(root: str) -> int:
    from pyrun.images.trust.adopted import drop

    say(f"removed {drop(root)}")
    return 0


def _scope(prefix: str) -> str:
    return f"the images {prefix} and {prefix}/..." if prefix else "ALL IMAGES, whatever their name (--prefix NAME would limit that)"


def _show(info: PublicKey, keyfile: str, scope: str) -> None:
    """The key as a person compares it, on standard error."""
    digits = info.fingerprint
    groups = digits if "-" in digits else " ".join(digits[start : start + 4] for start in range(0, len(digits), 4))
    say(f"key in {keyfile}:", error=True)
    say(f"  fingerprint  {groups}", error=True)
    for user_id in info.user_ids or ["(none)"]:
        say(f"  user id      {user_id}", error=True)
    created = f"{_date(info.created)}, " if info.created else "(unknown), "
    say(f"  created      {created}{info.algorithm}, {_expiry(info)}", error=True)
    say(f"  trusted for  {scope}", error=True)


def _confirm(subject: str, step: str, question: str, otherwise: str) -> None:
    """Raises TrustError unless a person at a terminal says yes; `otherwise` is what to do without one."""
    if sys.stdin is None or not sys.stdin.isatty():
        raise TrustError(step, subject, "there is no terminal to ask for confirmation", hint=otherwise)
    emit(f"{escape(question)} [y/N] ", error=True)
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise TrustError(step, subject, "not confirmed", hint="answer y, or pass --yes")


def _list(keyring: Keyring, form: str) -> int:
    if has_policy(keyring.root):
        say(f"pyrun: note: about OCI and Docker images the policy {policy_path(keyring.root)} decides, not these keys", error=True)
    keys = []
    for key in keyring.list():
        info, problem = None, "masked" if key.masked else ""
        if not key.masked and key.kind != "unsigned":
            try:
                info = keyring.describe(key)
                problem = info.weakness()
            except TrustError as error:
                problem = error.reason or str(error)
        keys.append((key, info, problem))
    if form == "json":
        emit_json(
            [
                {
                    "fingerprint": key.fingerprint,
                    "kind": key.kind,
                    "prefix": key.prefix,
                    "origin": key.origin,
                    "path": key.path,
                    "problem": problem or None,
                    "algorithm": info.algorithm if info else None,
                    "created": info.created if info else None,
                    "expires": (info.expires or None) if info else None,
                    "userIDs": info.user_ids if info else [],
                }
                for key, info, problem in keys
            ]
        )
        return 0
    rows = [
        (
            key.fingerprint,
            key.prefix or "(all images)",
            _date(info.created) if info and info.created else "-",
            problem or (_expiry(info) if info else "-"),
            key.origin,
            info.user_ids[0] if info and info.user_ids else "-" if info or key.masked else "(images need no signature)",
        )
        for key, info, problem in keys
    ]
    table(("fingerprint", "trusted for", "created", "state", "from", "user id"), rows)
    return 0


def _remove(keyring: Keyring, fingerprint: str, prefix: str | None) -> int:
    check = check_origin if fingerprint == UNSIGNED else check_prefix
    for key in keyring.remove(fingerprint, None if prefix is None else check(prefix)):
        verb = "masked" if key.origin == "system" else "removed"
        say(f"{verb} {key.fingerprint} for {key.prefix or 'all images'}")
    return 0


def _date(seconds: int) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(seconds))


def _expiry(info: PublicKey) -> str:
    return f"expires {_date(info.expires)}" if info.expires else "never expires"
