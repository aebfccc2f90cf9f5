"""Images fetched from Debian's docker-registry over TLS and run: pushed by skopeo, without a login, with htpasswd, with tokens."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import COMMAND, Pyrun
from registries import CONFIG, LAYER, ImageParts, Reply, Request, Scripted, descriptor, digest_of
from world import GREETING, SECRET, World, worlds

KINDS = ("none", "htpasswd", "token")
ALLOW = "--insecure-options=image"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with worlds(tmp_path_factory.mktemp("world")) as made:
        yield made


@pytest.mark.parametrize("kind", KINDS)
def test_fetch_and_run(pyrun: Pyrun, world: World, kind: str) -> None:
    registry = world.registries[kind]
    env = world.environment(registry if kind != "none" else None)
    name = f"docker://{registry.place}/team/test:1"
    fetched = pyrun("fetch", name, ALLOW, env=env, code=0)
    assert "pyrun: fetched sha256:" in fetched.err and SECRET not in fetched.err
    assert pyrun("run", name, ALLOW, env=env, code=0).out == f"{GREETING}\n"
    listed = json.loads(pyrun("image", "list", "--format", "json", code=0).out)
    assert [(image["name"], image["id"]) for image in listed] == [(f"{registry.place}/team/test", fetched.out.strip())]
    again = pyrun("fetch", name, ALLOW, env=env, code=0)
    assert again.out == fetched.out and "fetched" not in again.err
    assert "fetched" not in pyrun("fetch", "--quiet", name, ALLOW, env=env, code=0).err


@pytest.mark.parametrize("kind", ["htpasswd", "token"])
def test_without_or_with_a_wrong_login(pyrun: Pyrun, world: World, kind: str) -> None:
    registry = world.registries[kind]
    name = f"docker://{registry.place}/team/test:1"
    nobody = pyrun("fetch", name, ALLOW, env=world.environment(), code=125)
    assert "log in" in nobody.err and nobody.out == ""
    wrong = pyrun("fetch", name, ALLOW, env=world.environment(registry, "wrong-secret"), code=125)
    assert registry.place in wrong.err and "hint:" in wrong.err and "wrong-secret" not in wrong.err
    assert pyrun("image", "list", "--no-legend", code=0).out == ""


def test_run_fetches_what_is_missing_and_asks_nobody_else(pyrun: Pyrun, world: World) -> None:
    registry = world.registries["none"]
    name = f"docker://{registry.place}/team/test:1"
    assert "no key is trusted for images of" in pyrun("run", name, env=world.environment(), code=125).err
    assert "not in the store yet" in pyrun("plan", name, ALLOW, env=world.environment(), code=125).err
    assert pyrun("run", name, ALLOW, env=world.environment(), code=0).out == f"{GREETING}\n"
    stored = json.loads(pyrun("image", "list", "--format", "json", code=0).out)[0]["id"]
    by_digest = f"{registry.place}/team/test@{stored.replace('-', ':')}"
    # without the authority nothing could be asked any more
    assert pyrun("run", name, ALLOW, code=0).out == f"{GREETING}\n"
    assert pyrun("run", f"{registry.place}/team/test:1", ALLOW, code=0).out == f"{GREETING}\n"
    assert pyrun("run", by_digest, ALLOW, code=0).out == f"{GREETING}\n"
    assert "no key is trusted for images of" in pyrun("run", by_digest, code=125).err


def test_authority_in_certs_d(pyrun: Pyrun, world: World, tmp_path: Path) -> None:
    registry = world.registries["none"]
    name = f"docker://{registry.place}/team/test:1"
    refused = pyrun("fetch", name, ALLOW, code=125)
    assert f"/etc/containers/certs.d/{registry.place}/ca.crt" in refused.err
    world.authority.certs_dirs(registry.place)
    script = f"""
        mount -t tmpfs none /etc/containers 2>/dev/null || {{ mkdir -p /etc/containers; mount -t tmpfs none /etc/containers; }}
        cp -r {world.folder}/certs.d /etc/containers/ && exec "$@"
    """
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", script, "sh"]
    done = subprocess.run([*command, COMMAND, "--root", tmp_path / "root", "fetch", name, ALLOW], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("rest", ["nothing:1", "team/test:2", "team/test@sha256:" + "0" * 64])
def test_what_is_not_there(pyrun: Pyrun, world: World, rest: str) -> None:
    registry = world.registries["none"]
    missing = pyrun("fetch", f"docker://{registry.place}/{rest}", ALLOW, env=world.environment(), code=125)
    assert "404 not found" in missing.err and "UNKNOWN" in missing.err and "hint:" in missing.err


@pytest.mark.parametrize("flags", [("--format", "v2s2"), ("--dest-compress-format", "zstd"), ("--dest-decompress",)])
def test_formats_of_skopeo(pyrun: Pyrun, world: World, flags: tuple[str, ...]) -> None:
    registry = world.registries["none"]
    world.push(registry, *flags)
    name = f"docker://{registry.place}/team/test:1"
    assert pyrun("run", name, ALLOW, env=world.environment(), code=0).out == f"{GREETING}\n"


def test_pushed_by_podman(pyrun: Pyrun, world: World) -> None:
    """Built and pushed by podman, with its own media types and gzip."""
    registry = world.registries["htpasswd"]
    home = Path("/tmp") / f"p{world.folder.stat().st_ino}"  # podman wants short paths
    base = ["podman", "--root", f"{home}/root", "--runroot", f"{home}/run", "--storage-driver", "vfs"]
    name = f"{registry.place}/team/podman:1"
    certificates = world.folder / "for-podman"
    certificates.mkdir()
    (certificates / "ca.crt").write_bytes(world.authority.certificate.read_bytes())
    try:
        for words in (
            ["load", "-q", "-i", archive_of(world)],
            ["tag", "localhost/pushed:1", name],
            ["push", "-q", "--creds", f"me:{SECRET}", "--cert-dir", certificates, name],
        ):
            done = subprocess.run([*base, *words], capture_output=True, text=True, timeout=120)
            assert done.returncode == 0, done.stderr
    finally:
        subprocess.run(["rm", "-rf", home], check=True)
    env = world.environment(registry)
    assert pyrun("run", "-q", f"docker://{name}", ALLOW, env=env, code=0).out == f"{GREETING}\n"


def archive_of(world: World) -> Path:
    path = world.folder / "for-podman.tar"
    command = ["skopeo", "--insecure-policy", "copy", "--quiet", f"oci:{world.layout}:1", f"docker-archive:{path}:localhost/pushed:1"]
    subprocess.run(command, check=True, timeout=60)
    return path


def test_made_by_umoci(pyrun: Pyrun, world: World, tmp_path: Path) -> None:
    """A layer more, made and configured by umoci, and pushed."""
    registry = world.registries["token"]
    layout = tmp_path / "layout"
    subprocess.run(["cp", "-r", world.layout, layout], check=True)
    (tmp_path / "note").write_text("from umoci")
    for words in (
        ["insert", "--image", f"{layout}:1", tmp_path / "note", "/note"],
        ["config", "--image", f"{layout}:1", "--config.cmd", "/bin/busybox", "--config.cmd", "cat", "--config.cmd", "/note"],
    ):
        done = subprocess.run(["umoci", *words], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
    world.push(registry, source=layout, name="team/umoci:1")
    env = world.environment(registry)
    assert pyrun("run", "-q", f"docker://{registry.place}/team/umoci:1", ALLOW, env=env, code=0).out == "from umoci"


def test_many_at_once(pyrun: Pyrun, world: World) -> None:
    registry = world.registries["none"]
    name = f"docker://{registry.place}/team/test:1"
    started = [pyrun.start("fetch", "--quiet", name, ALLOW, env=world.environment()) for _ in range(6)]
    results = [(process.communicate(timeout=60), process.returncode) for process in started]
    assert [code for _, code in results] == [0] * 6, results
    assert len({out for (out, _), _ in results}) == 1
    pyrun("image", "verify", "--all", code=0)


def test_killed_download_leaves_nothing(pyrun: Pyrun, world: World) -> None:
    def slow(request: Request) -> Reply:
        reply = world.parts.answer(Request(request.path.replace("/team/test/", "/app/"), request.headers))
        reply.pause = 0.001 if len(reply.body) > 100_000 else 0
        return reply

    with Scripted(world.authority.issue("slow"), slow) as server:
        process = pyrun.start("fetch", f"docker://{server.place}/team/test:1", ALLOW, env=world.environment())
        deadline = time.monotonic() + 60
        while not any(len(request.path) > 80 for request in server.seen[2:]) and time.monotonic() < deadline:
            time.sleep(0.02)
        process.kill()
        process.communicate(timeout=60)
    pyrun("gc", code=0)
    assert list((pyrun.root / "tmp").iterdir()) == []
    assert list((pyrun.root / "blobs" / "sha256").iterdir()) == []


def test_progress_on_a_terminal(pyrun: Pyrun, world: World) -> None:
    """Both layers stop half way, until both bars were seen to say how far they are."""
    import pexpect

    seen = threading.Event()
    layered = TwoLayers()

    def answer(request: Request) -> Reply:
        reply = layered.answer(request)
        if len(reply.body) > 1 << 20:
            reply.hold = (1 << 20, lambda: seen.wait(30))
        return reply

    with Scripted(world.authority.issue("bars"), answer) as server:
        words = ["--root", str(pyrun.root), "fetch", f"docker://{server.place}/app:1", ALLOW]
        env = {**pyrun.environment(world.environment()), "TERM": "xterm", "NO_COLOR": "1"}
        child = pexpect.spawn(str(COMMAND), words, env=env, encoding="utf-8", timeout=30, dimensions=(24, 100))  # type: ignore[arg-type]
        for digest in layered.digests:
            child.expect(rf"{digest[:19]} \[#{{9}}-{{11}}\]  1\.0 MiB of 2\.0 MiB  [0-9.]+ [KM]?i?B/s  (\d+:\d\d|-:--)")
        seen.set()
        rest = child.read()
        child.close()
    assert child.exitstatus == 0, rest
    for digest in layered.digests:
        assert f"fetched {digest[:19]} 2.0 MiB" in rest
    assert rest.rstrip().splitlines()[-1].startswith("sha256-")


class TwoLayers:
    """An image of two layers of 2 MiB."""

    def __init__(self) -> None:
        one, other = (ImageParts({}, pad=bytes([number]) * (2 << 20)) for number in (1, 2))
        config = json.loads(one.config)
        config["rootfs"]["diff_ids"] = self.digests = [digest_of(parts.layer) for parts in (one, other)]
        one.config = json.dumps(config).encode()
        layers = [descriptor(LAYER, parts.layer) for parts in (one, other)]
        one.manifest = json.dumps({**json.loads(one.manifest), "config": descriptor(CONFIG, one.config), "layers": layers}).encode()
        one.blobs = {digest_of(data): data for data in (one.config, one.layer, other.layer)}
        self.answer = one.answer


def test_tags_of_a_repository(pyrun: Pyrun, world: World) -> None:
    """As skopeo pushed them, in the registry's order; to those only who log in."""
    registry = world.registries["htpasswd"]
    for tag in ("z2", "1.0"):
        world.push(registry, name=f"team/tagged:{tag}")
    env = world.environment(registry)
    listed = pyrun("image", "tags", f"docker://{registry.place}/team/tagged", env=env, code=0).out.split()
    assert sorted(listed) == ["1.0", "z2"]
    assert json.loads(pyrun("image", "tags", f"{registry.place}/team/tagged", "--format", "json", env=env, code=0).out) == listed
    assert "log in" in pyrun("image", "tags", f"{registry.place}/team/tagged", env=world.environment(), code=125).err
    assert "hint:" in pyrun("image", "tags", f"{registry.place}/team/nothing", env=env, code=125).err
    assert "names one version already" in pyrun("image", "tags", f"{registry.place}/team/tagged:z2", code=2).err
