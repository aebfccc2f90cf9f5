"""Keys of every sort, made once with the real gpg, and a store of its own for each test."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mkaci import Image as AciImage
from signing import CosignKey
from vouchers import Bench

from pyrun.images.importer import import_file
from pyrun.images.store import Image, Store
from pyrun.images.trust import Keyring

PAST = "20250101T000000"


class Gpg:
    """A private gpg home with the keys good, other, expired, revoked, weak and two-in-one."""

    def __init__(self, home: Path) -> None:
        self.home = home
        for user in ("good", "other", "revoked"):
            self.key(user)
        self.key("expired", "--faked-system-time", PAST, expiry="30d")
        self("--quick-gen-key", "weak", "rsa1024", "sign", "0")
        self.revoke("revoked")

    def __call__(self, *arguments: str, data: bytes = b"") -> bytes:
        command = ["/usr/bin/gpg", "--homedir", str(self.home), "--batch", "--quiet", "--no-tty", "--pinentry-mode", "loopback"]
        done = subprocess.run([*command, "--passphrase", "", *arguments], input=data, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    def key(self, user: str, *options: str, expiry: str = "0") -> None:
        self(*options, "--quick-gen-key", user, "ed25519", "sign", expiry)

    def revoke(self, user: str) -> None:
        certificate = (self.home / "openpgp-revocs.d" / f"{self.fingerprint(user)}.rev").read_text()
        self("--import", data=certificate.replace(":-----BEGIN", "-----BEGIN").encode())

    def fingerprint(self, user: str) -> str:
        listing = self("--with-colons", "--list-keys", f"={user}").decode()
        return next(line.split(":")[9] for line in listing.splitlines() if line.startswith("fpr:"))

    def public(self, *users: str, armour: bool = True) -> bytes:
        return self(*(["--armor"] if armour else []), "--export", *(f"={user}" for user in users))

    def sign(self, data: bytes, user: str, *options: str, armour: bool = True) -> bytes:
        return self(*options, "--local-user", f"={user}", *(["--armor"] if armour else []), "--detach-sign", data=data)


@pytest.fixture(scope="session")
def gpg() -> Iterator[Gpg]:
    """The keys."""
    with tempfile.TemporaryDirectory(prefix="pg-", dir="/tmp") as home:  # short: the agent's socket lives in it
        try:
            yield Gpg(Path(home))
        finally:
            subprocess.run(["/usr/bin/gpgconf", "--homedir", home, "--kill", "all"], check=True, capture_output=True)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store(str(tmp_path / "root"))


@pytest.fixture
def keyring(store: Store, tmp_path: Path) -> Keyring:
    """The keys trusted by `store`; the vendor's tree is empty."""
    return Keyring(store.root, str(tmp_path / "vendor"))


@pytest.fixture
def keyfile(gpg: Gpg, tmp_path: Path) -> Callable[[str], str]:
    """Writes the public key of a user into a file and returns its path."""

    def write(user: str) -> str:
        path = tmp_path / f"{user}.key"
        path.write_bytes(gpg.public(user))
        return str(path)

    return write


@pytest.fixture
def build(tmp_path: Path, gpg: Gpg, as_root: None) -> Callable[..., Path]:
    """Writes an image file, signed by `signer` unless that is empty."""

    def write(
        name: str = "example.com/app", *, version: str = "1.0", signer: str = "good", compression: str = "gzip", **files: bytes
    ) -> Path:
        image = AciImage(name, ["/bin/true"], version=version)
        for path, data in files.items():
            image.add(f"data/{path}", data)
        target = tmp_path / f"{name.rpartition('/')[2]}-{version}-{len(list(tmp_path.iterdir()))}.aci"
        image.write(target, compression)
        if signer:
            Path(f"{target}.asc").write_bytes(gpg.sign(target.read_bytes(), signer))
        return target

    return write


@pytest.fixture
def trusted(keyring: Keyring, keyfile: Callable[[str], str]) -> Keyring:
    """The keyring with key good trusted for example.com."""
    keyring.add(keyfile("good"), "example.com")
    return keyring


@pytest.fixture
def stored(store: Store, trusted: Keyring, build: Callable[..., Path]) -> Callable[..., Image]:
    """Imports an image that `build` makes."""

    def make(*arguments: str, **options: str | bytes) -> Image:
        return import_file(store, str(build(*arguments, **options)), keyring=trusted)

    return make


@pytest.fixture
def leftovers(store: Store) -> Callable[[], list[str]]:
    """What a store holds apart from locks, keys and empty directories."""

    def find() -> list[str]:
        root = Path(store.root)
        paths = [path.relative_to(root) for path in root.rglob("*") if not path.is_dir() or path.is_symlink()]
        return sorted(str(path) for path in paths if path.parts[0] not in ("locks", "trust"))

    return find


@pytest.fixture
def private_mounts(as_root: None) -> Callable[..., str]:
    """Runs Python code with arguments in a mount namespace of its own and returns what it printed."""

    def run(code: str, *arguments: str) -> str:
        command = ["unshare", "--mount", "--propagation", "private", sys.executable, "-c", code, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="session")
def cosign_keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, CosignKey]:
    folder = tmp_path_factory.mktemp("cosign")
    return {kind: CosignKey(folder, kind, kind) for kind in ("p256", "p384", "p521", "rsa", "weak", "ed25519", "k256")} | {
        "other": CosignKey(folder, "other")
    }


@pytest.fixture(scope="session")
def trusting(gpg: Gpg, cosign_keys: dict[str, CosignKey], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trusting")
    Bench(Store(str(folder / "root")), gpg, cosign_keys, folder).trust_all()
    return folder / "root" / "trust"


@pytest.fixture
def bench(store: Store, trusting: Path, gpg: Gpg, cosign_keys: dict[str, CosignKey], tmp_path: Path) -> Bench:
    """A store in which keys of all sorts are trusted for reg.example.com/team."""
    store.ensure()
    shutil.copytree(trusting, Path(store.root, "trust"))
    return Bench(store, gpg, cosign_keys, tmp_path)
