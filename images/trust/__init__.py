"""Which public keys may sign which images; this file is the cheap half that every `run` consults.

    <root>/trust/root.d/FINGERPRINT                 may sign any image
    <root>/trust/prefix.d/<quoted prefix>/FINGERPRINT   images whose name is `prefix` or begins with `prefix/`

The same tree below `SYSTEM_DIR` holds the vendor's keys.  A local file of the same scope and name
comes first, and an empty one masks the vendor's.  A fingerprint is that of the primary key, 40 (v4)
or 64 (v5, v6) upper-case hex digits.  Reading, adding and verifying live in `pyrun.images.trust.keyring`.
"""

from __future__ import annotations

import _stat as stat  # the part in C: what `stat` adds in Python would cost each start that decides
import os

from pyrun.errors import SignatureError, TrustError
from pyrun.native.users import root_or_self

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrun.images.trust.keyring import KeyInfo, Keyring, TrustedKey, Verdict

__all__ = [
    "KeyInfo",
    "Keyring",
    "TrustedKey",
    "Verdict",
    "accepts_unsigned",
    "find_key",
    "has_narrower",
    "has_policy",
    "place",
    "policy_path",
    "quote",
    "require",
    "scope_dir",
    "scopes_of",
    "unquote",
    "web_place",
]

SYSTEM_DIR = "/usr/lib/pyrun/trust"
UNSIGNED = "unsigned"  # in place of a fingerprint: images of this scope need no signature

_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~")
_LONGEST = 200  # leaves room below NAME_MAX for a suffix


