"""The rules of networks: what a start counts of them."""

from __future__ import annotations

from pyrun.net import rules


def test_counted_are_all_rules_and_jumps() -> None:
    text = rules.text("pyrun_x", [], [], [])
    chains = {part.split(" ", 1)[0]: part.split("{", 1)[1].splitlines() for part in text.split("\nchain ")[1:]}
    found = {}
    for name, lines in chains.items():
        own = [line for line in lines[1:] if line and line != "}"]
        found[name] = len(own) + text.count(f"jump {name}\n")
    assert found == rules.CHAINS
