#!/usr/bin/env bash
# Runs a command where live tests belong: in mount, pid and cgroup namespaces of its own, with a pure cgroup2 tree at
# /sys/fs/cgroup even where the host's is mixed with version 1.  The host's own mounts are not touched, two lanes do not
# see each other, and whatever processes the command leaves behind die with its lane.
# usage: tools/lane.sh COMMAND [ARG...]
set -euo pipefail

if [ "$(id -u)" != 0 ]; then
    echo "tools/lane.sh: live tests need root" >&2
    exit 1
fi

tree=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/mounts)
if [ -z "$tree" ]; then
    echo "tools/lane.sh: live tests need a cgroup2 tree; none is mounted" >&2
    exit 1
fi
group="$tree$(sed -n 's/^0:://p' /proc/self/cgroup)/lane-$$"
sed 's/[^ ]\+/+&/g' "$tree/cgroup.controllers" >"$tree/cgroup.subtree_control" || true
mkdir "$group" "$group/outside" "$group/inside"
sed 's/[^ ]\+/+&/g' "$group/cgroup.controllers" >"$group/cgroup.subtree_control" || true
# The last processes of the lane may take a moment to be gone.
trap 'for _ in 1 2 3 4 5 6 7 8 9; do find "$group" -depth -type d -exec rmdir {} + 2>/dev/null && break; sleep 0.1; done' EXIT

# The inner shell is process 1 of the lane: it reaps what loses its parent there.  Whoever waits for it stays outside, so that
# the lane can empty its own cgroup.
# shellcheck disable=SC2016  # expanded inside
(
    echo 0 >"$group/outside/cgroup.procs"
    exec unshare --mount --propagation private --pid --fork --kill-child --mount-proc bash -euc '
        echo 0 >"$1/inside/cgroup.procs"
        shift
        exec unshare --cgroup bash -euc "$@"' outside "$group" '
        umount -R /sys/fs/cgroup
        mount -t cgroup2 cgroup2 /sys/fs/cgroup
        # Names of images in tests are names of servers too: nobody outside is to be asked for what is missing.
        hosts=$(mktemp)
        { cat /etc/hosts; echo 127.0.0.1 example.com example.org; } >"$hosts"
        chmod 644 "$hosts"
        mount --bind "$hosts" /etc/hosts
        rm "$hosts"
        code=0
        "$@" || code=$?
        exit "$code"' lane "$@"
)
