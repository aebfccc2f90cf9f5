"""`--pod-manifest FILE`: the apps of a pod as a manifest of the App Container specification lists them.

Images are named by id and must be stored.  What belongs to an app is said there and not by options; those of the pod are.
"""

from __future__ import annotations

import copy

from pyrun.cli.options import VERBS
from pyrun.cli.run import options_of
from pyrun.cli.specs import MountSpec, VolumeSpec
from pyrun.errors import ConfigError, PyrunError, UsageError
from pyrun.images.given import opener
from pyrun.images.podmanifest import parse_pod_manifest
from pyrun.pod.several import App

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyrun.cli.parse import Args
    from pyrun.images.store import Image, Store

__all__ = ["apps_of_manifest"]

_LIMIT = 1 << 20


def apps_of_manifest(args: Args, store: Store) -> list[App]:
    """Return the apps that the manifest lists; UsageError, ManifestError, ConfigError or what the store says of an image."""
    path = args.pod_manifest or ""
    if args.image:
        raise UsageError("option --pod-manifest", "", "takes no image beside it", hint="name images on the command line or in the manifest")
    if args.argv:
        raise UsageError("option --pod-manifest", "", "takes no arguments for an app", hint="write them into the manifest: apps[].app.exec")
    for option in VERBS[args.verb][2]:
        word = option[0].partition(" ")[0]
        if word in ("--no-healthcheck", "--notify"):  # of all apps
            continue
        if word[2:].replace("-", "_") in args.given and (option[4].startswith("app ") or option[2] == "volume"):
            raise UsageError(f"option {word}", "", "belongs to an app, which the pod manifest describes", hint="write it into the manifest")
    data = _read(path)
    try:
        found = parse_pod_manifest(data)
    except PyrunError as error:
        error.origin = error.origin or path
        raise
    volumes = [_volume(one, f"{path}: volumes[{index}]") for index, one in enumerate(found["volumes"])]
    apps = [_app(args, store, one, volumes, f"{path}: apps[{index}]") for index, one in enumerate(found["apps"])]
    _ports(apps, found["ports"], path)
    for app in apps:
        app.options.described = {**app.options.described, "pod": found, "text": data.decode()}
    apps[0].isolators = list(found["isolators"])
    return apps


def _ports(apps: list[App], ports: list[dict[str, Any]], path: str) -> None:
    """The pod's ports as `--port` takes them.  ConfigError where two apps have a port of one name: whose would be meant."""
    owners: dict[str, str] = {}
    for app in apps:
        manifest: Any = app.image.manifest.get("app") or {}
        for port in manifest.get("ports") or []:
            if owners.setdefault(port["name"], app.name) != app.name:
                hint = "give each port of a pod a name of its own"
                raise ConfigError(
                    "use port", port["name"], f"{owners[port['name']]} and {app.name} have one of that name", hint=hint, origin=path
                )
    for one in ports:
        address = one["hostIP"] + ":" if one.get("hostIP") else ""
        inside = one.get("podPort")
        first, last = one["hostPort"], one["hostPort"] + (inside["count"] if inside else 1) - 1
        if not inside and one["name"] not in owners:
            have = ", ".join(owners) or "none"
            raise ConfigError(
                "use port", one["name"], "no app has one of that name", hint=f"ports of the apps: {have}; or add podPort", origin=path
            )
        if inside and last > first:
            text = f"{address}{first}-{last}:{inside['port']}-{inside['port'] + last - first}/{inside['protocol']}"
        elif inside:
            text = f"{address}{first}:{inside['port']}/{inside['protocol']}"
        else:
            text = f"{one['name']}:{address}{first}"
        for app in apps:
            app.options.port = [*app.options.port, text]


def _read(path: str) -> bytes:
    try:
        with open(path, "rb", opener=opener) as file:
            return file.read(_LIMIT + 1)
    except OSError as error:
        hint = "name a readable file with a pod manifest"
        raise UsageError("option --pod-manifest", path, errno=error.errno or 0, hint=hint) from None


def _app(args: Args, store: Store, described: dict[str, Any], volumes: list[VolumeSpec], where: str) -> App:
    image = _image(args, store, described, where)
    options = options_of(args)
    options.name = described["name"]
    options.readonly_rootfs = described["readOnlyRootFS"]
    options.described = {"annotations": described["annotations"], "image_manifest": store.load(described["image"]["id"]).manifest}
    options.volume = list(volumes)  # each app gets those that it mounts
    options.mount = []
    for index, mount in enumerate(described["mounts"]):
        if "appVolume" in mount:
            own = _volume(mount["appVolume"], f"{where}.mounts[{index}].appVolume")
            own.name, own.target = None, mount["path"]
            options.volume.append(own)
        else:
            options.mount.append(MountSpec(f"{where}.mounts[{index}]", mount["volume"], mount["path"], False))
    return App(options, image)


def _image(args: Args, store: Store, described: dict[str, Any], where: str) -> Image:
    """The stored image of that id; trusted, of the name and the labels that the manifest says, and with its app in place of the image's."""
    wanted = described["image"]
    image = store.load(wanted["id"])
    if "name" in wanted and wanted["name"] != image.name:
        hint = "correct the name or the id in the manifest"
        raise ConfigError("use image", wanted["id"][:19], f"it is {image.name}, not {wanted['name']}", hint=hint, origin=f"{where}.image")
    for label in wanted["labels"]:
        if image.labels.get(label["name"]) != label["value"]:
            has = image.labels.get(label["name"], "no such label")
            reason = f"its label {label['name']} is not {label['value']}: {has}"
            raise ConfigError("use image", image.name, reason, hint="correct the label or the id in the manifest", origin=f"{where}.image")
    if "image" not in args.insecure_options:
        store.require_trusted(image, policy=args.policy or "")
    if "app" in described:
        image = copy.copy(image)
        image.manifest = {**image.manifest, "app": described["app"]}
    return image


def _volume(described: dict[str, Any], origin: str) -> VolumeSpec:
    volume = VolumeSpec(origin, described["kind"], name=described["name"], source=described.get("source"))
    volume.read_only = described["readOnly"]
    volume.recursive = described.get("recursive")
    volume.mode, volume.uid, volume.gid = described.get("mode"), described.get("uid"), described.get("gid")
    return volume
