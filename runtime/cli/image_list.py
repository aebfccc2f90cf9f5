"""`pyrun image list`: the stored images, as a table or as JSON.  Nothing is imported that the plain table does not need."""

from __future__ import annotations

import gc
import time

from pyrun.cli.output import age, emit, say, size, table
from pyrun.errors import UsageError
from pyrun.images import catalog, fastjson

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeAlias

    from pyrun.cli.parse import Args
    from pyrun.images.catalog import Catalogue, Row

    Facts: TypeAlias = dict[str, Any]
    Names: TypeAlias = dict[str, list[str]]
    Test: TypeAlias = Callable[[Row, Facts], bool]

__all__ = ["run"]

_SHORT_ID = 19  # "sha512-" and twelve digits, as rkt showed them
_SHORT_KEY = 16
_USUAL = ["id", "name", "version", "size", "imported", "signed"]
_MORE = ("kind", "layers", "labels", "digest", "tags")
_FILTERS = "name=GLOB, version=VERSION, kind=KIND, label=NAME[=VALUE], signed=yes|no, used=yes|no or older-than=DURATION"
# A row is (id, name, version, size, imported, key), see pyrun.images.catalog.


def run(args: Args) -> int:
    """Prints every image that passes the filters, newest import first."""
    columns = _USUAL if args.columns is None else args.columns
    for column in columns:
        if column not in _USUAL and column not in _MORE:
            raise UsageError("image list", f"--columns {column}", "no such column", hint=f"choose from {', '.join((*_USUAL, *_MORE))}")
    gc.disable()  # everything stays until the end anyway
    found = catalog.load(args.root)
    tags, names = _tags(args.root), _names(args.root)
    rows = found.rows
    facts: dict[str, Facts] = {}
    if args.filter or not set(columns) <= set(_USUAL):
        facts = _facts(found, tags, names)
    if args.format == "json" and not args.quiet:
        _print_json(args, found, tags, names, facts)
    else:
        if tags or names:
            rows = [line for row in rows for line in (row, *_others(row, tags, names))]
        rows = _chosen(args, rows, facts)
        if args.quiet:
            emit("".join(f"{image_id}\n" for image_id in dict.fromkeys(row[0] for row in rows)))
        else:
            heads = ["signed by" if column == "signed" else column for column in columns]
            table(heads, zip(*[_cells(column, rows, facts, args.full) for column in columns], strict=True), legend=not args.no_legend)
    for image_id in found.broken:
        say(f"pyrun: note: the record of {image_id} is damaged; remove it with `pyrun image rm {image_id[:_SHORT_ID]}`", error=True)
    return 0


def _print_json(args: Args, found: Catalogue, tags: Names, names: Names, facts: dict[str, Facts]) -> None:
    """One object a line, so that a thousand images are printed as they are kept."""
    lines = [line[:-1] + ',"names":[]}' for line in found.facts.split("\n")[:-1]]
    if tags or names or args.filter or args.sort != "imported" or args.reverse:
        by_id = {row[0]: line for row, line in zip(found.rows, lines, strict=True)}
        for image_id in (tags.keys() | names.keys()) & by_id.keys():
            line = by_id[image_id].removesuffix('[],"names":[]}')
            by_id[image_id] = f'{line}{fastjson.dumps(tags.get(image_id, []))},"names":{fastjson.dumps(names.get(image_id, []))}}}'
        lines = [by_id[row[0]] for row in _chosen(args, found.rows, facts)]
    emit("[\n" + ",\n".join(lines) + "\n]\n" if lines else "[]\n")


def _facts(found: Catalogue, tags: Names, names: Names) -> dict[str, Facts]:
    parsed: Any = fastjson.loads("[" + found.facts.rstrip("\n").replace("\n", ",") + "]")
    return {fact["id"]: {**fact, "tags": tags.get(fact["id"], []), "names": names.get(fact["id"], [])} for fact in parsed}


