"""Fetching App Container Images from web servers: the signature, then the image, then what it depends on.

    name --discovery--> endpoints --> signature --> image, hashed while it comes --> importer: gpgv, unpack, commit
                            ^                                                            |
                            +--------- each dependency that the store lacks <------------+

Nothing of an image is parsed before the importer has verified its signature.  Where unsigned images are accepted the
signature is not even asked for (discovery.md, "Validation"), and an OCI or Docker archive will do as well.  What a URL
holds is noted, so that another fetch asks only whether it changed.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import time
from typing import Any

from pyrun.errors import ImageError, NotFoundError, PyrunError, SignatureError, StateError, TrustError
from pyrun.images import trust
from pyrun.images.importer import Import, explain
from pyrun.images.limits import Limits
from pyrun.images.locks import Lock
from pyrun.images.registry.blob import Download
from pyrun.images.registry.transport import Url
from pyrun.images.staging import Staging
from pyrun.images.store import Image, Store
from pyrun.images.trust.keyfiles import MAX_SIGNATURE, read_bounded
from pyrun.images.trust.keyring import Keyring
from pyrun.images.wanted import Wanted
from pyrun.images.web.ask import Web, address, place, walk
from pyrun.images.web.meta import Endpoint, endpoints
from pyrun.images.web.names import AppName, is_discoverable
from pyrun.images.web.notes import Note, recall

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from contextlib import AbstractContextManager

    from pyrun.images.registry.pull import Progress

__all__ = ["Fetcher"]

MAX_DEPTH = 16  # images that depend on each other in a row
_MAX_IMAGE = Limits().total  # bytes; nothing larger could be unpacked


class Fetcher:
    """Brings images into a store.  `http` holds places (HOST[:PORT]) that may be asked over plain http, "" is the one that is named.

    `progress` opens what is told of a download; with `no_cache` a server is asked even where its last answer is good for longer.
    The rest goes to `ask.Web`.  Raises UsageError for what is no name,
    ImageError and its kin for everything that servers and images do, SignatureError for keys, StateError for the store;
    whatever it raises, nothing is left behind.
    """

    def __init__(
        self,
        store: Store,
        *,
        unsigned: bool = False,
        http: Collection[str] = (),
        progress: Callable[[], AbstractContextManager[Progress | None]] | None = None,
        keyring: Keyring | None = None,
        no_cache: bool = False,
        **more: Any,
    ) -> None:
        self.store = store
        self.unsigned = unsigned
        self.no_cache = no_cache
        self.http = http
        self.progress = progress
        self.keyring = keyring or Keyring(store.root)
        self.more = more
        self._above: list[tuple[str, dict[str, str], str]] = []  # who needs what is being fetched

    def url(self, text: str, signature: str | None = None, name: str | None = None) -> Image:
        """The image that a URL holds now, of that `name` if one is given.

        `signature` is a URL or file, by default the URL's path with ``.asc`` added.
        """
        home = Url(text, "address of the image")
        http = self._spoken(place(home))
        head, mark, query = home.text.partition("?")
        endpoint = Endpoint(home.text, signature or f"{head}.asc{mark}{query}")
        address(home.text, http)
        with Web(home, str(home), http=http, **self.more) as web:
            return self._bring(web, [endpoint], Wanted(name), str(home), named=signature)

    def name(self, app: AppName, signature: str | None = None) -> Image:
        """The image that discovery finds for a name now; `signature` as for `url`, by default where discovery says."""
        return self._discover(app, Wanted(app.name, app.labels), _MAX_IMAGE, None, signature)

    def bringer(self, near: bool) -> Callable[[dict[str, Any], str, dict[str, str], str], object]:
        """What brings dependencies to `importer.Import`; `near` says whether the one that needs them came from this host."""
        return functools.partial(self._dependency, near)

    def _dependency(self, near: bool, dependency: dict[str, Any], name: str, labels: dict[str, str], image_id: str) -> None:
        """Fetches what `name` needs, unless it is no name for discovery: that it is missing, the importer says."""
        app = AppName(str(dependency["imageName"]), {str(label["name"]): str(label["value"]) for label in dependency.get("labels") or []})
        wanted = Wanted(app.name, app.labels, str(dependency.get("imageID") or ""))
        self._above.append((name, labels, image_id))
        try:
            self._refuse_circle(app, wanted)
            if is_discoverable(app.name):
                self._discover(app, wanted, int(dependency.get("size") or _MAX_IMAGE), near, None)
        finally:
            self._above.pop()

    def _refuse_circle(self, app: AppName, wanted: Wanted) -> None:
        chain = " -> ".join([*(name for name, _, _ in self._above), app.name])
        for name, labels, image_id in self._above:
            same = name == app.name and all(labels.get(label) == value for label, value in app.labels.items())
            if same and wanted.id in ("", image_id):
                raise ImageError(
                    "find dependency", str(app), f"images depend on each other in a circle: {chain}", hint="one has to be built anew"
                )
        if len(self._above) > MAX_DEPTH:
            reason = f"more than {MAX_DEPTH} images depend on each other in a row"
            raise ImageError("find dependency", str(app), reason, hint="import some of them first, or build them on fewer")

    def _discover(self, app: AppName, wanted: Wanted, limit: int, near: bool | None, signature: str | None) -> Image:
        http = self._spoken(app.host if near is None else "")
        found, web = walk(app, endpoints, "ac-discovery for it", http=http, near=near, **self.more)
        if signature is not None:
            found = [Endpoint(one.image, signature) for one in found]
        with web:
            return self._bring(web, found, wanted, str(app), named=signature, limit=limit, name=str(app))

    def _spoken(self, named: str) -> list[str]:
        """Places for plain http, with the one that is named where the user left its name out."""
        return [word or named for word in self.http if word or named]

    def _bring(
        self,
        web: Web,
        places: list[Endpoint],
        wanted: Wanted,
        title: str,
        *,
        named: str | None = None,
        name: str = "",
        limit: int = _MAX_IMAGE,
    ) -> Image:
        """The image of the first place that has it; the others are for when one cannot be reached or has nothing."""
        store, began = self.store, time.time_ns()
        store.ensure()
        try:
            with self._turn(places[0].image), Staging(store.root, "fetch") as staging:
                work = _Arrival(self, web, staging, wanted, named, limit)
                known = work.known(places[0].image)
                if known is not None and named is None and (known[0].asked > began or (known[0].is_fresh() and not self.no_cache)):
                    return known[1]  # somebody else was quicker, or the server said how long its answer is good
                note = work.first(places)
                image = work.unchanged or work.store(title, note.url)
                note.image_id, note.name = image.id, name
                note.save(store, staging)
                return image
        except OSError as error:
            if isinstance(error, PyrunError):
                raise
            raise explain(store, title, error) from error

    @contextlib.contextmanager
    def _turn(self, url: str) -> Iterator[None]:
        """One at a time asks a URL.  Nobody waits for that with a turn of his own, so that no two wait for each other."""
        lock = Lock(f"{self.store.root}/locks/url-{hashlib.sha256(url.encode()).hexdigest()[:2]}", exclusive=True, wait=not self._above)
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(StateError):
                stack.enter_context(lock)
            yield


class _Arrival:
    """One image on its way: what came of it lies in `staging`."""

    def __init__(self, fetcher: Fetcher, web: Web, staging: Staging, wanted: Wanted, named: str | None, limit: int) -> None:
        self.fetcher = fetcher
        self.web = web
        self.staging = staging
        self.wanted = wanted
        self.named = named
        self.limit = limit
        self.path = f"{staging.path}/image"
        self.digest = ""
        self.signature: bytes | None = None
        self.unchanged: Image | None = None

    def first(self, places: list[Endpoint]) -> Note:
        """Downloads from the first place that can; the last one's error, which tells of the others, else."""
        failures: list[ImageError] = []
        for place_ in places:
            try:
                return self._download(place_)
            except ImageError as error:
                failures.append(error)
        *before, last = failures
        if before:
            last.origin = "asked before: " + "; ".join(map(str, before))
        raise last

    def known(self, url: str) -> tuple[Note, Image] | None:
        """What the URL held before, where that would do today."""
        found = recall(self.fetcher.store, url)
        if found is None:
            return None
        image = found[1]
        try:
            self.wanted.check(image.name, image.labels, image.id, url)
            if not self.fetcher.unsigned:
                self.fetcher.store.require_trusted(image, self.fetcher.keyring.system)
                if image.signature is None and (image.origin is None or image.origin["place"] != trust.web_place(url)):
                    return None  # accepted as one from elsewhere
        except (ImageError, TrustError):
            return None
        return found

    def _download(self, endpoint: Endpoint) -> Note:
        """Brings signature and image, or finds that what is stored is still what the URL holds."""
        url = address(endpoint.image, self.web.http)
        known = self.known(endpoint.image) if self.named is None else None
        conditions = known[0].conditions() if known is not None else {}
        if not conditions:
            self.signature = self._signature(endpoint)
        elif self.fetcher.no_cache:
            conditions["Cache-Control"] = "no-cache"
        work = Download(self.web.at(url), endpoint.image, self.path, self.web.title, limit=self.limit)
        with self.fetcher.progress() if self.fetcher.progress else contextlib.nullcontext() as line:
            if line is not None:
                work.moved = _Teller(line, work)
            with work:
                work.run(conditions)
                if known is not None and work.unchanged:
                    known[0].confirm(work.headers)
                    self.unchanged = known[1]
                    return known[0]
                os.fsync(work.fd)
            self.digest = f"sha256-{work.hasher.hexdigest()}"
            if line is not None:
                line.end(work.path, work.have, self.digest)
        if conditions:
            self.signature = self._signature(endpoint)
        return Note(endpoint.image, "", "", endpoint.signature if self.signature is not None else "", work.headers)

    def accepts(self, url: str) -> bool:
        """Whether an image of a URL needs no signature."""
        if self.fetcher.unsigned or self.named is not None:
            return self.fetcher.unsigned
        place = trust.web_place(url)
        return bool(place) and trust.accepts_unsigned(self.fetcher.store.root, place, self.fetcher.keyring.system) is not None

    def _signature(self, endpoint: Endpoint) -> bytes | None:
        """The signature's text; None where nobody asks for one, or there is none and none is needed."""
        source = endpoint.signature
        if self.named is None and self.fetcher.unsigned:
            return None
        if "://" not in source:
            try:
                return read_bounded(source, MAX_SIGNATURE, "signature")
            except TrustError as error:
                raise SignatureError(error.step, error.subject, error.reason, errno=error.errno, hint=error.hint) from None
        url = address(source, self.web.http, "address of the signature")
        try:
            return self.web.at(url, named=self.named is not None).document(source, MAX_SIGNATURE).data
        except NotFoundError as error:
            if self.accepts(endpoint.image):
                return None
            place = trust.web_place(endpoint.image)
            more = f", accept unsigned images from there: pyrun trust --unsigned {place}," if place else ","
            hint = f"its owner has to offer one; name it (--signature URL){more} or accept the image: --insecure-options=image"
            raise SignatureError("fetch", self.web.title, f"no signature: {url} is not there", hint=hint) from error

    def store(self, title: str, url: str) -> Image:
        """Imports what came."""
        fetcher = self.fetcher
        if self.signature is None and not url.partition("?")[0].endswith(".aci"):
            from pyrun.images import layered
            from pyrun.images.resolve import Reference
            from pyrun.images.trust.gate import Gate

            kind = layered.recognise(fetcher.store, self.path)
            if kind != "aci":
                named = f"{self.staging.path}/{trust.quote(os.path.basename(url.partition('?')[0]) or 'image')}"
                os.rename(self.path, named)  # it gives a name to what has none
                gate = Gate(fetcher.store, unsigned=fetcher.unsigned, system=fetcher.keyring.system)
                image = layered.import_layered(fetcher.store, Reference(title, "file", named), gate, kind=kind, place=trust.web_place(url))
                self.wanted.check(image.name, image.labels, image.id, title)
                return image
        return _Arrived(self, title, url).run()


