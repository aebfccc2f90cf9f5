"""The OCI runtime: bundles with a config.json, for podman, containerd and Docker."""