def _others(row: Row, tags: Names, names: Names) -> list[Row]:
    """Rows for the other names of an image: its tags, and what registries gave it as."""
    found = []
    for text in [*tags.get(row[0], ()), *names.get(row[0], ())]:
        name, colon, version = text.rpartition(":")
        if not colon or "/" in version:  # the port of a registry
            name, version = text, ""
        if (name, version) != tuple(row[1:3]):
            found.append((row[0], name, version, *row[3:]))
    return found


def _names(root: str) -> Names:
    """What registries gave the images as, by id."""
    import posix

    try:
        if not any(name.startswith("pulled+") for name in posix.listdir(f"{root}/imports")):
            return {}
    except OSError:
        return {}
    from pyrun.images.pulled import by_image
    from pyrun.images.store import Store

    return by_image(Store(root))


def _tags(root: str) -> Names:
    import posix

    try:
        if not posix.listdir(f"{root}/tags"):
            return {}
    except OSError:
        return {}
    from pyrun.images.store import Store
    from pyrun.images.tags import by_image

    return by_image(Store(root))


def _chosen(args: Args, rows: list[Row], facts: dict[str, Facts]) -> list[Row]:
    """The rows that pass the filters, in the order that was asked for."""
    for pair in args.filter:
        passes = _test(args.root, *pair.partition("=")[::2])
        rows = [row for row in rows if passes(row, facts[row[0]])]
    if args.sort != "imported":
        rows = sorted(rows, key=_ORDER[args.sort])
    return rows[::-1] if args.reverse else rows


def _test(root: str, key: str, value: str) -> Test:
    if key == "name":
        from fnmatch import fnmatchcase

        return lambda row, _: fnmatchcase(row[1], value) or fnmatchcase(f"{row[1]}:{row[2]}", value)
    if key == "version":
        return lambda row, _: row[2] == value
    if key == "kind":
        return lambda _, fact: bool(fact["kind"] == value)
    if key == "label":
        name, equals, wanted = value.partition("=")
        return lambda _, fact: name in fact["labels"] and (not equals or fact["labels"][name] == wanted)
    if key == "older-than":
        from pyrun.plan.numbers import duration

        before = time.time_ns() - int(duration(value, "option --filter older-than") * 10**9)
        return lambda row, _: row[4] < before
    if key in ("signed", "used") and value in ("yes", "no"):
        if key == "signed":
            return lambda row, _: bool(row[5]) is (value == "yes")
        from pyrun.images.pods import users

        used = users(root)
        return lambda row, _: used.of(row[0]) is (value == "yes")
    raise UsageError("image list", f"--filter {key}={value}", "no such filter", hint=f"write {_FILTERS}")


def _cells(column: str, rows: list[Row], facts: dict[str, Facts], full: bool) -> list[str]:
    """One column, top to bottom."""
    if column == "id":
        return [row[0] if full else row[0][:_SHORT_ID] for row in rows]
    if column in ("name", "version"):
        return [(row[1] if column == "name" else row[2]) or "-" for row in rows]
    if column == "size":
        return [size(row[3]) for row in rows]
    if column == "imported":
        if full:
            return [time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(row[4] / 1e9)) for row in rows]
        now = time.time()
        return [f"{age(now - row[4] / 1e9)} ago" for row in rows]
    if column == "signed":
        return [(row[5] if full else row[5][-_SHORT_KEY:]) or "-" for row in rows]
    return [_more(column, facts[row[0]], full) for row in rows]


def _more(column: str, fact: Facts, full: bool) -> str:
    if column == "layers":
        return str(len(fact["layers"]))
    if column == "labels":
        return ",".join(f"{name}={value}" for name, value in sorted(fact["labels"].items())) or "-"
    if column == "tags":
        return ",".join(fact["tags"]) or "-"
    if column == "digest":
        return str(fact["blob"] if full else fact["blob"][:_SHORT_ID])
    return str(fact["kind"])


_ORDER: dict[str, Callable[[Row], Any]] = {
    "name": lambda row: (row[1], row[2]),
    "size": lambda row: -row[3],
    "version": lambda row: (row[2], row[1]),
}
