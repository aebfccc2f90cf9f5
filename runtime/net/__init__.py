"""Networks of pods: made in the host before a pod starts, taken back after it has ended; see docs/design/networking.md."""
