"""The form of isolators (TYP-07, spec/ace.md "Isolators"); what they mean is decided by `pyrun.plan`.

Isolators of names not in the table pass through untouched: they may be ignored, but must be reported (ACE-50).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyrun.images import schema, types
from pyrun.images.schema import Object, fail, fields, kind_of, quoted

Check = Callable[[object, str], object]  # the value in canonical form, or ManifestError

_ISOLATOR = fields("name", "value")
_SET = fields("set")
_SECCOMP = fields("set", "errno")
_SELINUX = fields("user", "role", "type", "level")
_PROFILE = fields("profile")
_RESOURCE = fields("default", "request", "limit")

# Pairs that say the opposite of each other
_EXCLUSIVE = (
    ("os/linux/capabilities-retain-set", "os/linux/capabilities-remove-set"),
    ("os/linux/seccomp-retain-set", "os/linux/seccomp-remove-set"),
)
_RESERVED = ("@appc.io/all", "@appc.io/empty")


def check_isolators(owner: Object, *, scope: str) -> None:
    """Checks the member `isolators` of an app or a pod (`scope` "app" or "pod") and gives it canonical names.

    ManifestError for a malformed value, a known isolator that stands twice, in the wrong scope (ACE-85), or
    beside its opposite (ACE-56, ACE-60).
    """
    an = {"app": "an app", "pod": "a pod"}
    seen: dict[str, str] = {}
    for index, item in enumerate(owner.array("isolators", _isolator)):
        name, path = item["name"], f"{owner.at('isolators')}[{index}]"
        known = _KNOWN.get(name)
        if known is None:
            continue
        scopes, check = known
        if scope not in scopes:
            fail(f"{path}.name", f"{name} belongs to {an[scopes[0]]}, not to {an[scope]}", f"move it to the isolators of the {scopes[0]}")
        if name in seen:
            fail(f"{path}.name", f"a second {name}, after {seen[name]}", "keep one isolator of each name")
        seen[name] = path
        item["value"] = check(item["value"], f"{path}.value")
    for one, other in _EXCLUSIVE:
        if one in seen and other in seen:
            fail(f"{seen[other]}.name", f"{other} contradicts {one} at {seen[one]}", "keep one of the two")


def _isolator(value: object, path: str) -> dict[str, Any]:
    # null is a value here, so it must not be taken for an absent member
    if isinstance(value, dict) and not any(key.casefold() == "value" for key in value):
        fail(f"{path}.value", "missing", "give the isolator a value")
    item = Object(value, path, _ISOLATOR)
    item.members.setdefault("value", None)
    item.string("name", check=types.is_identifier, rule="an AC Identifier (lower-case letters and digits joined by single - . _ ~ /)")
    return item.members


def _names(item: Object) -> list[str]:
    names = item.array("set", lambda value, at: schema.string(value, at, check=bool, rule="a non-empty name"), required=True)
    if not names:
        fail(item.at("set"), "is empty", "name at least one member, or remove the isolator")
    return names


def _capabilities(value: object, path: str) -> object:
    item = Object(value, path, _SET)
    _names(item)
    return item.members


def _seccomp(value: object, path: str) -> object:
    item = Object(value, path, _SECCOMP)
    for index, name in enumerate(_names(item)):
        if name.startswith("@appc.io/") and name not in _RESERVED:
            fail(f"{item.at('set')}[{index}]", f"{quoted(name)} is reserved", f"the specification knows {' and '.join(_RESERVED)}")
    item.optional("errno", check=lambda v: not v or types.is_errno_name(v), rule="the name of an error such as EPERM")
    return item.members


def _flag(value: object, path: str) -> object:
    if not isinstance(value, bool):
        fail(path, f"must be true or false, not {quoted(value)}", "write true or false without quotes")
    return value


def _selinux(value: object, path: str) -> object:
    item = Object(value, path, _SELINUX)
    for part in ("user", "role", "type"):
        item.string(part, check=lambda v: v and ":" not in v, rule="a non-empty string without a colon")
    item.string("level")
    return item.members


def _apparmor(value: object, path: str) -> object:
    item = Object(value, path, _PROFILE)
    item.string("profile")
    return item.members


def _resource(value: object, path: str, default: bool) -> object:
    item = Object(value, path, _RESOURCE)
    if item.boolean("default", False) is not default:
        wanted = "must be true" if default else "must not be true"
        fail(item.at("default"), wanted, "limits of one device or interface are not part of the specification" if default else "remove it")
    if default and "request" in item.members:
        fail(item.at("request"), "is not allowed here", "set a limit only")
    present = [name for name in ("request", "limit") if name in item.members]
    if not present:
        fail(item.at("limit"), "missing", "give the resource a limit")
    for name in present:
        quantity = item.members[name]
        if types.parse_quantity(quantity, 1000) is None:
            fail(item.at(name), f"{quoted(quantity)} is not a quantity", 'write a number with a suffix, such as "500m", "64Mi" or "1G"')
    return item.members


def _bounded(low: int, high: int) -> Check:
    def check(value: object, path: str) -> object:
        return schema.integer(value, path, low, high)

    return check


def _sysctl(value: object, path: str) -> object:
    if not isinstance(value, dict):
        fail(path, f"must be an object, not {kind_of(value)}", "write an object of sysctl names and string values")
    for key, item in value.items():
        schema.string(item, f"{path}.{key}", rule="a string")
    return value


def _of_device(value: object, path: str) -> object:
    return _resource(value, path, default=True)


def _of_app(value: object, path: str) -> object:
    return _resource(value, path, default=False)


_APP = ("app",)
_BOTH = ("app", "pod")
_KNOWN: dict[str, tuple[tuple[str, ...], Check]] = {
    "os/linux/capabilities-retain-set": (_APP, _capabilities),
    "os/linux/capabilities-remove-set": (_APP, _capabilities),
    "os/linux/seccomp-retain-set": (_APP, _seccomp),
    "os/linux/seccomp-remove-set": (_APP, _seccomp),
    "os/linux/no-new-privileges": (_APP, _flag),
    "os/linux/selinux-context": (_BOTH, _selinux),
    "os/linux/apparmor-profile": (_BOTH, _apparmor),
    "os/linux/cpu-shares": (_BOTH, _bounded(2, 262144)),
    "os/linux/oom-score-adj": (_BOTH, _bounded(-1000, 1000)),
    "os/unix/sysctl": (("pod",), _sysctl),
    "resource/cpu": (_BOTH, _of_app),
    "resource/memory": (_BOTH, _of_app),
    "resource/block-bandwidth": (_BOTH, _of_device),
    "resource/block-iops": (_BOTH, _of_device),
    "resource/network-bandwidth": (_BOTH, _of_device),
}
