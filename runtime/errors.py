"""Every error that pyrun raises; imports nothing.

    PyrunError                      step, subject, errno, hint, origin
    +-- UsageError                  a flag or argument is wrong             exit 2
    +-- ImageError                  an image cannot be used
    |   +-- ManifestError           the manifest breaks a rule of its spec
    |   +-- ArchiveError            the archive is damaged or hostile
    |   +-- DigestError             bytes do not hash to their name
    |   +-- SignatureError          unsigned, badly signed or not trusted
    |   `-- NotFoundError           no such image
    +-- TrustError                  a key cannot be trusted or read
    +-- StateError                  a pod or store directory is not as it should be
    +-- HostError                   the host lacks something
    +-- ConfigError                 flags and manifest do not make a runnable pod
    +-- ExitError                   a container did not end well, and the caller asked to be told (pyrun.result)
    `-- SetupError (also OSError)   the kernel refused an operation of the plan
        `-- ExecError               the program could not be executed       exit 126, 127

The library raises and never prints; ``pyrun.cli`` renders and picks the exit code.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

__all__ = [
    "ArchiveError",
    "ConfigError",
    "DigestError",
    "ExecError",
    "HostError",
    "ImageError",
    "ManifestError",
    "NotFoundError",
    "PyrunError",
    "SetupError",
    "SignatureError",
    "StateError",
    "TrustError",
    "UsageError",
]

EXIT_USAGE = 2
EXIT_FAILED = 125
EXIT_NOT_EXECUTABLE = 126
EXIT_NOT_FOUND = 127


class PyrunError(Exception):
    """A failed step: what was tried (`step`), on what (`subject`), and why.

    `errno` is a number of errno(3) or 0; `hint` says what to do about it; `origin` names the
    manifest line or flag that asked for it (``isolators[2]``, ``--volume data``).  `str()` is one
    line without the hint.
    """

    exit_code = EXIT_FAILED

    def __init__(self, step: str, subject: str = "", reason: str = "", *, errno: int = 0, hint: str = "", origin: str = "") -> None:
        super().__init__(step, subject, reason)
        self.step = step
        self.subject = subject
        self.reason = reason
        self.errno = errno
        self.hint = hint
        self.origin = origin

    def of_app(self, name: str) -> Self:
        """Say which app of several it is about; returns this very error."""
        self.step = f"app {name}: {self.step}"
        return self

    def __str__(self) -> str:
        reason = self.reason
        if not reason and self.errno:
            import os

            reason = os.strerror(self.errno).lower()
        head = f"{self.step} {self.subject}" if self.subject else self.step
        return f"{head}: {reason}" if reason else head


class UsageError(PyrunError):
    """A flag or an argument is unknown, malformed or out of place."""

    exit_code = EXIT_USAGE


class ImageError(PyrunError):
    """An image cannot be used."""


class ManifestError(ImageError):
    """A manifest breaks a rule of its specification; `subject` is the JSON path."""


class ArchiveError(ImageError):
    """An image archive is truncated, oversized, malformed or hostile."""


class DigestError(ImageError):
    """Bytes do not hash to the digest that names them."""


class SignatureError(ImageError):
    """An image is unsigned, its signature is bad, or no trusted key made it."""


class NotFoundError(ImageError):
    """No stored image answers to a reference."""


class TrustError(PyrunError):
    """A public key cannot be read, stored or trusted."""


class StateError(PyrunError):
    """A pod or store directory is missing, busy or damaged."""


class HostError(PyrunError):
    """The host lacks a capability, a file system or a kernel feature."""


class ConfigError(PyrunError):
    """Flags and manifest together do not describe something that can run."""


def blame(where: str) -> type[PyrunError]:
    """Return the error for a malformed value: `UsageError` when `where` is a flag, `ConfigError` when it is a manifest line."""
    return UsageError if where.startswith("-") else ConfigError


class SetupError(PyrunError, OSError):  # type: ignore[misc]  # OSError.errno may be None, ours is 0
    """The kernel refused one operation of a plan; also an `OSError`, so `errno` and `filename` work."""

    def __init__(
        self, step: str, subject: str = "", reason: str = "", *, errno: int = 0, hint: str = "", origin: str = "", op: int = -1
    ) -> None:
        PyrunError.__init__(self, step, subject, reason, errno=errno, hint=hint, origin=origin)
        self.filename = subject or None
        self.op = op


class ExecError(SetupError):
    """The program could not be executed; `exit_code` is 127 when it is missing, else 126."""

    @property
    def exit_code(self) -> int:  # type: ignore[override]
        import errno

        return EXIT_NOT_FOUND if self.errno in (errno.ENOENT, errno.ENOTDIR) else EXIT_NOT_EXECUTABLE
