"""Writes what a bus may say, as the fuzzer's seeds: bus_seeds.py DIRECTORY."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "support"))

from buses import job, message, string

OK = b"OK 0123456789abcdef0123456789abcdef\r\n"
HELLO = message(2, 1, "s", string(":1.1"))
SEEDS = {
    "job": OK + HELLO + job(2),
    "error": OK + HELLO + message(3, 2),
    "refused": b"REJECTED EXTERNAL\r\n",
    "long": OK + message(2, 3) * 64,
}


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in SEEDS.items():
        (folder / name).write_bytes(data)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
