"""What a user of the library may write: mypy and pyright in strict mode find nothing to say; it is never run."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import assert_type

import pyrun
from pyrun import aio
from pyrun.images import Download, Image, Store


def tell(download: Download) -> None:
    print(download.key, download.have, download.size, download.done)


def images(told: Callable[[Download], None] = tell) -> Image:
    store = Store("/srv/state")
    image = store.pull("registry.example.com/app:1.0", policy="update", progress=told)
    assert_type(store.verify(image.id), dict[str, list[str]])
    store.tag(image.id, "local/app")
    store.build("/srv/tree", {"acKind": "ImageManifest"}, "/srv/app.aci", compression="xz", sign_by="me@example.com")
    print(store.gc(dry_run=True).bytes, [one.name for one in store.images()])
    return image


def sandbox(code: str) -> pyrun.Result:
    done = pyrun.run(
        None,
        ["python3", "-c", code],
        rootfs="host",
        input=b"question",
        capture_output=True,
        timeout=5,
        output_limit=1 << 20,
        memory="64Mi",
        pids_limit=20,
        cpus=0.5,
        volume=["/srv/in:/in:ro", pyrun.Volume("/scratch", kind="tmpfs", size=1 << 20)],
        set_env={"LANG": "C"},
    )
    if done.reason == "timeout":
        print("too slow", done.seconds)
    assert_type(done.stdout, bytes | None)
    assert_type(done.usage, dict[str, int])
    return done


def pool() -> list[int]:
    with pyrun.Pool(rootfs="host", size=2, memory="64Mi") as shells:
        return [shells.run(["true"], timeout=1, set_env={"A": "b"}).returncode for _ in range(3)]


def session() -> int:
    with pyrun.start("example.com/app", ["serve"], stdin=pyrun.PIPE, stdout=pyrun.PIPE, stderr=sys.stderr, user="www") as app:
        assert app.stdin and app.stdout
        app.stdin.write(b"x")
        print(app.stdout.read(10), app.exec(["/bin/true"]).wait(), app.pod.status()["state"])
        app.update(memory="128Mi")
        app.kill()
        return app.wait(timeout=10)


def pods() -> None:
    web = pyrun.App("example.com/web", memory="64Mi", name="web")
    logs = pyrun.App("example.com/logs", ["-f"], name="logs")
    with pyrun.create_pod([web, logs], pod_name="site", exit_policy="main-app") as pod:
        pod.start()
        print(pod.wait(60))
    pod = pyrun.detach("example.com/web", restart="on-failure", pod_name="web")
    assert_type(pyrun.attach("web"), pyrun.Pod)
    for when, stream, text in pod.logs(follow=True, tail=5):
        print(when, stream.decode(), text)
    for event in pod.events():
        print(event["event"])
    pod.stop(seconds=3)
    pod.remove()
    for operation in pyrun.plan_of("example.com/web", memory="64Mi"):
        print(operation.name, operation.what, operation.origin)


async def many() -> list[pyrun.Result]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(aio.run(None, ["true"], rootfs="host", timeout=3)) for _ in range(10)]
    async with await aio.start("example.com/app", stdout=pyrun.PIPE) as app:
        assert app.stdout
        print(await app.stdout.readline(), await app.wait())
    return [task.result() for task in tasks]


def errors() -> None:
    try:
        pyrun.run("example.com/app", check=True)
    except pyrun.ExitError as error:
        print(error.result.reason, error.hint)
    except (pyrun.ConfigError, pyrun.SetupError) as error:
        print(error.step, error.subject, error.errno)
