"""The image store: finding what was imported; the cheap half that every `run` goes through.

    blobs/<alg>/<hex>      file as shipped, named by its own digest; <hex>.asc beside it is its signature
    layers/<diffid>/       rootfs/ (one unpacked layer), tree (digest of every file), complete (written last)
    images/<id>            one JSON record for each image, written after everything it names
    refs/<name>/<id>       labels of an image, for look-ups by name
    imports/<stat key>     id of the image that this very file holds
    imports/pulled+<name>  what a name meant in its registry, see `pulled`
    imports/url+<URL>      what a URL held, see `web.notes`
    tags/<name>            further names, see `tags`
    locks/ tmp/ trust/     see `locks`, `staging` and `trust`

Nothing here changes the store.  Writing is `importer`, deleting is `prune`.
"""

from __future__ import annotations

import os

from pyrun.errors import ImageError, NotFoundError, SignatureError, StateError
from pyrun.images import fastjson, trust
from pyrun.images.locks import Lock, make_room, private_dirs
from pyrun.native.users import require_own

__all__ = ["Image", "Store", "file_key", "import_key", "is_digest"]

_HEX = frozenset("0123456789abcdef")
_LENGTHS = {"sha512": 128, "sha256": 64}
_SHORTEST_PREFIX = 6
_NAME_MAX = 255
_PIECE = 16 << 10  # bytes to read at once: for more malloc(3) would make a mapping, and take it back
_DIRECTORIES = ("blobs/sha256", "blobs/sha512", "layers", "images", "refs", "imports", "tags", "locks", "tmp")


class Image:
    """One stored image: `layers` are DiffIDs, top first, `needs` the ids of the images it depends on.

    `blob` is what was shipped, for an image in several parts its manifest; `blobs` are the other parts: of an OCI image
    the configuration, then the layers, bottom first.  `size` is in bytes, `imported` in nanoseconds since 1970.
    Of an OCI image, `origin` says where it came from (transport, place, name; see `trust.gate`), and `judged`, if a policy
    decided about it, what that and its key files were known by then.
    `text` is the manifest of an App Container Image as it was shipped, "" of others and of those that older versions imported.
    """

    __slots__ = (
        "blob", "blobs", "id", "imported", "judged", "kind", "labels", "layers", "manifest", "name", "needs", "origin", "signature", "size",
        "text",
    )  # fmt: skip

    def __init__(self, record: dict[str, object]) -> None:
        """Takes a parsed record; ValueError names the member that is not as it should be."""
        self.id = _digest(record, "id")
        self.kind = fastjson.text(record, "kind")
        self.name = fastjson.text(record, "name")
        self.labels = fastjson.texts(record, "labels")
        layers = record.get("layers")
        if not isinstance(layers, list) or not layers or not all(isinstance(layer, str) and is_digest(layer) for layer in layers):
            raise ValueError("layers")
        self.layers: list[str] = layers
        needs = record.get("needs", [])
        if not isinstance(needs, list) or not all(isinstance(need, str) and is_digest(need) for need in needs):
            raise ValueError("needs")
        self.needs: list[str] = needs
        self.blob = _digest(record, "blob")
        blobs = record.get("blobs", [])
        if not isinstance(blobs, list) or not all(isinstance(blob, str) and is_digest(blob) for blob in blobs):
            raise ValueError("blobs")
        self.blobs: list[str] = blobs
        self.size = fastjson.number(record, "size")
        self.imported = fastjson.number(record, "imported")
        self.signature = None if record.get("signature") is None else fastjson.texts(record, "signature")
        if self.signature is not None and not {"fingerprint", "prefix"} <= self.signature.keys():
            raise ValueError("signature")
        self.origin = None if record.get("origin") is None else fastjson.texts(record, "origin")
        if self.origin is not None and not {"transport", "place", "name"} <= self.origin.keys():
            raise ValueError("origin")
        self.judged = None if record.get("judged") is None else fastjson.texts(record, "judged")
        manifest = record.get("manifest")
        if not isinstance(manifest, dict):
            raise ValueError("manifest")
        self.manifest: dict[str, object] = manifest
        self.text = fastjson.text(record, "text") if "text" in record else ""

    def record(self) -> dict[str, object]:
        """The record that describes this image, ready for JSON."""
        parts: dict[str, object] = {"blobs": self.blobs} if self.blobs else {}
        if self.origin is not None:
            parts["origin"] = self.origin
        if self.judged is not None:
            parts["judged"] = self.judged
        if self.text:
            parts["text"] = self.text
        return {
            "id": self.id,
            "kind": self.kind,
            "name": self.name,
            "labels": self.labels,
            "layers": self.layers,
            "needs": self.needs,
            "blob": self.blob,
            **parts,
            "size": self.size,
            "imported": self.imported,
            "signature": self.signature,
            "manifest": self.manifest,
        }


