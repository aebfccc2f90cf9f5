"""The functions of `pyrun`: each is the method of that name of a Runtime, which is kept for each state directory."""

from __future__ import annotations

import os

from pyrun.api import Runtime
from pyrun.native.users import state_root
from pyrun.pod.state import new_uuid
from pyrun.streams import INHERIT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Unpack

    from pyrun.api import App
    from pyrun.container import Container
    from pyrun.planning import Plan
    from pyrun.pod.handle import Pod
    from pyrun.pod.keywords import Keywords
    from pyrun.result import Result
    from pyrun.streams import Stream

__all__ = ["allow_limits", "attach", "create", "create_pod", "detach", "events", "list_pods", "plan_of", "run", "settle", "start"]

_runtimes: dict[str, Runtime] = {}  # a memory of decisions, nothing else: forgetting one changes no result


def runtime_of(root: str | None) -> Runtime:
    """Return the Runtime of a state directory, the same one each time."""
    path = os.path.abspath(root or state_root())
    known = _runtimes.get(path)
    if known is None:
        known = _runtimes[path] = Runtime(path)
    return known


def run(
    image: str | None = None,
    args: Sequence[str] = (),
    *,
    root: str | None = None,
    rootfs: str | None = None,
    stdin: Stream = None,
    input: bytes | None = None,
    stdout: Stream = INHERIT,
    stderr: Stream = INHERIT,
    capture_output: bool = False,
    timeout: float | None = None,
    output_limit: int | None = None,
    check: bool = False,
    **options: Unpack[Keywords],
) -> Result:
    """Run an app to its end and return how it ended; see `Runtime.run`.

    `image` is the name or id of a stored image; instead, `rootfs` is a directory of the host or "host".  `root` is the state directory.
    """
    return runtime_of(root).run(
        image,
        args,
        rootfs=rootfs,
        stdin=stdin,
        input=input,
        stdout=stdout,
        stderr=stderr,
        capture_output=capture_output,
        timeout=timeout,
        output_limit=output_limit,
        check=check,
        **options,
    )


def start(
    image: str | None = None,
    args: Sequence[str] = (),
    *,
    root: str | None = None,
    rootfs: str | None = None,
    stdin: Stream = None,
    stdout: Stream = INHERIT,
    stderr: Stream = INHERIT,
    **options: Unpack[Keywords],
) -> Container:
    """Start an app that ends with this process, and return at once; see `Runtime.start`."""
    return runtime_of(root).start(image, args, rootfs=rootfs, stdin=stdin, stdout=stdout, stderr=stderr, **options)


def plan_of(
    image: str | None = None,
    args: Sequence[str] = (),
    *,
    root: str | None = None,
    rootfs: str | None = None,
    stdin: bool = False,
    **options: Unpack[Keywords],
) -> Plan:
    """Return what `start` with the same arguments would ask of the kernel; nothing is done.  See `Runtime.plan`."""
    return runtime_of(root).plan(image, args, rootfs=rootfs, stdin=stdin, **options)


def create(
    image: str | None = None, args: Sequence[str] = (), *, root: str | None = None, rootfs: str | None = None, **options: Unpack[Keywords]
) -> Pod:
    """Make a pod that is ready to run, in this process or in any other; see `Runtime.prepare`."""
    return runtime_of(root).prepare(image, args, rootfs=rootfs, **options)


def create_pod(apps: Sequence[App], *, root: str | None = None, **options: Unpack[Keywords]) -> Pod:
    """Make a pod of several apps that is ready to run; see `Runtime.prepare_pod`."""
    return runtime_of(root).prepare_pod(apps, **options)


def detach(
    image: str | None = None, args: Sequence[str] = (), *, root: str | None = None, rootfs: str | None = None, **options: Unpack[Keywords]
) -> Pod:
    """Run an app in the background, independent of this process, and return as soon as it runs; see `Runtime.detach`."""
    return runtime_of(root).detach(image, args, rootfs=rootfs, **options)


def attach(reference: str, *, root: str | None = None) -> Pod:
    """Return the one pod of that UUID, beginning of a UUID, or name; StateError for none or several."""
    return runtime_of(root).pod(reference)


def list_pods(*, root: str | None = None) -> list[dict[str, object]]:
    """Return the status of every pod, oldest first; see `pyrun.pod.status.status` for the members."""
    return runtime_of(root).list_pods()


def events(*, root: str | None = None) -> Iterator[dict[str, object]]:
    """Yield what happens to pods, from now on and for ever; see `pyrun.pod.events.events`."""
    return runtime_of(root).events()


def settle(*, root: str | None = None) -> None:
    """Wait until everything that ended `run`s made is gone; see `Runtime.settle`."""
    runtime_of(root).settle()


def allow_limits(controllers: Sequence[str] = ("cpu", "memory", "pids")) -> None:
    """Bring this process to a place in the cgroup tree beside which its containers can be limited; HostError where there is none.

    The kernel limits the children of a cgroup only while no process is in it: this one goes to a leaf, `pyrun-supervisor`,
    once, before its first container with a limit.  It has to be alone in its cgroup, as a unit with Delegate=yes is.
    """
    from pyrun.engine.placement import take

    take(new_uuid(), list(controllers))
