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
    Seconds: TypeAlias = float | None
    Words: TypeAlias = list[str]


SECURITY_OPT: Option = (
    "--security-opt",
    "MODULE=LABEL",
    "list",
    "",
    "app Security",
    "confine the app by a security module of Linux: apparmor=PROFILE, or label=USER:ROLE:TYPE:LEVEL of SELinux",
)
SYSCTL: Option = (
    "--sysctl",
    "NAME=VALUE",
    "list",
    "",
    "Pod",
    "set a kernel parameter of the pod's own network or IPC namespace, as in net.core.somaxconn=1024",
)


class AppcArgs:
    """Attributes of `pyrun.cli.parse.Args`."""

    no_handlers: bool
    handler_timeout: Seconds
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
    cert: Text
    key: Text
    source: str
    manifest: Text
    label: Words
    annotation: Words
    dep: Words
    expose: Words
    mount_point: Words
    image_format: str
    compression: str
    latest: Number
    drop: bool
    security_opt: Words
    sysctl: Words


SIGNING: tuple[Option, ...] = (
    (
        "--sign-by",
        "FINGERPRINT",
        "str",
        "",
        "Output",
        "sign with this secret key of your gpg: the signature is FILE.asc, of an OCI image its file signature-1, as skopeo makes it",
    ),
    ("--key", "FILE", "path", "", "Output", "sign an OCI image with the private key in FILE, in PEM form, as cosign does"),
    ("--identity", "NAME", "str", "", "Output", "the name with a tag that is signed of an OCI image (default: its name and version)"),
)
BUILD: dict[str, Verb] = {
    "image build": (
        "image_build",
        "SOURCE --",
        (
            ("--output -o", "FILE", "path", "", "Output", "the image to make"),
            ("--manifest", "FILE", "path", "", "Manifest", "begin with the image manifest in FILE; options add to it and beat it"),
            ("--name", "NAME", "str", "", "Manifest", "name of the image, as in example.com/app"),
            (
                "--label",
                "NAME=VALUE",
                "list",
                "",
                "Manifest",
                "a label, as in version=1.0 (default: version latest, and this host's os and arch)",
            ),
            ("--annotation", "NAME=VALUE", "list", "", "Manifest", "an annotation, as in authors=us"),
            ("--dep", "IMAGE", "list", "", "Manifest", "an image that this one is laid over: NAME[,LABEL=VALUE...][@ID]"),
            ("--exec", "PATH", "str", "", "App", "the app's program; its arguments stand after --"),
            ("--set-env --env -e", "NAME=VALUE", "env", "", "App", "a variable of the app"),
            ("--user -u", "USER", "str", "", "App", "who the app runs as (default 0)"),
            ("--group", "GROUP", "str", "", "App", "the group that the app runs as (default 0)"),
            ("--working-dir --workdir -w", "DIR", "str", "", "App", "where the app starts (default /)"),
            ("--expose", "NAME:PORT", "list", "", "App", "a port of the app: NAME:PORT[/PROTOCOL]"),
            ("--mount-point", "NAME:PATH", "list", "", "App", "where the app wants a volume: NAME:PATH[:ro]"),
            (
                "--image-format",
                "FORMAT",
                "str",
                "aci oci",
                "Output",
                "an App Container Image (aci, the default), or an OCI layout, FILE ending in .tar or a directory",
            ),
            ("--compression", "HOW", "str", "gzip xz bzip2 none", "Output", "how an .aci is compressed (default gzip)"),
            (
                "--latest",
                "SECONDS",
                "int",
                "0..253402300799",
                "Output",
                "times of files later than SECONDS since 1970 become that (default $SOURCE_DATE_EPOCH, if set)",
            ),
            *SIGNING,
            ("--overwrite", "", "flag", "", "Output", "replace what is there"),
            ("--quiet -q", "", "flag", "", "Output", "print nothing but results and errors"),
        ),
        (("sign_by", "key"),),
        "make an image of a directory, or of an archive of one",
    ),
    "image convert": (
        "image_convert",
        "SOURCE",
        (
            ("--output -o", "FILE", "path", "", "Output", "the file, or for OCI the directory, to make"),
            (
                "--image-format",
                "FORMAT",
                "str",
                "aci oci docker",
                "Output",
                "aci, oci (an archive where FILE ends in .tar) or docker (an archive); by default what FILE is called: .aci, else oci",
            ),
            ("--name", "NAME", "str", "", "Output", "name of the image in its new format (default: its own)"),
            *SIGNING,
            ("--drop", "", "flag", "", "Output", "give up what the new format cannot say, instead of refusing; it is listed"),
            ("--compression", "HOW", "str", "gzip xz bzip2 none", "Output", "how an .aci is compressed (default gzip)"),
            ("--overwrite", "", "flag", "", "Output", "replace what is there"),
            ("--quiet -q", "", "flag", "", "Output", "print nothing but results and errors"),
        ),
        (("sign_by", "key"),),
        "write an image in another format",
    ),
}

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
    **BUILD,
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
            ("--cacert", "FILE", "path", "", "Source", "trust the certificates in FILE for https, instead of the system's"),
            ("--cert", "FILE", "path", "", "Source", "the certificate to show etcd, in PEM form, with those of its issuers behind it"),
            ("--key", "FILE", "path", "", "Source", "the private key of --cert, unencrypted (default: in the same file)"),
            ("--follow -f", "", "flag", "", "Source", "go on, and take over each change"),
        ),
        (),
        "make a configuration document of keys in etcd",
    ),
}
