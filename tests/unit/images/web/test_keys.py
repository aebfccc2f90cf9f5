"""Keys that servers offer (DISC-10): where they are looked for, what is taken for one, and that nothing is trusted by it."""

from __future__ import annotations

from typing import Any

import pytest
from registries import Reply
from signing import CosignKey
from sites import Bench, Site

from pyrun.errors import ImageError, NotFoundError, TrustError
from pyrun.images.trust import armour, gpg
from pyrun.images.web import keys

KEYS = "keys.example.com/pubkeys.gpg"
TAG = f"example.com https://{KEYS}"


@pytest.fixture
def options(bench: Bench) -> dict[str, Any]:
    fetcher = bench.fetcher()
    return fetcher.more


def fingerprints(bench: Bench, offers: list[keys.Offer]) -> list[str]:
    return [gpg.show_keys(bench.store.root, offer.data, offer.url)[0].fingerprint for offer in offers]


@pytest.mark.parametrize("armoured", [True, False])
def test_disc_10_keys_may_lie_higher_up_than_templates(bench: Bench, site: Site, gpg: Any, options: dict[str, Any], armoured: bool) -> None:
    site.meta("example.com/team/app", "example.com https://storage.example.com/{name}.{ext}")
    site.meta("example.com", TAG, name="ac-discovery-pubkeys")
    site.files[KEYS] = gpg.public("good", "other", armour=armoured)
    before = bench.keyring.list()
    offers = keys.discover("example.com/team/app", **options)
    assert fingerprints(bench, offers) == [gpg.fingerprint("good"), gpg.fingerprint("other")]
    assert {(offer.url, offer.name) for offer in offers} == {(f"https://{KEYS}", "example.com/team/app")}
    assert [key.path for key in bench.keyring.list()] == [key.path for key in before]


def test_several_places_and_foreign_prefixes(bench: Bench, site: Site, gpg: Any, options: dict[str, Any]) -> None:
    site.meta(
        "example.com/app", "other.org https://other.org/k", TAG, "example.com https://other.org/key", TAG, name="ac-discovery-pubkeys"
    )
    site.files[KEYS] = gpg.public("good")
    site.files["other.org/key"] = gpg.public("other")  # another domain: it is shown where a key comes from
    offers = keys.discover("example.com/app", **options)
    assert [offer.url for offer in offers] == [f"https://{KEYS}", "https://other.org/key"]


def test_a_key_at_a_url(bench: Bench, site: Site, gpg: Any, options: dict[str, Any]) -> None:
    site.files[KEYS] = gpg.public("good")
    assert fingerprints(bench, keys.download(f"https://{KEYS}", **options)) == [gpg.fingerprint("good")]
    with pytest.raises(ImageError, match="it is not https"):
        keys.download(f"http://{KEYS}", **options)


def test_a_key_in_pem_form_at_a_url(site: Site, options: dict[str, Any], cosign_keys: dict[str, CosignKey]) -> None:
    """As cosign publishes it; where discovery names the place, keys are OpenPGP's."""
    shipped = cosign_keys["p256"].public.read_bytes()
    site.files[KEYS] = shipped
    (offer,) = keys.download(f"https://{KEYS}", **options)
    assert (offer.data, offer.url, offer.name) == (shipped, f"https://{KEYS}", "")
    site.meta("example.com/app", TAG, name="ac-discovery-pubkeys")
    with pytest.raises(TrustError):
        keys.discover("example.com/app", **options)


def test_nobody_offers_keys(site: Site, options: dict[str, Any]) -> None:
    site.meta("example.com/app", "example.com https://storage.example.com/{name}.{ext}")
    with pytest.raises(NotFoundError, match="names no ac-discovery-pubkeys"):
        keys.discover("example.com/app", **options)


@pytest.mark.parametrize(
    "content", ["example.com http://keys.example.com/k", "example.com file:///etc/passwd", "example.com https://u:p@example.com/k"]
)
def test_addresses_that_are_not_asked(site: Site, options: dict[str, Any], content: str) -> None:
    site.meta("example.com/app", content, name="ac-discovery-pubkeys")
    with pytest.raises(ImageError):
        keys.discover("example.com/app", **options)
    assert site.seen == ["example.com/app?ac-discovery=1"]


def test_what_is_no_key(site: Site, gpg: Any, options: dict[str, Any]) -> None:
    secret = gpg("--export-secret-keys", "=good")
    many = b"".join([gpg.public("good", armour=False)] * 17)
    whole = gpg.public("good", armour=False)
    for data in (b"<html>", b"", gpg.sign(b"x", "good"), secret, many, whole[:-1], b"\xff" * 1000, gpg.public("good") + b"text"):
        site.files[KEYS] = data
        with pytest.raises(TrustError):
            keys.download(f"https://{KEYS}", **options)
    site.files[KEYS] = Reply(bytes(2 << 20))
    with pytest.raises(ImageError, match="more than"):
        keys.download(f"https://{KEYS}", **options)


def test_each_key_keeps_what_belongs_to_it(gpg: Any) -> None:
    both = gpg.public("good", "other", armour=False)
    split = armour.public_keys(both)
    assert split == [gpg.public("good", armour=False), gpg.public("other", armour=False)] and b"".join(split) == both
