"""Decisions as values: what the kernel will be asked, worked out before anything is done."""
