"""Networks of CNI plug-ins that the launcher makes: answers of all kinds and of none, what has changed, and steps that are refused."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import COMMAND
from launched import launch
from netpods import KEPT, by_python, gone, script
from networld import World
from plugged import LOG, PORTMAP, logging, nothing_kept_of_plug_ins, prepare, record
from plugins import OWN, bridge, configure, leases, wait_empty


@pytest.fixture(autouse=True)
def nothing_stays(world: World) -> Iterator[None]:
    with nothing_kept_of_plug_ins(world):
        yield


FAILURES = {
    "status": "exit 3",
    "signal": "kill -9 $$",
    "errors": "echo 'no  luck' >&2; echo today >&2; exit 1",
    "message": """printf %s '{"cniVersion":"1.0.0","code":100,"msg":"a \\"quoted\\" \\/word","details":"more\\nof it"}'; exit 1""",
    "details": """echo ' {"code":7,"details":" only these "}'; exit 1""",
    "empty": """echo '{"code":7,"msg":"","details":""}'; echo said >&2; exit 1""",
    "within": """echo '{"more":{"msg":"not this"},"msg":"this","list":[{"details":"nor this"}]}'; exit 1""",
    "twice": """echo '{"msg":"first","msg":"last"}'; exit 1""",
    "long": """printf '{"msg":"'; head -c 900 /dev/zero | tr '\\0' x; echo '"}'; exit 1""",
    "list": "echo '[1, 2]'",
    "words": "echo 'not what was asked'",
}
ODD = {
    "number": """echo '{"msg":7}'; exit 1""",
    "letters": """echo '{"msg":"\u00e9"}'; exit 1""",
    "escape": """printf %s '{"msg":"\\u0041"}'; exit 1""",
    "broken": """echo '{"msg":"x" y}'; exit 1""",
    "colours": "printf '\\033[31mred\\n' >&2; exit 1",
}


@pytest.mark.parametrize("how", [*FAILURES, *ODD])
def test_failures_are_told_in_the_same_words(world: World, tmp_path: Path, how: str) -> None:
    """By the launcher as by Python; nothing of it stays."""
    logging(world, f"test $CNI_COMMAND = DEL && exit 0\ncat >/dev/null\n{ {**FAILURES, **ODD}[how] }")
    configure(world, "fails", bridge(world, "cni8", "10.31.0.0/24"), {"type": LOG})
    uuid = prepare(world, "--net", "fails", *script("true"))
    said, became = launch(world.pyrun, tmp_path, uuid)
    assert (said.returncode, became) == (125, ["pyrun"]), said
    assert leases(world, "fails") == [] and world.settled() == []
    assert not (world.pyrun.root / "pods/prepared" / uuid / "net").exists()
    python = by_python(world, uuid)
    assert python.returncode == 125
    assert (said.stdout, said.stderr) == (python.stdout, python.stderr)
    world.pyrun("rm", uuid, code=0)


HOSTILE = {
    "rubbish": "echo rubbish",
    "deep": "printf '{\"a\":'; head -c 30000 /dev/zero | tr '\\0' '['",
    "nul": 'printf \'{"cniVersion":"1.0.0"}\\000\'',
    "cut": 'printf \'{"cniVersion":"1.0.0","ips":[\'',
    "list": "echo '[]'",
    "lines": 'echo \'{"cniVersion":"1.0.0","ips":[{"address":"10.9.9.9\\\\n6.6.6.6 bank"}]}\'',
    "address": 'echo \'{"cniVersion":"1.0.0","ips":[{"address":"10.9.9/24"}]}\'',
    "number": 'echo \'{"cniVersion":"1.0.0","ips":[{"address":1}]}\'',
    "endless": "exec yes",
}


@pytest.mark.parametrize("how", HOSTILE)
def test_answers_that_are_none(world: World, tmp_path: Path, how: str) -> None:
    """Whatever a plug-in says: an error, the plug-ins' DEL, and no pod."""
    log = logging(world, f"test $CNI_COMMAND = DEL && exit 0\n{HOSTILE[how]}")
    configure(world, "odd", bridge(world, "cni8", "10.31.0.0/24"), {"type": LOG})
    uuid = prepare(world, "--net", "odd", *script("true"))
    said, became = launch(world.pyrun, tmp_path, uuid)
    assert (said.returncode, became) == (125, ["pyrun"]), said
    assert "for network odd: its answer is" in said.stderr or "the answer of its plug-ins is no result of CNI" in said.stderr
    words = log.read_text().split()
    assert words[-1] == "DEL" and words.count("ADD") <= words.count("DEL") and leases(world, "odd") == [] and world.settled() == []
    world.pyrun("rm", uuid, code=0)


