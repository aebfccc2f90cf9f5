"""Recipes on disk of pods that a keeper looks after, for the launcher: struct recipe_kept of native/recipe.h, read by native/kept.c.

What stands in the directory of a pod that was prepared is kept as it is.  The launcher makes the same again, under another UUID,
when the same command line comes again, word for word, and nothing that decided has changed.
"""

from __future__ import annotations

import os
from struct import Struct

from pyrun import native
from pyrun.engine.installed import launcher
from pyrun.pod.cache import CHECK, KEPT, Strings, keep, own_checks, pack_check, place_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrun.pod.recipe import Check
    from pyrun.pod.state import Pods

__all__ = ["save"]

_MAGIC, _VERSION = 0x7470656B, 1
_HEADER, _FILE = Struct("=13I"), Struct("=3I")
_FORM = b"k"
_FILES = 12  # beside the plan
_BEFORE = b',"uptime":'  # the members of the record that are another pod's own
_OF_NETWORKS = {"net.join", "net"}  # which have to be found first


def save(pods: Pods, uuid: str, argv: list[str], checks: list[Check], name: str, *, detach: bool) -> None:
    """Keep the prepared pod `uuid` for the next time that `argv` is run; `checks` are of what decided, `name` is its name, "" for none.

    Whatever prevents it is no loss, so no error is raised.
    """
    try:
        every = own_checks(checks)
        files = _read(pods, uuid)
        if every and files and launcher():
            key = b"".join(word + b"\0" for word in (_FORM, *place_of(), *map(os.fsencode, argv), os.getcwdb()))
            keep(pods.root + "/cache/run", KEPT, key, _encode(key, every, files, uuid, name, detach=detach))
    except OSError:
        pass


def _read(pods: Pods, uuid: str) -> dict[str, bytes]:
    """The files of the pod's directory; none where there is something that can not simply be made again."""
    directory = os.open(f"prepared/{uuid}", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=pods.fd)
    try:
        names = set(os.listdir(directory)) - {"keeper"}
        if not {"pod", "plan"} <= names or names & _OF_NETWORKS or len(names) > _FILES:
            return {}
        if "net.want" in names and "net.script" not in names:
            return {}  # Python makes it each time
        files = {}
        for name in names:
            with open(os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory), "rb") as file:
                files[name] = file.read()
    finally:
        os.close(directory)
    head, before, _ = files["pod"].rpartition(_BEFORE)
    files["pod"] = head
    return files if before else {}


def _encode(key: bytes, checks: list[Check], files: dict[str, bytes], uuid: str, name: str, *, detach: bool) -> bytes:
    block = files.pop("plan")
    start = _HEADER.size + CHECK.size * len(checks) + _FILE.size * len(files)
    plan = start + len(key) + -(start + len(key)) % 8
    tail = Strings(plan + len(block))
    parts = [pack_check(one, tail) for one in checks]
    for file, data in files.items():
        at = tail.add(file)
        parts.append(_FILE.pack(at, tail.start + len(tail.data), len(data)))
        tail.data += data
    places = [tail.add(text) for text in (uuid, name, native.KEEPER)]
    spans = (start, len(key), plan, len(block), len(files))
    header = _HEADER.pack(_MAGIC, _VERSION, tail.start + len(tail.data), len(checks), *spans, *places, detach)
    return b"".join((header, *parts, key.ljust(plan - start, b"\0"), block, tail.data))
