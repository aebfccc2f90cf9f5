"""What happens to pods, as it happens: inotify(7) on the directories of their phases.

A pod's way through the phases is a rename each time, and its keeper writes `run` and `exit` by a rename too, so nothing has to
be asked for.  Events are told from now on; what was before is in `pyrun list`.
"""

from __future__ import annotations

import os
import struct
import time

from pyrun import native
from pyrun.host import read_small
from pyrun.pod.live import apps_of
from pyrun.pod.state import read_json
from pyrun.pod.status import PHASES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyrun.pod.state import Pods

    Event = dict[str, object]

__all__ = ["events"]

_MODIFY, _MOVED_FROM, _MOVED_TO, _CREATE, _DELETE, _OVERFLOW, _IGNORED, _ONLYDIR = 0x2, 0x40, 0x80, 0x100, 0x200, 0x4000, 0x8000, 0x1000000
_HEAD = struct.Struct("=iIII")
_PATIENCE = 2.0  # seconds for a pod that starts to have its cgroup
# Files that the kernel tells inotify of when it counts there, and what their counters mean.
_COUNTED = {"memory.events": {"oom_kill": "oom", "high": "memory-high"}, "pids.events": {"max": "pids-max"}}
# Those of version 1, of which it tells nobody (pids.events not since Linux 6.10), so they are looked at.
_COUNTED_1 = {"memory.oom_control": {"oom_kill": "oom"}, "pids.events": {"max": "pids-max"}}
_PAUSE_1 = 100  # ms
_ARRIVED = {"prepared": "prepared", "running": "started", "exited": "exited", "garbage": "removed"}


def events(pods: Pods) -> Iterator[Event]:
    """Yield events for ever: `time` (ns since 1970), `event` and `uuid`, with what is known of the pod.

    prepared, started (its supervisor has it), running (the app runs, once more for each restart), health (`health` has changed), died
    (the app ended: `code`, `signal`, `oom`, `oom_victim`), oom (the kernel killed some of it for want of memory: `kills`;
    `group`: all of it),
    memory-high (slowed down above memory.high), pids-max (a process was refused), each with `times` since the last one;
    exited (all of it ended and is kept), removed; `lost` when more happened than the kernel could hold.
    """
    watcher = _Watcher(pods)
    try:
        while True:
            yield from watcher.wait()
    finally:
        watcher.close()


