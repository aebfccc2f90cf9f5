"""`pyrun config`: the configuration documents that pods are given by `--config`."""

from __future__ import annotations

import os
import sys

from pyrun.cli.output import emit, emit_json, say
from pyrun.errors import StateError, UsageError
from pyrun.images.given import opener
from pyrun.pod import documents

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrun.cli.parse import Args

__all__ = ["run"]

_LIMIT = 1 << 20


def run(args: Args) -> int:
    """Carries out one of the verbs."""
    verb = args.verb.partition(" ")[2]
    if verb == "list":
        _list(args)
    elif verb == "set":
        say(documents.change(args.root, args.document, _values(args), without=args.unset, replace=args.replace))
    elif verb == "get":
        _get(args)
    elif verb == "watch":
        for version, values in documents.watch(args.root, args.document):
            _line(args.document, version, values)
    elif verb == "rm":
        _refuse_used(args)
        documents.remove(args.root, args.document)
    else:
        _pull(args)
    return 0


def _line(name: str, version: int, values: dict[str, str]) -> None:
    import json

    emit(json.dumps({"name": name, "version": version, "values": values}) + "\n")
    sys.stdout.flush()


def _list(args: Args) -> None:
    found = documents.names(args.root)
    if args.format == "json":
        emit_json([{"name": name, "version": documents.read(args.root, name)[0]} for name in found])
        return
    for name in found:
        say(name)


def _get(args: Args) -> None:
    version, values = documents.read(args.root, args.document)
    if not args.item:
        emit_json({"name": args.document, "version": version, "values": values})
    elif args.item in values:
        emit(values[args.item])
    else:
        have = ", ".join(values) or "none"
        raise StateError("find configuration key", args.item, f"{args.document} has no such key", hint=f"its keys are: {have}")


def _values(args: Args) -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in args.pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise UsageError("config set", pair, "not KEY=VALUE", hint="write KEY=VALUE, or --from-file KEY=FILE")
        _add(found, key, value)
    for text in args.from_file:
        key, equals, path = text.partition("=")
        if not equals:
            key, path = os.path.basename(text), text
        try:
            with open(path, "rb", opener=opener) as file:
                data = file.read(_LIMIT + 1)
        except OSError as error:
            raise UsageError("option --from-file", path, errno=error.errno or 0, hint="name a readable file") from None
        _add(found, key, data.decode("utf-8", "surrogateescape"))
    if not found and not args.unset and not args.replace:
        raise UsageError("config set", args.document, "nothing to set", hint="write KEY=VALUE")
    return found


def _add(found: dict[str, str], key: str, value: str) -> None:
    if key in found:
        raise UsageError("config set", key, "is given twice", hint="give each key once")
    found[key] = value


def _refuse_used(args: Args) -> None:
    from pyrun.pod.state import Pods, read_json

    pods = Pods(args.root)
    for phase in ("preparing", "prepared", "running"):
        for uuid in pods.uuids(phase):
            try:
                fd = os.open(f"{phase}/{uuid}", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=pods.fd)
            except OSError:
                continue
            used = read_json(fd, "pod").get("config")
            os.close(fd)
            if isinstance(used, list) and args.document in used:
                hint = "stop and remove the pod first"
                raise StateError("remove configuration", args.document, f"pod {uuid} has it", hint=hint)


def _pull(args: Args) -> None:
    from pyrun.service import etcd

    if not args.etcd or not args.key_prefix:
        hint = "pyrun config pull NAME --etcd https://HOST:2379 --key-prefix /PREFIX/"
        raise UsageError("config pull", args.document, "--etcd and --key-prefix are needed", hint=hint)
    documents.directory(args.root, args.document)
    source = etcd.Etcd(args.etcd, args.key_prefix, cacert=args.cacert, cert=args.cert, key=args.key)
    for values in source.changes() if args.follow else [source.values()[1]]:
        version = documents.change(args.root, args.document, values, replace=True)
        say(version)
        sys.stdout.flush()
