"""Verbs and options about who may vouch for images, for `pyrun.cli.options.VERBS`; nothing but constants here either.

`TrustArgs` are the attributes of `Args` that they bring along.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

    from pyrun.cli.options import Option, Verb

    Text: TypeAlias = str | None
    Words: TypeAlias = list[str]


class TrustArgs:
    """Attributes of `pyrun.cli.parse.Args`."""

    fingerprint: str
    keyfiles: Words
    prefix: Text
    yes: bool
    list: bool
    remove: Text
    identity: Text
    key: Text
    output: Text
    policy: Text
    sign_by: Text
    unsigned: Text


POLICY: Option = (
    "--policy",
    "FILE",
    "path",
    "",
    "Security",
    "let the containers policy in FILE (as /etc/containers/policy.json) decide who may sign OCI and Docker images",
)

ALLOW_HTTP: Option = (
    "--insecure-options",
    "LIST",
    "insecure",
    "none http",
    "Security",
    "give up protections: http asks the server that is named over plain http, http:HOST[:PORT] another one",
)

_PREFIX: Option = (
    "--prefix",
    "NAME",
    "str",
    "",
    "Keys",
    "trust the key for the image NAME and those below it, NAME/... (default: for all images);"
    " without KEYFILE, the keys that the server of NAME offers",
)
_UNSIGNED: Option = (
    "--unsigned",
    "ORIGIN",
    "str",
    "",
    "Keys",
    "accept unsigned images of ORIGIN: a registry, a name there and those below it, an absolute path, or an https URL",
)
_ADOPT: Option = ("--policy", "FILE", "path", "", "Keys", "let a copy of the containers policy in FILE decide about OCI and Docker images")
_REMOVE: Option = (
    "--remove",
    "FINGERPRINT",
    "str",
    "",
    "Keys",
    "stop trusting a key, everywhere or, with --prefix, for that name; also `unsigned` and `policy`",
)
_FORMAT: Option = ("--format", "FORMAT", "str", "table json", "Output", "print a table or JSON (default table)")

TRUST_VERBS: dict[str, Verb] = {
    "trust": (
        "trust",
        "[KEYFILE]...",
        (
            _PREFIX,
            ALLOW_HTTP,
            ("--yes -y", "", "flag", "", "Keys", "do not ask for confirmation"),
            _UNSIGNED,
            _ADOPT,
            ("--list", "", "flag", "", "Keys", "list the trusted keys, and where unsigned images are accepted"),
            _REMOVE,
            _FORMAT,
        ),
        (
            ("list", "remove"),
            ("list", "unsigned"),
            ("list", "policy"),
            ("remove", "unsigned"),
            ("remove", "policy"),
            ("unsigned", "policy"),
        ),
        "show a public key and trust it to sign images",
    ),
    "trust list": ("trust", "", (_FORMAT,), (), "list the trusted keys, and where unsigned images are accepted"),
    "trust rm": (
        "trust",
        "FINGERPRINT",
        (("--prefix", "NAME", "str", "", "Keys", "only for this name or origin (default: wherever it is trusted)"),),
        (),
        "stop trusting a key; also `unsigned` with --prefix ORIGIN, and `policy`",
    ),
    "image sign": (
        "sign",
        "REF",
        (
            ("--sign-by", "FINGERPRINT", "str", "", "Keys", "sign with this secret key of your gpg, as skopeo and podman do"),
            ("--key", "FILE", "path", "", "Keys", "sign with the private key in FILE, in PEM form, as cosign does"),
            ("--identity", "NAME", "str", "", "Keys", "the name with a tag that is signed (default: the one that it was fetched by)"),
            ("--output", "PATH", "path", "", "Output", "where to write the signature: a file, or with --key a directory, not there yet"),
        ),
        (("sign_by", "key"),),
        "sign a stored OCI or Docker image",
    ),
}
