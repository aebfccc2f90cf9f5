"""Time: one sample, a series of them, and programs started and reaped under the clock."""

from __future__ import annotations

import math
import os
import random
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Protocol

PAUSE = 0.004  # seconds between two samples: the kernel takes the last one's network namespace apart in the background
NULL = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
QUIET = [(os.POSIX_SPAWN_DUP2, NULL, 0), (os.POSIX_SPAWN_DUP2, NULL, 1), (os.POSIX_SPAWN_DUP2, NULL, 2)]


class Failed(Exception):
    """Something that was to be measured did not work."""


class Sample:
    """One run, in ms: wall time until the caller knew the exit code, CPU time of all processes, wall time until nothing was left."""

    __slots__ = ("cpu", "gone", "wall")

    def __init__(self, wall: float, cpu: float | None = None, gone: float | None = None) -> None:
        self.wall = wall
        self.cpu = cpu
        self.gone = gone


class Subject(Protocol):
    """Something that can be run and timed once."""

    name: str

    def once(self) -> Sample: ...


class Command:
    """A program, started with posix_spawn(3) and reaped; `before` is called first, off the clock."""

    def __init__(self, name: str, argv: Sequence[str], env: dict[str, str], before: Callable[[], object] | None = None) -> None:
        self.name = name
        self.argv = list(argv)
        self.env = env
        self.before = before

    def once(self) -> Sample:
        if self.before:
            self.before()
        start = time.perf_counter_ns()
        pid = os.posix_spawn(self.argv[0], self.argv, self.env, file_actions=QUIET)
        _, status, usage = os.wait4(pid, 0)
        wall = (time.perf_counter_ns() - start) / 1e6
        if status:
            raise Failed(self._why())
        return Sample(wall, (usage.ru_utime + usage.ru_stime) * 1e3, wall)

    def _why(self) -> str:
        """Runs it once more and listens."""
        done = subprocess.run(self.argv, env=self.env, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        return f"{self.name}: {' '.join(self.argv)}: exit {done.returncode}: {done.stderr.strip()}"


class Series:
    """The samples of one subject."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []

    def of(self, what: str) -> list[float]:
        """The values of one attribute of the samples, sorted; none when it was not measured."""
        return sorted(value for sample in self.samples if (value := getattr(sample, what)) is not None)

    def p50(self) -> float:
        return statistics.median(self.of("wall"))

    def summary(self) -> dict[str, float | None]:
        walls, cpu, gone = self.of("wall"), self.of("cpu"), self.of("gone")
        return {
            "samples": len(walls),
            "min": walls[0],
            "p50": self.p50(),
            "p90": walls[math.ceil(len(walls) * 0.9) - 1],
            "cpu_min": cpu[0] if cpu else None,
            "cpu_p50": statistics.median(cpu) if cpu else None,
            "gone_p50": statistics.median(gone) if gone else None,
        }


def interleave(subjects: Sequence[Subject], rounds: int, warm: int) -> dict[str, Series]:
    """Runs every subject once a round, each round in another order, and throws the first `warm` rounds away.

    What disturbs the machine for a while then disturbs all alike, and nobody always runs behind the same neighbour.
    """
    order = random.Random(1)
    series = {subject.name: Series() for subject in subjects}
    turn = list(subjects)
    for number in range(-warm, rounds):
        order.shuffle(turn)
        for subject in turn:
            time.sleep(PAUSE)
            sample = subject.once()
            if number >= 0:
                series[subject.name].samples.append(sample)
    return series
