"""Options and verbs for what apps are told: event handlers, the metadata service, configuration documents; nothing but constants.

`AppcArgs` are the attributes of `Args` that they bring along.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

    from pyrun.cli.options import Option, Verb

    Text: TypeAlias = str | None
    Number: TypeAlias = int | None
    Words: TypeAlias = list[str]


class AppcArgs:
    """Attributes of `pyrun.cli.parse.Args`."""

    no_handlers: bool
    handler_timeout: Number
    mds: bool
    config: Words
    document: str
    pairs: Words
    item: str
    from_file: Words
    unset: Words
    replace: bool
    etcd: Text
    key_prefix: Text
    cacert: Text


_FORMAT_TEXT: Option = ("--format", "FORMAT", "str", "text json", "Output", "print text or JSON (default text)")

HANDLERS: tuple[Option, ...] = (
    ("--no-handlers", "", "flag", "", "app Process", "do not run the image's event handlers pre-start and post-stop"),
    ("--handler-timeout", "DURATION", "seconds", "", "app Process", "kill an event handler that takes longer, as in 5m (default 60)"),
)
TOLD: tuple[Option, ...] = (
    (
        "--mds --mds-register",
        "",
        "flag",
        "",
        "Pod",
        "offer the pod the metadata service of the App Container specification, at the URL in AC_METADATA_URL",
    ),
    (
        "--config",
        "NAME[:PATH]",
        "list",
        "",
        "Files",
        "show the pod the configuration document NAME as read-only files in PATH (default /run/config/NAME), kept up to date",
    ),
)

APPC_VERBS: dict[str, Verb] = {
    "metadata": ("metadata", "", (), (), "serve metadata to pods until none is left"),
    "config set": (
        "documents",
        "DOCUMENT [PAIR]...",
        (
            ("--from-file", "[KEY=]FILE", "paths", "", "Values", "set KEY (default: the name of FILE) to what FILE holds"),
            ("--unset", "KEY", "list", "", "Values", "take KEY away"),
            ("--replace", "", "flag", "", "Values", "take away every key that is not given now"),
        ),
        (),
        "set values of a configuration document, KEY=VALUE each, all at once",
    ),
    "config get": ("documents", "DOCUMENT [ITEM]", (), (), "print a configuration document as JSON, or one of its values"),
    "config list": ("documents", "", (_FORMAT_TEXT,), (), "list the configuration documents"),
    "config watch": ("documents", "DOCUMENT", (), (), "print a configuration document now and after each change, a line of JSON each"),
    "config rm": ("documents", "DOCUMENT", (), (), "remove a configuration document that no pod has"),
    "config pull": (
        "documents",
        "DOCUMENT",
        (
            ("--etcd", "URL", "str", "", "Source", "the etcd to read, version 3 of its API, as in https://etcd.example.com:2379"),
            ("--key-prefix", "PREFIX", "str", "", "Source", "the keys to take; what follows PREFIX is the key in the document"),
            ("--cacert", "FILE", "path", "", "Source", "trust the certificates in FILE for https"),
            ("--follow -f", "", "flag", "", "Source", "go on, and take over each change"),
        ),
        (),
        "make a configuration document of keys in etcd",
    ),
}
