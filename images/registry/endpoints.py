"""The places that may have one image, mirrors first: asked in turn until one answers.

    mirror 1 --cannot be reached, has it not--> mirror 2 --> ... --> the registry itself
    https --not spoken, where registries.conf says insecure--> http

Whoever answered once is asked for the rest; where it fails, the next one is, since all but the tag goes by digest.
One that answers with something else than what its digest says is not passed over: that ends the command.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, TypeVar

from pyrun.errors import DigestError, ImageError, ManifestError
from pyrun.images.registry import config
from pyrun.images.registry.client import Client
from pyrun.images.registry.reference import RegistryReference
from pyrun.images.registry.transport import UnreachableError

__all__ = ["Endpoints"]

T = TypeVar("T")


class Endpoints:
    """What asks for one image; threads may share it.  Use it in a `with`.

    `http` names registries (HOST[:PORT]) that are asked over plain http, "" being the one in the reference itself.
    Raises what `config.read` raises; the rest goes to each `Client`.
    """

    def __init__(
        self,
        reference: RegistryReference,
        *,
        http: Collection[str] = (),
        environ: Mapping[str, str] | None = None,
        system: str = config.SYSTEM,
        **client: Any,
    ) -> None:
        self.reference = reference
        self._clients: list[tuple[Client, bool]] = []  # and whether it is only for where https is not spoken
        self._current = 0
        self._silent: dict[int, ImageError] = {}  # places that could not say what hangs on the image
        for place in config.read(environ, system).places(reference):
            own = place.reference
            named = own.registry in http or ("" in http and own.registry == reference.registry)
            self._clients.append((Client(own, http=named, environ=environ, **client), False))
            if place.insecure and not named:
                self._clients.append((Client(own, http=True, environ=environ, **client), True))

    def __enter__(self) -> Endpoints:
        return self

    def __exit__(self, *_exc: object) -> None:
        for client, _ in self._clients:
            client.transport.close()

    def stop(self) -> None:
        """Ends what other threads download; they get an ImageError."""
        for client, _ in self._clients:
            client.stop()

    def first(self, action: Callable[[Client], T]) -> T:
        """What `action` returns for the first place that can do it; the last one's error, which names the others, else."""
        failures: list[ImageError] = []
        for number, answer in self._answers(action, failures):
            self._current = max(self._current, number)
            return answer
        raise _together(failures)

    def found(self, action: Callable[[Client], T], notes: list[str]) -> T | None:
        """What `action` returns for the first place that has some of it, None where no place has; the error where none answers.

        For what hangs on an image, which a mirror need not have copied.  `notes` tells of places that might have had it.
        """
        failures: list[ImageError] = []
        answered = False
        for _, answer in self._answers(action, failures, self._silent):
            if answer:
                return answer
            answered = True
        if failures and not answered:
            raise _together(failures)
        notes += [str(failure) for failure in failures]
        return None

    def _answers(
        self, action: Callable[[Client], T], failures: list[ImageError], silent: dict[int, ImageError] | None = None
    ) -> Iterator[tuple[int, T]]:
        """What the places answer, in their order, each asked when the next answer is wanted; the `silent` ones are not asked."""
        silent = {} if silent is None else silent
        start, before = self._current, None
        for number in range(start, len(self._clients)):
            client, fallback = self._clients[number]
            if fallback and number != start and not isinstance(before, UnreachableError):
                continue  # https was spoken, and what it said counts
            before = silent.get(number)
            if before is not None:
                continue
            try:
                answer = action(client)
            except (DigestError, ManifestError):
                raise
            except ImageError as error:
                before = silent[number] = error
                failures.append(error)
                if client.stopped:
                    return
                continue
            yield number, answer


def _together(failures: list[ImageError]) -> ImageError:
    """The last of several errors, which tells of the others."""
    last = failures.pop()
    others = [str(failure) for failure in failures if str(failure) != str(last)]
    if others:
        last.origin = f"asked before: {'; '.join(others)}"
    return last
