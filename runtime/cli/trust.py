"""`pyrun trust`: show a public key and trust it, list the trusted ones, stop trusting one.

trust [--prefix NAME] KEYFILE|URL...     keys in files, or at https URLs
trust --prefix NAME                      the keys that the server of NAME offers (App Container discovery)
trust list, trust rm FINGERPRINT         as --list and --remove; a file of that name is ./list
"""

from __future__ import annotations

import sys
import time

from pyrun.cli.output import emit, emit_json, escape, say, table
from pyrun.errors import TrustError, UsageError
from pyrun.images.trust.keyfiles import check_prefix
from pyrun.images.trust.keyring import Keyring

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrun.cli.parse import Args
    from pyrun.images.trust.gpg import KeyInfo

__all__ = ["add", "run"]


def run(args: Args) -> int:
    """Adds the keys in files or on servers after a look at them, or lists or removes keys."""
    keyring = Keyring(args.root)
    if args.keyfiles == ["list"]:
        args.list, args.keyfiles = True, []
    elif args.keyfiles[:1] == ["rm"] and len(args.keyfiles) == 2:
        args.remove, args.keyfiles = args.keyfiles[1], []
    if args.list or args.remove:
        if args.keyfiles:
            option = "--list" if args.list else "--remove"
            raise UsageError("trust", args.keyfiles[0], f"a key file makes no sense with {option}", hint=f"leave out either it or {option}")
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
        _confirm(shown or keyfile, scope)
    keyring.add(keyfile, prefix, expect=info.fingerprint)
    say(info.fingerprint)


def _scope(prefix: str) -> str:
    return f"the images {prefix} and {prefix}/..." if prefix else "ALL IMAGES, whatever their name (--prefix NAME would limit that)"


def _show(info: KeyInfo, keyfile: str, scope: str) -> None:
    """The key as a person compares it, on standard error."""
    digits = info.fingerprint
    groups = " ".join(digits[start : start + 4] for start in range(0, len(digits), 4))
    say(f"key in {keyfile}:", error=True)
    say(f"  fingerprint  {groups}", error=True)
    for user_id in info.user_ids or ["(none)"]:
        say(f"  user id      {user_id}", error=True)
    say(f"  created      {_date(info.created)}, {info.algorithm}, {_expiry(info)}", error=True)
    say(f"  trusted for  {scope}", error=True)


def _confirm(keyfile: str, scope: str) -> None:
    """Raises TrustError unless a person at a terminal says yes."""
    if sys.stdin is None or not sys.stdin.isatty():
        hint = "compare the fingerprint with one from its owner, then add --yes"
        raise TrustError("trust key", keyfile, "there is no terminal to ask for confirmation", hint=hint)
    emit(f"Trust this key for {escape(scope)}? [y/N] ", error=True)
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise TrustError("trust key", keyfile, "not confirmed", hint="answer y, or pass --yes")


def _list(keyring: Keyring, form: str) -> int:
    keys = []
    for key in keyring.list():
        info, problem = None, "masked" if key.masked else ""
        if not key.masked:
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
            _date(info.created) if info else "-",
            problem or (_expiry(info) if info else "-"),
            key.origin,
            info.user_ids[0] if info and info.user_ids else "-",
        )
        for key, info, problem in keys
    ]
    table(("fingerprint", "trusted for", "created", "state", "from", "user id"), rows)
    return 0


def _remove(keyring: Keyring, fingerprint: str, prefix: str | None) -> int:
    for key in keyring.remove(fingerprint, None if prefix is None else check_prefix(prefix)):
        verb = "masked" if key.origin == "system" else "removed"
        say(f"{verb} {key.fingerprint} for {key.prefix or 'all images'}")
    return 0


def _date(seconds: int) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(seconds))


def _expiry(info: KeyInfo) -> str:
    return f"expires {_date(info.expires)}" if info.expires else "never expires"
