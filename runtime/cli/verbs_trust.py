"""Verbs and options about who may vouch for images, for `pyrun.cli.options.VERBS`; nothing but constants here either.

`TrustArgs` are the attributes of `Args` that they bring along.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

    from pyrun.cli.options import Option, Verb

    Text: TypeAlias = str | None


class TrustArgs:
    """Attributes of `pyrun.cli.parse.Args`."""

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

# of `pyrun trust`
UNSIGNED: Option = (
    "--unsigned",
    "ORIGIN",
    "str",
    "",
    "Keys",
    "accept unsigned images of ORIGIN: a registry, a name there and those below it, or an absolute path",
)
ADOPT: Option = ("--policy", "FILE", "path", "", "Keys", "let a copy of the containers policy in FILE decide about OCI and Docker images")

TRUST_VERBS: dict[str, Verb] = {
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
