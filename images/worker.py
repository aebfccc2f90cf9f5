"""The confined process in which the bytes of an image are read.

    caller                                   child: python -I -S, src fd, staging fd, stdout = pipe
      | spawn ------------------------------>  import everything it will need
      |                                        confine: no privileges, writes only below staging
      |                                        decompress, hash, parse, unpack
      | <------------- one JSON document ----  {"ok": ...} or {"error": class, step, subject, ...}

The child has no deadline but bounded memory.  A document that does not come, or is not one, is an ArchiveError.
"""

from __future__ import annotations

import binascii
import errno
import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from pyrun import errors
from pyrun.errors import ArchiveError, HostError, ImageError, PyrunError
from pyrun.images.limits import Limits
from pyrun.images.printable import printable
from pyrun.images.strictjson import MAX_BYTES
from pyrun.images.unpack import Policy

MAX_MEMORY = 1 << 30  # address space of the child in bytes, see getrlimit(2) RLIMIT_AS
_MAX_ANSWER = 2 * MAX_BYTES
_BOOT = "import sys; sys.path[:0] = sys.argv[1].split(':'); from pyrun.images.worker import main; main(sys.argv[2])"
# Modules that may live elsewhere than pyrun does, in a strict editable install for one
_COMPANIONS = ("_cffi_backend", "_prctl", "isal", "prctl", "zstandard")
_MAX_TEXT = 400  # characters of one field of an error
_HEX = frozenset("0123456789abcdef")


def run(task: str, src_fd: int, staging_dirfd: int, limits: Limits, policy: Policy, *, formats: tuple[str, ...] = ()) -> dict[str, Any]:
    """Runs one task of `_FINDINGS` in a new confined process and returns what it found; see `aci.unpack_aci` for the errors.

    `formats` are the compressions that a layer may have.
    """
    import subprocess  # not needed by the child, which imports this module as well

    order = {
        "task": task,
        "src": src_fd,
        "staging": staging_dirfd,
        "parent": os.getpid(),
        "formats": formats,
        "limits": limits.as_dict(),
        "policy": {name: getattr(policy, name) for name in Policy.__slots__},
    }
    command = [sys.executable or "/proc/self/exe", "-I", "-S", "-B", "-X", "utf8", "-c", _BOOT, ":".join(_search_path()), json.dumps(order)]
    try:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, pass_fds=(src_fd, staging_dirfd),
            cwd="/", env={},
        )  # fmt: skip
    except OSError as exc:
        raise HostError("start", "unpack worker", errno=exc.errno or 0, hint=f"{command[0]} must be an executable Python") from exc
    with child:
        try:
            assert child.stdout is not None
            answer = child.stdout.read(_MAX_ANSWER + 1)
        finally:
            child.kill()  # done, or not to be waited for
    return _understand(answer, child.returncode, task)


def _search_path() -> list[str]:
    """Directories of pyrun and of what it imports; the child starts without site-packages."""
    from importlib.util import find_spec

    home = os.path.dirname(os.path.dirname(os.path.abspath(errors.__file__)))
    found = [home]
    for name in _COMPANIONS:
        spec = find_spec(name)
        if spec is not None and spec.origin is not None:
            folder = os.path.dirname(spec.origin)
            folder = os.path.dirname(folder) if spec.submodule_search_locations else folder
            if folder not in found:
                found.append(folder)
    return found


def _understand(answer: bytes, status: int, task: str) -> dict[str, Any]:
    try:
        document = json.loads(answer) if len(answer) <= _MAX_ANSWER else None
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        _died(answer, status)
    if "error" in document:
        raise _error(document["error"])
    try:
        found = document["ok"]
        return {key: check(found[key]) for key, check in _FINDINGS[task].items()}
    except (KeyError, TypeError, ValueError):
        _died(answer, status)


def _digest(algorithm: str, digits: int) -> Callable[[str], str]:
    def check(value: str) -> str:
        if value[: len(algorithm) + 1] != f"{algorithm}-" or len(value) != len(algorithm) + 1 + digits:
            raise ValueError(value)
        if not _HEX.issuperset(value[len(algorithm) + 1 :]):
            raise ValueError(value)
        return value

    return check


