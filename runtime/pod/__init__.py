"""Pods: what one is made of, and where its state is kept."""