def __getattr__(name: str) -> object:
    """Loads the expensive half on first use; AttributeError for unknown names."""
    if name not in ("KeyInfo", "Keyring", "TrustedKey", "Verdict"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pyrun.images.trust import keyring

    value: object = getattr(keyring, name)
    globals()[name] = value
    return value


def quote(name: str) -> str:
    """An image name or prefix as one file name, reversible with `unquote`; beyond 200 bytes a digest takes the place of the end."""
    plain = name
    if not _PLAIN.issuperset(name):
        data = name.encode("utf-8", "surrogatepass")
        plain = "".join(chr(byte) if chr(byte) in _PLAIN else f"%{byte:02X}" for byte in data)
    if plain.startswith("."):
        plain = "%2E" + plain[1:]
    if len(plain) <= _LONGEST:
        return plain
    from hashlib import sha256  # such names are too rare to pay for at start

    return f"{plain[:120]}%~{sha256(plain.encode()).hexdigest()}"


def unquote(quoted: str) -> str:
    """The inverse of `quote` for names that were not shortened; ValueError for anything `quote` does not produce."""
    pieces = quoted.split("%")
    out = bytearray(pieces[0].encode())
    for piece in pieces[1:]:
        out.append(int(piece[:2], 16))
        out += piece[2:].encode()
    name = out.decode("utf-8", "surrogatepass")
    if quote(name) != quoted:
        raise ValueError(f"{quoted!r} is not a quoted name")
    return name


def scopes_of(image_name: str) -> list[str]:
    """The scopes that apply to an image: "" (all images), then each prefix of its name that ends where a path segment ends."""
    scopes = [""]
    end = image_name.find("/", 1)  # an absolute path, from where unsigned images may come, begins with one
    while end >= 0:
        scopes.append(image_name[:end])
        end = image_name.find("/", end + 1)
    scopes.append(image_name)
    return scopes


def is_shortened(name: str) -> bool:
    """Whether `quote` cannot be reversed for a name."""
    return "%~" in quote(name)


def scope_dir(base: str, prefix: str) -> str:
    """Directory of the keys of one scope below a trust tree; "" is the scope of all images."""
    return f"{base}/prefix.d/{quote(prefix)}" if prefix else f"{base}/root.d"


def find_key(root: str, prefix: str, fingerprint: str, system: str = "") -> str | None:
    """Path of the key file that makes `fingerprint` trusted in one scope, None when it is absent or masked.

    Raises `TrustError` when the file that decides could have been written by somebody else.
    """
    for base in (f"{root}/trust", system or SYSTEM_DIR):
        path = f"{scope_dir(base, prefix)}/{fingerprint}"
        try:
            info = os.stat(path, follow_symlinks=False)
        except OSError:
            continue
        check_owner(path, info)
        return path if info.st_size else None
    return None


def accepts_unsigned(root: str, origin: str, system: str = "") -> str | None:
    """Path of the mark that accepts unsigned images of an origin, a name in a registry, an absolute path or a `web_place`; None without.

    A key of a narrower scope than the mark's takes it back: there, images are signed.  Raises `TrustError` as `find_key`.
    """
    for prefix in reversed(scopes_of(origin)[1:]):
        mark = find_key(root, prefix, UNSIGNED, system)
        if mark is not None:
            return mark
        for base in (f"{root}/trust", system or SYSTEM_DIR):
            try:
                names = os.listdir(scope_dir(base, prefix))
            except OSError:
                continue
            if any(name != UNSIGNED and find_key(root, prefix, name, system) for name in names):
                return None
    return None


def has_narrower(root: str, origin: str, mark: str, system: str = "") -> bool:
    """Whether a scope of an origin narrower than that of the `mark` which accepts it has a directory: a key there takes the mark back."""
    for prefix in reversed(scopes_of(origin)[1:]):
        places = [scope_dir(base, prefix) for base in (f"{root}/trust", system or SYSTEM_DIR)]
        if os.path.dirname(mark) in places:
            return False
        if any(os.path.lexists(place) for place in places):
            return True
    return False


def place(path: str) -> str:
    """What a file or directory is known as where images come from: its absolute path without links."""
    return os.path.realpath(path)


def web_place(url: str) -> str:
    """What a file on a web server is known as where images come from: ``https://HOST[:PORT]/PATH``, without the query.

    "" for what is no https URL, or has a path that a server may understand as another one.
    """
    scheme, mark, rest = url.partition("#")[0].partition("?")[0].partition("://")
    host, _, path = rest.partition("/")
    lowered = path.lower()
    if scheme.lower() != "https" or not mark or not host or "@" in host or any(code in lowered for code in ("%2e", "%2f", "%5c", "\\")):
        return ""
    parts = [part for part in path.split("/") if part]
    if "." in parts or ".." in parts:
        return ""
    return "/".join(("https:/", host.lower().removesuffix(":443"), *parts))


def policy_path(root: str) -> str:
    """Where the containers policy lies that decides about OCI and Docker images in place of the keys, if there is one."""
    return f"{root}/trust/policy.json"


def has_policy(root: str) -> bool:
    """Whether there is something in that place."""
    try:
        os.lstat(policy_path(root))
    except OSError:
        return False
    return True


def check_owner(path: str, info: os.stat_result) -> None:
    """Raises `TrustError` unless a key file is a plain file that only root or this user can write."""
    if not stat.S_ISREG(info.st_mode):
        raise TrustError("use key", path, "not a regular file", hint="remove it, then trust the key again")
    if not root_or_self(info.st_uid, path) or info.st_mode & 0o022:
        hint = f"check the key, then: chown root {path} && chmod 0644 {path}"
        raise TrustError("use key", path, "others than root can write it", hint=hint)


def require(root: str, image_name: str, fingerprint: str, recorded_prefix: str = "", system: str = "") -> str:
    """The scope in which the key of a stored image is still trusted for its name; costs one stat when nothing changed.

    Raises `SignatureError` when the key has been removed, masked, or is left only in scopes of other names.
    """
    scopes = scopes_of(image_name)
    if recorded_prefix in scopes:
        scopes.remove(recorded_prefix)
        scopes.insert(0, recorded_prefix)
    for prefix in scopes:
        if find_key(root, prefix, fingerprint, system) is not None:
            return prefix
    hint = f"trust the key again (pyrun trust --prefix {image_name} KEYFILE), or accept the image: --insecure-options=image"
    raise SignatureError("check signature of", image_name, f"its key {fingerprint} is no longer trusted", hint=hint)
