"""`pyrun image show`, `cat-manifest`, `history`, `verify`, `tag`, `rm`, `gc` and `du`: stored images one by one."""

from __future__ import annotations

import contextlib
import time

from pyrun.cli.output import age, emit_json, say, size, table
from pyrun.errors import EXIT_FAILED, ImageError, NotFoundError, PyrunError, UsageError
from pyrun.images import fastjson, pulled
from pyrun.images.store import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyrun.cli.parse import Args
    from pyrun.images.store import Image

__all__ = ["run"]

_SHORT_ID = 19  # "sha512-" and twelve digits, as rkt showed them


def run(args: Args) -> int:
    """Does what the second word of the verb says."""
    return _ACTIONS[args.verb](args)


def _show(args: Args) -> int:
    from pyrun.images.tags import by_image
    from pyrun.images.web.notes import sources

    store = Store(args.root)
    image = store.load(pulled.find_id(store, args.ref))
    names, others = by_image(store).get(image.id, []), pulled.by_image(store).get(image.id, [])
    if args.format == "json":
        facts = {**image.record(), "tags": names, "names": others}
        emit_json({**facts, "sources": [note.facts() for note in sources(store, image.id)]})
        return 0
    app = image.manifest.get("app")
    command = app.get("exec") if isinstance(app, dict) else None
    lines = {
        "name": image.name,
        "id": image.id,
        "kind": image.kind,
        "labels": ", ".join(f"{name}={value}" for name, value in sorted(image.labels.items())) or "-",
        "tags": ", ".join(names) or "-",
        "pulled as": ", ".join(others) or "-",
        "size": size(image.size),
        "imported": f"{_date(image)}, {age(time.time() - image.imported / 1e9)} ago",
        "signed by": f"{image.signature['fingerprint']}" if image.signature else "nobody",
        "layers": str(len(image.layers)),
        "runs": " ".join(map(str, command)) if isinstance(command, list) else "nothing: use --exec",
        "as": ":".join(str(app[one]) for one in ("user", "group") if app.get(one)) or "0" if isinstance(app, dict) else "-",
    }
    for name, value in lines.items():
        say(f"{name:<11}{value}")
    return 0


def _cat_manifest(args: Args) -> int:
    """Of an OCI image it is its own document; what an older version imported of an ACI is told in its canonical form, and that it is."""
    import sys

    store = Store(args.root)
    image = store.load(pulled.find_id(store, args.ref))
    _tell_older(image)
    data = image.text.encode() or fastjson.dumps(image.manifest).encode()
    if image.kind == "oci":
        try:
            with open(store.blob_path(image.blob), "rb") as file:
                data = file.read()
        except OSError as error:
            hint = "fetch it again; see what else is wrong: pyrun image verify"
            raise ImageError("read manifest of", image.name, errno=error.errno or 0, hint=hint) from None
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    return 0


def _tell_older(image: Image) -> None:
    if image.kind == "aci" and not image.text:
        text = (
            "an older version imported it: its manifest is known in canonical form only; fetch its file again to have it as it was shipped"
        )
        say(f"pyrun: note: {image.id[:_SHORT_ID]}: {text}", error=True)


def _date(image: Image) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(image.imported / 1e9))


def _history(args: Args) -> int:
    from pyrun.images.history import history

    store = Store(args.root)
    steps = history(store, store.load(pulled.find_id(store, args.ref)))
    if args.format == "json":
        emit_json([step.facts() for step in steps])
        return 0
    rows = [
        (
            step.layer if args.full else step.layer[:_SHORT_ID] or "-",
            (step.created or "-") if args.full else step.created[:10] or "-",
            size(step.size) if step.layer else "-",
            step.created_by if args.full or len(step.created_by) <= 60 else f"{step.created_by[:57]}...",
            step.comment,
        )
        for step in steps
    ]
    table(("layer", "created", "size", "created by", "comment"), rows, legend=not args.no_legend)
    return 0


def _verify(args: Args) -> int:
    from pyrun.images.trust.keyring import Keyring
    from pyrun.images.verify import verify_image, verify_store

    if bool(args.refs) == args.all:
        reason = "no image given" if not args.refs else "--all and images exclude each other"
        raise UsageError("image verify", "", reason, hint="pyrun image verify REF..., or pyrun image verify --all")
    store = Store(args.root)
    keyring = Keyring(args.root)
    found: list[tuple[str, list[str]]] = []
    with store.lock(exclusive=False):
        for ref in store.ids() if args.all else args.refs:
            image_id = pulled.find_id(store, ref)
            found.append((image_id, verify_image(store, image_id, keyring)))
            if args.format == "text":
                for problem in found[-1][1] or ["ok"]:
                    say(f"{image_id[:_SHORT_ID]} {problem}")
            if not found[-1][1]:
                _tell_older(store.load(image_id))
            elif not all(problem.startswith("signature: ") for problem in found[-1][1]):
                note = "what is stored counts as fetched and is not mended by a fetch; remove it first"
                say(f"pyrun: note: {note}: pyrun image rm {image_id[:_SHORT_ID]}", error=True)
        strays = verify_store(store) if args.all else []
    if args.format == "json":
        facts = {"images": [{"id": image_id, "ok": not problems, "problems": problems} for image_id, problems in found]}
        emit_json({**facts, "store": strays})
    else:
        for problem in strays:
            say(f"store {problem}")
    return EXIT_FAILED if strays or any(problems for _, problems in found) else 0


