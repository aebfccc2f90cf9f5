"""Pods in the background, measured: from a signal to gone, a listing of a thousand, starts in the background, the way of podman."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Callable

from cases import IMAGE, Bench, Driver
from clock import NULL, Command, Failed, Sample, Series, Subject, interleave
from stage import ENVIRONMENT, call

PODS = 1000  # in the list
STOP, CRUN_STOP, RUNC_STOP = "pyrun pod, TERM to gone", "crun kill TERM, gone, delete", "runc kill TERM, gone, delete"
LIST, CRUN_LIST = f"pyrun list, {PODS} pods", f"crun list, {PODS} containers"
DETACH, PREPARED, PODMAN_RUN = "pyrun run --detach", "pyrun run-prepared --rm", "podman run --rm"
SLEEP = ("--exec", "/bin/sleep", "--", "600")


def run(*words: object) -> str:
    done = subprocess.run([str(word) for word in words], env=ENVIRONMENT, stdin=NULL, stdout=subprocess.PIPE, stderr=NULL, text=True)
    if done.returncode:
        raise Failed(f"{' '.join(map(str, words))}: exit {done.returncode}")
    return done.stdout.strip()


class Stopped:
    """Something that runs, is told to end and is waited for: `start` returns its pid, `order` tells it, `after` belongs to its end."""

    def __init__(self, name: str, start: Callable[[], int], order: Callable[[int], object], after: Callable[[], object]) -> None:
        self.name = name
        self.start = start
        self.order = order
        self.after = after

    def once(self) -> Sample:
        pid = self.start()
        pidfd = os.pidfd_open(pid)
        try:
            time.sleep(0.02)  # until it sleeps
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            begin = time.perf_counter_ns()
            self.order(pidfd)
            if not poll.poll(5000):
                raise Failed(f"{self.name}: it does not end")
            wall = time.perf_counter_ns() - begin
            self.after()
            return Sample(wall / 1e6, None, (time.perf_counter_ns() - begin) / 1e6)
        finally:
            os.close(pidfd)


class Pods:
    """The cases, with the images and peers of `bench`."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.stage = bench.stage
        self.pyrun = [str(self.stage.pyrun), "--root", str(self.stage.root)]

    def stop(self, rounds: int) -> dict[str, Series]:
        """A program that ends at the first TERM; `gone` includes what a peer's `delete` removes, of pyrun nothing is left to do."""
        subjects: list[Subject] = [self._pyrun_stop()]
        subjects += [self._peer_stop(name, title) for name, title in (("crun", CRUN_STOP), ("runc", RUNC_STOP)) if shutil.which(name)]
        return interleave(subjects, rounds, max(3, rounds // 10))

    def _pyrun_stop(self) -> Stopped:
        uuids: list[str] = []

        def start() -> int:
            uuids.append(run(*self.pyrun, "run", "--detach", IMAGE, *SLEEP))
            return int(json.loads((self.stage.root / "pods" / "running" / uuids[-1] / "run").read_text())["keeper"])

        def after() -> None:
            if (self.stage.root / "pods" / "running" / uuids[-1]).exists():
                raise Failed("the pod still runs")

        return Stopped(STOP, start, lambda pidfd: signal.pidfd_send_signal(pidfd, signal.SIGTERM), after)

    def _peer_stop(self, name: str, title: str) -> Stopped:
        program = [str(shutil.which(name)), "--root", str(self.bench.oci_root / f"{name}-stop")]
        bundle = self.stage.bundle(f"stopping-{name}", program=("/bin/sh", "-c", "trap 'exit 0' TERM; while :; do sleep 600 & wait; done"))
        pid_file = bundle / "pid"

        def start() -> int:
            words = [*program, "run", "--detach", "--pid-file", str(pid_file), "-b", str(bundle), "bench-stop"]
            subprocess.run(words, check=True, env=ENVIRONMENT, stdin=NULL, stdout=NULL, stderr=NULL)
            return int(pid_file.read_text())

        def delete() -> None:  # neither knows at once that its container has ended
            while subprocess.run([*program, "delete", "bench-stop"], env=ENVIRONMENT, stdin=NULL, stdout=NULL, stderr=NULL).returncode:
                pass

        return Stopped(title, start, lambda _: run(*program, "kill", "bench-stop", "TERM"), delete)

    def listing(self, rounds: int) -> dict[str, Series]:
        """`pyrun list` of prepared pods, `crun list` of stopped containers, in the state files of one."""
        root = self.stage.state("listed")
        run(self.stage.pyrun, "--root", root, "fetch", self.stage.directory / "bench.aci")
        driver = Driver(self.stage, root)
        driver.order("prepare", PODS)
        driver.close()
        words = [str(self.stage.pyrun), "--root", str(root), "list"]
        command = self.bench.command
        subjects: list[Subject] = [command(LIST, *words), command(f"{LIST}, JSON", *words, "--format", "json"), self.bench.interpreter()]
        if self.bench.bundle:
            subjects.append(command(CRUN_LIST, *self._listed_by_crun(), "list"))
        return interleave(subjects, max(10, rounds // 4), 2)

    def _listed_by_crun(self) -> list[str]:
        state = self.bench.oci_root / "crun-list"
        program = [str(shutil.which("crun")), "--root", str(state)]
        words = [*program, "run", "--detach", "-b", str(self.bench.bundle), "number"]
        subprocess.run(words, check=True, env=ENVIRONMENT, stdin=NULL, stdout=NULL, stderr=NULL)
        for number in range(1, PODS):
            shutil.copytree(state / "number", state / f"number-{number}")
        return program

    def background(self, rounds: int) -> dict[str, Series]:
        """Starts of /bin/true: in the background, until it runs; of a prepared pod; and podman's, which is worth a tenth of the rounds."""
        subjects: list[Subject] = [
            self.bench.command(DETACH, *self.pyrun, "run", "--detach", "--rm", IMAGE, "--exec", "/bin/true"),
            self._prepared(),
        ]
        series = interleave(subjects, rounds, max(3, rounds // 10))
        podman = self._podman()
        if podman:
            series.update(interleave([podman, self._prepared()], max(5, rounds // 10), 1))
        return series

    def _prepared(self) -> Command:
        prepare = [*self.pyrun, "prepare", "--rm", "--pod-name", "bench", IMAGE, "--exec", "/bin/true"]
        return self.bench.command(PREPARED, *self.pyrun, "run-prepared", "bench", before=lambda: run(*prepare))

    def _podman(self) -> Command | None:
        """Without a network, as pyrun's pods; None where podman cannot run a container, as without a cgroup manager."""
        program = shutil.which("podman")
        if not program:
            return None
        storage = self.stage.directory / "podman"
        options = [program, "--root", str(storage), "--runroot", str(storage / "run"), "--cgroup-manager", "cgroupfs"]
        archive = self.stage.directory / "podman.tar"
        call("tar", "-c", "-f", archive, "-C", self.stage.rootfs, ".")
        call(*options, "import", "-q", archive, "localhost/bench")
        archive.unlink()
        words = [*options, "run", "--rm", "--net", "none", "--log-driver", "none", "--cgroups", "disabled", "localhost/bench", "/bin/true"]
        done = subprocess.run(words, env=ENVIRONMENT, stdin=NULL, stdout=NULL, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            print(f"bench: podman runs no container here: {done.stderr.strip()[-300:]}", flush=True)
            return None
        return self.bench.command(PODMAN_RUN, *words)


def gates(series: dict[str, dict[str, Series]]) -> list[tuple[str, float | None, float]]:
    """What issue and design ask of pods in the background; None for what could not be measured."""

    def ratio(case: str, one: str, other: str) -> float | None:
        found = series.get(case, {})
        return found[one].p50() / found[other].p50() if one in found and other in found else None

    made: list[tuple[str, float | None, float]] = []
    if "stop" in series:
        made.append(("stop-to-gone-ms", series["stop"][STOP].p50(), 5.0))
    if "pods" in series:
        made.append(("list-vs-crun", ratio("pods", LIST, CRUN_LIST), 1.0))
    if "background" in series:
        made.append(("prepared-vs-podman", ratio("background", PREPARED, PODMAN_RUN), 0.05))
    return made


TITLES: dict[str, tuple[str, dict[str, str]]] = {
    "stop": ("stop, ms", {CRUN_STOP: "of crun", RUNC_STOP: "of runc"}),
    "pods": ("list of pods, ms", {CRUN_LIST: "of crun", "python -I -S -E -c pass": "of python"}),
    "background": ("background, ms", {PODMAN_RUN: "of podman"}),
}


def measure(bench: Bench, wanted: set[str], rounds: int) -> dict[str, dict[str, Series]]:
    """The cases of this file that are wanted."""
    pods = Pods(bench)
    cases = {"stop": pods.stop, "pods": pods.listing, "background": pods.background}
    return {name: case(rounds) for name, case in cases.items() if name in wanted}
