"""What the metadata service is to say of a pod: decided with the pod, kept in the file `metadata` of its directory.

The service itself is `pyrun.service.metadata`; docs/design/metadata.md tells how a pod reaches it.
"""

from __future__ import annotations

import os
import sys

from pyrun.images import fastjson
from pyrun.plan.config import Metadata
from pyrun.pod.sysctl import ISOLATOR as SYSCTL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from pyrun.images.store import Image
    from pyrun.plan.config import Config, Mount
    from pyrun.pod.options import Options

    App = tuple[Options, Image, Config]

__all__ = ["OWN_VARIABLES", "describe", "offer", "reified", "socket_path"]

PORT = 18112
VERSION = "0.8.11"
OWN_VARIABLES = ("AC_APP_NAME", "AC_METADATA_URL", "container")  # each pod gets those anew


def socket_path(root: str) -> str:
    """Return where the service of a state directory listens."""
    return f"{root}/metadata.sock"


def offer(root: str) -> Metadata:
    """Return the service for one new pod: a token of 128 random bits, and an address of 127.0.0.0/8 that hardly another one has.

    In a network of the pod's own any would do; with the host's each pod has a socket of its own by that.
    """
    import pyrun

    package = os.path.dirname(os.path.dirname(pyrun.__file__ or ""))
    code = f"import sys; sys.path.insert(0, {package!r}); from pyrun.service.metaserver import main; main(sys.argv[1])"
    command = [sys.executable, "-I", "-S", "-E", "-X", "utf8", "-c", code, root]
    host = os.urandom(3)
    address = 127 << 24 | (16 + host[0] % 224) << 16 | host[1] << 8 | (1 + host[2] % 254)
    return Metadata(socket_path(root), command, address, PORT, os.urandom(16).hex())


def describe(uuid: str, apps: list[App], described: Mapping[str, Any], config: list[str]) -> str:
    """Return the file `metadata` of a pod of these apps; `described` is the pod manifest that it was asked by, if any.

    Manifests that were shipped or given are told as they are, byte for byte, unless something had to be decided in them.
    """
    own = apps[0][2].metadata
    pod = described.get("pod") or {}
    found = {
        "uuid": uuid,
        "token": own.token if own else "",
        "manifest": reified(apps, pod),
        "text": described.get("text", "") if _whole(apps, pod) else "",
        "apps": {
            one.app: {
                "annotations": _merged(image.manifest.get("annotations"), options.described.get("annotations")),
                "image_id": image.id,
                "image_manifest": options.described.get("image_manifest") or image.manifest,
                "image_text": image.text,
            }
            for options, image, one in apps
        },
        "config": config,
    }
    return fastjson.dumps(found)


def _whole(apps: list[App], pod: Mapping[str, Any]) -> bool:
    """Whether the pod manifest that was given left nothing open: each app is in it, with all its mounts, and nothing beats an isolator."""
    if not all("app" in one for one in pod.get("apps") or []) or any(_beaten(config) for _, _, config in apps):
        return False
    return not any(mount.origin.startswith(("app.mountPoints", "--")) for _, _, config in apps for mount in config.mounts)


def _beaten(config: Config) -> set[str]:
    """The isolators that do not count as they stand."""
    changed: Any = config.isolators.get("changed")
    return {one["name"] for one in changed or []}


def _merged(of_image: Any, of_pod: Any) -> list[dict[str, str]]:
    """The image's annotations in their order, those of the pod manifest's app in their place or behind them."""
    found = {one["name"]: one["value"] for one in of_image or []}
    found.update((one["name"], one["value"]) for one in of_pod or [])
    return [{"name": name, "value": value} for name, value in found.items()]


def reified(apps: list[App], described: Mapping[str, Any]) -> dict[str, Any]:
    """Return the pod manifest with everything decided: each image by id, each mount with a volume, flags and defaults merged in."""
    volumes: dict[str, dict[str, Any]] = {}
    listed = [_app(options, image, config, volumes) for options, image, config in apps]
    return {
        "acVersion": VERSION,
        "acKind": "PodManifest",
        "apps": listed,
        "volumes": list(volumes.values()),
        "isolators": described.get("isolators") or [],
        "annotations": described.get("annotations") or [],
        "ports": described.get("ports") or [],
        "userAnnotations": described.get("userAnnotations") or {},
        "userLabels": described.get("userLabels") or {},
    }


def _app(options: Options, image: Image, config: Config, volumes: dict[str, dict[str, Any]]) -> dict[str, Any]:
    own: Any = image.manifest.get("app") or {}
    pairs = [word.partition("=") for word in config.env]
    app = {
        "exec": config.argv,
        "user": str(config.uid),
        "group": str(config.gid),
        "supplementaryGIDs": list(config.groups),
        "eventHandlers": [{"name": name, "exec": argv} for name, argv, _, _ in config.handlers],
        "workingDirectory": config.cwd,
        "environment": [{"name": name, "value": value} for name, _, value in pairs if name not in OWN_VARIABLES],
        "isolators": [one for one in own.get("isolators") or [] if one["name"] not in _beaten(config) or one["name"] == SYSCTL],
        "mountPoints": [
            {name: point[name] for name in ("name", "path", "readOnly") if name in point} for point in own.get("mountPoints") or []
        ],
        "ports": own.get("ports") or [],
        "userAnnotations": own.get("userAnnotations") or {},
        "userLabels": own.get("userLabels") or {},
    }
    labels = [{"name": name, "value": value} for name, value in image.labels.items()]
    return {
        "name": config.app,
        "image": {"id": image.id, "name": image.name, "labels": labels},
        "app": app,
        "readOnlyRootFS": config.readonly,
        "mounts": [_mount(config, mount, volumes) for mount in config.mounts],
        "annotations": options.described.get("annotations") or [],
    }


def _mount(config: Config, mount: Mount, volumes: dict[str, dict[str, Any]]) -> dict[str, str]:
    """The volume goes into `volumes`, under a name that is its own."""
    name = mount.volume or f"{config.app}-{mount.name}"
    if name not in volumes:
        if mount.kind == "host":
            volume: dict[str, Any] = {"name": name, "kind": "host", "source": mount.source, "recursive": mount.recursive}
        else:
            volume = {"name": name, "kind": "empty", "mode": f"{mount.mode:04o}", "uid": mount.uid, "gid": mount.gid}
        volumes[name] = {**volume, "readOnly": mount.readonly}
    return {"volume": name, "path": mount.target}
