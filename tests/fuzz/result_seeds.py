"""Writes what a CNI plug-in may answer, as the fuzzer's seeds: result_seeds.py DIRECTORY."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

SEEDS: dict[str, Any] = {
    "bridge": {
        "cniVersion": "1.0.0",
        "interfaces": [{"name": "br", "mac": "02:00:00:00:00:01"}, {"mac": "02:00:00:00:00:02", "sandbox": "/proc/1/ns/net"}],
        "ips": [{"interface": 1, "address": "10.1.2.3/24", "gateway": "10.1.2.1"}, {"address": "fd00:1::a:3/64"}],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
        "dns": {},
    },
    "old": {"cniVersion": "0.2.0", "ip4": {"ip": "10.1.2.3/24"}, "ip6": {"ip": "1:2:3:4:5:6:7::/9"}},
    "rest": {"ips": None, "x": [1.5e9, -0.25, True, False, {"a\\\u00e9": []}]},
}


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in SEEDS.items():
        (folder / name).write_text(json.dumps(value))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
