"""The programs in examples/, as a user runs them, and the doctor."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import TOP, Pyrun

import pyrun as library

EXAMPLES = TOP / "examples"


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A state directory of the test's own; nothing of any pod is in it at the end."""
    monkeypatch.setenv("PYRUN_ROOT", str(tmp_path / "state"))
    yield tmp_path / "state"
    deadline = time.monotonic() + 60
    while any(os.listdir(folder) for folder in (tmp_path / "state/pods").glob("[!n]*")):
        assert time.monotonic() < deadline, "a pod is left"
        time.sleep(0.02)


def example(name: str, *words: object, **more: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(EXAMPLES / name), *map(str, words)], capture_output=True, text=True, timeout=90, **more)  # type: ignore[call-overload,no-any-return]


JUDGED = {
    "a, b = map(int, input().split()); print(a + b)": "accepted",
    "print(8)": "wrong answer",
    "1 / 0": "runtime error",
    "import time; time.sleep(100)": "time limit",
    "while True: print('x' * 1000)": "output limit",
    "import os; os.kill(os.getpid(), 11)": "killed by signal",
    "import socket; socket.create_connection(('127.0.0.1', 22), 1)": "runtime error",
    "open('/etc/shadow')": "runtime error",
    "open('/code/main.py', 'w')": "runtime error",
    "import os; print(7 if not os.listdir('/home') and os.getpid() < 5 and 'PYRUN_ROOT' not in os.environ else 'much')": "accepted",
}


@pytest.mark.parametrize(("code", "verdict"), JUDGED.items(), ids=range(len(JUDGED)))
def test_the_judge(tmp_path: Path, code: str, verdict: str) -> None:
    (tmp_path / "main.py").write_text(code)
    done = example("judge.py", "--time", "2", "--output", "10000", "--input", "3 4", "--expect", "7", tmp_path / "main.py")
    found = json.loads(done.stdout)
    assert (found["verdict"], done.returncode) == (verdict, 0 if verdict == "accepted" else 1), done
    assert found["cpu_seconds"] > 0 and found["seconds"] < 60


def test_a_ci_job(tmp_path: Path) -> None:
    """Steps share the workspace and nothing else; the first failure, and a time-out, end the job."""
    (tmp_path / "work").mkdir()
    steps = [
        {"name": "make", "run": "echo made >result; echo $CI; touch /tmp/own", "environment": {"CI": "yes"}},
        {"name": "check", "run": "cat result; [ ! -e /tmp/own ] && echo alone; printf last >&2"},
        {"name": "fail", "run": "exit 3"},
        {"name": "never", "run": "touch never"},
    ]
    job = tmp_path / "job.json"
    job.write_text(json.dumps({"name": "job", "workspace": "work", "steps": steps}))
    done = example("ci_runner.py", job)
    assert done.returncode == 3, done
    assert re.findall(r"^\[(.*)\] (.*)$", done.stdout, re.M) == [("make", "yes"), ("check", "made"), ("check", "alone"), ("check", "last")]
    assert re.search(r"^fail +3 ", done.stdout, re.M) and not (tmp_path / "work/never").exists()
    job.write_text(json.dumps({"name": "job", "workspace": "work", "steps": [{"name": "slow", "run": "sleep 100", "timeout": 0.5}]}))
    assert example("ci_runner.py", job).returncode == 124


def test_services_side_by_side(tmp_path: Path) -> None:
    """In the order of their needs, restarted, and ended by the main one; an interrupt ends them too."""
    services = {
        "job": {"args": ["sh", "-c", "echo works; exit 5"], "needs": ["web"], "main": True},
        "web": {"args": ["sh", "-c", "echo serves; exec sleep 1000"], "needs": ["db"], "ready": "serves"},
        "db": {"args": ["sh", "-c", "sleep 0.3; echo up; trap 'echo bye; exit 0' TERM; sleep 1000 & wait"], "ready": "up"},
        "odd": {"args": ["sh", "-c", "exit 1"], "restart": 1},
    }
    file = tmp_path / "services.json"
    file.write_text(json.dumps({"services": services}))
    done = example("compose.py", file)
    said = [line.partition(" | ")[2] for line in done.stdout.splitlines()]
    assert done.returncode == 5, done
    assert said.index("up") < said.index("serves") < said.index("works") and "bye" in said and "ended with 1, once more" in said
    del services["job"]
    file.write_text(json.dumps({"services": services}))
    with subprocess.Popen([sys.executable, str(EXAMPLES / "compose.py"), str(file)], stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout
        while "serves" not in running.stdout.readline():
            pass
        running.send_signal(signal.SIGINT)
        assert "bye" in running.stdout.read() and running.wait(60) == 0


def test_the_exporter(state: Path) -> None:
    """What a scrape says of two pods is what their cgroups say."""
    words = [sys.executable, str(EXAMPLES / "exporter.py"), "127.0.0.1:0"]
    with library.detach(None, ["sleep", "1000"], rootfs="host", root=str(state), pod_name="seen") as pod:
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout
            with urllib.request.urlopen(server.stdout.readline().strip()) as answer:
                text = answer.read().decode()
            server.kill()
        assert 'pyrun_pods{state="running"} 1' in text and text.endswith("# EOF\n")
        assert re.search(rf'^pyrun_pod_cpu_seconds_total{{uuid="{pod.uuid}",name="seen"}} 0\.\d+$', text, re.M), text


def test_the_unit_is_what_its_command_takes(shared: Pyrun, busybox: Path) -> None:
    """Every option of the example exists: its command line is parsed to the end, and fails at the image that is not there."""
    text = (EXAMPLES / "web.service").read_text()
    found = re.search(r"^ExecStart=\S+ (.*)$", text, re.M)
    assert found and {"Type=notify", "NotifyAccess=main", "Delegate=yes", "KillMode=mixed"} <= set(text.splitlines())
    words = found[1].replace("/srv/www:/srv/www", "/usr:/srv/www").split()
    done = shared(*words, code=125)
    assert "example.com/httpd" in done.err and "option" not in done.err


def test_the_doctor(pyrun: Pyrun, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "state/pods").mkdir(0o700)
    found = json.loads(pyrun("doctor", "--format", "json", code=0).out)
    by_name = {one["name"]: one for one in found["findings"]}
    assert found["ok"] and by_name["a container"]["found"].startswith("exited 0 in ") and by_name["user"]["found"] == "root"
    assert by_name["trust"]["state"] == "ok" and by_name["kernel"]["found"] == os.uname().release
    assert all(bool(one["mend"]) == (one["state"] != "ok") and one["needed"] for one in found["findings"])
    text = pyrun("doctor", code=0).out
    assert "a container" in text and len(text.splitlines()) >= len(by_name)
    (pyrun.root / "trust" / "policy.json").write_text("nonsense")
    refused = pyrun("doctor", code=125)
    assert "policy" in refused.out and "every image is refused" in refused.out and refused.err == ""
