"""`pyrun image build`: an image of a directory or an archive, with a manifest from a file, from flags, or both."""

from __future__ import annotations

import os

from pyrun.cli.output import say
from pyrun.errors import UsageError
from pyrun.images.given import opener
from pyrun.plan.numbers import whole

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyrun.cli.parse import Args
    from pyrun.images.export import Signed
    from pyrun.images.store import Image

__all__ = ["refuse_for_aci", "run", "signing", "tell_signature"]

_LIMIT = 1 << 20


def run(args: Args) -> int:
    """Writes the image, and prints its id."""
    from pyrun.images import build

    if not args.output:
        raise UsageError("image build", "", "needs to know where to", hint="add --output FILE.aci")
    manifest = _manifest(args)
    latest = args.latest
    epoch = whole(os.environ.get("SOURCE_DATE_EPOCH", ""), 1 << 40)
    if latest is None and epoch >= 0:
        latest = epoch
    if args.image_format == "oci":
        say(_oci(args, manifest, latest, args.output))
        return 0
    refuse_for_aci(args)
    more: dict[str, Any] = {"compression": args.compression, "latest": latest, "overwrite": args.overwrite, "sign_by": args.sign_by or ""}
    image_id = build.build(args.root, args.source, manifest, args.output, **more)
    say(image_id)
    tell_signature(args)
    return 0


def refuse_for_aci(args: Args) -> None:
    """Options with which only OCI images are signed."""
    for option, value in (("--key", args.key), ("--identity", args.identity)):
        if value:
            hint = "an App Container Image is signed as a file, by gpg: --sign-by FINGERPRINT"
            raise UsageError(f"option {option}", value, "is for OCI images", hint=hint)


def tell_signature(args: Args) -> None:
    """Where the detached signature of the file is, if one was asked for."""
    if args.sign_by and not args.quiet:
        say(f"pyrun: note: its signature is in {args.output}.asc", error=True)


def signing(args: Args, image: Image) -> Signed | None:
    """What `export_oci` asks for a signature, None where none is wanted.  UsageError without a name to sign."""
    from pyrun.images.trust import sign

    if not args.sign_by and not args.key:
        if args.identity:
            raise UsageError("option --identity", args.identity, "nothing is signed", hint="add --sign-by FINGERPRINT, or --key FILE")
        return None
    name = sign.name_of(image, args.identity)
    return lambda manifest: sign.attached(manifest, name, by=args.sign_by, key=args.key)


def _oci(args: Args, manifest: dict[str, Any], latest: int | None, target: str) -> str:
    """By way of an App Container Image in a store of its own, which then is exported."""
    from pyrun.images import build
    from pyrun.images.export import export_oci
    from pyrun.images.importer import import_file
    from pyrun.images.staging import Staging
    from pyrun.images.store import Store

    if manifest.get("dependencies"):
        raise UsageError("option --dep", "", "an OCI image has no dependencies", hint="leave it out, or build an .aci")
    with Staging(args.root, "build") as staging:
        path, store = f"{staging.path}/image.aci", Store(f"{staging.path}/store")
        build.build(args.root, args.source, manifest, path, compression="none", latest=latest)
        store.ensure()
        image = import_file(store, path, allow_unsigned=True)
        return export_oci(store, image, target, overwrite=args.overwrite, signed=signing(args, image))


def _read(path: str) -> dict[str, Any]:
    import json

    try:
        with open(path, "rb", opener=opener) as file:
            found = json.loads(file.read(_LIMIT))
    except OSError as error:
        raise UsageError("option --manifest", path, errno=error.errno or 0, hint="name a readable file with an image manifest") from None
    except ValueError as error:
        raise UsageError("option --manifest", path, f"not JSON: {error}", hint="write an image manifest") from None
    if not isinstance(found, dict):
        raise UsageError("option --manifest", path, "not a JSON object", hint="write an image manifest")
    return found


def _manifest(args: Args) -> dict[str, Any]:
    """The file's members, and over them what flags say."""
    manifest: dict[str, Any] = _read(args.manifest) if args.manifest else {"acKind": "ImageManifest", "acVersion": "0.8.11"}
    if args.name:
        manifest["name"] = args.name
    elif "name" not in manifest:
        raise UsageError("image build", "", "the image needs a name", hint="add --name example.com/app, or --manifest FILE")
    labels = {one["name"]: one["value"] for one in manifest.get("labels") or []}
    if not args.manifest:
        from pyrun.images.types import MACHINES

        labels = {"version": "latest", "os": "linux", "arch": MACHINES.get(os.uname().machine, ("amd64",))[0]}
    labels.update(_pairs("--label", args.label))
    manifest["labels"] = [{"name": name, "value": value} for name, value in labels.items()]
    _app(args, manifest)
    if args.dep:
        manifest["dependencies"] = [*(manifest.get("dependencies") or []), *(_dependency(text) for text in args.dep)]
    noted = _pairs("--annotation", args.annotation)
    if noted:
        manifest["annotations"] = [*(manifest.get("annotations") or []), *({"name": n, "value": v} for n, v in noted.items())]
    return manifest


def _pairs(option: str, texts: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UsageError(f"option {option}", text, "not NAME=VALUE", hint=f"write {option} NAME=VALUE")
        found[name] = value
    return found


def _app(args: Args, manifest: dict[str, Any]) -> None:
    app = dict(manifest.get("app") or {})
    if args.exec:
        app["exec"] = [args.exec, *args.argv]
    elif args.argv:
        raise UsageError("image build", "", "arguments without a program", hint="add --exec /bin/PROGRAM before --")
    for name, value in (("user", args.user), ("group", args.group), ("workingDirectory", args.working_dir)):
        if value is not None:
            app[name] = value
    if args.set_env:
        variables = {one["name"]: one["value"] for one in app.get("environment") or []}
        app["environment"] = [{"name": name, "value": value} for name, value in {**variables, **args.set_env}.items()]
    if args.expose:
        app["ports"] = [*(app.get("ports") or []), *(_port(text) for text in args.expose)]
    if args.mount_point:
        app["mountPoints"] = [*(app.get("mountPoints") or []), *(_mount_point(text) for text in args.mount_point)]
    if app:
        manifest["app"] = {"user": "0", "group": "0", **app}


def _port(text: str) -> dict[str, Any]:
    """NAME:PORT[/PROTOCOL]."""
    name, colon, rest = text.partition(":")
    port, _, protocol = rest.partition("/")
    if not colon or whole(port, 99999) < 0:
        raise UsageError("option --expose", text, "not NAME:PORT[/PROTOCOL]", hint="write --expose www:80/tcp")
    return {"name": name, "port": int(port), "protocol": protocol or "tcp"}


def _mount_point(text: str) -> dict[str, Any]:
    """NAME:PATH[:ro]."""
    name, colon, rest = text.partition(":")
    path, mode, word = rest.partition(":")
    if not colon or (mode and word != "ro"):
        raise UsageError("option --mount-point", text, "not NAME:PATH[:ro]", hint="write --mount-point data:/var/lib/app")
    return {"name": name, "path": path, "readOnly": bool(mode)}


def _dependency(text: str) -> dict[str, Any]:
    """NAME[,LABEL=VALUE...][@ID]."""
    rest, _, image_id = text.partition("@")
    name, *labels = rest.split(",")
    found: dict[str, Any] = {"imageName": name}
    if image_id:
        found["imageID"] = image_id
    if labels:
        found["labels"] = [{"name": n, "value": v} for n, v in _pairs("--dep", labels).items()]
    return found
