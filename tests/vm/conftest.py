"""tests/vm/guest is for the virtual machine only: it is copied beside the live tests there."""

collect_ignore = ["guest"]
