"""Ids of a container that a user starts who is not root (user_namespaces(7)).  Cold."""

from __future__ import annotations

import os

from pyrun.errors import ConfigError
from pyrun.plan import ops

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrun.plan.ops import Plan

__all__ = ["map_ids"]


def map_ids(plan: Plan) -> None:
    """Let a user map one id, his own, and give up setgroups(2) for it; ConfigError for what takes newuidmap(1)."""
    for name, text, own in (("uidMappings", plan.uid_map, os.geteuid()), ("gidMappings", plan.gid_map, os.getegid())):
        rows = [line.split() for line in text.splitlines()]
        if len(rows) != 1 or rows[0][1:] != [str(own), "1"]:
            hint = f"map the id {own} alone, or start in a user namespace that has more, as podman does"
            raise ConfigError(
                "map ids", text.strip().replace("\n", ", "), "a user may map his own id only", hint=hint, origin=f"linux.{name}"
            )
    plan.flags |= ops.SETGROUPS_DENY
