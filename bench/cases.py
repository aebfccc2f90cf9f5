"""What is measured, case by case; bench/run.py puts it together."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from clock import NULL, Command, Failed, Sample, Series, Subject, interleave
from stage import ENVIRONMENT, HERE, IMAGE, PYTHON, Stage, large_image, podman_images

BIG = (2048, 8)  # megabytes and threads of the large parent
TRUE = ("run", IMAGE, "--exec", "/bin/true")
PREPARED = "pyrun run-prepared"
OTHER = "pyrun run, other arguments each time"
SEQUENTIAL, BLOCKS, WIDTH = 50, 4, 4  # throughput: starts in a row, times, and at the same time
IMAGES = 1000  # in the list
LIST, PODMAN_LIST = f"pyrun image list, {IMAGES} images", f"podman images, {IMAGES} names of one"


class Driver:
    """bench/driver.py, running: the library in a process of its own."""

    def __init__(self, stage: Stage, root: Path | None = None, megabytes: int = 0, threads: int = 1) -> None:
        words = [stage.python, "-I", str(HERE / "driver.py"), str(root or stage.root), IMAGE, str(megabytes), str(threads)]
        self.process = subprocess.Popen(words, env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def order(self, *words: object) -> list[float]:
        """Sends one order; returns its numbers, in milliseconds where they are times."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise Failed(f"bench/driver.py ended with {self.process.wait()}")
        return [int(word) / 1e6 for word in answer.split()]

    def below(self) -> list[int]:
        """The processes that it started, and theirs."""
        found = list(children(self.process.pid))
        return [*found, *[grandchild for child in found for grandchild in children(child)]]

    def close(self) -> None:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


class Library:
    """Starts through the library: `word` is an order of the driver's."""

    def __init__(self, name: str, driver: Driver, word: str, upper: str) -> None:
        self.name = name
        self.driver = driver
        self.orders = (word, upper)

    def once(self) -> Sample:
        return Sample(*self.driver.order(*self.orders))