class Store:
    """The store below one root directory; objects hold no descriptors and no state, so threads may share one."""

    __slots__ = ("root",)

    def __init__(self, root: str) -> None:
        self.root = os.path.abspath(root)

    def ensure(self) -> None:
        """Makes the directories that are missing, 0700; StateError when that is not possible, or the root is somebody else's."""
        require_own(self.root)
        for name in _DIRECTORIES:
            try:
                private_dirs(f"{self.root}/{name}")
            except OSError as error:
                raise StateError("make directory", f"{self.root}/{name}", errno=error.errno or 0, hint=make_room(error)) from None

    def lock(self, *, exclusive: bool, wait: bool = True) -> Lock:
        """The lock of the whole store: shared while layers are read or imported, exclusive to delete."""
        return Lock(f"{self.root}/locks/store", exclusive=exclusive, wait=wait)

    def layer_path(self, diffid: str) -> str:
        """Directory of one layer with its marker, whether or not it exists."""
        return f"{self.root}/layers/{diffid}"

    def layer_dir(self, diffid: str) -> str:
        """The unpacked root file system of one layer; StateError when it is missing or was never completed."""
        path = self.layer_path(diffid)
        if not os.path.exists(f"{path}/complete"):
            raise StateError("use layer", diffid, "not in the store or not complete", hint="import the image again: pyrun fetch FILE")
        return f"{path}/rootfs"

    def has_layers(self, image: Image) -> bool:
        """Whether every layer of an image is complete."""
        return all(os.path.exists(f"{self.layer_path(layer)}/complete") for layer in image.layers)

    def blob_path(self, digest: str) -> str:
        """Path of a blob, whether or not it exists; `digest` is ``sha256-<hex>`` or ``sha512-<hex>``."""
        algorithm, _, value = digest.partition("-")
        return f"{self.root}/blobs/{algorithm}/{value}"

    def image_path(self, image_id: str) -> str:
        """Path of an image's record, whether or not it exists."""
        return f"{self.root}/images/{image_id}"

    def ref_dir(self, name: str) -> str:
        """Directory of the references to images of one name, whether or not it exists."""
        return f"{self.root}/refs/{trust.quote(name)}"

    def load(self, image_id: str) -> Image:
        """The image of a full id; NotFoundError when there is none, StateError when its record is damaged."""
        path = self.image_path(image_id)
        try:
            data = _read(path)
        except FileNotFoundError:
            raise NotFoundError("find image", image_id, "not in the store", hint=f"pyrun --root {self.root} image list") from None
        except OSError as error:
            raise _unreadable(path, error) from None
        try:
            value = fastjson.loads(data)
            if not isinstance(value, dict):
                raise ValueError("not an object")
            image = Image(value)
            if image.id != image_id:
                raise ValueError("id")
        except ValueError as error:
            hint = f"remove the record and import the image again: pyrun image rm {image_id[:19]}"
            raise StateError("read image record", path, f"damaged ({error})", hint=hint) from None
        return image

    def ids(self) -> list[str]:
        """Full ids of all records, sorted; StateError when the store cannot be read."""
        return sorted(name for name in _listdir(f"{self.root}/images") if is_digest(name))

    def images(self, broken: list[str] | None = None) -> list[Image]:
        """All images, newest import first; ids of damaged records go to `broken` instead of failing the listing."""
        found: list[Image] = []
        for image_id in self.ids():
            try:
                found.append(self.load(image_id))
            except NotFoundError:
                continue  # removed since the directory was read
            except StateError:
                if broken is not None:
                    broken.append(image_id)
        found.sort(key=lambda image: (-image.imported, image.id))
        return found

    def find(self, ref: str) -> Image:
        """The image that a reference means; NotFoundError or, for an ambiguous one, ImageError.

        A reference is an id or a prefix of one (``sha512-`` may be left out, six hex digits at least), or
        ``name[:version][,label=value...]``, of which the newest import is taken, or else a tag.
        """
        found = self._find(ref, tags=True)
        return self.load(found) if isinstance(found, str) else found

    def find_id(self, ref: str, *, tags: bool = True) -> str:
        """The full id that a reference means, even if the record is damaged; raises as `find` does.  Without `tags` no tag counts."""
        found = self._find(ref, tags=tags)
        return found if isinstance(found, str) else found.id

    def _find(self, ref: str, *, tags: bool) -> Image | str:
        """The image, or its id where the record has not been read."""
        by_name = self._by_name(ref)
        by_id = self._by_prefix(ref)
        if by_name and by_id:
            raise _ambiguous(ref, [*by_id, by_name.id], "is both a name and the beginning of an id")
        if by_name:
            return by_name
        if len(by_id) > 1:
            raise _ambiguous(ref, by_id, f"is the beginning of {len(by_id)} ids")
        if by_id:
            return by_id[0]
        if tags:
            from pyrun.images.tags import find

            tag = find(self, ref)
            if tag is not None:
                return tag.id
        hint = f"see what is there with `pyrun --root {self.root} image list`, or import a file with `pyrun fetch FILE`"
        if "://" in ref:
            hint = "of URLs https://HOST/PATH and docker://HOST/REPOSITORY:TAG are understood"
        elif "/" in ref and os.path.exists(ref):
            hint = f"to use the file of that name, write its path with a leading ./ or import it: pyrun fetch {ref}"
        raise NotFoundError("find image", ref, "nothing in the store answers to it", hint=hint)

    def find_import(self, path: str, variant: str = "") -> Image | None:
        """The image that this very file, unchanged since, was imported as; None when it has to be imported.

        Of an OCI layout, a directory, it is index.json that counts.  `variant` tells several readings of one file apart.
        NotFoundError when the file cannot be looked at.
        """
        try:
            info = os.stat(path)
        except OSError as error:
            hint = "check the path; names of stored images have no leading / or ./"
            raise NotFoundError("find image file", path, errno=error.errno or 0, hint=hint) from None
        try:
            if info.st_mode & 0o170000 == 0o040000:
                info = os.stat(f"{path}/index.json")
            image_id = _read(f"{self.root}/imports/{import_key(info, variant)}").decode("ascii", "replace")
        except OSError:
            return None
        if not is_digest(image_id):
            return None
        try:
            image = self.load(image_id)
        except (NotFoundError, StateError):
            return None
        return image if self.has_layers(image) else None

    def require_trusted(self, image: Image, system: str = "", policy: str = "") -> None:
        """Raises SignatureError unless the image is trusted today.

        That is, it was imported with a signature whose key is trusted for its name, or from where unsigned images are
        accepted.  About an OCI or Docker image the containers policy decides instead, where there is one.
        """
        if image.kind == "oci" and (policy or trust.has_policy(self.root)):
            self._require_by_policy(image, os.path.abspath(policy) if policy else trust.policy_path(self.root), system)
            return
        place = image.origin["place"] if image.origin is not None else ""
        if image.signature is None:
            if place and trust.accepts_unsigned(self.root, place, system) is not None:
                return
            first = "sign the file (gpg --armor --detach-sign FILE)" if image.kind == "aci" else "have it signed"
            more = (
                f"accept unsigned images from there: pyrun trust --unsigned {place}, " if place and not place.startswith(self.root) else ""
            )
            hint = f"{first} and fetch it again, {more}or accept it once with --insecure-options=image"
            raise SignatureError("use image", image.name, "it was imported without a signature", hint=hint)
        name = place if image.origin is not None and image.origin["transport"] == "docker" else image.name
        trust.require(self.root, name, image.signature["fingerprint"], image.signature["prefix"], system)
        for need in image.needs:
            self.require_trusted(self.load(need), system)

    def _require_by_policy(self, image: Image, policy: str, system: str) -> None:
        """The verdict of the import, if the policy and its keys are the files that they were then, else a new one."""
        if image.judged is not None and policy in image.judged:
            for path, then in image.judged.items():
                try:
                    if file_key(os.stat(path)) != then:
                        break
                except OSError:
                    break
            else:
                return
        from pyrun.images.trust.gate import rejudge

        rejudge(self, image, policy, system)

    def _by_prefix(self, ref: str) -> list[str]:
        algorithm, dash, digits = ref.partition("-")
        if not dash:
            algorithm, digits = "", ref
        elif algorithm not in _LENGTHS:
            return []
        digits = digits.lower()
        if len(digits) < _SHORTEST_PREFIX or not _HEX.issuperset(digits):
            return []
        if algorithm and len(digits) == _LENGTHS[algorithm]:
            exact = f"{algorithm}-{digits}"
            return [exact] if os.path.exists(self.image_path(exact)) else []
        return [name for name in self.ids() if name.startswith(f"{algorithm}-{digits}" if algorithm else digits, 0 if algorithm else 7)]

    def _by_name(self, ref: str) -> Image | None:
        head, *tail = ref.split(",")
        wanted: dict[str, str] = {}
        for pair in tail:
            label, equals, value = pair.partition("=")
            if not equals:
                raise ImageError("read reference", ref, f"{pair!r} is not label=value", hint="write name[:version][,label=value...]")
            wanted[label] = value
        # In host:5000/app:1.0 it is the colon behind the last slash; in a version, slashes are rare but legal.
        colon = head.find(":", head.rfind("/") + 1)
        found = self._named(head[:colon], {"version": head[colon + 1 :], **wanted}) if colon >= 0 else self._named(head, wanted)
        if found is None and 0 <= head.find(":") != colon:
            name, _, version = head.partition(":")
            found = self._named(name, {"version": version, **wanted})
        return found

    def _named(self, name: str, wanted: dict[str, str]) -> Image | None:
        """The newest import of a name with these labels."""
        best: Image | None = None
        directory = self.ref_dir(name)
        for image_id in _listdir(directory):
            if not is_digest(image_id):
                continue
            try:
                image = self.load(image_id)
            except (NotFoundError, StateError):
                continue  # a reference outlived its record: `gc` removes it
            if image.name != name or (image.origin is not None and image.origin.get("named") == "no"):
                continue  # an archive may not take a name that another image has
            if any(image.labels.get(label) != value for label, value in wanted.items()):
                continue
            if best is None or (image.imported, image.id) > (best.imported, best.id):
                best = image
        return best


