#!/usr/bin/env bash
# Runs a command where live tests belong: in a mount and a pid namespace of their own, with a pure cgroup2 tree at
# /sys/fs/cgroup even where the host's is mixed with version 1.  The host's own mounts are not touched, and whatever
# processes the command leaves behind die with the lane.
# usage: tools/lane.sh COMMAND [ARG...]
set -euo pipefail

if [ "$(id -u)" != 0 ]; then
    echo "tools/lane.sh: live tests need root" >&2
    exit 1
fi

# The shell stays: it is process 1 of the lane and reaps what loses its parent there.
# shellcheck disable=SC2016  # expanded inside
exec unshare --mount --propagation private --pid --fork --kill-child --mount-proc bash -euc '
    if [ "$(stat -f -c %T /sys/fs/cgroup)" != cgroup2fs ]; then
        umount -R /sys/fs/cgroup
        mount -t cgroup2 cgroup2 /sys/fs/cgroup
    fi
    code=0
    "$@" || code=$?
    exit "$code"' lane "$@"