def _kind(value: str) -> str:
    if value not in ("aci", "oci-archive", "docker-archive"):
        raise ValueError(value)
    return value


# task -> what it finds out, and what is required of that
_FINDINGS: dict[str, dict[str, Callable[[Any], Any]]] = {
    "aci": {
        "manifest": lambda text: binascii.a2b_base64(text, strict_mode=True),
        "size": int,
        "image_id": _digest("sha512", 128),
        "blob_digest": _digest("sha256", 64),
    },
    "layer": {"diff_id": _digest("sha256", 64)},
    "box": {},
    "recognise": {"kind": _kind},
}


def _error(fields: object) -> PyrunError:
    if not isinstance(fields, dict):
        fields = {}
    kind = getattr(errors, str(fields.get("class")), ImageError)
    if not (isinstance(kind, type) and issubclass(kind, PyrunError)):
        kind = ImageError
    texts = {name: printable(str(fields.get(name, "")), _MAX_TEXT) for name in ("step", "subject", "reason", "hint", "origin")}
    step, subject, reason = texts.pop("step"), texts.pop("subject"), texts.pop("reason")
    number = fields.get("errno")
    return kind(step, subject, reason, errno=number if isinstance(number, int) else 0, **texts)


def _died(answer: bytes, status: int) -> NoReturn:
    said = printable(answer.strip().rpartition(b"\n")[2])
    reason = "the process that reads it ended without an answer"
    if status < 0 and status != -signal.SIGKILL:
        reason = f"the process that reads it was ended by {signal.Signals(-status).name}"
    if said.startswith(("ModuleNotFoundError", "ImportError")):
        raise HostError("start", "unpack worker", said, hint="the installation is incomplete: install pyrun-runtime again")
    if said:
        reason = f"{reason}: {said}"
    raise ArchiveError("unpack", "archive", reason, hint="the image may be made to crash its reader: do not use it, and report it")


# The child's side


def main(order_json: str) -> None:
    """Entry point of the child; answers on stdout and ends the process."""
    order = json.loads(order_json)
    answer = os.dup(1)
    try:
        result = _work(order)
        if "manifest" in result:
            result["manifest"] = binascii.b2a_base64(result["manifest"], newline=False).decode("ascii")
        document: dict[str, Any] = {"ok": result}
    except PyrunError as exc:
        document = {"error": _fields(exc)}
    except MemoryError:
        hint = "compress the image with a smaller dictionary or window"
        document = {"error": _fields(ArchiveError("unpack", "archive", "needs more memory to read than is allowed", hint=hint))}
    except OSError as exc:  # those of members are ImageErrors already
        hint = "look at the kernel log" if exc.errno == errno.EIO else "the staging directory must be private and empty"
        document = {"error": _fields(ImageError("unpack", printable(str(exc.filename or "archive")), errno=exc.errno or 0, hint=hint))}
    except Exception as exc:
        hint = "this is a defect of pyrun: report it with the image"
        reason = f"{type(exc).__name__}: {exc}"
        document = {"error": _fields(ArchiveError("unpack", "archive", reason, hint=hint))}
    with os.fdopen(answer, "wb") as pipe:
        pipe.write(json.dumps(document).encode("ascii"))
    os._exit(0)


def _fields(exc: PyrunError) -> dict[str, Any]:
    names = ("step", "subject", "reason", "errno", "hint", "origin")
    return {"class": type(exc).__name__, **{name: getattr(exc, name) for name in names}}


def _work(order: dict[str, Any]) -> dict[str, Any]:
    from pyrun.images import aci, confine, oci_layer

    if order["task"] in ("box", "recognise") or "zstd" in order["formats"]:
        from pyrun.images import zstd  # noqa: F401  # no file can be opened later

    confine.confine(order["staging"], parent=order["parent"], memory=MAX_MEMORY)
    task, source, staging, limits, policy = (
        order["task"],
        order["src"],
        order["staging"],
        Limits(**order["limits"]),
        Policy(**order["policy"]),
    )
    if task == "aci":
        return aci.read_aci(source, staging, limits, policy)
    if task == "layer":
        return oci_layer.read_layer(source, staging, limits, policy, tuple(order["formats"]))
    return oci_layer.read_box(source, staging, limits) if task == "box" else oci_layer.recognise(source, limits)
