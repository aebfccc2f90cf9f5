"""The command line that made a pod of the background, kept in its file `command`, so that a unit can do the same again.

{"directory": where it was typed, "words": everything behind the verb}
"""

from __future__ import annotations

import os
import sys

from pyrun.errors import StateError, UsageError
from pyrun.images import fastjson

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyrun.cli.options import Option
    from pyrun.cli.parse import Args
    from pyrun.pod.state import Pods

__all__ = ["asked_for", "of_this_run", "pod_of"]

_DROPPED = frozenset("detach rm keep uuid_file_save interactive tty quiet format pod_name take_name restart".split())

_BESIDE = frozenset(("unit", "into", "machined", "root", "debug"))


def of_this_run(args: Args) -> bytes:
    """Return what the pod's file is to hold; b"" when this process was not started by a command line."""
    words = sys.argv[1:]
    place = 0
    while place < len(words) and words[place] != args.verb:
        place += 1
    if place == len(words):
        return b""
    return fastjson.dumps({"directory": os.getcwd(), "words": words[place + 1 :]}).encode("utf-8", "surrogateescape")


def pod_of(args: Args, pods: Pods) -> str:
    """Return the UUID of the pod that the one word of a command line names, "" where it means an image.

    UsageError when there is an image of that name as well.
    """
    from pyrun.images.resolve import parse
    from pyrun.images.store import Store
    from pyrun.pod.names import resolve

    if args.uuid_file:
        from pyrun.cli.references import of_files

        words = of_files(args.uuid_file)
        if args.image or len(words) != 1 or args.given - {"uuid_file", *_BESIDE}:
            raise UsageError(args.verb, "", "takes one pod and no options of `run` with --uuid-file", hint="name an image, or one pod")
        return resolve(pods, words[0])[1]
    if not args.image or args.apps or args.argv or args.given - _BESIDE:
        return ""
    if parse(args.image).kind != "name" or not set("/:,=@").isdisjoint(args.image):
        return ""
    try:
        uuid = resolve(pods, args.image)[1]
    except StateError:
        return ""
    try:
        Store(args.root).find_id(args.image)
    except Exception:  # whatever is wrong there, it is not that image that is meant
        return uuid
    raise UsageError(args.verb, args.image, "is a pod and an image", hint=f"write the pod's UUID, {uuid}, or the image's id")


def asked_for(pods: Pods, uuid: str) -> tuple[str, list[str], dict[str, str]]:
    """Return the directory in which a pod was asked for, the words of `run` that do the same in the foreground, and what was left out.

    The last by option, with its value: what only a pod in the background has.  StateError for a pod that no command line made.
    """
    from pyrun.cli.options import COMMON, VERBS
    from pyrun.pod.names import phase_of

    try:
        fd = os.open(f"{phase_of(pods, uuid)}/{uuid}/command", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=pods.fd)
        with open(fd, "rb") as file:
            found: Any = fastjson.loads(file.read(1 << 22).decode("utf-8", "surrogateescape"))
        names = {name: option for option in COMMON + VERBS["run"][2] for name in option[0].split()}
        left_out: dict[str, str] = {}
        return str(found["directory"]), _in_foreground(found["words"], names, left_out), left_out
    except (OSError, ValueError, LookupError, TypeError):
        hint = "only pods of `run --detach` and `prepare` can be made a unit; or name an image"
        raise StateError("generate a unit for pod", uuid, "nobody noted how it was asked for", hint=hint) from None


def _in_foreground(words: list[str], names: dict[str, Option], left_out: dict[str, str]) -> list[str]:
    kept: list[str] = []
    place = 0
    while place < len(words):
        word, end = words[place], place + 1
        if word == "--":
            end = words.index("---", place) if "---" in words[place:] else len(words)
            kept += words[place:end]
        elif word[:2] == "--" and word != "---":
            name, equals, value = word.partition("=")
            if not equals and names[name][2] != "flag":
                end += 1
                value = words[place + 1]
            if not _dropped(names[name], value, left_out):
                kept += words[place:end]
        elif word[:1] == "-" and word not in ("-", "---"):
            end += _short(words, place, names, left_out, kept)
        else:
            kept.append(word)
        place = end
    return kept


def _short(words: list[str], place: int, names: dict[str, Option], left_out: dict[str, str], kept: list[str]) -> int:
    """One word of joined short options; returns how many words more belong to it."""
    flags = ""
    for at, letter in enumerate(words[place][1:], 1):
        option = names["-" + letter]
        if option[2] == "flag":
            flags += "" if _dropped(option, "", left_out) else letter
            continue
        more = 0 if words[place][at + 1 :] else 1
        kept += ["-" + flags + words[place][at:], *words[place + 1 : place + 1 + more]]
        return more
    if flags:
        kept.append("-" + flags)
    return 0


def _dropped(option: Option, value: str, left_out: dict[str, str]) -> bool:
    from pyrun.cli.run import BACKGROUND

    name = option[0].partition(" ")[0][2:].replace("-", "_")
    if name not in _DROPPED and name not in BACKGROUND and name != "root":
        return False
    left_out[name] = value
    return True
