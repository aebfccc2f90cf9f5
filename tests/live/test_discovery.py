"""`pyrun` against web servers on loopback: images and keys by URL and by discovery, also the samples that actool made."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import COMMAND, TOP, Pyrun, Signer
from registries import Authority, Reply, Request, Scripted
from signing import CosignKey
from sites import HOSTS, TEMPLATE, Site, certificate

SAMPLES = TOP.parent / "shared" / "samples"
SAMPLES_KEY = "16840C449851A8C694772AE35643E176C03A3973"
Make = Callable[..., Path]


class Internet:
    """The server, on port 443 of an address of its own; `env` knows its authority."""

    def __init__(self, site: Site, authority: Authority, server: Scripted) -> None:
        self.site = site
        self.authority = authority
        self.server = server
        self.env = {"SSL_CERT_FILE": str(authority.certificate)}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Authority, Scripted, list[Site]]]:
    mounts = Path("/proc/self/mountinfo").read_text()
    assert " /etc/hosts " in mounts, "the lane has a hosts file of its own"
    authority = Authority(tmp_path_factory.mktemp("ca"))
    current: list[Site] = [Site()]
    address = f"127.{secrets.randbelow(200) + 2}.{secrets.randbelow(256)}.{secrets.randbelow(254) + 1}"  # lanes share the loopback

    def answer(request: Request) -> Reply:
        return current[0].answer(request)

    hosts = Path("/etc/hosts")
    before = hosts.read_text()
    with Scripted(certificate(authority), answer, address=(address, 443)) as server:
        hosts.write_text(f"{address} {' '.join(name for name in HOSTS if name != 'localhost')}\n{before}")
        try:
            yield authority, server, current
        finally:
            hosts.write_text(before)


@pytest.fixture
def internet(server: tuple[Authority, Scripted, list[Site]]) -> Internet:
    authority, scripted, current = server
    current[0] = Site()
    return Internet(current[0], authority, scripted)


def test_run_by_url_and_again_without_asking(pyrun: Pyrun, internet: Internet, busybox: Path) -> None:
    internet.site.offer("example.com/images/app.aci", busybox)
    url = "https://example.com/images/app.aci"
    assert "not in the store yet" in pyrun("plan", url, env=internet.env, code=125).err
    ran = pyrun("run", url, "--exec", "/bin/echo", "--", "hello", env=internet.env, code=0)
    assert ran.out == "hello\n" and "pyrun: fetched sha256:" in ran.err
    asked = len(internet.site.seen)
    for flags in ((), ("--pull-policy=never",)):
        assert pyrun("run", *flags, url, "--exec", "/bin/echo", "--", "hello", code=0).out == "hello\n"
    pyrun("plan", url, code=0)
    assert pyrun("run", "example.com/busybox", "--exec", "/bin/echo", "--", "hello", code=0).out == "hello\n"
    assert len(internet.site.seen) == asked == 2
    pyrun("run", "--pull-policy=update", url, "--exec", "/bin/true", env=internet.env, code=0)
    assert internet.site.requests[-1].headers["if-none-match"] and len(internet.site.seen) == 3


def test_what_changed_is_fetched_and_run(pyrun: Pyrun, internet: Internet, image: Make) -> None:
    url = "https://example.com/app.aci"
    for version in ("1", "2"):
        internet.site.offer("example.com/app.aci", image("example.com/app", ["/probe", "exit", version], version=version))
        pyrun("fetch", url, env=internet.env, code=0)
        pyrun("run", url, code=int(version))
    internet.site.offer("example.com/app.aci", image("example.com/app", ["/probe", "exit", "3"], version="3"))
    pyrun("run", url, code=2)
    pyrun("run", "--pull-policy=update", "example.com/app", env=internet.env, code=3)  # it came from there


def test_answers_that_are_good_for_a_while(pyrun: Pyrun, internet: Internet, image: Make) -> None:
    internet.site.cache = "max-age=3600"
    url = "https://example.com/app.aci"
    internet.site.offer("example.com/app.aci", image("example.com/app", ["/probe", "exit", "1"], version="1"))
    pyrun("run", url, env=internet.env, code=1)
    internet.site.offer("example.com/app.aci", image("example.com/app", ["/probe", "exit", "2"], version="2"))
    asked = len(internet.site.seen)
    pyrun("fetch", url, code=0)
    pyrun("run", "--pull-policy=update", url, code=1)
    assert len(internet.site.seen) == asked
    pyrun("run", "--pull-policy=update", "--no-cache", url, env=internet.env, code=2)


def test_an_origin_on_the_web_is_accepted(pyrun: Pyrun, internet: Internet, image: Make) -> None:
    internet.site.offer("example.com/nightly/app.aci", image("example.com/app", ["/probe", "exit", "3"], signed=False), signed=False)
    url = "https://example.com/nightly/app.aci"
    assert f"pyrun trust --unsigned {url}" in pyrun("run", url, env=internet.env, code=125).err
    assert pyrun("trust", "--yes", "--unsigned", "https://example.com/nightly/", code=0).out == "https://example.com/nightly\n"
    pyrun("run", url, env=internet.env, code=3)
    pyrun("run", "example.com/app", code=3)
    assert "unsigned" in pyrun("trust", "list", code=0).out
    pyrun("trust", "rm", "unsigned", "--prefix", "https://example.com/nightly", code=0)
    assert "without a signature" in pyrun("run", "example.com/app", code=125).err
    pyrun("run", url, env=internet.env, code=125)


def test_where_an_image_came_from(pyrun: Pyrun, internet: Internet, image: Make) -> None:
    internet.site.offer("example.com/app.aci?token=secret", image("example.com/app"))
    internet.site.files["keys.example.com/sig"] = internet.site.files["example.com/app.aci.asc?token=secret"] = b"x"
    made = image("example.com/app")
    internet.site.offer("example.com/app.aci", made)
    internet.site.files["example.com/app.aci?token=secret"] = made.read_bytes()
    pyrun("fetch", "https://example.com/app.aci?token=secret", "--signature", f"{made}.asc", env=internet.env, code=0)
    shown = pyrun("image", "show", "example.com/app", code=0).out
    (source,) = json.loads(shown)["sources"]
    assert source["url"] == "https://example.com/app.aci" and source["signature"].endswith(".asc") and source["etag"]
    assert source["lastModified"] and source["fetched"] == source["asked"] > 0 and "secret" not in shown
    pyrun("fetch", made, code=0)
    assert len(json.loads(pyrun("image", "show", "example.com/app", code=0).out)["sources"]) == 1


def test_run_by_name(pyrun: Pyrun, internet: Internet, busybox: Path, image: Make) -> None:
    internet.site.meta("example.com", f"example.com {TEMPLATE}")
    internet.site.offer("storage.example.com/example.com/busybox-latest.aci", busybox)

    def needing(made: Any) -> None:
        made.manifest["dependencies"] = [{"imageName": "example.com/busybox"}]

    internet.site.offer("storage.example.com/example.com/app-1.0.aci", image("example.com/app", edit=needing))
    assert "nothing in the store" in pyrun("run", "--pull-policy=never", "example.com/app:1.0", env=internet.env, code=125).err
    assert pyrun("run", "example.com/app:1.0", "--exec", "/bin/echo", "--", "hello", env=internet.env, code=0).out == "hello\n"
    assert pyrun("run", "example.com/app:1.0", "--exec", "/bin/echo", "--", "hello", code=0).out == "hello\n"
    asked = len(internet.site.seen)
    pyrun("fetch", "example.com/app:1.0", env=internet.env, code=0)
    assert internet.site.seen[asked:] == [
        "example.com/app?ac-discovery=1", "example.com/?ac-discovery=1", "storage.example.com/example.com/app-1.0.aci"
    ]  # fmt: skip
    pyrun("gc", code=0)
    assert json.loads(pyrun("image", "show", "example.com/app", code=0).out)["sources"][0]["name"] == "example.com/app:1.0"
    pyrun("image", "rm", "example.com/app", code=0)
    assert [name for name in os.listdir(pyrun.root / "imports") if "app" in name] == []


def test_words_that_are_no_names_of_servers_are_not_asked_for(pyrun: Pyrun, internet: Internet) -> None:
    for word in ("app", "app:1.0", "team/app"):
        assert "nothing in the store" in pyrun("run", word, env=internet.env, code=125).err
    assert internet.site.seen == []


def test_failures_are_one_line_and_leave_nothing(pyrun: Pyrun, internet: Internet, image: Make) -> None:
    internet.site.offer("example.com/app.aci", image("example.com/app", signed=False), signed=False)
    internet.site.meta("example.com/odd", "example.com https://storage.example.com/{channel}.{ext}", "example.com x")
    for word, reason in {
        "https://example.com/app.aci": "no signature: https://example.com/app.aci.asc is not there",
        "http://example.com/app.aci": "it is not https",
        "https://example.com/none.aci": "no signature",
        "https://nowhere.invalid/x.aci": "no such host",
        "https://user:hunter2@example.com/x.aci": "no URL that may be followed",
        "example.com/none": "answers 404",
        "example.com/odd": "names no ac-discovery for it",
        "nowhere.invalid/app": "no such host",
    }.items():
        failed = pyrun("run", word, env=internet.env, code=125)
        assert reason in failed.err and "Traceback" not in failed.err and "hunter2" not in failed.err, failed
    assert [list((pyrun.root / folder).iterdir()) for folder in ("layers", "images", "tmp", "imports")] == [[], [], [], []]
    assert "accept the image" in pyrun("fetch", "https://example.com/app.aci", env=internet.env, code=125).err
    accepted = pyrun(
        "run", "--insecure-options=image", "https://example.com/app.aci", "--exec", "/probe", "--", "exit", "5", env=internet.env
    )
    assert accepted.code == 5


def test_killed_download_leaves_nothing(pyrun: Pyrun, internet: Internet, image: Make) -> None:
    import time

    made = image("example.com/app")
    internet.site.offer("example.com/app.aci", made)
    internet.site.files["example.com/app.aci"] = Reply(made.read_bytes(), pause=0.001)
    process = pyrun.start("fetch", "https://example.com/app.aci", env=internet.env)
    deadline = time.monotonic() + 60
    while len(internet.site.seen) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.communicate(timeout=60)
    pyrun("gc", code=0)
    assert [list((pyrun.root / folder).iterdir()) for folder in ("tmp", "imports", "images")] == [[], [], []]


# Keys


def offer_key(internet: Internet, key: bytes, url: str = "https://example.com/key.asc") -> None:
    internet.site.meta("example.com", f"example.com {url}", name="ac-discovery-pubkeys")
    internet.site.files[url.removeprefix("https://")] = key


def fingerprint(listing: str) -> list[str]:
    return [entry["fingerprint"] for entry in json.loads(listing)]


def test_discovered_keys_are_shown_and_asked_for(tmp_path: Path, internet: Internet, signer: Signer) -> None:
    fresh = Pyrun(tmp_path / "fresh", Path())
    offer_key(internet, signer.public.read_bytes(), "https://other.org/key.asc")
    refused = fresh("trust", "--prefix", "example.com/team", env=internet.env, code=125)
    assert "there is no terminal" in refused.err and "key in https://other.org/key.asc, which example.com names:" in refused.err
    assert "pyrun tests <tests@example.com>" in refused.err and "the images example.com/team and" in refused.err
    assert fingerprint(fresh("trust", "list", "--format", "json", code=0).out) == []
    added = fresh("trust", "--prefix", "example.com/team", "--yes", env=internet.env, code=0)
    assert fingerprint(fresh("trust", "list", "--format", "json", code=0).out) == [added.out.strip()]
    assert "removed" in fresh("trust", "rm", added.out.strip(), code=0).out
    assert fingerprint(fresh("trust", "--list", "--format", "json", code=0).out) == []


def test_discovered_keys_asked_for_on_a_terminal(
    tmp_path: Path, internet: Internet, signer: Signer, new_signer: Callable[[str], Signer]
) -> None:
    import pexpect

    other = new_signer("other <other@example.com>")
    offer_key(internet, signer.public.read_bytes() + other.public.read_bytes())
    fresh = Pyrun(tmp_path / "fresh", Path())
    words = ["trust", "--prefix", "example.com"]
    child = pexpect.spawn(str(COMMAND), words, env=fresh.environment(internet.env), encoding="utf-8", timeout=30)
    for answer in ("n", "y"):
        child.expect(r"\[y/N\] ")
        child.sendline(answer)
    said = child.read()
    child.close()
    assert child.exitstatus == 0 and "not confirmed" in said
    (entry,) = json.loads(fresh("trust", "list", "--format", "json", code=0).out)
    assert entry["userIDs"] == ["other <other@example.com>"]


def test_a_key_at_a_url(tmp_path: Path, internet: Internet, signer: Signer) -> None:
    fresh = Pyrun(tmp_path / "fresh", Path())
    offer_key(internet, signer.public.read_bytes())
    added = fresh("trust", "--yes", "--prefix", "example.com", "https://example.com/key.asc", env=internet.env, code=0)
    assert fingerprint(fresh("trust", "--list", "--format", "json", code=0).out) == [added.out.strip()]
    for word, reason in (("https://example.com/none", "404"), ("http://example.com/key.asc", "it is not https")):
        assert reason in fresh("trust", "--yes", word, env=internet.env, code=125).err
    internet.site.files["example.com/bad"] = signer.public.read_bytes()[:-60] + b"\n-----END PGP PUBLIC KEY BLOCK-----\n"
    damaged = fresh("trust", "--yes", "https://example.com/bad", env=internet.env, code=125)
    assert "https://example.com/bad" in damaged.err and "/tmp/" not in damaged.err
    assert "no server is asked" in fresh("trust", code=2).err or "no key file" in fresh("trust", code=2).err
    cosign = CosignKey(tmp_path, "cosign")
    internet.site.files["example.com/cosign.pub"] = cosign.public.read_bytes()
    pem = fresh("trust", "--yes", "--prefix", "example.com", "https://example.com/cosign.pub", env=internet.env, code=0)
    assert pem.out == f"{cosign.fingerprint}\n" and "key in https://example.com/cosign.pub" in pem.err
    internet.site.files["example.com/cosign.pub"] = cosign.public.read_bytes()[:80]
    damaged = fresh("trust", "--yes", "https://example.com/cosign.pub", env=internet.env, code=125)
    assert "https://example.com/cosign.pub" in damaged.err and "/tmp/" not in damaged.err and "hint:" in damaged.err


# What the App Container project's own tool made


@pytest.fixture
def samples(tmp_path: Path, internet: Internet) -> Pyrun:
    """A state directory that trusts their key, and a server that offers them."""
    if not SAMPLES.is_dir():
        pytest.skip("../shared/samples, the images of another tool, is not beside this checkout; with CI=true a skip fails")
    internet.site.meta("example.com", "example.com https://example.com/get/{name}.{ext}")
    for name in ("busybox", "webserver", "slim"):
        internet.site.offer(f"example.com/get/example.com/{name}.aci", SAMPLES / f"{name}.aci")
    made = Pyrun(tmp_path / "samples", Path())
    key = SAMPLES / "samples-key.asc"
    assert made("trust", "--yes", "--prefix", "example.com", key, code=0).out == f"{SAMPLES_KEY}\n"
    return made


def test_sample_busybox(samples: Pyrun, internet: Internet) -> None:
    ran = samples("run", "example.com/busybox:1.35.0,os=linux,arch=amd64", env=internet.env, code=0)
    assert ran.out.startswith("hello from pid ")
    listed = json.loads(samples("image", "list", "--format", "json", code=0).out)
    assert [entry["id"][:23] for entry in listed] == ["sha512-6d435dabbcc185a4"]
    assert samples("run", SAMPLES / "busybox.aci", code=0).out.startswith("hello from pid ")


def test_sample_slim_has_its_dependency_fetched_and_its_whitelist_obeyed(samples: Pyrun, internet: Internet) -> None:
    ran = samples("run", SAMPLES / "slim.aci", "--exec", "/bin/ls", "--", "/bin", "/etc", env=internet.env, code=0)
    words = [word for word in ran.out.split() if word not in ("hosts", "hostname", "resolv.conf")]  # which are made for it
    assert words == ["/bin:", "busybox", "ls", "sh", "/etc:", "only-here", "passwd"]
    assert {place.rpartition("/")[2] for place in internet.site.seen if "get" in place} == {"busybox.aci", "busybox.aci.asc"}
    ids = {entry["id"][:23] for entry in json.loads(samples("image", "list", "--format", "json", code=0).out)}
    assert ids == {"sha512-6d435dabbcc185a4", "sha512-76f596af099a535f"}


def test_sample_webserver(samples: Pyrun, internet: Internet) -> None:
    fetched = samples("fetch", "example.com/webserver", env=internet.env, code=0)
    assert fetched.out.startswith("sha512-cf0f60f3da1fc2c3")
    flags = ["--memory", "max"]  # for its isolator, which not every host can enforce
    ran = samples("run", *flags, "example.com/webserver", "--exec", "/bin/sh", "--", "-c", "cat /opt/app/serve.sh; ls /bin/busybox", code=0)
    assert "/bin/busybox" in ran.out, ran
    assert all(problem.endswith(" ok") for problem in samples("image", "verify", "--all", code=0).out.splitlines())


def test_discovery_works_with_curl_as_the_specification_shows(samples: Pyrun, internet: Internet) -> None:
    """The same server seen by another client, so that the tests' server is known to be a usual one."""
    command = ["curl", "--silent", "--cacert", internet.env["SSL_CERT_FILE"], "https://example.com/?ac-discovery=1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert 'meta name="ac-discovery" content="example.com https://example.com/get/{name}.{ext}"' in done.stdout
