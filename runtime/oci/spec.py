"""config.json of an OCI bundle (runtime-spec 1.3): read, and held against every rule of the spec before anything is done.

Unknown members are ignored, as the spec demands; unknown values and contradictions are errors that name the JSON path.
A member that is null counts as absent, since that is what encoders make of a pointer to nothing.
"""

from __future__ import annotations

from pyrun.errors import ConfigError
from pyrun.images import fastjson
from pyrun.oci.agree import agree, agree_mounts
from pyrun.oci.arguments import program
from pyrun.oci.rules import Bad, absolute, array, boolean, filled, integer, mapping, record, text
from pyrun.oci.rules_linux import ID_MAPPINGS, LINUX
from pyrun.oci.rules_process import PROCESS
from pyrun.oci.rules_resources import RESOURCES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyrun.oci.rules import Rule

__all__ = ["VERSION_MAX", "VERSION_MIN", "asks", "load", "load_mounts", "load_process", "load_resources", "wants_terminal"]

VERSION_MIN, VERSION_MAX = "1.0.0", "1.3.0"
_MINOR_MAX = 3
_MAX_BYTES = 16 << 20


def _version(value: Any) -> None:
    """Semantic versioning 2.0.0: MAJOR.MINOR.PATCH, then -prerelease and +build."""
    filled(value)
    core, _, build = value.partition("+")
    core, dash, before = core.partition("-")
    numbers = core.split(".")
    tails = [*(before.split(".") if dash else ()), *(build.split(".") if "+" in value else ())]
    good = all(tail and tail.replace("-", "a").isalnum() and tail.isascii() for tail in tails)
    if not good or len(numbers) != 3 or not all(_plain(number) for number in numbers):
        raise Bad(f"{value!r} is not a version", "as in 1.3.0")
    if numbers[0] != "1" or int(numbers[1]) > _MINOR_MAX:
        raise Bad(f"version {value} of the spec is not supported", f"versions {VERSION_MIN} to {VERSION_MAX} are")


def _plain(number: str) -> bool:
    return number.isascii() and number.isdigit() and len(number) < 10 and (number == "0" or number[0] != "0")


def _elsewhere(value: object) -> None:
    if value:
        raise Bad("is for another platform", "this runtime is for linux: leave it out")


_HOOKS = array(record({"path": absolute, "args": array(text), "env": array(text), "timeout": integer(1, (1 << 31) - 1)}, "path"))
_MOUNTS = array(
    record(
        {
            "destination": filled,
            "type": text,
            "source": text,
            "options": array(text),
            "uidMappings": ID_MAPPINGS,
            "gidMappings": ID_MAPPINGS,
        },
        "destination",
    )
)
_CONFIG = record(
    {
        "ociVersion": _version,
        "root": record({"path": filled, "readonly": boolean}, "path"),
        "process": PROCESS,
        "hostname": text,
        "domainname": text,
        "mounts": _MOUNTS,
        "hooks": record(dict.fromkeys(("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"), _HOOKS)),
        "annotations": mapping(text),
        "linux": LINUX,
        **dict.fromkeys(("solaris", "windows", "vm", "zos", "freebsd"), _elsewhere),
    },
    "ociVersion",
    "root",
    also=agree,
)


def load(data: bytes) -> dict[str, Any]:
    """Return the members of a config.json; ConfigError names the JSON path and the rule it breaks."""
    return _object(data, _config, "config.json")


def _config(value: Any) -> None:
    if program() == "runc":
        from pyrun.oci.asrunc import known_access

        known_access(value)
    _CONFIG(value)


def asks(config: dict[str, Any], name: str) -> bool:
    """Whether the annotation run.oci.NAME is there and not 0, as crun reads it."""
    return ((config.get("annotations") or {}).get("run.oci." + name) or "0") != "0"


def wants_terminal(data: bytes) -> bool:
    """Whether a config.json asks for a terminal, be it wrong in other ways."""
    try:
        value: Any = fastjson.strict(data)
    except ValueError:
        return False
    process = value.get("process") if isinstance(value, dict) else None
    return isinstance(process, dict) and process.get("terminal") is True


def load_process(data: bytes) -> dict[str, Any]:
    """Return a process object, as `exec --process` takes it; ConfigError likewise, below `process`."""
    return _object(data, _process, "process file")


def load_mounts(data: bytes, linux: dict[str, Any]) -> list[dict[str, Any]]:
    """Return an array as `mounts` of config.json is one, held against the container's `linux`; ConfigError likewise, below `mounts`."""

    def rule(value: Any) -> None:
        try:
            _MOUNTS(value)
        except Bad as bad:
            raise bad.inside("mounts") from None
        agree_mounts(value, linux)

    found: Any = _load(data, rule, "mounts file")
    assert isinstance(found, list)
    return found


def load_resources(data: bytes) -> dict[str, Any]:
    """Return a resources object, as `update --resources` takes it; ConfigError likewise."""
    return _object(data, RESOURCES, "resources")


def _process(value: Any) -> None:
    PROCESS(value)
    if "args" not in value:
        raise Bad("is required", "name the program to run", "args")


def _object(data: bytes, rule: Rule, what: str) -> dict[str, Any]:
    value = _load(data, rule, what)
    assert isinstance(value, dict)
    return value


def _load(data: bytes, rule: Rule, what: str) -> Any:
    if len(data) > _MAX_BYTES:
        raise ConfigError(f"read {what}", "", f"{len(data)} bytes, more than {_MAX_BYTES} allowed", hint="is this the right file?")
    try:
        value: Any = fastjson.strict(data)
    except ValueError as error:
        reason = f"byte {error.start} is not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
        raise ConfigError(f"read {what}", "", f"not valid JSON: {reason}", hint="write it with a standard JSON encoder") from None
    try:
        rule(value)
    except Bad as bad:
        hint = bad.hint or "see the OCI runtime specification"
        raise ConfigError(f"read {what}", bad.where, bad.reason, hint=hint, origin=bad.where) from None
    return value
