#!/usr/bin/env bash
# Makes the checkout ready: Debian packages that are missing, a virtual environment in .venv, pyrun in it (editable).
# usage: tools/setup.sh run|test|bench|build; what is already done is neither done again nor mentioned.
set -euo pipefail
# shellcheck source=tools/lib.sh
. "$(dirname "$0")/lib.sh"

PACKAGES_run="
    busybox-static gcc gpg gpg-agent gpgv libc6-dev libcap-dev libseccomp-dev libssl-dev
    python3 python3-dev python3-venv"
PACKAGES_test="
    apache2-utils binutils bzip2 clang containernetworking-plugins docker-registry e2fsprogs etcd-server iproute2 libclang-rt-14-dev mandoc mmdebstrap
    nftables
    openssl podman qemu-system-x86 qemu-utils shellcheck skopeo strace uidmap umoci util-linux xz-utils"
PACKAGES_test+=" containerd docker.io" # clients of pyrun-oci
PACKAGES_test+=" passt slirp4netns"    # networks of users' pods
PACKAGES_bench="bubblewrap crun docker-registry podman runc skopeo systemd-container umoci zstd"

PYTHON=/usr/bin/python3 # never the first of PATH: that may be a shim, which would cost every start of pyrun
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1

packages() {
    local wanted=$1 missing
    # shellcheck disable=SC2086  # a list of words
    missing=$(for p in $wanted; do
        dpkg-query -W -f '${db:Status-Status}\n' "$p" 2>/dev/null | grep -qx installed || echo "$p"
    done | sort -u | tr '\n' ' ')
    [ -n "$missing" ] || return 0
    if [ "$(id -u)" != 0 ]; then
        printf 'these Debian packages are missing; as root: apt-get install --no-install-recommends %s\n' "$missing" >&2
        exit 1
    fi
    export DEBIAN_FRONTEND=noninteractive
    export RUNLEVEL=1 # of what is installed, docker-registry would start at once (policy of invoke-rc.d)
    step apt-update "reading Debian's package lists" update_lists
    # shellcheck disable=SC2086
    step apt-install "installing Debian packages: $missing" apt-get install -y --no-install-recommends $missing
}

# Another project's broken source is no reason to stop: what is missing then, apt-get install says.
update_lists() { apt-get update || echo 'apt-get update failed; going on with the lists that are here'; }

virtual_environment() {
    local base
    base=$(.venv/bin/python -c 'import sys; print(sys.base_prefix)' 2>/dev/null || true)
    [ "$base" = /usr ] && return 0
    step venv "making the virtual environment .venv" "$PYTHON" -m venv --clear .venv
}

pip() { .venv/bin/python -m pip "$@"; }

dependencies() {
    local extra=$1 key
    key=$(cat pyproject.toml <(.venv/bin/python -V) | sha256sum)
    if stamp 'pip[dev]' "$key" || stamp "pip$extra" "$key"; then return 0; fi
    # the build tools first, then everything without a second, isolated copy of them
    step pip-tools "installing the Python build tools" pip install 'setuptools>=77' 'cffi>=1.16' wheel
    step pip "installing pyrun and the Python packages it needs" pip install --no-build-isolation -e ".$extra"
    set_stamp "pip$extra" "$key"
    built "$(build_key)"
}

# Of what an editable install depends on: all that is compiled, and the names (not the content) of Python files.
build_key() {
    {
        cat setup.py pyproject.toml native/compile_flags.txt
        find native -name '*.[ch]' -o -name '*build.py' | LC_ALL=C sort | xargs cat
        find runtime images native \( -name '*.py' -o -name '*.pyi' -o -name '*._pth' -o -name py.typed \) | LC_ALL=C sort
    } | sha256sum
}

build() {
    local key
    key=$(build_key)
    stamp build "$key" && [ -x .venv/bin/pyrun ] && [ -x native/helper ] && [ -x native/keeper ] && [ -x native/park ] && [ -x native/relay ] && return 0
    step build "building pyrun's native parts" pip install --no-build-isolation --no-deps -e .
    built "$key"
}

# Two names for the link farm of the editable install: build/source, the one path that type checkers are to know, and a
# link in site-packages, so that the launcher finds pyrun at first look, as in a real installation, without `site`.
built() {
    local farm
    farm=$(find build -maxdepth 1 -name '__editable__.pyrun_runtime-*')
    ln -sfn "${farm#build/}" build/source
    ln -sfn "$PWD/build/source/pyrun" "$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("platlib"))')/pyrun"
    set_stamp build "$1"
}

exec 9>build/lock
flock 9 # two makes at once would mix up the installation

case ${1-} in
    run) packages "$PACKAGES_run" ;;
    test) packages "$PACKAGES_run $PACKAGES_test" ;;
    bench) packages "$PACKAGES_run $PACKAGES_bench" ;;
    build) ;;
    *)
        printf 'usage: tools/setup.sh run|test|bench|build\n' >&2
        exit 2
        ;;
esac
virtual_environment
case $1 in
    run | bench) dependencies "" ;;
    test) dependencies "[dev]" ;;
esac
build