class Bench:
    """The cases, on one stage."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.drivers: list[Driver] = []
        self.small = self.driver()
        self.oci_root = stage.directory / "oci"
        self.bundle = stage.bundle("bundle") if shutil.which("crun") else None

    def driver(self, megabytes: int = 0, threads: int = 1) -> Driver:
        self.drivers.append(Driver(self.stage, None, megabytes, threads))
        return self.drivers[-1]

    def close(self) -> None:
        for driver in self.drivers:
            driver.close()
        group = Path("/sys/fs/cgroup" + Path("/proc/self/cgroup").read_text().rpartition("::")[2].strip())
        for name in ("payload", "supervisor"):  # which systemd-nspawn makes where it is, and leaves
            if (group / name).is_dir():
                (group / name).rmdir()

    def command(self, name: str, *words: str, before: Callable[[], object] | None = None) -> Command:
        return Command(name, words, ENVIRONMENT, before)

    def cli(self, name: str = "pyrun run, repeated", before: Callable[[], object] | None = None) -> Command:
        return self.command(name, self.stage.pyrun, "--root", str(self.stage.root), *TRUE, before=before)

    def other(self) -> Command:
        """A line that was never there, while one that differs in arguments and a variable was, off the clock."""
        numbers = iter(range(1_000_000))

        def words() -> list[str]:
            number = next(numbers)
            return [str(self.stage.pyrun), "--root", str(self.stage.root), "run", "-e", f"N={number}", *TRUE[1:], "--", str(number)]

        def before() -> None:
            subprocess.run(words(), env=ENVIRONMENT, check=True, stdin=NULL, stdout=NULL)
            command.argv = words()

        command = self.command(OTHER, *words(), before=before)
        return command

    def prepared(self) -> Command:
        """The start of a pod that was prepared before, off the clock."""
        prepare = [str(self.stage.pyrun), "--root", str(self.stage.root), "prepare", "--rm", "--pod-name", "bench", *TRUE[1:]]

        def before() -> None:
            subprocess.run(prepare, env=ENVIRONMENT, check=True, stdin=NULL, stdout=NULL)

        return self.command(PREPARED, self.stage.pyrun, "--root", str(self.stage.root), "run-prepared", "bench", before=before)

    def oci(self, name: str, program: str, bundle: Path) -> Command:
        """An OCI runtime's `run`; pods of the same name follow each other, each removed by its end."""
        path = shutil.which(program, path=ENVIRONMENT["PATH"]) or program
        identity = f"bench-{os.getpid()}-{program}-{threading.get_ident():x}"
        return self.command(name, path, "--root", str(self.oci_root / program), "run", "-b", str(bundle), identity)

    def peers(self) -> list[Subject]:
        """The competition, as far as it is installed, and the interpreter that does nothing."""
        found: list[Subject] = []
        if self.bundle:
            found += [self.oci("crun run", "crun", self.bundle)]
            found += [self.oci("crun run, same filter", "crun", self.stage.bundle("filtered", self.stage.allowed_calls()))]
            found += [self.oci("runc run", "runc", self.bundle)] if shutil.which("runc") else []
        bwrap = shutil.which("bwrap")
        if bwrap:
            tree = ("--unshare-all", "--ro-bind", str(self.stage.rootfs), "/", "--proc", "/proc", "--dev", "/dev", "/bin/true")
            found.append(self.command("bwrap", bwrap, *tree))
        nspawn = shutil.which("systemd-nspawn", path=ENVIRONMENT["PATH"])
        if nspawn:
            flags = ["--quiet", "--register=no", "--private-network", "--read-only", "--timezone=off", "--resolv-conf=off"]
            flags += [] if Path("/run/systemd/system").is_dir() else ["--keep-unit"]  # else it asks systemd for a scope
            found.append(self.command("systemd-nspawn", nspawn, *flags, "-D", str(self.stage.system_tree()), "/bin/true"))
        return [*found, self.interpreter()]

    def interpreter(self) -> Command:
        """An interpreter that does nothing."""
        return self.command("python -I -S -E -c pass", PYTHON, "-I", "-S", "-E", "-c", "pass")

    def start(self, names: set[str], rounds: int) -> dict[str, Series]:
        """The start of /bin/true: library, large parent and command line, with all peers, in one series of rounds."""
        subjects: list[Subject] = []
        if names & {"lib", "parent"}:
            subjects += [Library("library, repeated", self.small, "run", "disk")]
        if "lib" in names:
            subjects += [Library("library, repeated, tmpfs upper", self.small, "run", "tmpfs")]
            subjects += [Library("library, first", self.small, "first", "disk")]
            subjects += [Library("library, first, tmpfs upper", self.small, "first", "tmpfs")]
            subjects += [Library("library, pool", self.small, "pool", "disk")]
        if "parent" in names:
            subjects += [Library("library, 2 GB and 8 threads", self.driver(*BIG), "run", "disk")]
        if "cli" in names:
            subjects += [self.prepared(), self.cli(), self.other(), self.cli("pyrun run, cache/run emptied", before=self.stage.forget)]
        return interleave([*subjects, *self.peers()], rounds, max(3, rounds // 10))

    def network(self, rounds: int) -> dict[str, Series]:
        """The start of /bin/true without a network and with one, repeated and decided by Python; in a network namespace for the time."""
        holder = subprocess.Popen(["unshare", "--net", "sleep", "infinity"], stdin=NULL, stdout=NULL)
        try:
            time.sleep(0.2)
            pyrun = (str(self.stage.pyrun), "--root", str(self.stage.root))
            within = (shutil.which("nsenter") or "nsenter", f"--net=/proc/{holder.pid}/ns/net", *pyrun)
            subjects: list[Subject] = []
            for flags in (("--net", "none"), ("--net", "default"), ("-p", "8080:80")):
                words = (*within, "run", *flags, *TRUE[1:])
                name = f"pyrun run {' '.join(flags)}"

                def again(words: tuple[str, ...] = words) -> None:
                    """The same line was there before."""
                    self.stage.settle()
                    subprocess.run(words, check=True, env=ENVIRONMENT, stdin=NULL, stdout=NULL)
                    self.stage.settle()

                subjects.append(self.command(f"{name}, repeated", *words, before=again))
                subjects.append(self.command(name, *words, before=self.stage.forget))
            return interleave(subjects, rounds, max(3, rounds // 10))
        finally:
            holder.kill()
            holder.wait()

    def enter(self, rounds: int) -> dict[str, Series]:
        """/bin/true in a running container, which sleeps: pyrun by the launcher alone and through Python, and the peers."""
        uuid = self.stage.directory / "entered"
        sleep = (IMAGE, "--exec", "/bin/sleep", "--", "600")
        words = [self.stage.pyrun, "--root", str(self.stage.root), "run", "--uuid-file-save", str(uuid), *sleep]
        running = subprocess.Popen(words, env=ENVIRONMENT, stdin=NULL, stdout=NULL, stderr=NULL)
        subjects: list[Subject] = []
        started: list[list[str]] = []
        try:
            self._init_of(running.pid)
            into = (self.stage.pyrun, "--root", str(self.stage.root), "exec")
            pod = uuid.read_text().strip()
            subjects.append(self.command("pyrun exec", *into, pod, "/bin/true"))
            subjects.append(self.command("pyrun exec, by Python", *into, "--env", "A=B", pod, "/bin/true"))
            for name in [name for name in ("crun", "runc") if self.bundle and shutil.which(name, path=ENVIRONMENT["PATH"])]:
                program = [str(shutil.which(name, path=ENVIRONMENT["PATH"])), "--root", str(self.oci_root / f"{name}-enter")]
                bundle = self.stage.bundle(f"sleeping-{name}", program=("/bin/sleep", "600"))
                words = [*program, "run", "--detach", "-b", str(bundle), "bench-enter"]
                subprocess.run(words, check=True, env=ENVIRONMENT, stdin=NULL, stdout=NULL, stderr=NULL)
                started.append(program)
                subjects.append(self.command(f"{name} exec", *program, "exec", "bench-enter", "/bin/true"))
            subjects.append(Library("library exec", self.small, "exec", "disk"))
            return interleave(subjects, rounds, max(3, rounds // 10))
        finally:
            self.small.order("drop")
            for program in started:
                subprocess.run(
                    [*program, "delete", "--force", "bench-enter"], check=True, env=ENVIRONMENT, stdin=NULL, stdout=NULL, stderr=NULL
                )
            running.terminate()
            running.wait()

    def exec(self, rounds: int) -> dict[str, Series]:
        """Start, exec and reaping of programs that do nothing; the helper ends at once when it gets no plan."""
        (helper,) = self.stage.venv.glob("lib/python3*/site-packages/pyrun/native/helper")
        floor = self.stage.floor
        programs = {"helper without a plan": helper, "static, no libc": floor["floor_bare"], "static glibc": floor["floor_glibc"]}
        warm = 20
        words = [str(word) for word in (floor["floor_spawn"], warm + 10 * rounds, *programs.values())]
        lines = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[warm:]
        series = {name: Series() for name in programs}
        for line in lines:
            for name, word in zip(programs, line.split(), strict=True):
                series[name].samples.append(Sample(int(word) / 1e6))
        return series

    def memory(self) -> dict[str, float]:
        """KiB that stay resident beside one sleeping container: proportional and private, supervisor and init."""
        words = [self.stage.pyrun, "--root", str(self.stage.root), "run", IMAGE, "--exec", "/bin/sleep", "--", "600"]
        running = subprocess.Popen(words, env=ENVIRONMENT, stdin=NULL, stdout=NULL, stderr=NULL)
        try:
            init = self._init_of(running.pid)
            parts = {"supervisor": resident(running.pid), "init": resident(init)}
        finally:
            running.terminate()
            running.wait()
        found = {f"{name} {kind}": value for name, values in parts.items() for kind, value in values.items()}
        return {**found, "PSS": sum(part["PSS"] for part in parts.values()), "USS": sum(part["USS"] for part in parts.values())}

    def _init_of(self, supervisor: int) -> int:
        """Waits until the app sleeps; returns the process 1 of its pod."""
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            time.sleep(0.05)
            for init in children(supervisor):
                for app in children(init):
                    if Path(f"/proc/{app}/cmdline").read_bytes().startswith(b"/bin/sleep"):
                        time.sleep(0.2)
                        return init
        raise Failed("the sleeping container did not start")

    def throughput(self) -> dict[str, dict[str, float]]:
        """Containers a second, one after the other and four at a time; blocks of each kind take turns."""
        kinds: dict[str, Callable[[int, int], float]] = {
            "library": lambda count, width: self.small.order("many", count, width)[0] / 1e3,
            "pyrun run": lambda count, width: many(self.cli, count, width),
        }
        if self.bundle:
            bundle = self.bundle
            kinds["crun run"] = lambda count, width: many(lambda: self.oci("crun run", "crun", bundle), count, width)
        rates: dict[str, dict[str, list[float]]] = {name: {"sequential": [], "parallel": []} for name in kinds}
        for _ in range(BLOCKS):
            for name, kind in kinds.items():
                for label, width in (("sequential", 1), ("parallel", WIDTH)):
                    rates[name][label].append(SEQUENTIAL / kind(SEQUENTIAL, width))
        return {name: {label: statistics.median(values) for label, values in pair.items()} for name, pair in rates.items()}

    def unpack(self, rounds: int = 3) -> dict[str, Series]:
        """Import of a signed image of 200 MB, against tar(1), which checks nothing; into new directories each time."""
        image = self.stage.directory / "large.aci"
        shutil.copyfile(large_image(), image)
        self.stage.sign(image)
        numbers = iter(range(1000))

        def fetch() -> Command:
            root = self.stage.state(f"import-{next(numbers)}")
            return self.command("pyrun fetch", self.stage.pyrun, "--root", str(root), "fetch", str(image))

        def tar(name: str, more: str) -> Command:
            target = self.stage.directory / f"tar-{next(numbers)}"
            target.mkdir()
            return self.command(name, "/bin/sh", "-c", f"gzip -dc {image} | tar -x -C {target} {more.format(target)}")

        makers = [fetch, lambda: tar("gzip -dc | tar -x", ""), lambda: tar("gzip -dc | tar -x && sync -f", "&& sync -f {}")]
        series: dict[str, Series] = {}
        for _ in range(rounds):
            for make in makers:
                command = make()
                os.sync()  # nobody pays for what another left to be written
                series.setdefault(command.name, Series()).samples.append(command.once())
        return series

    def listing(self, rounds: int) -> dict[str, Series]:
        """`pyrun image list` over 1,000 images, and podman's over one image that has as many names."""
        root = self.stage.directory / "many"
        files = []
        for number in range(IMAGES):
            files.append(self.stage.directory / f"{number}.aci")
            image = self.stage.small(f"example.com/number-{number}")
            image.members = {"etc": image.members["etc"], "etc/group": image.members["etc/group"]}
            image.write(files[-1], "none")
        driver = Driver(self.stage, root)
        driver.order("fetch", *files)
        driver.close()
        for file in files:
            file.unlink()
        time.sleep(2.1)  # a list that is younger than that is made anew each time, see images/catalog.py
        words = [self.stage.pyrun, "--root", str(root), "image", "list"]
        subjects: list[Subject] = [
            self.command(LIST, *words),
            self.command(f"{LIST}, JSON", *words, "--format", "json"),
            self.interpreter(),
        ]
        podman = shutil.which("podman")
        if podman:
            subjects.append(self.command(PODMAN_LIST, podman, *podman_images(IMAGES), "images"))
        return interleave(subjects, max(10, rounds // 4), 2)


def resident(pid: int) -> dict[str, float]:
    """Proportional and private KiB of a process (proc(5), smaps_rollup)."""
    sizes = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, size, *_ = line.split()
        sizes[name.rstrip(":")] = int(size)
    return {"PSS": sizes["Pss"], "USS": sizes["Private_Clean"] + sizes["Private_Dirty"]}


def children(pid: int) -> Iterator[int]:
    try:
        yield from map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    except (FileNotFoundError, ProcessLookupError):
        return


def many(make: Callable[[], Command], count: int, width: int) -> float:
    """Seconds that `count` commands take, `width` at a time; `make` is called in the thread that runs them."""
    todo = iter(range(count))
    broken: list[Exception] = []

    def work() -> None:
        try:
            command = make()
            for _ in todo:
                command.once()
        except Exception as error:
            broken.append(error)

    workers = [threading.Thread(target=work) for _ in range(width)]
    start = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if broken:
        raise broken[0]
    return time.perf_counter() - start
