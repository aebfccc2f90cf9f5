"""AppArmor, which Debian's kernel has on: profiles of apps and containers, seen and felt from inside (ACE-71..73).

pyrun-vm-enforce    everything but /etc/passwd and mounting       pyrun-vm-complain    the same, told and not enforced
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bundles import Runtime
from harness import Pyrun

RULES = """
profile pyrun-vm-{mode} flags=(attach_disconnected,mediate_deleted{flag}) {{
    file, capability, network, signal, unix, ptrace,
    {deny}/etc/passwd r,
}}
"""
ENFORCE, COMPLAIN = "pyrun-vm-enforce", "pyrun-vm-complain"
LOOK = "cat /proc/self/attr/apparmor/current; cat /etc/passwd >/dev/null 2>&1 && echo open || echo closed"
SHOWS = {ENFORCE: f"{ENFORCE} (enforce)\nclosed\n", COMPLAIN: f"{COMPLAIN} (complain)\nopen\n", "": "unconfined\nopen\n"}
UNKNOWN = "no such profile is loaded"


def parser(*words: str, text: str) -> None:
    subprocess.run(["apparmor_parser", *words], input=text, check=True, text=True, timeout=120)


@pytest.fixture(scope="module", autouse=True)
def profiles() -> Iterator[None]:
    # where all that is not allowed is told and let through, an explicit deny would hold all the same
    text = RULES.format(mode="enforce", flag="", deny="deny ") + RULES.format(mode="complain", flag=",complain", deny="# ")
    parser("--replace", "--skip-cache", text=text)
    yield
    parser("--remove", text=text)


@pytest.fixture(scope="module")
def confined(image: Callable[..., Path]) -> Callable[..., Path]:
    """Makes an image that looks at itself, with a profile by its isolator; one for all who want the same."""
    images: dict[str, Path] = {}

    def make(profile: str, **app: Any) -> Path:
        def edit(made: Any) -> None:
            made.busybox()
            isolators = [{"name": "os/linux/apparmor-profile", "value": {"profile": profile}}] if profile else []
            made.manifest["app"].update(exec=["/bin/sh", "-c", LOOK], isolators=isolators, **app)

        key = json.dumps([profile, app])
        if key not in images:
            images[key] = image("example.com/confined", edit=edit)
        return images[key]

    return make


@pytest.mark.parametrize("profile", [ENFORCE, ""])
def test_ace_73_a_profile_holds(shared: Pyrun, confined: Callable[..., Path], profile: str) -> None:
    assert shared("run", confined(profile), code=0).out == SHOWS[profile]


def test_ace_73_whoever_enters_and_event_handlers_have_it_too(shared: Pyrun, confined: Callable[..., Path]) -> None:
    handlers = [{"name": name, "exec": ["/bin/sh", "-c", "cat /proc/self/attr/apparmor/current"]} for name in ("pre-start", "post-stop")]
    made = confined(ENFORCE, eventHandlers=handlers, user="1000", group="1000")
    shown = f"{ENFORCE} (enforce)\n"
    # without no_new_privs the filter comes first and must not keep the label from being set
    for more in ((), ("--insecure-options=new-privs",)):
        assert shared("run", *more, made, code=0).out == shown + SHOWS[ENFORCE] + shown
    uuid = shared("run", "-d", "--no-handlers", made, "--exec", "/bin/sleep", "--", "1000", code=0).out.strip()
    try:
        for verb in (("exec", uuid), ("exec", uuid[:13]), ("exec", "-u", "0", uuid)):  # the launcher's way, and Python's
            assert shared(*verb, "/bin/sh", "-c", LOOK, code=0).out == SHOWS[ENFORCE]
        assert json.loads(shared("status", "--format", "json", uuid, code=0).out)["isolators"]["enforced"] == ["os/linux/apparmor-profile"]
    finally:
        shared("rm", "--force", uuid, code=0)


def test_the_option_beats_the_isolator(shared: Pyrun, confined: Callable[..., Path]) -> None:
    for option, shows in ((f"apparmor={ENFORCE}", SHOWS[ENFORCE]), ("apparmor=unconfined", SHOWS[""])):
        found = shared("run", "--security-opt", option, confined(COMPLAIN), code=0)
        assert found.out == shows and "isolator os/linux/apparmor-profile does not count: --security-opt does" in found.err


def test_ace_73_a_profile_that_is_not_loaded(shared: Pyrun, confined: Callable[..., Path]) -> None:
    for words, origin in (
        ((confined("none-such"),), "os/linux/apparmor-profile"),
        (("--security-opt=apparmor=none-such", confined("")), "-"),
    ):
        refused = shared("run", *words, code=125)
        assert refused.err.startswith(f"pyrun: use AppArmor profile none-such: {UNKNOWN}\nhint: load it first: ")
        assert f"from: {origin}" in refused.err and refused.out == ""


def test_ace_71_73_apps_of_a_pod(shared: Pyrun, confined: Callable[..., Path], tmp_path: Path) -> None:
    """The pod's profile is for the app that has none itself."""
    made = confined("")
    id = shared("fetch", made, code=0).out.strip()
    apparmor = "os/linux/apparmor-profile"
    app = {"exec": ["/bin/sh", "-c", LOOK], "user": "0", "group": "0"}
    own = {**app, "isolators": [{"name": apparmor, "value": {"profile": COMPLAIN}}]}
    pod: dict[str, Any] = {"acKind": "PodManifest", "acVersion": "0.8.11"}
    pod["isolators"] = [{"name": apparmor, "value": {"profile": ENFORCE}}]
    for manifest, shows in ((app, SHOWS[ENFORCE]), (own, SHOWS[COMPLAIN])):
        pod["apps"] = [{"name": "one", "image": {"id": id}, "app": manifest}]
        (tmp_path / "pod.json").write_text(json.dumps(pod))
        assert shared("run", "--pod-manifest", tmp_path / "pod.json", code=0).out == shows


def test_ace_72_there_is_no_selinux_here(shared: Pyrun, confined: Callable[..., Path]) -> None:
    refused = shared("run", "--security-opt", "label=system_u:system_r:container_t:s0", confined(""), code=125)
    assert refused.err.startswith("pyrun: use SELinux system_u:system_r:container_t:s0: this kernel has no SELinux, or it is off\n")


def test_oci_containers(tmp_path: Path, probe: Path) -> None:
    oci = Runtime(tmp_path, probe)
    for profile, shows in SHOWS.items():
        oci.config["process"]["apparmorProfile"] = profile
        assert oci.shell(LOOK) == shows
    oci.config["process"]["apparmorProfile"] = ENFORCE
    oci.start_sleeping()
    assert oci("exec", "one", "/bin/sh", "-c", LOOK).stdout == SHOWS[ENFORCE], "what the container has"
    assert oci("exec", "--apparmor", COMPLAIN, "one", "/bin/sh", "-c", LOOK).stdout == SHOWS[COMPLAIN]
    refused = oci("exec", "--apparmor", "none-such", "one", "/bin/true", code=None)
    assert refused.returncode and UNKNOWN in refused.stderr
    oci("delete", "--force", "one")
    oci.config["process"]["apparmorProfile"] = "none-such"
    oci.command("/bin/true")
    refused = oci("run", "one", code=None)
    assert refused.returncode and f"none-such: {UNKNOWN}" in refused.stderr and not oci.leftovers()
    assert json.loads(oci("features").stdout)["linux"]["apparmor"]["enabled"] is True
