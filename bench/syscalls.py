"""Where the time of one start goes: every system call of the caller and of the processes below it, from the kernel's own tracer.

ftrace(raw_syscalls, sched_process_fork) in an instance of its own: two records a call, which make a start slower by a few percent.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections import Counter
from pathlib import Path

from cases import Bench, Driver
from stage import call

HEADER = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
LINE = re.compile(r"-(\d+) +\[\d+\] \S+ +(\d+\.\d+): (\w+): (.*)")
WAITS = {
    *("poll", "ppoll", "epoll_wait", "epoll_pwait", "wait4", "waitid", "futex", "select", "pselect6"),
    *("rt_sigtimedwait", "read", "recvmsg", "recvfrom", "clock_nanosleep"),
}
VFORK = 0x4000  # CLONE_VFORK: waits for the child's exec
PROCESSES = ("caller", "supervisor", "process 1", "app")
SHOWN = 24


class Tracer:
    """An instance of ftrace for this process and all that it starts from now on; needs a mount namespace of its own.

    The kernel's records have pids of the first pid namespace: this process finds its own there by a mark that it makes.
    """

    def __init__(self) -> None:
        self.names = {int(number): name for name, number in re.findall(r"#define __NR_(\w+) (\d+)", HEADER.read_text())}
        self.mounted = Path(tempfile.mkdtemp(prefix="pyrun-trace-"))
        call("mount", "-t", "tracefs", "none", self.mounted)
        self.top = self.mounted / "instances" / f"pyrun-bench-{os.getpid()}"
        with contextlib.suppress(OSError):
            self.top.rmdir()  # what a run that was killed has left
        self.top.mkdir()
        for name, value in (
            ("trace_clock", "mono"),
            ("buffer_size_kb", "16384"),
            ("options/markers", "1"),
            ("trace_marker", "pyrun-bench"),
            ("options/event-fork", "1"),
        ):
            (self.top / name).write_text(value)
        mark = re.search(r"-(\d+) .*pyrun-bench", (self.top / "trace").read_text())
        assert mark, "the tracer has no mark"
        self.pid = int(mark[1])
        for name, value in (
            ("set_event_pid", mark[1]),
            ("events/raw_syscalls/enable", "1"),
            ("events/sched/sched_process_fork/enable", "1"),
        ):
            (self.top / name).write_text(value)

    def record(self, driver: Driver, orders: tuple[str, ...], rounds: int) -> str:
        """What was traced while the driver did this order so often."""
        (self.top / "trace").write_text("")
        (self.top / "tracing_on").write_text("1")
        for _ in range(rounds):
            driver.order(*orders)
        return self.text()

    def find(self, driver: Driver) -> None:
        """Learns who the driver is: whoever this process has started last."""
        driver.order("drop")
        self.driver = int(re.findall(r"sched_process_fork: .*child_pid=(\d+)", self.text())[-1])

    def text(self) -> str:
        """The records so far; reading them would make more without end."""
        (self.top / "tracing_on").write_text("0")
        return (self.top / "trace").read_text()

    def close(self) -> None:
        self.top.rmdir()
        call("umount", self.mounted)
        self.mounted.rmdir()


def profile(tracer: Tracer, text: str, rounds: int) -> dict[str, dict[str, float]]:
    """Calls and microseconds a round, by process and call, the longest first; what only waits for another process is left out."""
    depth = {tracer.pid: -1, tracer.driver: 0}
    entered: dict[int, tuple[int, float]] = {}
    calls: Counter[str] = Counter()
    spent: Counter[str] = Counter()
    for line in text.splitlines():
        found = LINE.search(line)
        if not found:
            continue
        pid, when, event, rest = int(found[1]), float(found[2]), found[3], found[4]
        if event == "sched_process_fork":
            depth[int(re.findall(r"child_pid=(\d+)", rest)[0])] = depth.get(pid, 0) + 1
        elif event == "sys_enter":
            number = int(rest.split()[1])
            if tracer.names.get(number) == "clone" and int(rest.partition("(")[2].partition(",")[0], 16) & VFORK:
                continue
            entered[pid] = number, when
        elif event == "sys_exit" and pid in entered:
            number, began = entered.pop(pid)
            name = tracer.names.get(number, str(number))
            if pid != tracer.pid and name not in WAITS and number == int(rest.split()[1]):
                key = f"{PROCESSES[min(depth.get(pid, 0), len(PROCESSES) - 1)]}: {name}"
                calls[key] += 1
                spent[key] += (when - began) * 1e6
    rows = {key: {"calls": calls[key] / rounds, "µs": spent[key] / rounds} for key, _ in spent.most_common()}
    rest = dict(list(rows.items())[SHOWN:])
    shown = dict(list(rows.items())[:SHOWN])
    shown["all others"] = {label: sum(row[label] for row in rest.values()) for label in ("calls", "µs")}
    return shown


def measure(bench: Bench, rounds: int) -> dict[str, dict[str, dict[str, float]]]:
    """A table for each kind of start that the library makes."""
    tracer = Tracer()
    try:
        driver = bench.driver()
        tracer.find(driver)
        found = {}
        for title, orders in (
            ("a start by the library", ("run", "disk")),
            ("one more process by the library", ("exec", "disk")),
            ("create, start, delete by the library", ("life", "disk")),
        ):
            driver.order(*orders)
            found[f"system calls of {title}, µs"] = profile(tracer, tracer.record(driver, orders, rounds), rounds)
        return found
    finally:
        tracer.close()
