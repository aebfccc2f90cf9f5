"""--pull-policy: never, new and update of run, plan and fetch; stored digests; short names; mirrors of a registries.conf."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import Pyrun
from registries import Authority, ImageParts, Reply, Request, Scripted

ALLOW = "--insecure-options=image"
Image = Callable[[str], ImageParts]


@pytest.fixture(scope="module")
def parts() -> Image:
    busybox = Path("/bin/busybox").read_bytes()
    return lambda word: ImageParts({"bin/busybox": busybox}, ["/bin/busybox", "echo", word])


class Remote:
    """A registry whose tag app:1 means `current`; `blobs` counts how often each blob was asked for."""

    def __init__(self, authority: Authority, current: ImageParts) -> None:
        self.current = current
        self.server = Scripted(authority.issue("remote"), self.answer)
        self.env = {"SSL_CERT_FILE": str(authority.certificate)}

    @property
    def name(self) -> str:
        return f"docker://{self.server.place}/app:1"

    @property
    def asked(self) -> list[str]:
        return [f"{request.method} {request.path.rpartition('/')[2]}" for request in self.server.seen]

    def answer(self, request: Request) -> Reply:
        return self.current.answer(request)


@pytest.fixture
def remote(tmp_path: Path, parts: Image) -> Iterator[Remote]:
    made = Remote(Authority(tmp_path), parts("first"))
    with made.server:
        yield made


def test_never(pyrun: Pyrun, remote: Remote) -> None:
    for verb in ("run", "plan", "fetch"):
        refused = pyrun(verb, "--pull-policy=never", ALLOW, remote.name, env=remote.env, code=125)
        assert "not in the store yet" in refused.err and "pyrun fetch" in refused.err
    assert "not in the store yet" in pyrun("plan", ALLOW, remote.name, env=remote.env, code=125).err
    assert remote.server.connections == 0
    fetched = pyrun("fetch", ALLOW, remote.name, env=remote.env, code=0).out
    remote.server.seen.clear()
    assert pyrun("run", "--pull-policy=never", ALLOW, remote.name, code=0).out == "first\n"
    assert pyrun("fetch", "--pull-policy=never", ALLOW, remote.name, code=0).out == fetched
    assert remote.server.seen == []


def test_new_and_update(pyrun: Pyrun, remote: Remote, parts: Image) -> None:
    run = ("run", "-q", ALLOW, remote.name)
    assert pyrun(*run, env=remote.env, code=0).out == "first\n"
    remote.current = parts("second")
    remote.server.seen.clear()
    assert pyrun(*run, env=remote.env, code=0).out == "first\n"
    assert pyrun("fetch", "--pull-policy=new", ALLOW, remote.name, env=remote.env, code=0).err.count("fetched") == 0
    assert remote.server.seen == []
    assert pyrun(*run, "--pull-policy=update", env=remote.env, code=0).out == "second\n"
    assert "HEAD 1" in remote.asked and "GET 1" in remote.asked
    remote.server.seen.clear()
    assert pyrun(*run, "--pull-policy=update", env=remote.env, code=0).out == "second\n"
    assert pyrun("fetch", ALLOW, remote.name, env=remote.env, code=0).out == pyrun("fetch", ALLOW, remote.name, env=remote.env).out
    assert set(remote.asked) == {"HEAD 1"}
    assert pyrun(*run, env=remote.env, code=0).out == "second\n"


def test_update_that_fails_is_an_error(pyrun: Pyrun, remote: Remote) -> None:
    pyrun("fetch", ALLOW, remote.name, env=remote.env, code=0)
    remote.server.answer = lambda _: Reply(b"", 403)
    for words in (("run", "--pull-policy=update"), ("fetch",), ("plan", "--pull-policy=update")):
        refused = pyrun(*words, ALLOW, remote.name, env=remote.env, code=125)
        assert "403" in refused.err and "hint:" in refused.err
    assert pyrun("run", ALLOW, remote.name, code=0).out == "first\n"


def test_plan_may_fetch(pyrun: Pyrun, remote: Remote) -> None:
    assert "execute" in pyrun("plan", "--pull-policy=new", ALLOW, remote.name, env=remote.env, code=0).out


def test_stored_digests(pyrun: Pyrun, remote: Remote) -> None:
    stored = pyrun("fetch", "-q", ALLOW, remote.name, env=remote.env, code=0).out.strip()
    digits = stored.partition("-")[2]
    remote.server.seen.clear()
    for name in (stored, digits[:8], f"sha256-{digits[:12]}", f"{remote.server.place}/app@sha256:{digits}", f"{remote.server.place}/app:1"):
        for policy in ("never", "new", *(["update"] if ":1" not in name[-2:] else [])):
            assert pyrun("run", f"--pull-policy={policy}", ALLOW, name, env=remote.env, code=0).out == "first\n", name
            assert pyrun("fetch", "-q", f"--pull-policy={policy}", ALLOW, name, env=remote.env, code=0).out.strip() == stored, name
    assert remote.server.seen == []
    refused = pyrun("run", "--pull-policy=update", ALLOW, f"{remote.server.place}/app:1", code=2)
    assert "does not say where to ask" in refused.err and "docker://" in refused.err


def test_wrong_policy(pyrun: Pyrun) -> None:
    assert "never" in pyrun("run", "--pull-policy=always", "x", code=2).err


def test_short_names(pyrun: Pyrun, remote: Remote, tmp_path: Path) -> None:
    conf = tmp_path / "registries.conf"
    conf.write_text(f'unqualified-search-registries = ["{remote.server.place}"]\n')
    env = {**remote.env, "CONTAINERS_REGISTRIES_CONF": str(conf)}
    refused = pyrun("run", ALLOW, "app:1", env=env, code=125)
    assert "nothing in the store" in refused.err and "alias" in refused.err and remote.server.connections == 0
    conf.write_text(f'[aliases]\napp = "{remote.server.place}/app"\n')
    assert "not in the store yet" in pyrun("run", ALLOW, "--pull-policy=never", "app:1", env=env, code=125).err
    assert pyrun("run", "-q", ALLOW, "app:1", env=env, code=0).out == "first\n"
    remote.server.seen.clear()
    assert pyrun("run", "-q", ALLOW, "app:1", env=env, code=0).out == "first\n" and remote.server.seen == []
    pyrun("fetch", "-q", ALLOW, "app:1", env=env, code=0)
    assert remote.asked == ["HEAD 1"]
    listed = json.loads(pyrun("image", "list", "--format", "json", code=0).out)
    assert [one["name"] for one in listed] == [f"{remote.server.place}/app"]


def test_mirror(pyrun: Pyrun, remote: Remote, tmp_path: Path) -> None:
    conf = tmp_path / "registries.conf"
    conf.write_text(f'[[registry]]\nlocation = "example.invalid"\n[[registry.mirror]]\nlocation = "{remote.server.place}"\n')
    env = {**remote.env, "CONTAINERS_REGISTRIES_CONF": str(conf)}
    assert pyrun("run", "-q", ALLOW, "docker://example.invalid/app:1", env=env, code=0).out == "first\n"
    assert "not a list" in pyrun("run", ALLOW, "docker://example.invalid/app:2", env={**env, **broken(tmp_path)}, code=125).err


def broken(folder: Path) -> dict[str, str]:
    (folder / "broken.conf").write_text("registry = 1\n")
    return {"CONTAINERS_REGISTRIES_CONF": str(folder / "broken.conf")}


def test_plain_http_is_allowed_for_one_registry(pyrun: Pyrun, parts: Image) -> None:
    made = parts("in the open")
    with Scripted(None, made.answer) as one, Scripted(None, made.answer) as two:
        names = [f"docker://{server.place}/app:1" for server in (one, two)]
        refused = pyrun("fetch", ALLOW, names[0], code=125)
        assert "does not speak TLS" in refused.err and "--insecure-options=http" in refused.err
        assert "several registries" in pyrun("fetch", f"{ALLOW},http", *names, code=2).err
        assert "does not speak TLS" in pyrun("fetch", f"{ALLOW},http:{two.place}", names[0], code=125).err
        assert one.seen == two.seen == []
        assert pyrun("run", "-q", f"{ALLOW},http", names[0], code=0).out == "in the open\n"
        pyrun("fetch", "-q", f"{ALLOW},http:{two.place}", names[1], code=0)
        assert "does not speak TLS" in pyrun("fetch", f"{ALLOW}", names[1], code=125).err
