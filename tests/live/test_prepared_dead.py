"""What dead pods have left: who starts a prepared pod takes it over, with what they have in the table, and without Python."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from launched import launch
from machines import HOST
from netpods import KEPT, address, script
from networld import SERVE, World, get
from waiting import wait_until


@pytest.fixture(autouse=True)
def nothing_stays(world: World) -> Iterator[None]:
    yield
    world.pyrun("gc", "--grace-period", "0s", code=0)
    assert world.settled() == []


def die(world: World, uuid: str) -> None:
    """All processes of a pod in the background at once, so that nobody cleans up."""
    run = json.loads((world.pyrun.root / "pods/running" / uuid / "run").read_text())
    init = run["pid"]
    supervisor = next(int(line.split()[1]) for line in Path(f"/proc/{init}/status").read_text().splitlines() if line.startswith("PPid:"))
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in (run["keeper"], supervisor, init):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
    wait_until(lambda: not Path(f"/proc/{init}").exists() or "Z (" in Path(f"/proc/{init}/status").read_text())


@pytest.mark.parametrize("how", ["same", "any", "address"])
def test_a_port_of_a_dead_pod(world: World, tmp_path: Path, how: str) -> None:
    """The same, of all addresses, and beside the one of another address."""
    world.sh("true", "--net", "default")
    first = world.serve("first", "--net-isolate", "-p", f"{'' if how == 'address' else HOST[0] + ':'}8300:80")
    ports = {"same": f"{HOST[0]}:8300:80", "any": "8300:80", "address": f"{HOST[0]}:8300:80"}[how]
    uuid = world.pyrun("prepare", "-p", ports, *script(SERVE.format(word="next", port=80)), code=0).out.strip()
    said, became = launch(world.pyrun, tmp_path, "--detach", uuid)
    assert (said.returncode, became) == (125, ["pyrun"]) and f"it is forwarded to pod {first}" in said.stderr
    die(world, first)
    said, became = launch(world.pyrun, tmp_path, "--detach", uuid)
    assert (said.returncode, became) == (0, KEPT), said.stderr
    assert get(world.outside, HOST[0], 8300) == "next"
    assert world.host.run("nft", "list", "ruleset").count("8300") <= (2 if how == "any" else 1)
    world.pyrun("rm", "--force", uuid, code=0)


def test_an_address_of_a_dead_pod(world: World, tmp_path: Path) -> None:
    """What leads there, and what keeps it from the host, goes first."""
    world.sh("true", "--net", "default")
    wanted = address(world, 88)
    first = world.serve("first", "--net", f"default:ip={wanted}", "--net-isolate", "-p", "8301:80")
    before = world.host.run("nft", "list", "ruleset")
    assert before.count(wanted) == 2
    uuid = world.pyrun("prepare", "--net", f"default:ip={wanted}", *script("exec sleep 1000"), code=0).out.strip()
    die(world, first)
    said, became = launch(world.pyrun, tmp_path, "--detach", uuid)
    assert (said.returncode, became) == (0, KEPT), said.stderr
    assert wanted not in world.host.run("nft", "list", "ruleset")
    assert world.status(uuid)["networks"][0]["addresses"][0].startswith(wanted + "/")
    world.pyrun("rm", "--force", uuid, code=0)


def test_the_last_address_is_a_dead_pods(world: World, tmp_path: Path) -> None:
    """Of a network with four: what nobody has comes first."""
    world.pyrun("network", "create", "--subnet", "10.81.0.0/29", "small", code=0)
    pods = [world.serve(f"small{number}", "--net", "small") for number in range(5)]
    uuid = world.pyrun("prepare", "--net", "small", *script("exec sleep 1000"), code=0).out.strip()
    said, became = launch(world.pyrun, tmp_path, "--detach", uuid)
    assert (said.returncode, became) == (125, ["pyrun"]), said.stderr
    assert said.stderr.startswith("pyrun: join network small: all 5 addresses of 10.81.0.0/29 are in use\nhint: ")
    address_of = world.status(pods[3])["networks"][0]["addresses"]
    die(world, pods[3])
    said, became = launch(world.pyrun, tmp_path, "--detach", uuid)
    assert (said.returncode, became) == (0, KEPT), said.stderr
    assert world.status(uuid)["networks"][0]["addresses"] == address_of
    world.pyrun("rm", "--force", uuid, *(pod for pod in pods if pod != pods[3]), code=0)
    world.pyrun("gc", "--grace-period", "0s", code=0)
    world.pyrun("network", "rm", "small", code=0)
