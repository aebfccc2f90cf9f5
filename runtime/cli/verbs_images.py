"""Verbs and options for stored images: the part of the table of `pyrun.cli.options` that begins with `image`.

`ImageArgs` are the attributes of `Args` that they bring along.
"""

from __future__ import annotations

from pyrun.cli.verbs_trust import ALLOW_HTTP

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

    from pyrun.cli.options import Option, Verb

    Text: TypeAlias = str | None
    Number: TypeAlias = int | None
    Seconds: TypeAlias = float | None
    Words: TypeAlias = list[str]


class ImageArgs:
    """Attributes of `pyrun.cli.parse.Args`."""

    ref: str
    refs: Words
    dir: str
    file: str
    columns: Words | None
    filter: Words
    sort: str
    reverse: bool
    older_than: Seconds
    dry_run: bool
    no_cache: bool
    oci: Text
    path: Text
    rootfs_only: bool
    overwrite: bool


FORMAT_TABLE: Option = ("--format", "FORMAT", "str", "table json", "Output", "print a table or JSON (default table)")
FORMAT_TEXT: Option = ("--format", "FORMAT", "str", "text json", "Output", "print text or JSON (default text)")
_FORMAT_JSON: Option = ("--format", "FORMAT", "str", "json text", "Output", "print JSON or a summary as text (default json)")
NO_LEGEND: Option = ("--no-legend", "", "flag", "", "Output", "leave out the header line of a table")
_FULL: Option = ("--full", "", "flag", "", "Output", "do not shorten ids")
_QUIET: Option = ("--quiet -q", "", "flag", "", "Output", "print nothing but results and errors")
_OVERWRITE: Option = ("--overwrite", "", "flag", "", "Output", "replace what is there")
_LIST: tuple[Option, ...] = (
    (
        "--columns --fields",
        "LIST",
        "csv",
        "",
        "Output",
        "columns of the table, separated by commas, out of id, name, version, size, imported, signed, kind, layers, labels, digest, tags",
    ),
    (
        "--filter",
        "KEY=VALUE",
        "list",
        "",
        "Images",
        "only images with name=GLOB, version=VERSION, kind=aci or oci, label=NAME[=VALUE], signed=yes or no, used=yes or no (by a pod),"
        " older-than=DURATION; all that are given must hold",
    ),
    (
        "--sort",
        "COLUMN",
        "str",
        "imported name size version",
        "Output",
        "order by imported (newest first, the default), name, size or version",
    ),
    ("--reverse", "", "flag", "", "Output", "the other way round"),
    ("--quiet -q", "", "flag", "", "Output", "print full ids only"),
)
_PRUNE: tuple[Option, ...] = (
    ("--all -a", "", "flag", "", "Images", "also remove images that no pod uses, and their tags"),
    ("--older-than", "DURATION", "seconds", "", "Images", "with --all, spare images imported less than DURATION ago, as in 24h"),
    ("--dry-run", "", "flag", "", "Output", "say what would be removed, and remove nothing"),
)

IMAGES: dict[str, Verb] = {
    "image list": (
        "image_list",
        "",
        (FORMAT_TABLE, _FULL, NO_LEGEND, *_LIST),
        (("quiet", "columns"), ("quiet", "format")),
        "list the stored images",
    ),
    "image show": ("image", "REF", (_FORMAT_JSON,), (), "print the record and the manifest of a stored image"),
    "image cat-manifest": ("image", "REF", (), (), "print the manifest of a stored image, byte for byte as it was shipped"),
    "image history": ("image", "REF", (FORMAT_TABLE, _FULL, NO_LEGEND), (), "show how an image was made and what its layers are"),
    "image verify": (
        "image",
        "[REF]...",
        (("--all", "", "flag", "", "Images", "verify every stored image, and the names and notes of the store"), FORMAT_TEXT),
        (),
        "check stored images against their digests",
    ),
    "image tag": ("image", "REF NAME", (FORMAT_TEXT,), (), "give a stored image a further name"),
    "image rm": ("image", "REF...", (FORMAT_TEXT,), (), "remove images, or tags, from the store"),
    "image gc": ("image", "", (*_PRUNE, FORMAT_TEXT), (), "remove what no image needs; with --all also images that no pod uses"),
    "image prune": ("image", "", (*_PRUNE, FORMAT_TEXT), (), "the same as `image gc`"),
    "image du": ("image", "", (FORMAT_TABLE, _FULL, NO_LEGEND), (), "show what images take on disk, shared and alone"),
    "image tags": ("image_tags", "NAME", (FORMAT_TEXT, ALLOW_HTTP), (), "list the tags that a registry has of a repository"),
    "image export": (
        "image_out",
        "REF [FILE]",
        (
            ("--oci", "PATH", "path", "", "Images", "write an OCI layout: a directory, or an archive where PATH ends in .tar"),
            _OVERWRITE,
            _QUIET,
        ),
        (),
        "write a stored image to a file again, byte for byte, or as OCI layout",
    ),
    "image render": ("image_out", "REF DIR", (_OVERWRITE,), (), "write the files that an app would see into a new directory"),
    "image extract": (
        "image_out",
        "REF DIR",
        (
            (
                "--path",
                "PATH",
                "str",
                "",
                "Images",
                "only this file or directory of the image; DIR is what it becomes, or - for standard output",
            ),
            ("--rootfs-only", "", "flag", "", "Images", "only the files of an App Container Image, without its manifest"),
            _OVERWRITE,
        ),
        (("path", "rootfs_only"),),
        "write one path of an image, or an App Container Image as it is",
    ),
}