class _Arrived(Import):
    """The import of a file that came from a server into a directory that is ours."""

    __slots__ = ("arrival",)

    def __init__(self, arrival: _Arrival, title: str, url: str) -> None:
        fetcher = arrival.fetcher
        bring = fetcher.bringer(arrival.web.transport.near)
        place = trust.web_place(url)
        super().__init__(fetcher.store, title, arrival.named, arrival.accepts(url), fetcher.keyring, arrival.wanted, bring, place)
        self.arrival = arrival

    def copy(self, staging: Staging) -> tuple[os.stat_result, str]:
        """Takes the file; it was hashed and synced when it came."""
        os.rename(self.arrival.path, f"{staging.path}/blob")
        return os.stat(f"{staging.path}/blob"), self.arrival.digest

    def signature(self) -> bytes | None:
        """What came with it."""
        return self.arrival.signature

    def remember(self, staging: Staging, info: os.stat_result, image: Image) -> None:
        """Nothing: the fetcher notes the URL."""


class _Teller:
    """Tells `Progress` of a download, which knows its size only when it has begun."""

    def __init__(self, line: Progress, work: Download) -> None:
        self._line = line
        self._work = work
        self._begun = False

    def __call__(self, count: int) -> None:
        if not self._begun:
            self._begun = True
            self._line.begin(self._work.path, self._work.size or 0)
        self._line.moved(self._work.path, count)