def _tag(args: Args) -> int:
    from pyrun.images.tags import make

    store = Store(args.root)
    image_id = pulled.find_id(store, args.ref)
    before = make(store, image_id, args.name or "")
    if args.format == "json":
        emit_json({"tag": args.name, "id": image_id, "before": before or None})
        return 0
    if before and before != image_id:
        say(f"pyrun: note: {args.name} meant {before[:_SHORT_ID]} before", error=True)
    say(image_id)
    return 0


def _rm(args: Args) -> int:
    store = Store(args.root)
    code = 0
    facts: list[dict[str, object]] = []
    for ref in args.refs:
        try:
            facts.append(_remove(store, ref))
            if args.format == "text":
                say(facts[-1]["id"] or f"untagged {facts[-1]['tag']}")
        except PyrunError as error:
            from pyrun.cli.main import render

            code = code or error.exit_code
            render(error, args.debug)
    if args.format == "json":
        emit_json(facts)
    return code


def _remove(store: Store, ref: str) -> dict[str, object]:
    """Removes what a reference means: where that is a tag, or another name in a registry, that alone."""
    from pyrun.images import tags
    from pyrun.images.prune import remove_image

    try:
        image_id = store.find_id(ref, tags=False)
    except NotFoundError:
        tag = tags.find(store, ref)
        if tag is None:
            if not pulled.forget(store, ref):
                raise
            return {"id": None, "tag": ref, "freed": 0}
        tags.remove(store, tag)
        return {"id": None, "tag": tag.text, "freed": 0}
    freed = 0
    with contextlib.suppress(NotFoundError):  # somebody else removed it meanwhile
        freed = remove_image(store, image_id)
    return {"id": image_id, "tag": None, "freed": freed}


def _gc(args: Args) -> int:
    from pyrun.images.prune import collect

    if args.older_than is not None and not args.all:
        raise UsageError(args.verb, "--older-than", "needs --all", hint="without --all no image is removed")
    before = time.time_ns() - int((args.older_than or 0) * 10**9)
    removed = collect(Store(args.root), wanted=(lambda image: image.imported <= before) if args.all else None, dry=args.dry_run)
    if args.format == "json":
        names = ("images", "layers", "blobs", "other", "bytes", "spared")
        emit_json({**{name: getattr(removed, name) for name in names}, "dryRun": args.dry_run})
        return 0
    verb = "would remove" if args.dry_run else "removed"
    for what, ids in (("image", removed.images), ("layer", removed.layers), ("blob", removed.blobs)):
        for one in ids:
            say(f"{verb} {what} {one if what == 'image' else one[:_SHORT_ID]}")
    if removed.other:
        say(f"{verb} {removed.other} other file{'s' if removed.other != 1 else ''}")
    if removed.count:
        say(f"{'would free' if args.dry_run else 'freed'} {size(removed.bytes)}")
    for reason in removed.spared:
        say(f"pyrun: note: {reason}", error=True)
    return 0


def _du(args: Args) -> int:
    from pyrun.images.usage import measure

    found, total, unused = measure(Store(args.root))
    if args.format == "json":
        facts = [
            {"id": one.image.id, "name": one.image.name, "total": one.total, "shared": one.shared, "unique": one.unique} for one in found
        ]
        emit_json({"images": facts, "total": total, "unused": unused})
        return 0
    found.sort(key=lambda one: -one.total)
    rows: list[tuple[object, ...]] = [
        (
            one.image.id if args.full else one.image.id[:_SHORT_ID],
            one.image.name,
            one.image.labels.get("version", "-"),
            size(one.total),
            size(one.shared),
            size(one.unique),
        )
        for one in found
    ]
    table(("id", "name", "version", "total", "shared", "unique"), rows, legend=not args.no_legend)
    if not args.no_legend:
        say()
        say(
            f"{size(total)} in {len(found)} image{'s' if len(found) != 1 else ''}"
            + (f", {size(unused)} for `pyrun image gc`" if unused else "")
        )
    return 0


_ACTIONS: dict[str, Callable[[Args], int]] = {
    "image show": _show,
    "image cat-manifest": _cat_manifest,
    "image history": _history,
    "image verify": _verify,
    "image tag": _tag,
    "image rm": _rm,
    "image gc": _gc,
    "image prune": _gc,
    "image du": _du,
}
