"""Prepared pods that ask for much, ports, networks, addresses, long answers, start without Python; what is absurd `prepare` refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from launched import launch
from machines import HOST
from netpods import KEPT, gone, script
from networld import SERVE, World, get
from plugged import LOG, logging, nothing_kept_of_plug_ins, prepare, record
from plugins import configure


@pytest.fixture(autouse=True)
def nothing_stays(world: World) -> Iterator[None]:
    with nothing_kept_of_plug_ins(world):
        yield


@pytest.mark.parametrize("count", [65, 1500])
def test_many_ports(world: World, tmp_path: Path, count: int) -> None:
    """In one transaction of the table, and given back one by one."""
    world.sh("true", "--net", "default")
    last = 20000 + count - 1
    words = ("-p", f"20000-{last}:30000-{30000 + count - 1}", *script(SERVE.format(word="many", port=30000 + count - 1)))
    uuid = world.pyrun("prepare", *words, code=0).out.strip()
    said, became = launch(world.pyrun, tmp_path, "--detach", uuid)
    assert (said.returncode, became) == (0, KEPT), said.stderr
    assert get(world.outside, HOST[0], last) == get(world.outside, HOST[1], last) == "many"
    assert len(list((world.pyrun.root / "networks/ports").iterdir())) == count
    other = world.pyrun("prepare", "-p", f"{last}:80", *script("true"), code=0).out.strip()
    said, became = launch(world.pyrun, tmp_path, other)
    assert (said.returncode, became) == (125, ["pyrun"]) and f"forward port {last}/tcp: it is forwarded to pod {uuid}" in said.stderr
    world.pyrun("rm", "--force", uuid, other, code=0)
    gone(world)


def test_more_ports_than_make_sense(world: World) -> None:
    ports = [f"--port=127.0.0.{last}:1-4096:1-4096" for last in range(1, 18)]
    said = world.pyrun("prepare", *ports, *script("true"), code=125).err
    assert said.startswith("pyrun: write down the network of pod ") and "it asks for too many ports\nhint: " in said
    assert not list((world.pyrun.root / "pods/prepared").iterdir())


def test_many_networks(world: World, tmp_path: Path) -> None:
    names = [f"line{number}" for number in range(24)]
    for name in names:
        world.pyrun("network", "create", "--kind", "ptp", name, code=0)
    uuid = world.pyrun("prepare", "--net", ",".join(names), *script("ip -o -4 addr show | wc -l"), code=0).out.strip()
    said, became = launch(world.pyrun, tmp_path, uuid)
    assert (said.returncode, said.stdout.split(), became[:2]) == (0, ["25"], KEPT), said.stderr
    gone(world)
    for name in names:
        world.pyrun("network", "rm", name, code=0)


def test_many_networks_of_plug_ins_with_many_addresses(world: World, tmp_path: Path) -> None:
    names = [f"plugged{number}" for number in range(20)]
    result = {"ips": [{"address": f"10.9.{number}.1/24"} for number in range(60)], "dns": {"options": ["x" * 200_000]}}
    (tmp_path / "result").write_text(json.dumps(result))
    log = logging(world, f"test $CNI_COMMAND != ADD || cat {tmp_path}/result")
    for name in names:
        configure(world, name, {"type": LOG})
    uuid = prepare(world, "--net", ",".join(names), "--pod-name", "much", *script("exec sleep 1000"))
    said, became = launch(world.pyrun, tmp_path, "--detach", uuid)
    assert (said.returncode, became) == (0, KEPT), said.stderr
    found = record(world, uuid)["nets"]
    assert [one["network"] for one in found] == names and all(one["result"] == result and len(one["addresses"]) == 60 for one in found)
    world.pyrun("rm", "--force", uuid, code=0)
    assert log.read_text().split() == ["ADD"] * 20 + ["DEL"] * 20