def _numbers(path: str) -> dict[str, int]:
    pairs = (line.split() for line in read_small(path).decode().splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


class _Watcher:
    __slots__ = ("counted", "counts", "fd", "health", "old", "phases", "pods", "running", "wanted")

    def __init__(self, pods: Pods) -> None:
        self.pods = pods
        self.fd = -1
        self.phases: dict[int, str] = {}
        self.running: dict[int, tuple[str, str]] = {}  # watch -> pod, and which of several apps
        self.health: dict[tuple[str, str], object] = {}
        self.counts: dict[int, tuple[str, str]] = {}  # watch -> pod and file
        self.counted: dict[str, dict[str, int]] = {}  # file -> what it had
        self.old: dict[str, str] = {}  # file of version 1 -> pod
        self.wanted: dict[str, float] = {}  # pods whose cgroup may be made just now, and until when it is looked for
        for phase in (*PHASES[1:], "garbage"):
            mask = _MOVED_TO | _DELETE | (_MOVED_FROM if phase == "exited" else 0)
            self.fd, watch = native.inotify(os.fsencode(f"{pods.path}/{phase}"), mask | _ONLYDIR, self.fd)
            self.phases[watch] = phase
        for uuid in pods.uuids("running"):
            self._look_into(uuid)
            self._count(uuid, new=False)

    def close(self) -> None:
        os.close(self.fd)

    def _look_into(self, uuid: str) -> None:
        for app in ["", *[one["name"] for one in apps_of(self._read("running", uuid, "pod"))]]:
            path = f"{self.pods.path}/running/{uuid}{'/apps/' + app if app else ''}"
            try:
                _, watch = native.inotify(os.fsencode(path), _MOVED_TO | _ONLYDIR, self.fd)
            except OSError:
                return  # it has ended already
            self.running[watch] = uuid, app

    def wait(self) -> Iterator[Event]:
        import select

        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        while not poll.poll(20 if self.wanted else _PAUSE_1 if self.old else None):
            for uuid, end in list(self.wanted.items()):
                if self._count(uuid) or time.monotonic() > end:
                    self.wanted.pop(uuid, None)
            yield from self._old_counts()
        yield from self._old_counts()  # before the end of who was killed is told
        data = os.read(self.fd, 65536)
        place = 0
        while place < len(data):
            watch, mask, _, size = _HEAD.unpack_from(data, place)
            name = os.fsdecode(data[place + _HEAD.size : place + _HEAD.size + size].rstrip(b"\0"))
            place += _HEAD.size + size
            yield from self._event(watch, mask, name)

    def _event(self, watch: int, mask: int, name: str) -> Iterator[Event]:
        if mask & _OVERFLOW:
            yield {"time": time.time_ns(), "event": "lost"}
        elif watch in self.counts:
            yield from self._counts(watch, mask)
        elif mask & _IGNORED:
            self.health.pop(self.running.pop(watch, ("", "")), None)
        elif watch in self.running:
            yield from self._inside(*self.running[watch], name)
        elif watch in self.phases and mask & _MOVED_TO:
            phase = self.phases[watch]
            if phase == "running":
                self._look_into(name)
                self.wanted[name] = time.monotonic() + _PATIENCE
            yield self._told(_ARRIVED[phase], phase, name)

    def _inside(self, uuid: str, app: str, name: str) -> Iterator[Event]:
        for phase in ("running", "exited", "garbage"):
            found = self._read(phase, uuid, f"apps/{app}/{name}" if app else name)
            if found:
                break
        else:
            found = {}
        if name == "health" and found.get("health") != self.health.get((uuid, app)):
            self.health[uuid, app] = found.get("health")
            told = {**self._told("health", "running", uuid), **({"app": app} if app else {})}
            yield {**told, **{key: found[key] for key in ("health", "failing") if key in found}}
        elif app:
            return
        elif name == "run":
            self.wanted[uuid] = time.monotonic() + _PATIENCE  # by now all of its cgroups are there
            if "pid" in found:
                yield {**self._told("running", "running", uuid), "pid": found["pid"], "restarts": found.get("restarts", 0)}
        elif name == "exit":
            known: Event = {
                key: found[key] for key in ("code", "signal", "oom", "oom_group", "oom_victim", "lost", "restarts") if key in found
            }
            yield {**self._told("died", "running", uuid), **known}

    def _count(self, uuid: str, *, new: bool = True) -> bool:
        """Watch what the kernel counts in a pod's cgroup; whether that is done.  Of a pod that was there before from now on."""
        where = self._read("running", uuid, "run").get("cgroup") or self._read("running", uuid, "pod").get("cgroup")
        if not isinstance(where, str) or not os.path.isdir(where):
            return False
        for file in _COUNTED:
            try:
                _, watch = native.inotify(os.fsencode(f"{where}/{file}"), _MODIFY, self.fd)
            except OSError:
                continue  # the pod does not have that controller
            if watch not in self.counts:
                self.counts[watch] = uuid, f"{where}/{file}"
                self.counted[f"{where}/{file}"] = {} if new else _numbers(f"{where}/{file}")
        record = self._read("running", uuid, "pod")
        groups = record.get("cgroups_1")
        for group in groups if isinstance(groups, list) else ():
            for below in ("", *("/" + str(one["name"]) for one in apps_of(record))):
                for path in (f"{group}{below}/{file}" for file in _COUNTED_1):
                    found = {} if path in self.old else _numbers(path)
                    if found:
                        self.old[path] = uuid
                        self.counted[path] = {} if new else found
        return True

    def _counts(self, watch: int, mask: int) -> Iterator[Event]:
        uuid, path = self.counts[watch]
        if mask & _IGNORED:
            del self.counts[watch]
            self.counted.pop(path, None)
        else:
            yield from self._risen(uuid, path, _COUNTED)

    def _old_counts(self) -> Iterator[Event]:
        for path, uuid in list(self.old.items()):
            if os.path.exists(path):
                yield from self._risen(uuid, path, _COUNTED_1)
            else:
                del self.old[path], self.counted[path]

    def _risen(self, uuid: str, path: str, kinds: dict[str, dict[str, str]]) -> Iterator[Event]:
        now, before = _numbers(path), self.counted.get(path, {})
        rise = {name: now[name] - before.get(name, 0) for name in now}
        self.counted[path] = now or before
        for name, event in kinds[os.path.basename(path)].items():
            if rise.get(name, 0) > 0:
                more: Event = {"kills": rise[name]} if event == "oom" else {"times": rise[name]}
                if event == "oom" and rise.get("oom_group_kill", 0) > 0:
                    more["group"] = True
                yield {**self._told(event, "running", uuid), **more}

    def _told(self, event: str, phase: str, uuid: str) -> Event:
        record = self._read(phase, uuid, "pod")
        known = {key: record[key] for key in ("pod_name", "app", "name") if record.get(key)}
        return {"time": time.time_ns(), "event": event, "uuid": uuid, **known}

    def _read(self, phase: str, uuid: str, name: str) -> dict[str, object]:
        try:
            fd = os.open(f"{phase}/{uuid}", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.pods.fd)
        except OSError:
            return {}
        try:
            return read_json(fd, name)
        finally:
            os.close(fd)
