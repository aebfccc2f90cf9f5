"""The live Python process that starts containers through the library; bench/run.py talks to it, one line each way.

Run by the interpreter of the environment under test: driver.py ROOT IMAGE MEGABYTES THREADS

    run UPPER      a start that repeats an earlier decision; answers "wall cpu gone", nanoseconds
    first UPPER    the same with a new Runtime, which has to decide
    many COUNT THREADS    that many runs, shared by threads of this process; answers the nanoseconds of all
    exec UPPER     /bin/true as one more process of a container that sleeps
    life UPPER     start of a container that sleeps, until it runs, and its end, until nothing is left
    detached UPPER    prepare, start and forced removal of a pod in the background whose app sleeps
    pool UPPER     /bin/true in a shell of a pool, which is filled again off the clock
    hold COUNT     starts that many containers that sleep; answers bytes of Python heap for each, and threads in all
    drop           ends them
    fetch FILE...  imports images without signatures
    prepare COUNT  makes that many prepared pods
"""

from __future__ import annotations

import mmap
import os
import sys
import threading
import time
from resource import RUSAGE_CHILDREN, RUSAGE_SELF, getrusage

from pyrun.api import Runtime
from pyrun.container import Container
from pyrun.pod.prepare import prepare
from pyrun.pool import Pool


def cpu() -> int:
    """Nanoseconds of this process and of those that it has reaped."""
    used = [getrusage(who) for who in (RUSAGE_SELF, RUSAGE_CHILDREN)]
    return int(sum(usage.ru_utime + usage.ru_stime for usage in used) * 1e9)


class Driver:
    """Answers orders until end of file."""

    def __init__(self, root: str, image: str) -> None:
        self.root = root
        self.image = image
        self.runtime = Runtime(root)
        self.null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        self.held: list[Container] = []
        self.pool: Pool | None = None

    def start(self, runtime: Runtime, upper: str) -> None:
        code = runtime.call(self.image, exec="/bin/true", upper=upper, stdout=self.null)
        if code != 0:
            raise AssertionError(f"exit {code}")

    def timed(self, fresh: bool, upper: str) -> str:
        used = cpu()
        begin = time.perf_counter_ns()
        runtime = Runtime(self.root) if fresh else self.runtime
        self.start(runtime, upper)
        ended = time.perf_counter_ns()
        runtime.settle()
        gone = time.perf_counter_ns()
        used = cpu() - used
        if fresh:
            os.close(runtime.pods.fd)
        return f"{ended - begin} {used} {gone - begin}"

    def many(self, count: int, threads: int) -> str:
        todo = iter(range(count))
        broken: list[BaseException] = []

        def work() -> None:
            try:
                for _ in todo:  # the iterator is shared; next() is one step under the interpreter's lock
                    self.start(self.runtime, "disk")
            except BaseException as error:
                broken.append(error)

        workers = [threading.Thread(target=work) for _ in range(threads)]
        begin = time.perf_counter_ns()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        self.runtime.settle()
        took = time.perf_counter_ns() - begin
        if broken:
            raise broken[0]
        return str(took)

    def sleeper(self) -> Container:
        return self.runtime.start(self.image, ["600"], exec="/bin/sleep", stdout=self.null)

    def exec(self) -> str:
        if not self.held:
            self.held.append(self.sleeper())
            self.held[0].wait_running()
        begin = time.perf_counter_ns()
        code = self.held[0].exec(["/bin/true"], stdout=self.null).wait()
        if code:
            raise AssertionError(f"exit {code}")
        return str(time.perf_counter_ns() - begin)

    def life(self) -> str:
        begin = time.perf_counter_ns()
        with self.sleeper() as app:
            app.wait_running()
        return str(time.perf_counter_ns() - begin)

    def prepare(self) -> None:
        """As `Runtime.create` does it, but nobody needs it after a power cut."""
        with self.runtime.store.lock(exclusive=False):
            recipe = self.runtime._recipe(self.image, [], None, False, {"keep": True})
            prepare(recipe, self.runtime._wanted([], False, {"keep": True}), self.runtime.pods, lasting=False)

    def detached(self) -> str:
        begin = time.perf_counter_ns()
        pod = self.runtime.detach(self.image, ["600"], exec="/bin/sleep", log_driver="none")
        pod.remove(force=True)
        return str(time.perf_counter_ns() - begin)

    def pooled(self) -> str:
        if self.pool is None:
            self.pool = Pool(self.image, size=2, root=self.root)
            time.sleep(0.2)
        result = self.pool.run(["/bin/true"], stdout=self.null)
        if not result.ok:
            raise AssertionError(str(result))
        time.sleep(0.02)  # the shell that replaces this one gets ready
        return str(int(result.seconds * 1e9))

    def hold(self, count: int) -> str:
        import gc
        import tracemalloc

        tracemalloc.start()
        self.sleeper().close()  # what is made once
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        self.held = [self.sleeper() for _ in range(count)]
        for one in self.held:
            one.wait_running()
        gc.collect()
        each = (tracemalloc.get_traced_memory()[0] - before) // count
        tracemalloc.stop()
        return f"{each} {threading.active_count()}"

    def drop(self) -> str:
        for one in self.held:
            one.close()
        self.held = []
        if self.pool is not None:
            self.pool.close()
        return "0"

    def fetch(self, files: list[str]) -> str:
        from pyrun.images.importer import import_file

        for file in files:
            import_file(self.runtime.store, file, allow_unsigned=True)
        return str(len(files))

    def order(self, word: str, *rest: str) -> str:
        if word == "many":
            return self.many(int(rest[0]), int(rest[1]))
        simple = {"exec": self.exec, "life": self.life, "detached": self.detached, "pool": self.pooled, "drop": self.drop}
        if word in simple:
            return simple[word]()
        if word == "hold":
            return self.hold(int(rest[0]))
        if word == "fetch":
            return self.fetch(list(rest))
        if word == "prepare":
            for _ in range(int(rest[0])):
                self.prepare()
            return "0"
        return self.timed(word == "first", rest[0])


def grow(megabytes: int, threads: int) -> object:
    """Makes this process as large and as threaded as an orchestrator: pages that were written to, threads that wait."""
    memory = mmap.mmap(-1, max(1, megabytes) << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for at in range(0, megabytes << 20, 4096):
        memory[at] = 1
    for _ in range(threads - 1):
        threading.Thread(target=threading.Event().wait, daemon=True).start()
    return memory


def main() -> None:
    root, image, megabytes, threads = sys.argv[1:]
    memory = grow(int(megabytes), int(threads))
    driver = Driver(root, image)
    for line in sys.stdin:
        sys.stdout.write(driver.order(*line.split()) + "\n")
        sys.stdout.flush()
    del memory
    os._exit(0)  # not past the waiting threads


if __name__ == "__main__":
    main()
