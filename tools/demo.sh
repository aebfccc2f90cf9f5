#!/usr/bin/env bash
# Shows pyrun at work: makes an image of Debian's busybox, signs it, trusts the key, runs the image.
# All state stays in build/demo; a second time reuses image and key.
set -euo pipefail
# shellcheck source=tools/lib.sh
. "$(dirname "$0")/lib.sh"

DEMO=build/demo
IMAGE=$DEMO/demo.aci
PYRUN=(.venv/bin/pyrun --root "$DEMO/state")

if [ "$(id -u)" != 0 ]; then
    echo "make run: containers are started as root here; become root and try again" >&2
    exit 1
fi

make_image() {
    rm -f "$IMAGE.asc"
    .venv/bin/python tools/mkaci.py "$IMAGE" --name example.com/demo --version 1.0 --busybox /bin/busybox \
        --file examples/demo/report:/bin/report:755 --user demo:1000 --app '{"user": "demo", "group": "demo"}' -- /bin/report
}

# gpg's own directory stands under /tmp, as the path of its agent's socket must be short; the secret key dies with it.
sign_image() (
    GNUPGHOME=$(mktemp -d)
    export GNUPGHOME
    trap 'gpgconf --kill all; rm -rf "$GNUPGHOME"' EXIT
    rm -rf "$DEMO/state" "$DEMO/key.asc"
    gpg --batch --quiet --passphrase '' --quick-generate-key 'pyrun demonstration <demo@example.com>' ed25519 sign never
    gpg --batch --quiet --armor --export >"$DEMO/key.asc"
    gpg --batch --quiet --armor --detach-sign --output "$IMAGE.asc.new" "$IMAGE"
    mv "$IMAGE.asc.new" "$IMAGE.asc"
)

mkdir -p "$DEMO"
if [ ! "$IMAGE" -nt examples/demo/report ] || [ ! "$IMAGE" -nt tools/mkaci.py ] || [ ! "$IMAGE" -nt /bin/busybox ]; then
    step demo-image "making an image of Debian's busybox: $IMAGE" make_image
fi
if [ ! -f "$IMAGE.asc" ]; then
    step demo-sign "signing it with a throw-away OpenPGP key: $IMAGE.asc" sign_image
fi
step demo-trust "trusting that key for example.com/demo: pyrun trust --prefix example.com/demo $DEMO/key.asc" \
    "${PYRUN[@]}" trust --yes --prefix example.com/demo "$DEMO/key.asc"
printf 'running the image: pyrun run %s\n\n' "$IMAGE"
exec "${PYRUN[@]}" run "$IMAGE"