@pytest.mark.parametrize(
    "result",
    [
        json.dumps({"ips": [{"address": f"10.9.9.{last}/24"} for last in range(1, 18)]}),
        '{"cniVersion":"1.0.0","ips":[{"\\u0061ddress":"10.9.9.1/24"}]}',
        '{"cniVersion":"1.0.0","ips":[{"address":"10.9.9.1/24"}],"more":' + "[" * 40 + "]" * 40 + "}",
    ],
)
def test_unusual_answers_are_read(world: World, tmp_path: Path, result: str) -> None:
    """ADD is asked for once."""
    log = logging(world, f"test $CNI_COMMAND != ADD || echo '{result}'")
    configure(world, "rare", {"type": LOG})
    uuid = prepare(world, "--net", "rare", *script("exec sleep 1000"))
    said, became = launch(world.pyrun, tmp_path, "--detach", uuid)
    assert (said.returncode, became[:2]) == (0, KEPT), said.stderr
    assert log.read_text().split() == ["ADD"]
    assert world.status(uuid)["networks"][0]["addresses"] == [one["address"] for one in json.loads(result)["ips"]]
    world.pyrun("rm", "--force", uuid, code=0)


@pytest.mark.parametrize(
    "result",
    [
        "",
        "{}",
        '{"cniVersion":"1.0.0","ips":null,"routes":null,"interfaces":null}',
        '{"cniVersion":"0.2.0","ip4":{"ip":"10.9.9.1/24"},"ip6":{"ip":"FD09::1/64"}}',
        '{"cniVersion":"1.0.0","ips":[{"address":"10.9.9.1/24"},{"address":"10.9.9.2/24"}],"interfaces":[{"name":"x"},{"mac":"02:00:00:00:00:09","sandbox":"y"}]}',
        '{"cniVersion":"1.0.0","ips":[{"address":"10.9.9.1/24"},{"address":"10.9.9.2/24"},{"address":"fd09::1/64"},{"address":"10.9.9.3/24"}]}',
        '{"cniVersion":"1.0.0","ips":[{"address":"10.9.9.1\\/24"}],"dns":{"nameservers":["\u00e9\u20ac"]}}',
        '{"cniVersion":"1.0.0","ips":[{"address":"::ffff:10.9.9.9/120"}]}',
        json.dumps({"ips": [{"address": f"10.9.{n}.1/24"} for n in range(16)], "routes": [{"dst": "::/0"}, {"dst": "0.0.0.0/0"}] * 2}),
        ' {"ips": [ {"interface": 0, "address" : "fd09::/127", "gateway": "fd09::1", "x": [1.5e3, -0, true, {"\\u0041": []}] } ] } \n',
    ],
)  # fmt: skip
def test_results_of_all_kinds(world: World, tmp_path: Path, result: str) -> None:
    """Read as Python reads them: the same record."""
    log = logging(world, f"test $CNI_COMMAND = ADD || exit 0; cat <<'END'\n{result}\nEND")
    configure(world, "kinds", {"type": LOG})
    found = []
    for python in (False, True):
        uuid = prepare(world, "--pod-name", "kind", "--net", "kinds", *script("exec sleep 1000"))
        if python:
            said = by_python(world, "--detach", uuid)
            assert said.returncode == 0, said.stderr
        else:
            said, became = launch(world.pyrun, tmp_path, "--detach", uuid)
            assert (said.returncode, became[:2]) == (0, KEPT), said.stderr
        hosts = world.pyrun("exec", "kind", "/bin/cat", "/etc/hosts", code=0).out.replace(uuid, "")
        found.append((json.dumps(record(world, uuid), sort_keys=True).replace(uuid, "").replace(uuid[:8], ""), hosts))
        world.pyrun("rm", "--force", uuid, code=0)
    assert found[0] == found[1] and log.read_text().split() == ["ADD", "DEL"] * 2


