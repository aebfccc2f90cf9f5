"""Which pods a command line means: words and files with UUIDs, which every verb about pods takes."""

from __future__ import annotations

import os

from pyrun.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrun.cli.parse import Args

__all__ = ["of_files", "one_pod", "references"]


def of_files(paths: list[str]) -> list[str]:
    """Return what --uuid-file-save wrote to these files; UsageError for one that cannot be read."""
    from pyrun.images.given import opener

    words = []
    for path in paths:
        try:
            with open(path, encoding="ascii", opener=opener) as file:
                words.append(file.read(256).strip())
            if not words[-1]:
                raise UsageError("option --uuid-file", path, "is empty", hint="name a file that --uuid-file-save wrote")
        except (OSError, UnicodeDecodeError) as error:
            reason = os.strerror(error.errno or 0).lower() if isinstance(error, OSError) else "not a UUID"
            raise UsageError("option --uuid-file", path, reason, hint="name a file that --uuid-file-save wrote") from None
    return words


def references(args: Args) -> list[str]:
    """Return the pods that a command line means, by words and by --uuid-file; UsageError for none."""
    words = [*args.pods, *of_files(args.uuid_file)]
    if not words:
        raise UsageError(args.verb, "", "needs a POD", hint="name it by UUID, the beginning of one, its name, or --uuid-file")
    return words


def one_pod(args: Args) -> str:
    """Return the one pod that `args.pod` or --uuid-file means; UsageError for both, or for several files."""
    words = [*([args.pod] if args.pod else []), *of_files(args.uuid_file)]
    if len(words) != 1:
        raise UsageError(args.verb, "", "takes one pod", hint="name it by a word or by --uuid-file, and once")
    return words[0]
