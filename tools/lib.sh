# shellcheck shell=bash
# Sourced by the other scripts: the repository's root, and how a step is shown.

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
LOGS=build/log
mkdir -p "$LOGS"

# step NAME TEXT COMMAND...: says TEXT in one line and runs COMMAND silently; when it fails, shows the end of its log.
step() {
    local log="$LOGS/$1.log" text=$2
    shift 2
    printf '%s\n' "$text"
    if ! "$@" >"$log" 2>&1 </dev/null; then
        tail -n 40 "$log" >&2
        printf 'failed: %s (the whole log: %s)\n' "$text" "$log" >&2
        exit 1
    fi
}

# stamp NAME KEY: true when step NAME has been done for this KEY.
stamp() {
    [ -f "build/stamp/$1" ] && [ "$(cat "build/stamp/$1")" = "$2" ]
}

# set_stamp NAME KEY
set_stamp() {
    mkdir -p build/stamp
    printf '%s\n' "$2" >"build/stamp/$1"
}