def test_what_changes_after_prepare(world: World, tmp_path: Path) -> None:
    """One of the same name that would come first does not count, another configuration is refused, and so is a plug-in that is gone."""
    path = configure(world, "new", bridge(world, "cni8", "10.31.0.0/24"))
    uuids = [prepare(world, "--net", "new", *script("ip -o addr show eth0")) for _ in range(3)]
    first = path.with_name("05-new.conflist")
    first.write_text(path.read_text().replace("10.31", "10.39").replace("cni8", "cni10"))
    path.write_text(path.read_text())
    said, became = launch(world.pyrun, tmp_path, uuids[0])
    assert (said.returncode, became[:2]) == (0, KEPT) and "10.31.0." in said.stdout, said.stderr
    gone(world)
    first.unlink()
    path.write_text(path.read_text().replace("10.31", "10.38").replace("cni8", "cni9"))
    said, became = launch(world.pyrun, tmp_path, uuids[1])
    assert (said.returncode, became) == (125, ["pyrun"]) and f"{path}: it has changed since the pod was prepared\nhint: " in said.stderr
    logging(world, "cat")
    path.write_text(json.dumps({"cniVersion": "1.0.0", "name": "new", "plugins": [bridge(world, "cni8", "10.31.0.0/24"), {"type": LOG}]}))
    uuid = prepare(world, "--net", "new", *script("true"))
    (OWN / LOG).unlink()
    said, became = launch(world.pyrun, tmp_path, uuid)
    assert (said.returncode, became) == (125, ["pyrun"]) and f"plug-in {LOG} is not in /usr/lib/cni" in said.stderr
    assert wait_empty(world, "new")
    world.pyrun("rm", *uuids[1:], uuid, code=0)


@pytest.mark.parametrize("call", ["clone", "renameat", "write", "wait4"])
def test_killed_at_every_step(world: World, tmp_path: Path, call: str) -> None:
    """By SIGKILL: the pod starts the next time without Python, or is removed, and DEL gives back what it had."""
    configure(world, "killed", bridge(world, "cni8", "10.31.0.0/24"), PORTMAP)
    for count in (1, 2, 3, 4):
        uuid = prepare(world, "--net", "killed", "-p", "8197:80", *script("echo here"))
        inject = ["strace", "-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={count}"]
        command = [*world.host.within, *inject, str(COMMAND), "run-prepared", uuid]
        subprocess.run(command, env=world.pyrun.environment(), capture_output=True, timeout=120)
        if count % 2 and (world.pyrun.root / "pods/prepared" / uuid).is_dir():
            said, became = launch(world.pyrun, tmp_path, uuid)
            assert (said.returncode, said.stdout, became[:2]) == (0, "here\n", KEPT), (call, count, said.stderr)
        world.pyrun("rm", "--force", uuid)
        world.pyrun("gc", "--grace-period", "0s", code=0)
        assert wait_empty(world, "killed") and world.settled() == [], (call, count)


@pytest.mark.parametrize(("call", "counts"), [("clone", 2), ("pipe2", 4), ("memfd_create", 2), ("pidfd_open", 2), ("renameat", 4)])
def test_refused_at_every_step(world: World, tmp_path: Path, call: str, counts: int) -> None:
    """What the kernel refuses to the launcher is taken back, and it asks again."""
    configure(world, "refused", bridge(world, "cni8", "10.31.0.0/24"), PORTMAP)
    for count in range(1, counts + 1):
        uuid = prepare(world, "--net", "refused", "-p", "8198:80", *script("echo here"))
        inject = ["strace", "-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={call}:error=ENOSPC:when={count}"]
        inject = ["strace", "-o", str(tmp_path / "calls"), "-e", f"trace={call},execve", *inject[-2:]]
        command = [*world.host.within, *inject, str(COMMAND), "run-prepared", uuid]
        done = subprocess.run(command, env=world.pyrun.environment(), capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stdout, done.stderr) == (0, "here\n", ""), (call, count)
        assert "python3" not in (tmp_path / "calls").read_text()
        gone(world)
        assert wait_empty(world, "refused")
