"""Rules of config.json's `linux.resources` (runtime-spec config-linux.md, "Control groups"), which `update` reads too.

Types and ranges only: what the values come to in files of a cgroup is decided elsewhere.
"""

from __future__ import annotations

from pyrun.oci.rules import INT64, UINT32, UINT64, Bad, array, boolean, choice, filled, integer, mapping, record, text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["RESOURCES"]

_INT64 = integer(*INT64)
_UINT64 = integer(*UINT64)
_UINT32 = integer(*UINT32)
_WEIGHT = integer(0, 1000)  # 0 is what Docker writes for none
_MAJOR, _MINOR = integer(-1, (1 << 12) - 1), integer(-1, (1 << 20) - 1)  # -1 stands for all of them


def _access(value: Any) -> None:
    text(value)
    if set(value) - set("rwm"):
        raise Bad(f"{value!r} is not made of r, w and m")


def _page_size(value: Any) -> None:
    filled(value)
    number = value[:-2]
    if not (value[-2:] in ("KB", "MB", "GB") and number.isascii() and number.isdigit() and number[0] != "0"):
        raise Bad(f"{value!r} is not a page size", "for example 2MB or 1GB")


def _pages(value: Any) -> None:
    if type(value) is dict and "pagesize" in value and "pageSize" not in value:  # as those write it whose runtime reads either
        value["pageSize"] = value.pop("pagesize")
    _PAGES(value)


def _file(value: Any) -> None:
    filled(value)
    if "/" in value or value in (".", ".."):
        raise Bad(f"{value!r} is not the name of a file in a cgroup", "for example memory.high")


def _weights(value: Any) -> None:
    if "weight" not in value and "leafWeight" not in value:
        raise Bad("needs weight or leafWeight")


def _handles(value: Any) -> None:
    if "hcaHandles" not in value and "hcaObjects" not in value:
        raise Bad("needs hcaHandles or hcaObjects")


_THROTTLE = array(record({"major": _MAJOR, "minor": _MINOR, "rate": _UINT64}, "major", "minor", "rate"))

_PAGES = record({"pageSize": _page_size, "limit": _UINT64}, "pageSize", "limit")
RESOURCES = record(
    {
        "unified": mapping(text, _file),
        "devices": array(
            record({"allow": boolean, "type": choice("a", "c", "b", "u"), "major": _MAJOR, "minor": _MINOR, "access": _access}, "allow")
        ),
        "pids": record({"limit": _INT64}, "limit"),
        "blockIO": record(
            {
                "weight": _WEIGHT,
                "leafWeight": _WEIGHT,
                "weightDevice": array(
                    record({"major": _MAJOR, "minor": _MINOR, "weight": _WEIGHT, "leafWeight": _WEIGHT}, "major", "minor", also=_weights)
                ),
                "throttleReadBpsDevice": _THROTTLE,
                "throttleWriteBpsDevice": _THROTTLE,
                "throttleReadIOPSDevice": _THROTTLE,
                "throttleWriteIOPSDevice": _THROTTLE,
            }
        ),
        "cpu": record(
            {
                "cpus": text,
                "mems": text,
                "period": _UINT64,
                "quota": _INT64,
                "burst": _UINT64,
                "realtimePeriod": _UINT64,
                "realtimeRuntime": _INT64,
                "shares": _UINT64,
                "idle": _INT64,
            }
        ),
        "hugepageLimits": array(_pages),
        "memory": record(
            {
                **dict.fromkeys(("kernel", "kernelTCP", "limit", "reservation", "swap"), _INT64),
                "swappiness": integer(0, 100),
                "disableOOMKiller": boolean,
                "useHierarchy": boolean,
                "checkBeforeUpdate": boolean,
            }
        ),
        "network": record({"classID": _UINT32, "priorities": array(record({"name": filled, "priority": _UINT32}, "name", "priority"))}),
        "rdma": mapping(record({"hcaHandles": _UINT32, "hcaObjects": _UINT32}, also=_handles)),
    }
)
