"""`pyrun image sign`: sign a stored OCI or Docker image, for pyrun and for others."""

from __future__ import annotations

from pyrun.cli.output import say
from pyrun.errors import UsageError
from pyrun.images.pulled import find_id
from pyrun.images.store import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrun.cli.parse import Args

__all__ = ["run"]


def run(args: Args) -> int:
    """Writes one signature, with a key of gpg's or with a private key in PEM form."""
    from pyrun.images.trust import sign

    if not args.output or bool(args.sign_by) == bool(args.key):
        reason = "no output is named" if not args.output else "one of --sign-by and --key is needed"
        hint = "pyrun image sign REF --sign-by FINGERPRINT --output FILE, or --key FILE --output DIR"
        raise UsageError("image sign", args.ref, reason, hint=hint)
    store = Store(args.root)
    image = store.load(find_id(store, args.ref))
    name = sign.name_of(image, args.identity)
    if args.sign_by:
        sign.openpgp(store, image, name, args.sign_by, args.output)
        say(f"{args.output}: {name} {image.id.replace('-', ':', 1)}")
        return 0
    tag = sign.cosign(store, image, name, args.key or "", args.output)
    say(f"{args.output}: {name} {image.id.replace('-', ':', 1)}")
    repository = name[: name.rindex(":")]
    say(f"pyrun: note: copy it beside the image: skopeo copy oci:{args.output}:{tag} docker://{repository}:{tag}", error=True)
    return 0
