"""Who we are to a registry, from the files that podman and docker write when somebody logs in.

    $REGISTRY_AUTH_FILE                                     alone, when it is set
    $XDG_RUNTIME_DIR/containers/auth.json, else /run/containers/UID/auth.json
    $XDG_CONFIG_HOME/containers/auth.json, else ~/.config/containers/auth.json
    $DOCKER_CONFIG/config.json, else ~/.docker/config.json

containers-auth.json(5).  The entry that names most of HOST/REPOSITORY counts, the first file that has one decides.
A file that others than its owner may read is refused once something in it would be used: a password
that others know is to be changed, not sent.
"""

from __future__ import annotations

import base64
import binascii
import os
import stat
import subprocess
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from pyrun.errors import ImageError, PyrunError
from pyrun.images import strictjson
from pyrun.images.printable import printable
from pyrun.native.users import root_or_self

__all__ = ["Credential", "find"]

HELPER_DIRS = ("/usr/local/bin", "/usr/bin", "/bin", "/usr/local/sbin", "/usr/sbin")
HELPER_TIME = 30  # seconds
_MAX_FILE = 1 << 20
_MAX_ANSWER = 64 << 10
_HUB_KEYS = ("https://index.docker.io/v1/", "index.docker.io")
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_")
_PASSED = ("HOME", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS", "GNUPGHOME")
_NO_TOKEN = "log in with a password or access token"
_LOGIN = "log in again: podman login, docker login or skopeo login"


class Credential:
    """A user and a secret; never shown, so neither a message nor a traceback can hold it."""

    __slots__ = ("secret", "source", "user")

    def __init__(self, user: str, secret: str, source: str) -> None:
        self.user = user
        self.secret = secret
        self.source = source

    def basic(self) -> str:
        """The value of an Authorization header (RFC 7617)."""
        return "Basic " + base64.b64encode(f"{self.user}:{self.secret}".encode()).decode("ascii")

    def __repr__(self) -> str:
        return f"<credential from {self.source}>"


def find(registry: str, repository: str = "", *, environ: Mapping[str, str] | None = None) -> Credential | None:
    """What the files say for a registry, None when none of them knows it; ImageError for a file that cannot be used."""
    environ = os.environ if environ is None else environ
    for path in _files(environ):
        data = _read(path, missing_ok=path != environ.get("REGISTRY_AUTH_FILE"))
        if data is None:
            continue
        document, info = data
        credential = _entry(path, document, registry, repository, info) or _helper(path, document, registry, environ)
        if credential is not None:
            return credential
    return None


def _files(environ: Mapping[str, str]) -> Iterator[str]:
    if environ.get("REGISTRY_AUTH_FILE"):
        yield environ["REGISTRY_AUTH_FILE"]
        return
    runtime = environ.get("XDG_RUNTIME_DIR")
    yield f"{runtime}/containers/auth.json" if runtime else f"/run/containers/{os.getuid()}/auth.json"
    home = environ.get("HOME", "")
    config = environ.get("XDG_CONFIG_HOME") or (f"{home}/.config" if home else "")
    if config:
        yield f"{config}/containers/auth.json"
    docker = environ.get("DOCKER_CONFIG") or (f"{home}/.docker" if home else "")
    if docker:
        yield f"{docker}/config.json"


def _read(path: str, *, missing_ok: bool) -> tuple[dict[str, Any], os.stat_result] | None:
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK | os.O_NOCTTY)) as file:
            info = os.fstat(file.fileno())
            if not stat.S_ISREG(info.st_mode):
                _refuse(path, "not a regular file", "name the file that login wrote")
            data = file.read(_MAX_FILE + 1)
    except (FileNotFoundError, NotADirectoryError):
        if missing_ok:
            return None
        _refuse(path, "it does not exist", "REGISTRY_AUTH_FILE names it: log in, or unset the variable")
    except OSError as error:
        raise ImageError("read credentials", path, errno=error.errno or 0, hint="check its permissions, or log in again") from None
    if not data.strip():
        return None
    try:
        document = strictjson.loads(data, what=path, case_twins="allow", limit=_MAX_FILE)
    except PyrunError:
        _refuse(path, "not valid JSON", _LOGIN)  # without the reason: it may quote a secret
    if not isinstance(document, dict):
        _refuse(path, "not a JSON object", _LOGIN)
    return document, info


