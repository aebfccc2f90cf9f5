"""A plan as values that one can look at: what a start would ask of the kernel, in order."""

from __future__ import annotations

from pyrun.plan import ops
from pyrun.plan.describe import NAMES, describe, namespaces

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyrun.plan.ops import Op

__all__ = ["Operation", "Plan"]


class Operation:
    """One operation: its `name`, what it does in words (`what`), the flag, keyword or manifest line that asked for it (`origin`), and its
    `arguments` as they go to the helper, blobs in hexadecimal."""

    __slots__ = ("arguments", "name", "origin", "what")

    def __init__(self, one: Op) -> None:
        self.name = NAMES[one[0]].replace(" ", "_")
        self.what = describe(one)
        self.origin = one[7]
        fields: list[object] = [field.hex() if isinstance(field, bytes) else field for field in (one[3], one[4], one[2], one[5], one[6])]
        while fields and fields[-1] == 0:
            fields.pop()
        self.arguments = [*fields, *(["optional"] if one[1] & ops.OPTIONAL else [])]

    def __repr__(self) -> str:
        return f"<pyrun.Operation {self.what} [{self.origin}]>"


class Plan:
    """What a start would do: the `namespaces` that it makes, its `operations` in order, over which it iterates, `notes` for the user."""

    __slots__ = ("namespaces", "notes", "operations")

    def __init__(self, plan: ops.Plan, notes: list[str]) -> None:
        self.namespaces = namespaces(plan)
        self.operations = [Operation(one) for one in plan.ops]
        self.notes = notes

    def __iter__(self) -> Iterator[Operation]:
        return iter(self.operations)

    def __len__(self) -> int:
        return len(self.operations)

    def to_json(self) -> dict[str, object]:
        """Return what `pyrun plan --format json` prints, as values for json.dumps."""
        listed = [{"op": one.name, "what": one.what, "origin": one.origin, "arguments": one.arguments} for one in self.operations]
        return {"namespaces": self.namespaces, "operations": listed}