def is_digest(text: str) -> bool:
    """Whether `text` is ``sha512-`` or ``sha256-`` and as many lower-case hex digits as that needs."""
    algorithm, _, digits = text.partition("-")
    return _LENGTHS.get(algorithm) == len(digits) and _HEX.issuperset(digits)


def file_key(info: os.stat_result) -> str:
    """Name in imports/ of a file with this stat: any change of its content changes ctime, hence the name."""
    return f"{info.st_dev:x}-{info.st_ino:x}-{info.st_size:x}-{info.st_mtime_ns:x}-{info.st_ctime_ns:x}"


def import_key(info: os.stat_result, variant: str) -> str:
    """Name in imports/ of one reading of a file; "" for one that cannot be noted because its name is too long."""
    name = f"{file_key(info)}+{trust.quote(variant)}" if variant else file_key(info)
    return name if len(name) <= _NAME_MAX else ""


def _read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        pieces = []
        while piece := os.read(fd, _PIECE):
            pieces.append(piece)
        return b"".join(pieces)
    finally:
        os.close(fd)


def _listdir(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: str, error: OSError) -> StateError:
    return StateError("read", path, errno=error.errno or 0, hint=make_room(error))


def _ambiguous(ref: str, ids: list[str], reason: str) -> ImageError:
    shown = ", ".join(image_id[:27] for image_id in ids[:8]) + (", ..." if len(ids) > 8 else "")
    return ImageError("find image", ref, reason, hint=f"it could be {shown}; write more of it")


def _digest(record: dict[str, object], member: str) -> str:
    value = fastjson.text(record, member)
    if not is_digest(value):
        raise ValueError(member)
    return value