def _keys(registry: str, repository: str) -> Iterator[str]:
    """HOST/a/b, HOST/a, HOST, and how docker writes the same."""
    parts = repository.split("/") if repository else []
    for count in range(len(parts), -1, -1):
        yield "/".join([registry, *parts[:count]])
    yield from (f"https://{registry}", f"https://{registry}/", f"https://{registry}/v1/", f"https://{registry}/v2/")
    if registry == "docker.io":
        yield from _HUB_KEYS


def _entry(path: str, document: dict[str, Any], registry: str, repository: str, info: os.stat_result) -> Credential | None:
    auths = document.get("auths")
    if not isinstance(auths, dict):
        return None
    for key in _keys(registry, repository):
        entry = auths.get(key)
        if not isinstance(entry, dict) or not (entry.get("auth") or entry.get("identitytoken")):
            continue
        if info.st_mode & 0o077 or info.st_uid not in (0, os.geteuid()):
            _refuse(path, "others than its owner may read it", f"chmod 600 {path}, and change the password of {registry}")
        if entry.get("identitytoken"):
            _refuse(
                path, f"the entry {printable(key)} is an identity token, which cannot be used", "log in with a password or access token"
            )
        return _decode(path, key, entry["auth"])
    return None


def _decode(path: str, key: str, value: object) -> Credential:
    try:
        text = base64.b64decode(str(value), validate=True).rstrip(b"\0").decode("utf-8")
    except (binascii.Error, ValueError):
        text = ""
    user, colon, secret = text.partition(":")
    if not (user and colon) or any(char < " " or char == "\x7f" for char in text):
        _refuse(path, f"the entry {printable(key)} is not user:password in base64", _LOGIN)
    return Credential(user, secret, path)


def _helper(path: str, document: dict[str, Any], registry: str, environ: Mapping[str, str]) -> Credential | None:
    """Asks docker-credential-NAME, where the file names one for this registry or for all."""
    helpers = document.get("credHelpers")
    name = helpers.get(registry) if isinstance(helpers, dict) else None
    name = name or document.get("credsStore")
    if not name:
        return None
    if not isinstance(name, str) or not _PLAIN.issuperset(name):
        _refuse(path, "the name of its credential helper is none", "a helper's name is letters, digits, - and _")
    program = _program(f"docker-credential-{name}", path)
    key = _HUB_KEYS[0] if registry == "docker.io" else registry
    env = {"PATH": ":".join(HELPER_DIRS)} | {word: environ[word] for word in _PASSED if word in environ}
    try:
        done = subprocess.run([program, "get"], input=key.encode(), capture_output=True, env=env, timeout=HELPER_TIME)
    except subprocess.TimeoutExpired:
        _refuse(program, f"no answer within {HELPER_TIME} seconds", "unlock the key store that it asks")
    except OSError as error:
        raise ImageError("run credential helper", program, errno=error.errno or 0, hint="install it again") from None
    if done.returncode:
        if b"not found" in done.stdout[:200]:
            return None
        _refuse(program, f"exit code {done.returncode}", f"try it: echo {key} | {program} get")
    return _answer(program, done.stdout)


def _answer(program: str, data: bytes) -> Credential:
    try:
        answer = strictjson.loads(data, what="answer", limit=_MAX_ANSWER)
    except PyrunError:
        answer = None
    user = answer.get("Username") if isinstance(answer, dict) else None
    secret = answer.get("Secret") if isinstance(answer, dict) else None
    if not (isinstance(user, str) and isinstance(secret, str) and user and secret):
        _refuse(program, "its answer is not {ServerURL, Username, Secret}", "it must speak docker's credential helper protocol")
    if user == "<token>":
        _refuse(program, "it keeps an identity token, which cannot be used", _NO_TOKEN)
    return Credential(user, secret, program)


def _roots(info: os.stat_result, path: str) -> bool:
    """Whether it is the host's root's, seen by root of a user namespace."""
    return os.geteuid() == 0 and root_or_self(info.st_uid, path)


def _program(name: str, origin: str) -> str:
    """The absolute path of a helper in a directory that only root can write; never one of $PATH."""
    for folder in HELPER_DIRS:
        path = f"{folder}/{name}"
        try:
            place, file = os.stat(folder), os.stat(path)
        except OSError:
            continue
        if any((info.st_uid and not _roots(info, path)) or info.st_mode & 0o022 for info in (place, file)):
            _refuse(path, "others than root may change it", f"chown root and chmod go-w {path} and {folder}")
        return path
    _refuse(name, f"not found in {' '.join(HELPER_DIRS)}", f"install it there; {origin} asks for it")


def _refuse(subject: str, reason: str, hint: str) -> NoReturn:
    raise ImageError("read credentials", subject, reason, hint=hint)
