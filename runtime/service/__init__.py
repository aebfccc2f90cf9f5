"""What pyrun says to the manager of the machine: units for systemd, and pods that a host boots from files."""
