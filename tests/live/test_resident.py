"""What stays of ours in memory while a pod runs: keeper, supervisors, inits and the holder of what several apps share."""

from __future__ import annotations

import os
import re
import signal
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest
from harness import COMMAND, Pyrun
from waiting import nothing_kept, run_file, status, wait_until

from pyrun.pod.keep import MOST_APPS

TICKS = "seq 2000; while :; do echo tick; sleep 0.2; done"


@pytest.fixture(autouse=True)
def _none_left(shared: Pyrun) -> Iterator[None]:
    with nothing_kept(shared):
        yield


def below(*processes: int) -> list[int]:
    return [int(child) for pid in processes for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def restarted(pyrun: Pyrun, uuid: str) -> list[int]:
    """Ends the pod's first app, which starts again; returns all processes of ours."""
    keeper = run_file(pyrun, uuid)["keeper"]
    os.kill(below(*below(*below(keeper)))[0], signal.SIGKILL)
    wait_until(lambda: status(pyrun, uuid)["restarts"] == 1 and status(pyrun, uuid)["state"] == "running")
    return [keeper, *below(keeper), *below(*below(keeper))]


def kept(processes: list[int]) -> float:
    """KiB PSS of them together, as a rule: a line of the log is in a page or two on its way."""

    def now() -> int:
        texts = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in processes]
        return sum(int(size) for text in texts for size in re.findall(r"^Pss: +(\d+) kB", text, re.MULTILINE))

    sizes = []
    for _ in range(20):
        sizes.append(now())
        time.sleep(0.1)
    return statistics.median(sizes)


@pytest.mark.parametrize(("apps", "most"), [(1, 24), (3, 36), (8, 60), (16, 100), (17, 40), (32, 48), (MOST_APPS, 64)])
def test_a_pod_is_small(shared: Pyrun, busybox: Path, apps: int, most: int) -> None:
    """A pod has 150 KiB, whatever number of apps, after a restart and with lines for the log all the time.

    Up to sixteen apps have 4 KiB each, in which their title is (`ps`); more have none while they wait.
    """
    each = (busybox, "--exec", "/bin/sh", "--", "-c", TICKS)
    more = [word for number in range(1, apps) for word in ("---", each[0], "--name", f"app{number}", *each[1:])]
    uuid = shared("run", "--detach", "--restart", "on-failure", "--log-driver", "k8s-file", *each, *more, code=0).out.strip()
    ours = restarted(shared, uuid)
    assert len(ours) == (3 if apps == 1 else 2 + 2 * apps)
    wait_until(lambda: kept(ours) < most, lambda: f"{kept(ours)} KiB stay")  # they give back what the start took after telling of it
    logs = ("logs", uuid, *(("--app", "busybox") if apps > 1 else ()))
    lines = shared(*logs, code=0).out.count("tick")
    wait_until(lambda: shared(*logs, code=0).out.count("tick") > lines)
    for pid in below(*below(ours[0])):
        title = Path(f"/proc/{pid}/cmdline").read_text()
        assert title == ("" if apps > 16 else f"pyrun: pod {uuid}\0")
        assert Path(f"/proc/{pid}/comm").read_text() == f"pyrun: {uuid[:8]}\n"
    for pid in ours:
        assert "python" not in Path(f"/proc/{pid}/maps").read_text().replace("site-packages", "").replace("lib/python3", "")


def test_who_was_woken_sleeps_again(shared: Pyrun, busybox: Path) -> None:
    """Signals come to each app, and what they took of supervisors and inits is given back, as often as it happens."""
    script = "trap 'echo got' USR1; echo up; while :; do sleep 0.1; done"
    each = (busybox, "--exec", "/bin/sh", "--", "-c", script)
    more = [word for number in range(1, 17) for word in ("---", each[0], "--name", f"app{number}", *each[1:])]
    uuid = shared("run", "--detach", "--log-driver", "k8s-file", *each, *more, code=0).out.strip()
    keeper = run_file(shared, uuid)["keeper"]
    ours = [keeper, *below(keeper), *below(*below(keeper))]
    logs = list((shared.root / "pods" / "running" / uuid / "apps").glob("*/log"))
    for times in range(3):
        wait_until(lambda: [log.read_text().count("got") for log in logs if "up" in log.read_text()] == [times] * 17)  # noqa: B023
        os.kill(keeper, signal.SIGUSR1)
    wait_until(lambda: kept(ours) < 40, lambda: f"{kept(ours)} KiB stay")
    shared("stop", uuid, code=0)
    assert [app["signal"] for app in status(shared, uuid)["apps"]] == [signal.SIGTERM] * 17


def test_a_terminal_takes_little_more(shared: Pyrun, busybox: Path) -> None:
    """Nor do clients that have been there."""
    flags = ("--detach", "-it", "--restart", "on-failure", "--log-driver", "k8s-file")
    uuid = shared("run", *flags, busybox, "--exec", "/bin/sh", "--", "-c", TICKS, code=0).out.strip()
    ours = restarted(shared, uuid)
    for _ in range(2):
        client = pexpect.spawn(str(COMMAND), ["attach", uuid], env=shared.environment(), timeout=60, encoding="utf-8")
        client.expect("tick")
        client.sendline("nobody reads this")
        client.expect("tick")
        client.close(force=True)
    wait_until(lambda: kept(ours) < 44, lambda: f"{kept(ours)} KiB stay")
