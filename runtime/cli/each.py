"""Verbs that do the same to each pod that is meant, and tell what became of it.

Of several pods each is tried; the exit code is that of the first error, and every error is said.
"""

from __future__ import annotations

from pyrun.cli.output import emit_json, say
from pyrun.errors import PyrunError
from pyrun.pod.names import find, resolve

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pyrun.cli.parse import Args
    from pyrun.pod.state import Pods

__all__ = ["each"]


def each(args: Args, pods: Pods, words: Iterable[str], act: Callable[[str], object], *, silent: bool = False, absent: bool = False) -> int:
    """Call `act` with the UUID of each pod, and print that UUID, or what `act` returns unless it is None; nothing if `silent`.

    With `absent` a pod that is not there is no error.

    With --format json one array: `pod` as it was named, its `uuid` ("" where there is none), whether it was `done`, the `error`
    ("" for none), and in `result` what `act` returned.
    """
    code, told = 0, []
    for word in words:
        uuid, error, result = "", "", None
        try:
            uuid = (find if absent else resolve)(pods, word)[1]
            result = act(uuid) if uuid else None
        except PyrunError as problem:
            from pyrun.cli.main import render

            failed, error = render(problem, args.debug), str(problem)
            code = code or failed
        else:
            if args.format != "json" and uuid and not silent:
                say(uuid if result is None else result)
        told.append({"pod": word, "uuid": uuid, "done": not error, "error": error, **({} if result is None else {"result": result})})
    if args.format == "json":
        emit_json(told)
    return code
