"""A sandbox for Python code that nobody knows: run it with limits and say what became of it, as JSON.

    python examples/judge.py --time 2 --memory 64Mi --input "3 4" solution.py
    {"verdict": "accepted", "returncode": 0, "seconds": 0.031, "cpu_seconds": 0.021, "output": "7\\n", "errors": ""}

The code sees the host's Python and libraries, read-only, its own file and an empty /tmp.  It has no network, no other process, no file of
the host's, no variable of this process, and root inside is nobody in particular: eight capabilities, a filter, no new privileges.

verdict: accepted, wrong answer (with --expect), runtime error, killed by signal, time limit, memory limit, output limit
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import pyrun

WORDS = {"timeout": "time limit", "oom": "memory limit", "output": "output limit", "signal": "killed by signal"}
PYTHON = ["/usr/bin/python3", "-I", "-S", "/code/main.py"]


def judge(
    code: Path, *, data: bytes, expected: bytes | None, seconds: float, output_limit: int, limits: dict[str, str]
) -> dict[str, object]:
    """Run one program once; pyrun.PyrunError when the host cannot do that."""
    done = pyrun.run(
        None,
        PYTHON,
        rootfs="host",
        volume=[pyrun.Volume("/code/main.py", source=str(code.resolve()), read_only=True)],
        input=data,
        capture_output=True,
        timeout=seconds,
        output_limit=output_limit,
        upper="tmpfs",
        rlimit=["nofile=64", "fsize=16777216", "core=0"],
        hostname="judge",
        **limits,  # type: ignore[arg-type]
    )
    verdict = WORDS.get(done.reason, "accepted" if done.returncode == 0 else "runtime error")
    if verdict == "accepted" and expected is not None and (done.stdout or b"").split() != expected.split():
        verdict = "wrong answer"
    return {
        "verdict": verdict,
        "returncode": done.returncode,
        "seconds": round(done.seconds, 3),
        "cpu_seconds": done.usage.get("cpu_usec", 0) / 1e6,
        "memory_peak_bytes": done.usage.get("memory_peak_bytes"),
        "output": (done.stdout or b"").decode(errors="replace"),
        "errors": (done.stderr or b"").decode(errors="replace")[-2000:],
    }


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description="Run a Python program with limits and say what became of it.")
    parser.add_argument("code", type=Path)
    parser.add_argument("--input", default="", help="its standard input")
    parser.add_argument("--expect", help="the words that it should print")
    parser.add_argument("--time", type=float, default=5.0, help="seconds (default 5)")
    parser.add_argument("--memory", help="such as 64Mi; takes a place in the cgroup tree, see docs/limits.md")
    parser.add_argument("--pids", type=int, help="processes; likewise")
    parser.add_argument("--output", type=int, default=1 << 20, help="bytes that it may print (default 1 MiB)")
    args = parser.parse_args()
    limits = {}
    if args.memory:
        limits["memory"] = args.memory
    if args.pids:
        limits["pids_limit"] = args.pids
    try:
        if limits:
            pyrun.allow_limits(("memory", "pids"))
        expected = None if args.expect is None else args.expect.encode()
        found = judge(args.code, data=args.input.encode(), expected=expected, seconds=args.time, output_limit=args.output, limits=limits)
    except pyrun.PyrunError as error:
        print(f"judge: {error}\n{error.hint}", file=sys.stderr)
        return 2
    print(json.dumps(found))
    return 0 if found["verdict"] == "accepted" else 1


if __name__ == "__main__":
    sys.exit(main())
