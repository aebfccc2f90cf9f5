"""tests/vm/guest and full are for virtual machines only: they are copied beside the live tests there."""

collect_ignore = ["guest", "full"]
